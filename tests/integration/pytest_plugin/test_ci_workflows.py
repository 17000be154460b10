"""The workflow files of the how-to do what they say: their scripts are run in a real repository."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.doc_blocks import blocks_of

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "budgets-in-ci.md"
WORDS = """
def unique(words):
    found = []
    for word in words[:{number}]:
        if word not in found:
            found.append(word)
    return found
"""
TEST = """
from words import unique
def test_unique():
    assert unique([f"word {number}" for number in range(1_000)])
"""
pytestmark = [
    pytest.mark.xdist_group("serial"),  # CPU time
    pytest.mark.skipif(os.name != "posix", reason="the scripts are for bash"),
]


@dataclass(frozen=True, slots=True)
class Checkout:
    """A repository with two commits, on the later one, and what a runner gives to a job."""

    path: Path
    environ: dict[str, str]
    base: str

    def bash(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a step as the runners do; three processes are enough for what is seen here."""
        script = script.replace("$(seq 10)", "$(seq 3)").replace("$(seq 9)", "$(seq 2)")
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.path,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


def checkout(tmp_path: Path, *, before: int, after: int) -> Checkout:
    """A project whose function does more or less work; nothing is installed in these jobs."""
    for name in ("bin", "work", "home"):
        (tmp_path / name).mkdir()
    modules = {"python": "", "pytest": "-m pytest -p no:asyncio"}
    for name, module in modules.items():
        program = tmp_path / "bin" / name
        skip = 'case "$*" in *"pip install"*) exit 0;; esac\n'
        program.write_text(f'#!/bin/sh\n{skip}exec "{sys.executable}" {module} "$@"\n')
        program.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
        "HOME": f"{tmp_path}/home",
        "PYTHONPATH": str(ROOT),
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "CI": "true",
    }
    here = Checkout(tmp_path / "work", environ, "")
    (here.path / "test_words.py").write_text(TEST)
    (here.path / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n")
    git = "git -c user.name=a -c user.email=a@example.org"
    assert here.bash("git init --quiet").returncode == 0
    for number in (before, after):
        (here.path / "words.py").write_text(WORDS.format(number=number))
        here.bash(f"git add . && {git} commit --quiet --allow-empty -m {number}")
    done = here.bash("git rev-parse HEAD~1 HEAD")
    base, head = done.stdout.split()
    environ |= {
        "BASE": base,
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
        "CI_COMMIT_SHA": head,
    }
    return Checkout(here.path, environ, base)


def workflow(title: str) -> Any:
    """A file of the page, parsed."""
    page = PAGE.read_text(encoding="utf-8")
    (text,) = [block.body for block in blocks_of(page) if block.title == title]
    return yaml.safe_load(text)


def github_scripts() -> list[str]:
    steps = workflow("emissions.yml")["jobs"]["budget"]["steps"]
    return [step["run"] for step in steps if "run" in step]


@pytest.mark.parametrize(("after", "code"), [(300, 0), (600, 1)], ids=["same", "four-fold"])
def test_the_workflow_of_github(tmp_path: Path, after: int, code: int) -> None:
    """It passes where nothing changed, and fails and tells where a test uses four times as much."""
    here = checkout(tmp_path, before=300, after=after)
    measure_before, measure_change = github_scripts()

    done = here.bash(measure_before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "summary.md").exists()

    done = here.bash(measure_change)
    assert done.returncode == code, done.stdout + done.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("### Emissions of the tests") == 1
    assert summary.count("| over |") == code
    assert (here.path / "carbon.json").exists()


def test_the_job_of_gitlab(tmp_path: Path) -> None:
    """The same in its words."""
    here = checkout(tmp_path, before=300, after=600)
    job = workflow("gitlab-ci.yml")["emissions"]
    here.environ.update({name: str(text) for name, text in job["variables"].items()})
    script = "\n".join(job["script"]).replace("/tmp/", f"{tmp_path}/")

    done = here.bash(script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "over" in done.stdout
    assert "carbon_energy_joules" in (here.path / "junit.xml").read_text()
