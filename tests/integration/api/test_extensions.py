"""The example packages of the documentation, installed with pip and used by a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import carbontrack
from carbontrack.report.read import iter_records
from carbontrack.testing import build_powercap

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("carbontrack-example-*"))
PROGRAM = """
import sys, time
import carbontrack
with carbontrack.track("work", region="FR", scope="machine", interval_s=0.1) as run:
    time.sleep(1.2)  # the plug changes once a second; what is shorter is not measured by it
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed both examples, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *EXAMPLES], check=True)
    return target


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Iterator[object]:
    """Runs a program on a machine with RAPL in which the examples are installed."""
    sysfs = build_powercap(tmp_path / "sys").sysfs
    settings = {"SYSFS_PATH": str(sysfs), "GPU_IDS": "none", "STATE_DIR": str(tmp_path / "state")}

    def ran(*command: str, **given: str) -> subprocess.CompletedProcess[str]:
        environ = {f"CARBONTRACK_{name}": text for name, text in (settings | given).items()}
        paths = f"{Path(carbontrack.__file__).parents[1]}{os.pathsep}{site}"
        environ |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": paths}
        return subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return ran


class Plug(BaseHTTPRequestHandler):
    """Answers as a Shelly plug of the second generation does."""

    def do_GET(self) -> None:
        """42 W, whatever is asked."""
        answer = {
            "id": 0,
            "output": True,
            "apower": 42.0,
            "voltage": 231.0,
            "aenergy": {"total": 5},
        }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def plug_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Plug)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rpc/Switch.GetStatus?id=0"
    server.shutdown()
    server.server_close()


def test_both_examples_are_there() -> None:
    """The test below is about something."""
    assert [folder.name for folder in EXAMPLES] == [
        "carbontrack-example-meter",
        "carbontrack-example-sink",
    ]


@pytest.mark.parametrize("kind", ["file", "http"])
def test_a_plug_and_a_log_are_used_as_the_pages_say(run, kind: str, plug_url: str, tmp_path: Path):
    """The plug's watts are all that counts, and each output has the record."""
    (tmp_path / "watts").write_text("42\n")
    address = plug_url if kind == "http" else "watts"
    done = run(
        "-c", PROGRAM, METER_PLUGINS=f"plug:{address}", OUTPUT="logfmt:runs.log,logfmt:,runs.csv"
    )

    assert done.returncode == 0, done.stderr
    (record,) = iter_records(tmp_path / "runs.csv")
    assert record.meters == f"plug:{'127.0.0.1' if kind == 'http' else 'watts'}"
    assert record.basis == "measured"
    assert (record.cpu_kwh, record.ram_kwh, record.gpu_kwh) == (None, None, None)
    assert record.energy_kwh == pytest.approx(42.0 * record.duration_s / 3.6e6, rel=0.01)
    line = (tmp_path / "runs.log").read_text()
    assert line.startswith("name=work status=ok duration_s=")
    assert line.endswith(f"record_id={record.record_id}\n")
    assert done.stderr == line, "standard error has the line as well, and nothing else"


def test_the_doctor_shows_what_a_plug_replaces_and_why_one_is_not_used(run, tmp_path: Path) -> None:
    """Each meter that is left out has a reason, and so has a plugin without a plug."""
    (tmp_path / "watts").write_text("42\n")
    done = run("-m", "carbontrack", "doctor", "--json", METER_PLUGINS="plug:watts,plug:absent")
    findings = json.loads(done.stdout)

    assert [meter["id"] for meter in findings["meters"]] == ["plug:watts"]
    reasons = {refusal["id"]: refusal["reason"] for refusal in findings["refused"]}
    assert reasons["rapl:package-0"] == "left out, because plug:watts counts the same energy"
    assert "absent does not answer" in reasons["plug:absent"]
    assert any("plug:absent is not used" in note for note in findings["notes"])
    assert findings["settings"]["meter_plugins"]["value"] == ["plug:…", "plug:…"]


def test_a_misspelt_plugin_stops_a_command_before_it_starts(run) -> None:
    """With the right name in the message, and exit code 2 as for every wrong setting."""
    command = ("-m", "carbontrack", "run", "--", sys.executable, "-c", "print('started')")
    for given in ({"METER_PLUGINS": "plgu:x"}, {"OUTPUT": "logfm:x"}):
        done = run(*command, **given)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"did you mean '{'plug' if 'METER_PLUGINS' in given else 'logfmt'}'" in done.stderr


def test_a_plug_that_falls_silent_has_models_stand_in(run, tmp_path: Path) -> None:
    """The record says so; the program does not notice."""
    (tmp_path / "watts").write_text("42\n")
    program = PROGRAM.replace("time.sleep", "import os; os.unlink('watts'); time.sleep")
    done = run("-c", program, METER_PLUGINS="plug:watts", OUTPUT="runs.csv")

    assert done.returncode == 0, done.stderr
    (record,) = iter_records(tmp_path / "runs.csv")
    assert "model:cpu+model:ram" in record.meters.split(";")
    assert "substituted:1" in record.faults
    assert record.other_kwh > 0.0
