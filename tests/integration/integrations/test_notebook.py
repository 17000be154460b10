"""`%load_ext carbontrack` and `%%carbontrack` in a real IPython, and a notebook in a kernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import HEADER

pytest.importorskip("IPython", reason="IPython is not installed: pip install carbontrack[notebook]")

NOTEBOOK = Path(__file__).parents[3] / "docs" / "examples" / "notebook.ipynb"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home of its own, so that no profile and no settings of ours are read."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "CARBONTRACK_REGION": "FR",
        "PYTHONUTF8": "1",
    }


@pytest.fixture
def shell(tmp_path: Path, environ: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    """Run cells in a shell of their own; for each what it printed, displayed, and raised."""
    program = """
import io, json, sys
from contextlib import redirect_stdout
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
shell = InteractiveShell.instance(colors="NoColor")
found = []
for cell in json.load(sys.stdin):
    with capture_output() as held:
        result = shell.run_cell(cell, store_history=True)
    error = result.error_before_exec or result.error_in_exec
    found.append({
        "printed": held.stdout + held.stderr,
        "shown": [output.data for output in held.outputs],
        "error": None if error is None else type(error).__name__,
    })
print(json.dumps(found))
"""

    def run(*cells: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(cells), cwd=tmp_path, env=environ, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    return run


def test_a_cell_is_measured_and_shown(
    shell: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Its value, names and output are as without the magic; a record and a table are more."""
    _, cell, after = shell(
        "%load_ext carbontrack",
        "%%carbontrack train output=runs.csv\nprint('hello')\nx = sum(range(500_000))\nx + 1",
        "x, _",
    )
    assert cell["error"] is None
    assert cell["printed"].startswith("hello\n")
    assert "text/html" in cell["shown"][-1]
    assert "<b>train</b>" in cell["shown"][-1]["text/html"]
    assert after["printed"].rstrip().endswith("(124999750000, 124999750001)")
    (record,) = iter_records(tmp_path / "runs.csv")
    assert (record.name, record.status, record.region) == ("train", "ok", "FR")


def test_an_error_in_a_cell_is_the_cells_own(
    shell: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The traceback is shown once, names the cell's line, and the record says error."""
    _, cell = shell("%load_ext carbontrack", "%%carbontrack\na = 1\n1 / 0")
    assert cell["error"] == "ZeroDivisionError"
    assert cell["printed"].count("ZeroDivisionError: division by zero") == 1
    assert "1 / 0" in cell["printed"]
    (record,) = iter_records(tmp_path / "emissions.csv")
    assert (record.name, record.status) == ("In[2]", "error")


@pytest.mark.parametrize(
    ("cell", "tells"),
    [
        ("def g(x):\n    return f(x)\n\ng(0)", ["Cell In[3], line 4", "in f(x)", "ZeroDivision"]),
        ("if:", ["Cell In[3], line 1", "SyntaxError: invalid syntax"]),
        ("eval('1+')", ["Cell In[3], line 1", "SyntaxError: invalid syntax"]),
        (
            "try:\n    1/0\nexcept Exception as e:\n    raise KeyError(1) from e",
            ["line 2", "line 4"],
        ),
        ("raise ExceptionGroup('all', [ValueError('one')])", ["all (1 sub-exception)", "one"]),
        ("carbontrack.track('a', regoin='FR')", ["Cell In[3], line 1", "did you mean 'region'"]),
    ],
    ids=["error", "syntax", "syntax-inside", "chain", "group", "ours"],
)
def test_a_traceback_has_the_frames_of_the_cell_alone(
    shell: Callable[..., list[dict[str, Any]]], cell: str, tells: list[str]
) -> None:
    """No frame of carbontrack, not of a decorated function either, and none of IPython's magics."""
    if "Group" in cell and sys.version_info < (3, 11):
        pytest.skip("ExceptionGroup came with Python 3.11")
    _, _, failed, state, last = shell(
        "%load_ext carbontrack",
        "import carbontrack\n@carbontrack.track(output='none')\ndef f(x): return 1 / x",
        f"%%carbontrack output=none\n{cell}",
        "get_ipython().custom_exceptions, len(get_ipython().events.callbacks['post_execute'])",
        "1 / 0",
    )
    for text in tells:
        assert text in failed["printed"]
    for frame in ("carbontrack/", "IPython/", "run_cell_magic", "exec("):
        assert frame not in failed["printed"]
    assert "(), " in state["printed"]
    assert last["printed"].count("ZeroDivisionError: division by zero") == 1


def test_errors_that_were_caught_before_change_nothing(
    shell: Callable[..., list[dict[str, Any]]],
) -> None:
    """Two measured cells inside one cell: the second error is shown, and the shell is as before."""
    run = "get_ipython().run_cell_magic('carbontrack', 'output=none', '1 / 0')"
    caught = f"try:\n    {run}\nexcept ZeroDivisionError: pass\n"
    _, both, state, failed, nested = shell(
        "%load_ext carbontrack",
        caught * 2,
        "get_ipython().custom_exceptions, len(get_ipython().events.callbacks['post_execute'])",
        caught + run,
        f"%%carbontrack output=none\ndef inner():\n    {run}\ninner()",
    )
    assert both["error"] is None
    assert "(), " in state["printed"]
    for shown in (failed, nested):
        assert "ZeroDivisionError: division by zero" in shown["printed"]
        for frame in ("carbontrack/", "IPython/", "exec("):
            assert frame not in shown["printed"]
    assert "line 3" in nested["printed"]


def test_an_error_stays_the_cells_own_where_its_frames_cannot_be_chosen(
    shell: Callable[..., list[dict[str, Any]]],
) -> None:
    """A shell that takes no way of showing errors shows the cell's in its own."""
    *_, failed = shell(
        "%load_ext carbontrack",
        "def refuse(*_): raise RuntimeError('not here')\nget_ipython().set_custom_exc = refuse",
        "%%carbontrack output=none\n1 / 0",
    )
    assert failed["error"] == "ZeroDivisionError"
    assert "not here" not in failed["printed"]


def test_the_users_own_way_of_showing_errors_stays(
    shell: Callable[..., list[dict[str, Any]]],
) -> None:
    """A handler that was set with `set_custom_exc` is called for a measured cell as for others."""
    own = "def show(self, etype, value, tb, tb_offset=None): print('MINE', value)"
    *_, measured, plain = shell(
        "%load_ext carbontrack",
        f"{own}\nget_ipython().set_custom_exc((ZeroDivisionError,), show)",
        "%%carbontrack output=none\n1 / 0",
        "1 / 0",
    )
    assert "MINE division by zero" in measured["printed"]
    assert "MINE division by zero" in plain["printed"]
    assert "Traceback" not in measured["printed"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("regoin=FR", "did you mean 'region'"),
        ("train region=Atlantis", "Atlantis"),
        ("two names", "a name of several words needs quotes: 'two names'"),
        ("'half", "No closing quotation"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_cell_runs(
    shell: Callable[..., list[dict[str, Any]]], tmp_path: Path, line: str, says: str
) -> None:
    """A sentence, no traceback; the cell has not run and nothing is written."""
    _, cell, after = shell(
        "%load_ext carbontrack", f"%%carbontrack {line}\nran = True", "'ran' in dir()"
    )
    assert cell["error"] == "UsageError"
    assert says in cell["printed"]
    assert "Traceback" not in cell["printed"]
    assert after["printed"].rstrip().endswith("False")
    assert not (tmp_path / "emissions.csv").exists()


def test_a_cell_runs_whatever_its_line_says_where_all_is_switched_off(
    shell: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Two names, a misspelt setting, a quote left open: nothing of it is looked at."""
    lines = ("two names", "outptu=runs.csv", "'open", "x window_s=no")
    _, _, *cells = shell(
        "import os; os.environ['CARBONTRACK_DISABLE'] = '1'",
        "%load_ext carbontrack",
        *(f"%%carbontrack {line}\nprint('ran')" for line in lines),
    )
    assert [(cell["error"], "ran" in cell["printed"]) for cell in cells] == [(None, True)] * 4


def test_cells_may_hold_magics_and_syntax_errors(
    shell: Callable[..., list[dict[str, Any]]],
) -> None:
    """Other magics work inside, a semicolon hides the value, a misspelt cell is not measured."""
    _, inner, quiet, wrong = shell(
        "%load_ext carbontrack",
        "%%carbontrack output=none\nnames = %who_ls\n!echo from the shell",
        "%%carbontrack output=none\n6 * 7;",
        "%%carbontrack output=none\nif:",
    )
    assert inner["error"] is None
    assert "from the shell" in inner["printed"]
    assert "42" not in quiet["printed"]
    assert wrong["error"] == "SyntaxError"
    assert wrong["shown"] == []


def test_the_frame_of_records_is_shown_as_a_table(
    shell: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """A frame read from the file shows the main columns and the sums."""
    (tmp_path / "empty.csv").write_bytes(HEADER)
    *_, shown, plain = shell(
        "%load_ext carbontrack",
        "%%carbontrack '<b>bold</b>' output=runs.csv\npass",
        "import carbontrack\ncarbontrack.read_records('runs.csv')",
        "carbontrack.read_records('runs.csv')[['name']]",
    )
    assert plain["error"] is None
    assert shown["error"] is None


def test_the_example_notebook_runs_in_a_kernel(tmp_path: Path, environ: dict[str, str]) -> None:
    """Every cell of the notebook in the docs, in the kernel that Jupyter would start."""
    program = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    done = subprocess.run(
        [sys.executable, "-c", program, str(NOTEBOOK), "done.ipynb"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))["cells"]
    pages = [
        "".join(output["data"]["text/html"])
        for cell in cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    assert any("<b>sum of squares</b>" in page for page in pages)
    assert any("record" in page and "<td" in page for page in pages)


_LOOPS = """
import carbontrack
for epoch in carbontrack.progress(range(3), name='train', output='none'):
    for step in carbontrack.progress(range(2), name='step'):
        sum(range(100_000))
"""


def executed(tmp_path: Path, environ: dict[str, str], *cells: str) -> tuple[list[Any], str]:
    """The cells after a run in a kernel, and the page that nbconvert exports of them."""
    for module in ("nbclient", "ipykernel", "nbconvert", "ipywidgets"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    program = """
import json, sys, nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
cells = [nbformat.v4.new_code_cell(cell) for cell in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
nbformat.write(notebook, "done.ipynb")
open("done.html", "w", encoding="utf-8").write(HTMLExporter().from_notebook_node(notebook)[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(cells),
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))["cells"]
    return found, (tmp_path / "done.html").read_text(encoding="utf-8")


def test_a_progress_bar_leaves_a_summary_in_an_exported_notebook(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """One for the outermost loop, as table and line; a loop that is switched off has none."""
    off = _LOOPS.replace("output='none'", "disable=True").replace("name='step'", "disable=True")
    (loops, switched_off), page = executed(tmp_path, environ, _LOOPS, off)

    tables = [out["data"] for out in loops["outputs"] if "text/html" in out.get("data", {})]
    assert len(tables) == 1
    assert "<b>train</b>" in "".join(tables[0]["text/html"])
    assert re.match(r"train: .*, energy .*, emissions .*", "".join(tables[0]["text/plain"]))
    assert page.count("<b>train</b>") == 1
    assert not any("text/html" in out.get("data", {}) for out in switched_off["outputs"])


def test_a_failing_cell_in_a_kernel_has_its_own_frames(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """In the outputs that Jupyter keeps, and in the exported page."""
    cell = "%%carbontrack broken output=none\ndef halve(x):\n    return 1 / x\n\nhalve(0)"
    (_, failed), page = executed(tmp_path, environ, "%load_ext carbontrack", cell)

    (error,) = [out for out in failed["outputs"] if out["output_type"] == "error"]
    shown = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error["traceback"]))
    assert error["ename"] == "ZeroDivisionError"
    assert "Cell In[2], line 4" in shown
    assert "carbontrack/" not in shown
    assert "run_cell_magic" not in page


def test_names_and_mistakes_are_shown_as_text(shell: Callable[..., list[dict[str, Any]]]) -> None:
    """No mark of direction and no escape sequence comes from a cell's name or from an error."""
    _, cell, *mistakes = shell(
        "%load_ext carbontrack",
        "%%carbontrack 'gpj\u202e<b>exe\x1b[2J' output=runs.csv\npass",
        "%%carbontrack 'a\u202e' 'b\x1b[2J'\npass",
        "%%carbontrack output='no\x1b[2J\u202e/a.csv'\npass",
    )
    assert r"gpj\u202e&lt;b&gt;exe\x1b[2J" in cell["shown"][0]["text/html"]
    assert [mistake["error"] for mistake in mistakes] == ["UsageError"] * 2
    for one in (cell, *mistakes):
        assert not set(one["printed"]) & set("\x1b\u202e")
    assert all(r"\x1b[2J" in one["printed"] for one in mistakes)
