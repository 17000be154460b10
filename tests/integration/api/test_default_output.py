"""Nobody has chosen emissions.csv: where it cannot be written, the program runs all the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records

ROOT = Path(__file__).parents[3]

PROGRAM = """
import carbontrack
{before}
@carbontrack.track
def work(): return 1

with carbontrack.track("block") as run:
    print("ran", work())
assert run.record.status == "ok"
"""
GONE = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"


def unprivileged() -> list[str]:
    """What keeps a command of root from writing where modes forbid it; for others nothing is."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and no setpriv is here to take that away")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def run(
    *arguments: str, folder: Path, state: Path, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*unprivileged(), sys.executable, *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "XDG_STATE_HOME": str(state),
            "CARBONTRACK_REGION": "FR",
        }
        | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder of its own."""
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture(params=["read-only", "a directory's name", "removed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A working directory in which emissions.csv cannot be written, and how it gets so."""
    folder = tmp_path / "work"
    folder.mkdir()
    if request.param == "read-only":
        folder.chmod(0o555)
    elif request.param == "a directory's name":
        (folder / "emissions.csv").mkdir()
    return folder, GONE if request.param == "removed" else ""


def test_one_warning_and_the_program_runs(place: tuple[Path, str], state: Path) -> None:
    """The record waits in the journal, and `recover --output` writes it to a file."""
    folder, before = place
    done = run("-c", PROGRAM.format(before=before), folder=folder, state=state)

    assert (done.returncode, done.stdout) == (0, "ran 1\n"), done.stderr
    assert done.stderr.count("UserWarning: carbontrack: ") == 1
    assert "carbontrack recover --output FILE" in done.stderr

    saved = state / "saved.csv"
    recover = ["-m", "carbontrack", "recover", "--json"]
    waits = run(*recover, folder=state, state=state)
    assert waits.returncode == 1
    written = run(*recover, "--output", str(saved), folder=state, state=state)
    assert written.returncode == 0, written.stderr
    assert [entry["output"] for entry in json.loads(written.stdout)] == [str(saved)]
    assert [record.name for record in iter_records(saved)] == ["block"]
    assert run(*recover, folder=state, state=state).stdout == "[]\n"


def test_a_command_runs_too(place: tuple[Path, str], state: Path) -> None:
    """`carbontrack run` passes its exit code through, and says where the record is."""
    folder, before = place
    # the shell is the one whose working directory goes
    code = (
        f"{before}\nimport sys; from carbontrack.cli import main\n"
        "command = [sys.executable, '-c', \"print('ran'); exit(5)\"]\n"
        "sys.exit(main(['run', *sys.argv[1:], '--', *command]))"
    )
    done = run("-c", code, folder=folder, state=state)
    quiet = run("-c", code.replace("mkdir('gone')", "makedirs('gone')"), "--quiet",
                folder=folder, state=state)  # fmt: skip

    assert (done.returncode, done.stdout) == (5, "ran\n"), done.stderr
    assert "not written yet; to write it: carbontrack recover" in " ".join(done.stderr.split())
    assert (quiet.returncode, quiet.stdout) == (5, "ran\n")
    said = "carbontrack: the record is not in emissions.csv yet; to write it: carbontrack recover\n"
    assert quiet.stderr == said


def test_what_waits_is_written_where_it_belongs(tmp_path: Path, state: Path) -> None:
    """Once the directory can be written, the next run, or `recover`, does it."""
    folder = tmp_path / "work"
    folder.mkdir(mode=0o555)
    run("-c", PROGRAM.format(before=""), folder=folder, state=state)
    folder.chmod(0o755)
    done = run("-c", PROGRAM.format(before=""), folder=folder, state=state)

    assert done.stderr == ""
    assert [r.name for r in iter_records(folder / "emissions.csv")] == ["block", "block"]


def test_it_heals_while_the_program_runs(tmp_path: Path, state: Path) -> None:
    """A directory that becomes writable gets what has waited."""
    folder = tmp_path / "work"
    folder.mkdir(mode=0o555)
    again = "\nimport os; os.chmod('.', 0o755)\nwith carbontrack.track('later'): pass\n"
    done = run("-c", PROGRAM.format(before="") + again, folder=folder, state=state)

    assert done.returncode == 0, done.stderr
    assert [r.name for r in iter_records(folder / "emissions.csv")] == ["block", "later"]
    assert list((state / "carbontrack" / "journal").iterdir()) == []


def test_nothing_at_all_can_be_written(tmp_path: Path) -> None:
    """Neither the output nor the journal: it is said what is lost, and the program runs."""
    folder = tmp_path / "work"
    folder.mkdir(mode=0o555)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    done = run("-c", PROGRAM.format(before=limit), folder=folder, state=tmp_path)

    assert (done.returncode, done.stdout) == (0, "ran 1\n")
    assert "Traceback" not in done.stderr
    assert "1 record could not be written" in done.stderr


@pytest.mark.parametrize("kind", ["read-only", "unreadable", "a file"])
def test_a_state_folder_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    """The output is written, and one warning says where journals are kept instead."""
    folder, state, other = tmp_path / "work", tmp_path / "elsewhere", tmp_path / "temporary"
    other.mkdir()
    folder.mkdir()
    if kind == "a file":
        state.touch()
    else:
        (state / "carbontrack").mkdir(parents=True)
        (state / "carbontrack").chmod(0o555)
        state.chmod(0o555 if kind == "read-only" else 0o000)
    try:
        done = run("-c", PROGRAM.format(before=""), folder=folder, state=state, TMPDIR=str(other))
        command = ("-m", "carbontrack", "run", "--quiet", "--", "echo", "ran")
        quiet = run(*command, folder=folder, state=state, TMPDIR=str(other))
    finally:
        state.chmod(0o755)

    assert (done.returncode, done.stdout) == (0, "ran 1\n"), done.stderr
    assert done.stderr.count("UserWarning: carbontrack: ") == 1
    assert f"journals are kept in {other / f'carbontrack-{os.geteuid()}'}: " in done.stderr
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "ran\n", "")
    assert len(list(iter_records(folder / "emissions.csv"))) == 2


def test_the_config_folder_of_another_user(tmp_path: Path, state: Path) -> None:
    """As where an image says HOME=/root and the process is somebody else."""
    folder, config = tmp_path / "work", tmp_path / "config"
    folder.mkdir()
    (config / "carbontrack").mkdir(parents=True)
    config.chmod(0o000)
    try:
        done = run("-c", PROGRAM.format(before=""), folder=folder, state=state,
                   XDG_CONFIG_HOME=str(config))  # fmt: skip
    finally:
        config.chmod(0o755)

    assert (done.returncode, done.stdout) == (0, "ran 1\n"), done.stderr
    assert done.stderr.count("UserWarning: carbontrack: ") == 1
    assert "its settings are not used" in done.stderr


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_what_was_chosen_is_an_error(tmp_path: Path, state: Path, how: str) -> None:
    """Even where it is the name of the default: the user has said it."""
    folder = tmp_path / "work"
    folder.mkdir(mode=0o555)
    environ = {"CARBONTRACK_OUTPUT": "emissions.csv"} if how == "environment" else {}
    given = "" if environ else ", output='emissions.csv'"
    code = f"import carbontrack\ncarbontrack.track('x'{given})"
    done = run("-c", code, folder=folder, state=state, **environ)

    assert done.returncode == 1
    assert "ConfigError: output='emissions.csv'" in done.stderr


def test_recover_refuses_what_is_no_file(tmp_path: Path, state: Path) -> None:
    """Before a journal is looked at."""
    for output in ("https://carbon.example/", str(tmp_path / "nowhere" / "x.csv"), "x.weird"):
        done = run("-m", "carbontrack", "recover", "--output", output, folder=tmp_path, state=state)
        assert done.returncode == 2, done.stderr
