"""The tests themselves in anybody's surroundings: each has the outcome that it has elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="it sets what POSIX has"),
    pytest.mark.slow,
    pytest.mark.xdist_group("anybodys"),  # one worker has the outcomes that all are compared with
]

SAMPLE = [
    "tests/unit/config/test_launch.py",
    "tests/unit/config/test_load.py",
    "tests/unit/grid/test_region.py",
    "tests/unit/sinks/test_csv_file.py",
    "tests/unit/sinks/test_journal_file.py",
    "tests/unit/cli/test_summary.py",
    "tests/integration/api/test_default_output.py",
    "tests/integration/api/test_without_home.py",
    "tests/integration/api/test_output_places.py",
    "tests/integration/cli/test_journal.py",
    "tests/integration/cli/test_top.py",
    "tests/integration/surroundings/test_clean.py",
]
LAUNCHED = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "SLURM_JOB_ID": "17",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "4",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "CUDA_VISIBLE_DEVICES": "GPU-none,7",
    "AWS_REGION": "eu-west-3",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
SETTINGS = {
    "CARBONTRACK_REGION": "no region",
    "CARBONTRACK_OUTPUT": "https://carbon.example/records",
    "CARBONTRACK_DISABLE": "1",
    "CARBONTRACK_PARENT_ID": "nonsense",
    "CARBONTRACK_STATE_DIR": "/nonexistent/state",
    "CARBONTRACK_NO_SUCH_SETTING": "1",
    "CARBONTRACK_PYTEST_METRIC": "nonsense",
    "CARBONTRACK_HTTP_TOKEN": "secret",
}
TERMINAL = {
    "COLUMNS": "20",
    "LINES": "3",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "FORCE_COLOR": "1",
    "PY_COLORS": "1",
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_STEP_SUMMARY": "/nonexistent/summary.md",
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "nothing",
}
INTERPRETER = {
    "PYTHONWARNINGS": "error::ImportWarning",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "7",
    "PYTEST_ADDOPTS": "-p no:randomly",
    "LC_ALL": "POSIX",
    "LANG": "tr_TR.UTF-8",
    "LANGUAGE": "tr",
    "TZ": "NONSENSE-14:37",
}
UNIFIED = LAUNCHED | SETTINGS | TERMINAL | INTERPRETER
SURROUNDINGS = {
    "settings, ranks and a terminal": (LAUNCHED | SETTINGS | TERMINAL, 0o077),
    "another language, another time": (INTERPRETER, 0o000),
    "without asserts, in ASCII": (
        UNIFIED
        | {
            "PYTHONOPTIMIZE": "2",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "LC_ALL": "C",
            "HOME": "/nonexistent",
        },
        0o022,
    ),
    "a home of somebody else": ({"HOME": "/proc", "XDG_STATE_HOME": "/proc", "TMPDIR": ""}, 0o027),
}


def outcomes(
    folder: Path,
    environ: dict[str, str],
    *,
    prepare: Callable[[], object] | None = None,
) -> dict[str, str]:
    """Each test of the sample, and how it has ended."""
    folder.mkdir()
    report = folder / "report.xml"
    places = [f"--junitxml={report}", f"--basetemp={folder / 'temp'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *places, *SAMPLE],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | environ,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=prepare,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    cases = ET.parse(report).iter("testcase")
    return {
        f"{case.get('classname')}::{case.get('name')}": " ".join(sorted(one.tag for one in case))
        for case in cases
    }


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The outcomes in no surroundings at all."""
    found = outcomes(tmp_path_factory.mktemp("usual") / "run", {"HOME": os.environ["HOME"]})
    assert len(found) > 100
    return found


@pytest.mark.parametrize("kind", SURROUNDINGS)
def test_surroundings_change_no_outcome(usual: dict[str, str], tmp_path: Path, kind: str) -> None:
    """Not a test more or less passes, fails, or is skipped."""
    environ, umask = SURROUNDINGS[kind]
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for name in ("pandas", "pycountry", "jsonschema"):
        (strangers / f"{name}.py").write_text("raise SystemExit('a stranger')")
    path = {"PYTHONPATH": os.pathsep.join([str(strangers), "", "/nonexistent"])}
    found = outcomes(tmp_path / "run", environ | path, prepare=lambda: os.umask(umask))
    assert found == usual
