"""Secrets around a whole program: none of them is in anything that we write, print or send."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from carbontrack.testing.receiver import Fault, Receiver, Request

pytestmark = [
    pytest.mark.xdist_group("privacy"),  # one scene for all tests
    pytest.mark.skipif(sys.platform == "win32", reason="modes and signals are of POSIX"),
]

ROOT = Path(__file__).parents[3]
HTTP_TOKEN, LIVE_TOKEN = "planted-http-7d1f", "planted-live-9c2e"
USER, ARGUMENT = "planted-user-5b3a", "planted-argument-81c4"
VARIABLE, HOST = "planted-variable-e60d", "planted-host-2f97"
TOKENS = (HTTP_TOKEN, LIVE_TOKEN)
PATIENCE_S = 60.0

PROGRAM = """
import logging, sys, traceback

import carbontrack
from carbontrack.config.load import load_settings
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.jsonl import JsonlSink
from carbontrack.sinks.sqlite import SqliteSink

logging.basicConfig(level=logging.DEBUG)
loaded = load_settings()
token = loaded.http_token
files = ["runs.csv", "runs.jsonl", "runs.db"]
settings = dict(region="FR", output=[*files, URL], timeline=True, spans="all")

@carbontrack.track("call", **settings)
def call():
    return 1

def attempt(action):
    try:
        action()
    except Exception as error:
        print(repr(error), error, vars(error), traceback.format_exc())

with carbontrack.track("root", **settings) as span:
    with span.span("child", labels={"n": 1}) as child:
        call()
    print(span, repr(span), span.snapshot(), child, carbontrack.current_span())
print(span.record, span.record.to_row(), span.record._repr_html_())
tracker = carbontrack.auto(**settings)
print(tracker, vars(tracker), tracker.session, vars(tracker.session))
print(loaded, carbontrack.Budget("5 g"), carbontrack.lookup("FR"), call, carbontrack.track("x"))
for sink in (
    carbontrack.CsvSink("runs.csv"), JsonlSink("runs.jsonl"), SqliteSink("runs.db"),
    JournaledHttpSink(URL, token=token),
):
    print(sink, repr(sink), [sink])
    sink.close()
attempt(lambda: carbontrack.auto(http_tokn=token))
attempt(lambda: carbontrack.auto(http_token=token + "\\n" + token))
attempt(lambda: carbontrack.auto(live_token=loaded.live_token + " x"))
attempt(lambda: carbontrack.auto(region="Atlantis"))
attempt(lambda: carbontrack.auto(output="no/such/folder.csv"))
attempt(lambda: carbontrack.auto(output=URL.replace("://", "://me:" + token + "@")))
attempt(lambda: carbontrack.auto(intensity_source="electricitymap"))
attempt(lambda: JournaledHttpSink(URL, token=token + "\\n"))
attempt(lambda: carbontrack.track("over", budget="nothing", **settings).__enter__())
tracker.close()
"""
KILLED = """
import logging, time
import carbontrack

logging.basicConfig(level=logging.DEBUG)
with carbontrack.track(
    "cut short", region="FR", output=["runs.csv", URL], timeline=True, checkpoint_s=0.1
):
    time.sleep(600)
"""
COMMAND = """
import logging, sys
from carbontrack.cli import main

logging.basicConfig(level=logging.DEBUG)
sys.exit(main(sys.argv[1:]))
"""
NAMED = (
    "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Give the machine another name, as far as the rest of this process can see."""


def _naming() -> list[str]:
    """What to put before a command so that its machine is called HOST; nothing if not allowed."""
    for options in (["--uts"], ["--user", "--map-root-user", "--uts"]):
        before = ["unshare", *options, sys.executable, "-c", NAMED, HOST]
        try:
            done = subprocess.run([*before, "/bin/true"], capture_output=True, check=False)
        except OSError:
            return []
        if done.returncode == 0:
            return before
    return []


@dataclass
class Scene:
    """A user's home and working folder, and all that was seen of the programs run there.

    Attributes:
        printed: what each program wrote to its stdout and stderr.
        kept: the bytes of each file that was there at any of several instants.
        modes: the mode of each folder and file in the home, where we alone put some.
        requests: what the receiver got.
        astray: what the address got to which the receiver redirected.
    """

    root: Path
    naming: Sequence[str]
    printed: dict[str, str] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    modes: dict[tuple[str, str], int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    astray: list[Request] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The home, whose path tells the user's name."""
        return self.root / USER

    @property
    def state(self) -> Path:
        """Where the journal and all else is kept by default."""
        return self.home / ".local/state/carbontrack"

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Start Python code with the secrets around it and an umask that forbids nothing."""
        ours = ("XDG_STATE_HOME", "XDG_CONFIG_HOME")
        variables = {name: text for name, text in os.environ.items() if name not in ours}
        return subprocess.Popen(
            [*self.naming, sys.executable, "-c", code, *arguments],
            cwd=self.root / "work",
            env=variables
            | {
                "PYTHONPATH": str(ROOT),
                "CARBONTRACK_HTTP_TOKEN": HTTP_TOKEN,
                "CARBONTRACK_LIVE_TOKEN": LIVE_TOKEN,
                "SECRET_OF_THE_PROGRAM": VARIABLE,
                "USER": USER,
                "LOGNAME": USER,
                "HOME": str(self.home),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0,
        )

    def run(self, title: str, code: str, *arguments: str, codes: Sequence[int] = (0,)) -> None:
        """Run it to its end, which must be one of the exit codes, and keep what it left."""
        program = self.start(code, *arguments)
        self.printed[title], _ = program.communicate(timeout=PATIENCE_S)
        assert program.returncode in codes, self.printed[title]
        self.look(title)

    def kill(self, code: str) -> None:
        """Start it, wait for its checkpoint, kill it, and keep what it left."""
        program = self.start(code, ARGUMENT)
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(b"cut short" in text for text in self.journals()):
            assert program.poll() is None, program.communicate()[0]
            assert time.monotonic() < deadline_s, "it leaves no checkpoint"
            time.sleep(0.05)
        program.send_signal(signal.SIGKILL)
        self.printed["killed"], _ = program.communicate(timeout=PATIENCE_S)
        self.look("killed")

    def journals(self) -> list[bytes]:
        """The journals as they are now."""
        folder = self.state / "journal"
        return [path.read_bytes() for path in folder.iterdir()] if folder.exists() else []

    def look(self, title: str) -> None:
        """Keep the bytes of every file, and the modes of what is in the home."""
        for path in self.root.rglob("*"):
            if path.is_file():
                self.kept[f"{path.relative_to(self.root)} after {title}"] = path.read_bytes()
        for path in self.home.rglob("*"):
            kind = "folder" if path.is_dir() else "file"
            self.modes[kind, str(path.relative_to(self.home))] = stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Programs that write everywhere, to a server that fails in each way; then each command."""
    it = Scene(tmp_path_factory.mktemp("privacy"), _naming())
    it.home.mkdir()
    (it.root / "work").mkdir()
    fault: list[Fault | None] = [None]
    with Receiver() as other, Receiver(token=HTTP_TOKEN, faults=lambda _: fault[0]) as receiver:
        given = f"URL = {receiver.url!r}\n"
        for one in (
            None,
            Fault(401),
            Fault(302, headers={"Location": other.url}),
            Fault(503, headers={"Retry-After": "0"}),
        ):
            fault[0] = one
            it.run(f"program {one}", given + PROGRAM, ARGUMENT)
        it.kill(given + KILLED)
        it.run("recover", COMMAND, "recover", "--json")
        sync = (COMMAND, "sync", "--json", "--url", receiver.url)
        it.run("sync 503", *sync, codes=(1,))
        fault[0] = None
        it.run("sync", *sync)
        it.run("doctor json", COMMAND, "doctor", "--json", codes=(0, 1))
        it.run("doctor", COMMAND, "doctor", codes=(0, 1))
        it.run("report", COMMAND, "report", "runs.csv")
        it.run("report page", COMMAND, "report", "runs.csv", "--json", "--html", "page.html")
        run = ("run", "--region", "FR", "--output", "runs.csv", "--")
        it.run("run", COMMAND, *run, sys.executable, "-c", "pass", ARGUMENT)
        it.requests, it.astray = receiver.requests, other.requests
    return it


def found(secrets: Sequence[str], texts: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Each secret with the place where it stands."""
    return [(s, where) for where, text in texts.items() for s in secrets if s.encode() in text]


def printed(scene: Scene) -> dict[str, bytes]:
    """What was printed, as bytes."""
    return {f"printed by {title}": text.encode() for title, text in scene.printed.items()}


def sent(scene: Scene) -> dict[str, bytes]:
    """What was sent, but for the header that is there to carry the token."""
    return {
        f"request {number}": request.body
        + repr([pair for pair in request.headers.items() if pair[0] != "Authorization"]).encode()
        for number, request in enumerate(scene.requests)
    }


def test_the_scene_has_everything_in_it(scene: Scene) -> None:
    """Without this the other tests could pass over nothing."""
    names = {Path(where.partition(" after ")[0]).name for where in scene.kept}
    assert {"runs.csv", "runs.jsonl", "runs.db", "page.html"} <= names
    assert {name for name in names if "timeline" in name} != set()
    folders = {Path(where).parent.name for kind, where in scene.modes if kind == "file"}
    assert {"journal", "dead-letter"} <= folders
    letters = b"".join(text for where, text in scene.kept.items() if "dead-letter/" in where)
    assert b'"status":401' in letters
    assert b'"status":302' in letters
    assert any(b"cut short" in text for where, text in scene.kept.items() if "/journal/" in where)
    assert '"cut short"' in scene.printed["recover"]
    assert '"remaining": 0' in scene.printed["sync"]
    assert "DEBUG:urllib3" in scene.printed["program None"]
    assert scene.printed["program None"].count("Error(") >= 8


def test_a_token_is_in_the_header_of_its_requests_and_nowhere_else(scene: Scene) -> None:
    """Not in files, journals, dead letters, logs at DEBUG, reprs, errors or what commands say."""
    assert {r.headers.get("Authorization") for r in scene.requests} == {f"Bearer {HTTP_TOKEN}"}
    assert scene.astray == []  # a redirect takes it nowhere
    assert found(TOKENS, scene.kept | printed(scene) | sent(scene)) == []


def test_nothing_of_the_user_is_in_what_is_kept_or_sent(scene: Scene) -> None:
    """No user's name, argument or variable in any record, journal, file or request."""
    assert found((USER, ARGUMENT, VARIABLE), scene.kept | sent(scene)) == []


def test_arguments_and_variables_are_not_printed(scene: Scene) -> None:
    """Logs, reprs and commands tell nothing of them either."""
    assert found((ARGUMENT, VARIABLE), printed(scene)) == []


@pytest.mark.skipif(not _naming(), reason="this machine's name cannot be changed for a test")
def test_the_name_of_the_host_is_nowhere(scene: Scene) -> None:
    """Records name the host by a hash that nobody can turn back."""
    assert found((HOST,), scene.kept | printed(scene) | sent(scene)) == []


def test_what_we_keep_is_for_its_user_alone(scene: Scene) -> None:
    """In the home: folders 0700, files 0600, although the umask would allow all."""
    allowed = {"folder": 0o700, "file": 0o600}
    wrong = {key: oct(mode) for key, mode in scene.modes.items() if mode != allowed[key[0]]}
    assert wrong == {}
