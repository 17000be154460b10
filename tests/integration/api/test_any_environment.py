"""Nothing in the environment stops a program, through whichever door carbontrack comes in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.plain_user import as_stranger, can_be_stranger, interpreter, package

ENDS_WITH = 3
TRACK = f"""
import sys, carbontrack
with carbontrack.track("block") as run:
    print("ran")
sys.exit({ENDS_WITH} if run.record is not None else 4)
"""
AUTO = f"""
import sys, carbontrack
tracker = carbontrack.auto()
with tracker.span("block") as run:
    print("ran")
sys.exit({ENDS_WITH} if run.record is not None else 4)
"""
COMMAND = f"print('ran'); raise SystemExit({ENDS_WITH})"
DOORS = {
    "track": ("-c", TRACK),
    "auto": ("-c", AUTO),
    "run": ("-m", "carbontrack", "run", "--", "{python}", "-c", COMMAND),
}


class Folders(NamedTuple):
    """Folders that every user may enter, and the user's own."""

    top: Path
    work: Path
    home: Path
    temporary: Path

    @property
    def state(self) -> Path:
        """The user's folder of journals."""
        return self.home / ".local/state/carbontrack"

    @property
    def config(self) -> Path:
        """The user's folder of settings."""
        return self.home / ".config/carbontrack"


class Fault(NamedTuple):
    """What is odd: variables, a command around the program's, lines in front of it."""

    environ: Mapping[str, str | None] = {}
    around: str = ""
    """A shell command that ends in `exec "$@"`, run as root in mounts of its own."""
    before: str = ""
    """Lines of Python that run in the process that becomes the program."""
    notes: int = 1
    """How many notes may be printed."""
    kept: str = "work"
    """Where the record is: in the folder "work", "home" or "temporary"; "" for nowhere."""
    prints: str = "ran\n"
    measures_commands: bool = True


FAULTS: dict[str, Callable[[Folders], Fault]] = {}


def fault(make: Callable[[Folders], Fault]) -> Callable[[Folders], Fault]:
    """Take it into the table, under its name."""
    FAULTS[make.__name__] = make
    return make


# -- the home directory ------------------------------------------------------------------------


@fault
def home_of_another(at: Folders) -> Fault:
    """An image says HOME=/root, and the process is somebody else."""
    root_owns(at.home, 0o700)
    return Fault(kept="work")


@fault
def home_that_is_closed(at: Folders) -> Fault:
    """Our own, but nobody may enter it."""
    at.home.chmod(0o000)
    return Fault()


@fault
def no_home_variable(_at: Folders) -> Fault:
    """HOME is not set, and the uid is in no list of users."""
    return Fault({"HOME": None})


@fault
def home_is_relative(_at: Folders) -> Fault:
    """A path that means another folder in each working directory."""
    return Fault({"HOME": "home"})


@fault
def home_is_empty(_at: Folders) -> Fault:
    """The variable is there, with nothing in it."""
    return Fault({"HOME": ""})


@fault
def home_is_a_file(at: Folders) -> Fault:
    """As /dev/null, which some systems give to users of services."""
    return Fault({"HOME": str(file_at(at.top / "file"))})


@fault
def home_is_dev_null(_at: Folders) -> Fault:
    """The same, as a device."""
    return Fault({"HOME": "/dev/null"})


@fault
def home_does_not_exist(_at: Folders) -> Fault:
    """As /nonexistent, Debian's home of users without one."""
    return Fault({"HOME": "/nonexistent"})


@fault
def home_is_too_long(_at: Folders) -> Fault:
    """A path that the kernel refuses."""
    return Fault({"HOME": "/" + "x" * 300 + "/" + "y" * 5000})


@fault
def home_is_no_utf8(at: Folders) -> Fault:
    """Bytes that are no text."""
    folder = os.fsencode(at.top) + b"/\xff\xfe"
    Path(os.fsdecode(folder)).mkdir(mode=0o777)
    Path(os.fsdecode(folder)).chmod(0o777)
    return Fault({"HOME": os.fsdecode(folder)})


# -- the state folder --------------------------------------------------------------------------


@fault
def state_is_closed(at: Folders) -> Fault:
    """Nobody may enter it."""
    folder_at(at.state, 0o000)
    return Fault()


@fault
def state_is_read_only(at: Folders) -> Fault:
    """It may be looked into, and nothing made in it."""
    folder_at(at.state, 0o555)
    return Fault()


@fault
def state_of_another(at: Folders) -> Fault:
    """It belongs to somebody else, as after one run with sudo."""
    root_owns(folder_at(at.state), 0o755)
    return Fault()


@fault
def journals_of_another(at: Folders) -> Fault:
    """Only the folder of journals in it does."""
    root_owns(folder_at(at.state / "journal"), 0o755)
    return Fault()


@fault
def state_is_a_file(at: Folders) -> Fault:
    """A file has its name."""
    file_at(folder_at(at.state.parent) / "carbontrack")
    return Fault()


@fault
def journals_are_a_file(at: Folders) -> Fault:
    """A file has the name of the folder of journals."""
    file_at(folder_at(at.state) / "journal")
    return Fault()


@fault
def state_leads_nowhere(at: Folders) -> Fault:
    """A link to a folder that is gone, as a home on another disk."""
    folder_at(at.state.parent)
    at.state.symlink_to(at.top / "gone" / "state")
    return Fault()


@fault
def state_leads_to_itself(at: Folders) -> Fault:
    """A link to itself."""
    folder_at(at.state.parent)
    at.state.symlink_to(at.state)
    return Fault()


@fault
def state_is_full(at: Folders) -> Fault:
    """No byte is left on its disk."""
    folder_at(at.state)
    mount = f"mount -t tmpfs -o size=16k,mode=777 none {at.state}; "
    return Fault(around=f"{mount} head -c 100000 /dev/zero >{at.state}/full 2>/dev/null || true")


@fault
def state_without_inodes(at: Folders) -> Fault:
    """No further file can be made on its disk."""
    folder_at(at.state)
    return Fault(around=f"mount -t tmpfs -o nr_inodes=1,mode=777 none {at.state}")


@fault
def state_in_a_relative_folder(at: Folders) -> Fault:
    """The XDG specification has such a variable ignored."""
    return Fault({"XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"}, notes=0, kept="work")


@fault
def xdg_folders_are_closed(at: Folders) -> Fault:
    """The variables name folders of somebody else."""
    root_owns(folder_at(at.top / "closed"), 0o700)
    closed = str(at.top / "closed")
    return Fault({"XDG_STATE_HOME": closed, "XDG_CONFIG_HOME": closed})


@fault
def no_home_and_no_temporary_folder(at: Folders) -> Fault:
    """There is nowhere to keep anything."""
    around = "; ".join(f"mount -t tmpfs -o mode=755 none {it}" for it in ("/var/tmp",))
    return Fault({"HOME": None, "TMPDIR": "/nonexistent"}, around=around)


@fault
def temporary_folder_is_wrong(at: Folders) -> Fault:
    """It is a file."""
    return Fault({"TMPDIR": str(file_at(at.top / "file"))}, notes=0)


@fault
def everything_is_read_only(at: Folders) -> Fault:
    """As the root file system of a container that is careful."""
    around = f"mount --bind {at.top} {at.top}; mount -o remount,ro,bind {at.top}"
    return Fault(around=around, notes=2, kept="temporary")


# -- settings that nobody has named ------------------------------------------------------------


@fault
def settings_are_closed(at: Folders) -> Fault:
    """The folder of settings may not be entered."""
    folder_at(at.config, 0o000)
    return Fault()


@fault
def settings_file_is_closed(at: Folders) -> Fault:
    """The file may not be read."""
    root_owns(file_at(folder_at(at.config) / "config.toml", b"region = 'FR'"), 0o600)
    return Fault()


@fault
def settings_are_garbage(at: Folders) -> Fault:
    """Bytes that are no text."""
    file_at(folder_at(at.config) / "config.toml", b"region = \xff\xfe'FR'\n\x00\x01")
    return Fault()


@fault
def settings_are_zeros(at: Folders) -> Fault:
    """What a power cut leaves of a file."""
    file_at(folder_at(at.config) / "config.toml", bytes(4096))
    return Fault()


@fault
def settings_are_a_folder(at: Folders) -> Fault:
    """A folder has the file's name, as where a container mounts a file that is not there."""
    folder_at(at.config / "config.toml")
    return Fault()


@fault
def settings_are_a_pipe(at: Folders) -> Fault:
    """Opening it would wait for a writer."""
    os.mkfifo(folder_at(at.config) / "config.toml", 0o644)
    return Fault()


@fault
def settings_lead_to_themselves(at: Folders) -> Fault:
    """A link to itself."""
    (folder_at(at.config) / "config.toml").symlink_to("config.toml")
    return Fault()


@fault
def project_is_closed(at: Folders) -> Fault:
    """The pyproject.toml of a folder above may not be read."""
    root_owns(file_at(at.top / "pyproject.toml", b"[tool.carbontrack]\npue = 2"), 0o600)
    return Fault()


@fault
def project_is_garbage(at: Folders) -> Fault:
    """Bytes that are no text, with a line like ours."""
    file_at(at.top / "pyproject.toml", b"[tool.carbontrack]\npue = \xff\xfe\n")
    return Fault()


@fault
def project_of_others_is_broken(at: Folders) -> Fault:
    """A file that says nothing of us, in the middle of somebody's merge."""
    file_at(at.top / "pyproject.toml", b"[tool.ruff]\n<<<<<<< HEAD\n=======\n[tool]\n")
    return Fault()


@fault
def project_is_a_folder(at: Folders) -> Fault:
    """A folder has its name."""
    folder_at(at.top / "pyproject.toml")
    return Fault()


@fault
def project_is_a_pipe(at: Folders) -> Fault:
    """Opening it would wait for a writer."""
    os.mkfifo(at.top / "pyproject.toml", 0o644)
    return Fault()


# -- the working directory ---------------------------------------------------------------------


@fault
def work_is_read_only(at: Folders) -> Fault:
    """The default output cannot be written there."""
    root_owns(at.work, 0o555)
    return Fault(kept="home")


@fault
def work_is_removed(at: Folders) -> Fault:
    """The folder is gone when the program begins."""
    return Fault(before="import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
                 kept="home")  # fmt: skip


@fault
def work_is_unreadable(at: Folders) -> Fault:
    """Files can be made in it, but not listed."""
    root_owns(at.work, 0o333)
    return Fault()


@fault
def work_is_not_searchable(at: Folders) -> Fault:
    """Nothing in it can be opened."""
    return Fault(before=f"import os; os.chmod({str(at.work)!r}, 0o000)", kept="home")


@fault
def output_is_a_pipe(at: Folders) -> Fault:
    """The default output's name is taken by a pipe that nobody reads."""
    os.mkfifo(at.work / "emissions.csv", 0o666)
    return Fault(kept="home")


@fault
def work_is_full(at: Folders) -> Fault:
    """No byte is left on its disk."""
    mount = f"mount -t tmpfs -o size=16k,mode=777 none {at.work}; cd {at.work}; "
    return Fault(around=f"{mount} head -c 100000 /dev/zero >full 2>/dev/null || true", kept="home")


@fault
def no_file_may_grow(at: Folders) -> Fault:
    """The limit of a file's size is 0."""
    lines = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    return Fault(before=lines, notes=3, kept="")  # the third tells how many records are lost


@fault
def umask_takes_everything(at: Folders) -> Fault:
    """What is made may not be used by anyone: the output, and not our own folder."""
    return Fault(before="import os; os.umask(0o777)", kept="home")


# -- the process -------------------------------------------------------------------------------


@fault
def stdin_is_closed(at: Folders) -> Fault:
    """Files get its number."""
    return Fault(before="import os; os.close(0)", notes=0)


@fault
def stdout_is_closed(at: Folders) -> Fault:
    """Files get its number."""
    return Fault(before="import os; os.close(1)", notes=0, prints="")


@fault
def stderr_is_closed(at: Folders) -> Fault:
    """No note can be printed, and no file is to be written to instead."""
    return Fault(before="import os; os.close(2)", notes=0)


@fault
def stderr_is_full(at: Folders) -> Fault:
    """Each write to it fails."""
    return Fault(before="import os; os.dup2(os.open('/dev/full', 1), 2)", notes=0)


@fault
def all_streams_are_closed(at: Folders) -> Fault:
    """As under some daemons."""
    return Fault(before="import os; os.closerange(0, 3)", notes=0, prints="")


@fault
def few_descriptors(at: Folders) -> Fault:
    """32 of them."""
    lines = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))"
    return Fault(before=lines, notes=0)


@fault
def hardly_any_descriptors(at: Folders) -> Fault:
    """As many as Python needs to import a module."""
    lines = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))"
    return Fault(before=lines, notes=4)


@fault
def no_thread_can_be_started(at: Folders) -> Fault:
    """The limit of processes is reached, with this one; a command takes its place."""
    lines = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    return Fault(before=lines, notes=1, measures_commands=False)


@fault
def warnings_are_errors(at: Folders) -> Fault:
    """Together with a state folder that is closed."""
    folder_at(at.state, 0o000)
    return Fault({"PYTHONWARNINGS": "error"})


# -- the machine -------------------------------------------------------------------------------


@fault
def no_procfs(at: Folders) -> Fault:
    """/proc is empty."""
    return Fault(around="mount -t tmpfs none /proc", notes=1)


@fault
def no_sysfs(at: Folders) -> Fault:
    """/sys is empty."""
    return Fault(around="mount -t tmpfs none /sys", notes=0)


@fault
def neither(at: Folders) -> Fault:
    """Both are empty."""
    return Fault(around="mount -t tmpfs none /sys; mount -t tmpfs none /proc", notes=1)


@fault
def no_devices(at: Folders) -> Fault:
    """/dev is empty."""
    return Fault(around="mount -t tmpfs none /dev", notes=0)


@fault
def machine_id_is_closed(at: Folders) -> Fault:
    """It may not be read."""
    closed = root_owns(file_at(at.top / "id"), 0o000)
    return Fault(around=f"test ! -e /etc/machine-id || mount --bind {closed} /etc/machine-id",
                 notes=0)  # fmt: skip


@fault
def host_name_is_no_utf8(at: Folders) -> Fault:
    """And there is no machine id that would be used instead of it."""
    hidden = f"test ! -e /etc/machine-id || mount --bind {file_at(at.top / 'id')} /etc/machine-id"
    name = "printf '\\377\\376' >/proc/sys/kernel/hostname"
    return Fault(around=f"{hidden}; {name}", notes=0)


@fault
def dmi_is_closed(at: Folders) -> Fault:
    """Tables of the machine's maker that may not be read, or are no text."""
    dmi = "/sys/class/dmi/id"
    lines = [
        "mount -t tmpfs none /sys",
        f"mkdir -p {dmi}/product_name",
        f"for n in bios_vendor sys_vendor; do printf '\\377\\376\\000' >{dmi}/$n; done",
        f"for n in product_uuid chassis_asset_tag; do : >{dmi}/$n; chmod 0 {dmi}/$n; done",
        f"mkfifo {dmi}/board_vendor {dmi}/bios_version {dmi}/product_version {dmi}/board_name",
    ]
    return Fault(around="; ".join(lines), notes=0)


# -- what other programs say -------------------------------------------------------------------


@fault
def time_zone_is_garbage(at: Folders) -> Fault:
    """A path, an emoji, and bytes that are no text."""
    return Fault({"TZ": ":../../\udcff\U0001f4a5/\x1b[2J" + "x" * 3000, "CARBONTRACK_REGION": None})


@fault
def launchers_are_garbage(at: Folders) -> Fault:
    """Ranks that are no numbers, negative, or beyond the size."""
    return Fault(
        {
            "SLURM_PROCID": "abc", "SLURM_STEP_ID": "\udcff", "SLURM_NTASKS": "-1",
            "SLURM_JOB_ID": "\x1b[2J", "OMPI_COMM_WORLD_RANK": "7", "OMPI_COMM_WORLD_SIZE": "",
            "WORLD_SIZE": "", "RANK": "9" * 500, "LOCAL_RANK": "\u0663", "PMI_RANK": "1e3",
            "PMI_SIZE": "0", "TORCHELASTIC_RUN_ID": "\udcff", "PMIX_NAMESPACE": "\udcff",
            "TORCHELASTIC_RESTART_COUNT": "-1", "CARBONTRACK_PARENT_ID": "\udcff\n@",
            "CARBONTRACK_JOB_ID": "\udcff",
        },
        notes=0,
    )  # fmt: skip


@fault
def clouds_are_garbage(at: Folders) -> Fault:
    """Regions that no cloud has."""
    junk = "\udcff\x1b[2J\U0001f4a5" + "x" * 500
    names = ("AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_CLOUD_REGION", "REGION_NAME",
             "FLY_REGION", "AZURE_REGION", "CLOUDSDK_COMPUTE_REGION", "FUNCTION_REGION",
             "VERCEL_REGION")  # fmt: skip
    return Fault({**dict.fromkeys(names, junk), "CARBONTRACK_REGION": None})


@fault
def gpus_are_garbage(at: Folders) -> Fault:
    """What is visible is no list of GPUs."""
    return Fault(
        {"CUDA_VISIBLE_DEVICES": "\udcff,-1,,GPU-", "HIP_VISIBLE_DEVICES": "\udcff"}, notes=0
    )


@fault
def terminal_is_odd(at: Folders) -> Fault:
    """Sizes and names that no terminal has."""
    return Fault({"COLUMNS": "-7", "LINES": "x", "TERM": "\udcff", "NO_COLOR": "\udcff"}, notes=0)


@fault
def plain_locale(at: Folders) -> Fault:
    """ASCII only, in a folder whose name is no UTF-8."""
    odd = Path(os.fsdecode(os.fsencode(at.work) + b"/caf\xe9\xff"))
    odd.mkdir()
    odd.chmod(0o777)
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    line = f"import os; os.chdir({os.fsencode(odd)!r})"
    return Fault(environ, before=line, notes=0)


@fault
def posix_encodings(at: Folders) -> Fault:
    """Streams that take ASCII only, and refuse all else."""
    return Fault({"PYTHONIOENCODING": "ascii:strict", "LANG": "\udcff"}, notes=0)


# -- what makes them ---------------------------------------------------------------------------


def folder_at(path: Path, mode: int = 0o777) -> Path:
    """A folder of the user's, with its parents."""
    path.mkdir(parents=True, exist_ok=True)
    give(path)
    path.chmod(mode)
    return path


def file_at(path: Path, content: bytes = b"") -> Path:
    """A file of the user's."""
    path.write_bytes(content)
    give(path)
    return path


def give(path: Path) -> None:
    """Give what lies in the user's folders to the user."""
    uid = USER[0]
    while uid is not None and path.stat().st_uid != uid and path.name != "":
        if path.name.startswith("environment-"):
            break
        os.chown(path, uid, uid, follow_symlinks=False)
        path = path.parent


def root_owns(path: Path, mode: int) -> Path:
    """What belongs to root and has this mode; of a plain user's suite the mode is all."""
    if USER[0] is not None:
        os.chown(path, 0, 0)
    path.chmod(mode)
    return path


USER: list[int | None] = [None]


@pytest.fixture
def user(who: str) -> Iterator[list[str]]:
    """Who runs the program: the command that makes it one of this user."""
    if who == "root" and os.geteuid() != 0:
        pytest.skip("only root runs programs as root")
    if who == "plain" and not can_be_stranger():
        pytest.skip("no Python that another user may start, or no setpriv")
    command = as_stranger() if who == "plain" else []
    USER[0] = int(command[1].partition("=")[2]) if command else None
    yield command
    USER[0] = None


@pytest.fixture
def new_folders() -> Iterator[Callable[[], Folders]]:
    """Makes folders for one program each, and removes them."""
    made: list[Path] = []

    def make() -> Folders:
        top = Path(tempfile.mkdtemp(prefix="environment-"))
        made.append(top)
        top.chmod(0o755)
        temporary = Path(tempfile.mkdtemp(prefix="environment-temporary-"))
        made.append(temporary)
        folders = Folders(top, top / "work", top / "home", temporary)
        folder_at(folders.work, 0o755)
        folder_at(folders.home, 0o755)
        temporary.chmod(0o1777)
        return folders

    yield make
    for top in made:
        for folder in (top, *top.rglob("*")):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o755)
        shutil.rmtree(top)


def run(at: Folders, it: Fault, user: list[str], door: str) -> subprocess.CompletedProcess[str]:
    """The program behind this door, in the odd world."""
    python = interpreter() if user else sys.executable
    assert python is not None
    starts = f"{it.before}\nimport os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    around = ["unshare", "--mount", "--uts", "sh", "-ec", f'{it.around}; exec "$@"', "sh"]
    if os.geteuid() != 0:
        around[1:1] = ["--map-root-user"]
    command = [*(around if it.around else []), *user, python, "-c", starts, python,
               *(python if word == "{python}" else word for word in DOORS[door])]  # fmt: skip
    usual: dict[str, str | None] = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "PYTHONPATH": package(),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(at.home),
        "TMPDIR": str(at.temporary),
        "CARBONTRACK_REGION": "FR",
    }
    environ = {name: text for name, text in {**usual, **it.environ}.items() if text is not None}
    return subprocess.run(command, cwd=at.work, env=environ, capture_output=True, check=False,
                          timeout=60, encoding="utf-8", errors="replace")  # fmt: skip


ROOT_TOO = frozenset(
    {"home_of_another", "no_home_variable", "home_is_a_file", "home_is_too_long", "state_is_full",
     "journals_of_another", "state_leads_nowhere", "settings_are_garbage", "settings_are_a_pipe",
     "project_is_garbage", "work_is_removed", "few_descriptors", "neither",
     "all_streams_are_closed"}
)  # fmt: skip
"""What is tried as root as well: the rest is about rights, or about what no rights change."""


@pytest.mark.parametrize(
    ("name", "who"), [*product(FAULTS, ["plain"]), *product(sorted(ROOT_TOO), ["root"])]
)
def test_the_program_runs(name: str, user: list[str], new_folders: Callable[[], Folders]) -> None:
    """Its exit status and its output are its own, one note tells of what is odd, and its record is
    where it can be.
    """
    for door in DOORS:
        at = new_folders()
        it = FAULTS[name](at)
        done = run(at, it, user, door)
        assert (door, done.returncode, done.stdout) == (door, ENDS_WITH, it.prints), done.stderr
        assert "Traceback" not in done.stderr
        assert (door, notes_in(done.stderr, door)) <= (door, it.notes), done.stderr
        if user:
            kept = it.kept if it.measures_commands or door != "run" else ""
            assert (door, kept_in(at)) == (door, kept), done.stderr


def notes_in(stderr: str, door: str) -> int:
    """How many notes were printed; the summary of a command is none."""
    found = len(re.findall(r"^  note |(?:^|Warning: )carbontrack: ", stderr, re.MULTILINE))
    return found - (door == "run" and "\n  record " in stderr)


def kept_in(at: Folders) -> str:
    """The folder with the record, in a file or a journal."""
    if any(map(has_a_row, at.work.rglob("emissions.csv"))):
        return "work"
    for name in ("home", "temporary"):
        journals = getattr(at, name).rglob("*.journal")
        if any(file.stat().st_size for file in journals):
            return name
    return ""


def has_a_row(file: Path) -> bool:
    """Whether there is one besides the header."""
    return file.is_file() and os.access(file, os.R_OK) and file.read_bytes().count(b"\n") > 1
