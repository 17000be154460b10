"""Programs that say `import codecarbon`: what they get, and that nothing else of theirs changes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, os, sys
import codecarbon
from codecarbon import OfflineEmissionsTracker, OutputMethod, track_emissions
from codecarbon.emissions_tracker import BaseEmissionsTracker
from codecarbon.external.logger import logger
from codecarbon.output import BaseOutput, EmissionsData, FileOutput, HTTPOutput, LoggerOutput
from codecarbon.output_methods.file import FileOutput as SameFileOutput

tracker = OfflineEmissionsTracker(country_iso_code="FRA", project_name=sys.argv[1])
tracker.start()
tracker.stop()
print(json.dumps({
    "home": OfflineEmissionsTracker.__module__,
    "same": FileOutput is SameFileOutput and issubclass(type(tracker), BaseEmissionsTracker),
    "version": codecarbon.__version__,
    "path": [one for one in sys.path if "hook" in one],
    "logger": logger.name,
}))
"""


def run(
    folder: Path, *command: object, path: object = None, **said: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in the folder, as a user would who has set little."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (path, ROOT)))),
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        **said,
    }
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def as_codecarbon(folder: Path, *command: object, path: object = None) -> tuple[str, str]:
    """Output and errors of a program below `carbontrack run --as-codecarbon`."""
    ours = ("-m", "carbontrack", "run", "--quiet", "--as-codecarbon", "--")
    done = run(folder, *ours, *command, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script that uses what CodeCarbon's documentation names."""
    script = tmp_path_factory.mktemp("program") / "train.py"
    script.write_text(PROGRAM)
    return script


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of the name, as if the real one were installed."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "codecarbon").mkdir()
    (folder / "codecarbon" / "__init__.py").write_text("raise RuntimeError('the real one')\n")
    return folder


def test_an_unchanged_program_runs_on_carbontrack(tmp_path: Path, program: Path) -> None:
    """Its names are ours, its row is CodeCarbon's, and no row of ours is beside it."""
    output, errors = as_codecarbon(tmp_path, sys.executable, program, "mine")

    found = json.loads(output)
    assert found["home"] == "carbontrack.compat.codecarbon.tracker"
    assert found["same"]
    assert found["logger"] == "codecarbon"
    assert found["version"].startswith("3.3.2+carbontrack.")
    assert found["path"] == []
    assert errors == ""
    with (tmp_path / "emissions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["project_name"], row["country_iso_code"]) == ("mine", "FRA")
    assert sorted(file.name for file in tmp_path.glob("*.csv*")) == ["emissions.csv"]


def test_a_program_that_is_switched_off_runs_too(tmp_path: Path, program: Path) -> None:
    """Whoever sets CARBONTRACK_DISABLE still needs the names."""
    ours = ("-m", "carbontrack", "run", "--as-codecarbon", "--", sys.executable)
    done = run(tmp_path, *ours, program, "off", CARBONTRACK_DISABLE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["same"]


def test_rows_of_ours_go_beside_where_an_output_is_set(tmp_path: Path, program: Path) -> None:
    """The command's, and the program's own runs below it."""
    ours = ("-m", "carbontrack", "run", "--quiet", "--as-codecarbon", "--", sys.executable)
    done = run(tmp_path, *ours, program, "mine", CARBONTRACK_OUTPUT="ours.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "ours.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["mine", "train.py"]
    assert rows[0]["parent_id"] == rows[1]["record_id"]
    assert (tmp_path / "emissions.csv").exists()


def test_a_package_that_is_installed_is_shadowed_and_said_once(
    tmp_path: Path, program: Path, installed: Path
) -> None:
    """By the first process that imports it; its children need not."""
    child = f"import subprocess, sys\nimport codecarbon\n" \
            f"subprocess.run([sys.executable, {str(program)!r}, 'child'], check=True)"  # fmt: skip
    output, errors = as_codecarbon(tmp_path, sys.executable, "-c", child, path=installed)

    assert json.loads(output)["home"].startswith("carbontrack.")
    assert errors.count("is not used: carbontrack replaces it") == 1
    assert str(installed) in errors


def test_a_program_that_imports_nothing_of_it_is_left_alone(tmp_path: Path) -> None:
    """None of our modules is loaded, and no word is said."""
    code = "import sys; print([m for m in sys.modules if m.partition('.')[0] == 'carbontrack'])"
    assert as_codecarbon(tmp_path, sys.executable, "-c", code) == ("[]\n", "")


def test_the_programs_own_start_is_run(tmp_path: Path) -> None:
    """Its `sitecustomize` is found and run as ever, from its PYTHONPATH."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import sys; sys.own = __file__")
    code = "import sys, sitecustomize; print(sys.own, sitecustomize.__file__)"
    output, _ = as_codecarbon(tmp_path, sys.executable, "-c", code, path=own)
    assert output.split() == [str(own / "sitecustomize.py")] * 2


def test_an_error_in_the_programs_own_start_is_its_own(tmp_path: Path) -> None:
    """Python says of it what it says without us, and goes on; so does what we do."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import no_such_module")
    code = "import codecarbon; print(codecarbon.__spec__.name)"
    output, errors = as_codecarbon(tmp_path, sys.executable, "-c", code, path=own)
    assert output == "codecarbon\n"
    assert "no_such_module" in errors
    # once for `carbontrack run` and once for its command
    assert errors == 2 * run(tmp_path, "-c", "", path=own).stderr


def test_a_python_without_carbontrack_says_so(tmp_path: Path, installed: Path) -> None:
    """It keeps the package that it has."""
    hook = ROOT / "carbontrack" / "compat" / "codecarbon" / "hook"
    code = f"""
import sys
sys.path[:0] = [{str(hook)!r}, {str(installed)!r}]
import sitecustomize
try:
    import codecarbon
except RuntimeError as error:
    print(error, sys.path[0])
"""
    bare = (sys.executable, "-I", "-S", "-c", code)
    done = subprocess.run(
        bare, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == f"the real one {installed}\n", done.stderr
    assert "codecarbon is not replaced in this program" in done.stderr


NOT_OFFERED = """
import importlib.util
for line in ("import codecarbon.core.units", "from codecarbon import core",
             "from codecarbon.output import PrometheusOutput",
             "from codecarbon.external.hardware import CPU"):
    try:
        exec(line)
    except ImportError as error:
        print(error)
import codecarbon
print(hasattr(codecarbon, "core"), hasattr(codecarbon.output, "PrometheusOutput"))
print(importlib.util.find_spec("codecarbon").name, codecarbon.output.__spec__.parent)
"""


def test_what_is_not_offered_says_so(tmp_path: Path) -> None:
    """An ImportError, which a program may expect, with the reason; nothing is half there."""
    code = "from carbontrack.compat.codecarbon import install\ninstall()\ninstall()\n" + NOT_OFFERED
    lines = run(tmp_path, "-c", code).stdout.splitlines()
    reason = " is not available: carbontrack replaces codecarbon"
    names = [line.partition(reason)[0] for line in lines[:4]]
    assert names == [
        "codecarbon.core",
        "codecarbon.core",
        "codecarbon.output.PrometheusOutput",
        "codecarbon.external.hardware",
    ]
    assert lines[4:] == ["False False", "codecarbon codecarbon.output"]


def test_a_real_one_that_is_imported_already_is_an_error(tmp_path: Path) -> None:
    """Half of the program would go on with it."""
    (tmp_path / "codecarbon.py").write_text("")
    code = "import codecarbon\nfrom carbontrack.compat.codecarbon import install\ninstall()"
    done = run(tmp_path, "-c", code)
    assert "ConfigError: codecarbon has been imported already" in done.stderr
    assert "--as-codecarbon" in done.stderr


def test_install_puts_all_of_it_into_sys_modules(tmp_path: Path) -> None:
    """Each module with a spec of its own name, as tools look for."""
    code = """
import sys
from carbontrack.compat.codecarbon import install
install()
found = {name: one for name, one in sys.modules.items() if name.partition(".")[0] == "codecarbon"}
print(len(found), all(one.__spec__.name == name for name, one in found.items()))
import codecarbon, importlib
print(importlib.reload(codecarbon) is codecarbon, codecarbon.output_methods.file.FileOutput)
"""
    done = run(tmp_path, "-W", "error", "-c", code)
    assert done.stdout.splitlines() == [
        "12 True",
        "True <class 'carbontrack.compat.codecarbon.outputs.FileOutput'>",
    ], done.stderr


def test_importing_carbontrack_loads_nothing_of_it(tmp_path: Path) -> None:
    """The door is there for those who ask for it; the public names are loaded one by one."""
    code = """
import sys, carbontrack
print([name for name in sys.modules if "compat" in name])
from carbontrack.compat import codecarbon
print([name for name in sys.modules if name.startswith("carbontrack.compat.codecarbon.")])
print(sorted(set(codecarbon.__all__) - set(dir(codecarbon))))
print(all(getattr(codecarbon, name) for name in codecarbon.__all__))
"""
    done = run(tmp_path, "-c", code)
    assert done.stdout.splitlines() == ["[]", "[]", "[]", "True"], done.stderr
