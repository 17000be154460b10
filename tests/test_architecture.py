"""The house plan, held: what may import what, who may touch the world, and what an import costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import carbontrack

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "carbontrack"
TESTS = ROOT / "tests"

FLOORS = {
    # 0 - words
    "version": 0.0,
    "errors": 0.0,
    "clock": 0.0,
    "forking": 0.0,
    "carry": 0.0,
    "flush_signals": 0.0,
    "beside": 0.0,
    "private_files": 0.0,
    "variables": 0.0,
    "units": 0.05,
    "record_html": 0.07,
    "records": 0.1,
    "json_text": 0.2,
    "csv_text": 0.2,
    "notices": 0.2,
    "cgroups": 0.2,
    # 1 - instruments, three wings
    "meters": 1.0,
    "grid": 1.0,
    "attribution": 1.0,
    # 2 - the running sum
    "sums": 2.0,
    "machine": 2.02,
    "ledger": 2.05,
    "gaps": 2.0,
    "grid_desk": 2.0,
    "bank": 2.1,
    "book": 2.1,
    "boards": 2.15,
    "journal_lines": 2.1,
    "journal_file": 2.2,
    "powers": 2.1,
    "sampler_hooks": 2.0,
    "ticker": 2.2,
    "sampler": 2.3,
    "journal": 2.4,
    "living": 2.5,
    # 3 - the session
    "figures": 3.0,
    "meter_facts": 3.02,
    "finishing": 3.0,
    "budget": 3.0,
    "curve": 3.02,
    "making": 3.07,
    "circumstances": 3.05,
    "looks": 3.06,
    "session": 3.1,
    "outcome": 3.0,
    "block": 3.05,
    "tree": 3.1,
    "context": 3.1,
    "judge": 3.1,
    "guard": 3.1,
    "forecast": 3.0,
    "foresight": 3.1,
    "pool": 3.15,
    "span": 3.2,
    "tracker": 3.3,
    "open_spans": 3.3,
    "callsite": 3.3,
    "call": 3.4,
    "inside_call": 3.45,
    "wrap": 3.4,
    "disabled": 3.5,
    "counter": 3.5,
    # 4 - exits
    "equivalents": 4.0,
    "calculator": 4.0,
    "sinks": 4.0,
    "report": 4.0,
    "label": 4.1,
    # 5 - assembly
    "settings": 5.0,
    "places": 5.1,
    "config": 5.2,
    "idle_power": 5.2,
    "kin": 5.25,
    "making_rates": 5.2,
    "host_id": 0.2,
    "calibration": 5.15,
    "assembly": 5.3,
    "trackers": 5.4,
    "http_sink": 5.3,
    "waiting": 5.4,
    "front": 5.5,
    "bar": 5.5,
    "loop": 5.6,
    # 6 - doors
    "budgets": 6.0,
    "cli": 6.1,
    "pytest_plugin": 6.1,
    "integrations": 6.1,
    "testing": 6.1,
    "data": 6.1,
    "__main__": 6.2,
}
"""The floor of each module, by the first part of its name inside the package; `__init__`, which
names things and imports nothing, stands outside."""

WINGS = ("meters", "grid", "attribution")
LIGHT = {"carbontrack"}
"""What a module may import at its top besides the standard library."""
COSTLY = {"asyncio", "ctypes", "http", "platform", "socket", "subprocess", "urllib", "uuid"}
"""Standard modules that cost milliseconds; the start path imports them where they are used."""


def modules() -> list[str]:
    """Every module of the package by its dotted name, without `__init__` of the package itself."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if name != "carbontrack"]


def path_of(module: str) -> Path:
    """The file of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(
    module: str, *, top_only: bool = False, typed: bool = False
) -> Iterator[tuple[str, int]]:
    """What a module imports when it runs, and on which line; `typed`: for type checkers too."""
    yield from _imports(tree_of(path_of(module)).body, top_only=top_only, typed=typed)


def _imports(body: list[ast.stmt], *, top_only: bool, typed: bool) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if base.startswith("carbontrack") else base), node.lineno
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typed:
            yield from _imports(node.orelse, top_only=top_only, typed=typed)
        elif not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from _imports(getattr(node, field, []), top_only=top_only, typed=typed)


KNOWN = frozenset(modules())


def inner_imports(module: str, *, typed: bool = False) -> Iterator[tuple[str, int]]:
    """The modules of the package that a module imports, in functions too."""
    for name, line in imports(module, typed=typed):
        if name.split(".")[0] != "carbontrack":
            continue
        known = name
        while known not in KNOWN and "." in known:
            known = known.rpartition(".")[0]  # the last part is something in the module
        yield known, line


def room(module: str) -> str:
    """The part of a module's name that has a floor."""
    return module.split(".")[1]


def test_the_map_shows_every_room_with_its_own_words():
    """docs/explanation/source.md lists the floors as they are, each module by its docstring."""
    page = (ROOT / "docs" / "explanation" / "source.md").read_text(encoding="utf-8")
    for floor in range(7):
        part = page.partition(f"\n## {floor}. ")[2].partition("\n## ")[0]
        rows = [line for line in part.splitlines() if line.startswith("| `")]
        rooms = sorted((height, name) for name, height in FLOORS.items() if int(height) == floor)
        assert rows == [_row_of(name) for _, name in rooms]


def _row_of(name: str) -> str:
    path = PACKAGE / name
    if not path.is_dir():
        return f"| `{name}` | {_first_line(path.with_suffix('.py'))} |"
    opening, readme = path / "__init__.py", path / "README.md"
    words = _first_line(opening) if opening.exists() else readme.read_text().splitlines()[0]
    return f"| `{name}/` | {words.removeprefix('# ')} |"


def _first_line(path: Path) -> str:
    return (ast.get_docstring(tree_of(path)) or "-").splitlines()[0]


def test_every_module_has_a_floor():
    """A new module is put on a floor before anything else happens to it."""
    homeless = {room(module) for module in modules()} - set(FLOORS)
    assert not homeless, f"give these a floor in {Path(__file__).name}: {sorted(homeless)}"


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str):
    """No module imports from its own floor, except inside its own room, or from above."""
    here = room(module)
    up = [
        f"{PACKAGE.name}/{path_of(module).relative_to(PACKAGE)}:{line} imports {other}"
        for other, line in inner_imports(module)
        if other != "carbontrack" and room(other) != here and FLOORS[room(other)] >= FLOORS[here]
    ]
    assert not up, "\n".join(up)


@pytest.mark.parametrize("module", modules())
def test_modules_are_imported_never_the_package(module: str):
    """Inside the package its front page is not used: it would load what it names in a circle."""
    assert [line for name, line in inner_imports(module) if name == "carbontrack"] == []


def test_no_circles():
    """No module can be reached from itself by imports, inside a room or for types neither."""
    ahead = {
        module: {name for name, _ in inner_imports(module, typed=True)} for module in modules()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in sorted(ahead.get(module, ())):
                if other != module:
                    visit(other, (*trail, module))
            done.add(module)

    for module in modules():
        visit(module, ())


@pytest.mark.parametrize("wing", WINGS)
def test_wings_do_not_know_each_other(wing: str):
    """Meters, grid and attribution can each be understood without the others."""
    others = set(WINGS) - {wing}
    met = [
        (module, name)
        for module in modules()
        if room(module) == wing
        for name, _ in inner_imports(module)
        if room(name) in others
    ]
    assert met == []


def test_doors_do_not_use_each_other():
    """The command line, the plugin and the integrations stand side by side."""
    doors = {"cli", "pytest_plugin", "integrations"}
    met = [
        (module, name)
        for module in modules()
        if room(module) in doors
        for name, _ in inner_imports(module)
        if room(name) in doors - {room(module)}
    ]
    assert met == []


def _mentions(module: str, *names: str) -> list[int]:
    lines = []
    for node in ast.walk(tree_of(path_of(module))):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in names:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("module", sorted(KNOWN - {"carbontrack.config"}))
def test_only_config_reads_the_environment(module: str):
    """One file knows that there is an environment; a person who wonders looks there."""
    if module.startswith(("carbontrack.data",)):
        return
    assert _mentions(module, "os.environ", "os.getenv", "os.environb") == []
    taken = [name for name, _ in imports(module) if name in ("os.environ", "os.getenv")]
    assert taken == []


@pytest.mark.parametrize("module", sorted(KNOWN - {"carbontrack.clock"}))
def test_only_the_clock_imports_time(module: str):
    """Everything else is handed a clock, so that a test can be the one who turns it."""
    assert [line for name, line in imports(module) if name == "time"] == []


@pytest.mark.parametrize("module", modules())
def test_nothing_foreign_is_imported_at_the_top(module: str):
    """Libraries are imported by the function that needs them; a plugin may know its host."""
    if room(module) in ("pytest_plugin", "budgets", "integrations"):
        return
    foreign = [
        f"{name} in line {line}"
        for name, line in imports(module, top_only=True)
        if name.split(".")[0] not in LIGHT | sys.stdlib_module_names
    ]
    assert foreign == []


START_PATH = [
    module
    for module in modules()
    if FLOORS.get(room(module), 9) < 4.0 and not module.startswith("carbontrack.grid.live")
]


@pytest.mark.parametrize("module", START_PATH)
def test_the_start_path_imports_nothing_costly(module: str):
    """What every user pays for is only what every user needs."""
    tops = {name.split(".")[0] for name, _ in imports(module, top_only=True)}
    assert tops & COSTLY == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_files_fit_a_head(path: Path):
    """No file of the package is longer than 300 lines."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, (
        f"{path.relative_to(ROOT)} has {lines} lines: give a part a file of its own"
    )


@pytest.mark.parametrize("module", modules())
def test_nothing_is_global(module: str):
    """No function rebinds a name of its module."""
    found = [n.lineno for n in ast.walk(tree_of(path_of(module))) if isinstance(n, ast.Global)]
    assert found == []


# -- the tests themselves ----------------------------------------------------------------------


def _test_functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(tree_of(path)):
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if function and node.name.startswith("test_"):
                yield path, node


def test_every_test_states_a_promise():
    """Each test says in a sentence what is promised."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, node in _test_functions()
        if not ast.get_docstring(node)
    ]
    assert not silent, "\n".join(silent)


def test_the_world_is_handed_in_not_patched():
    """At most two patches in a hundred tests; a third would mean that a parameter is missing."""
    patches = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called.startswith(("mock.patch", "unittest.mock", "patch.")) or called in (
                "patch",
                "monkeypatch.setattr",
                "mocker.patch",
            ):
                patches.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    tests = sum(1 for _ in _test_functions())
    assert len(patches) <= 2 * tests / 100, "\n".join(patches)


def test_only_integration_tests_sleep():
    """A unit test turns its own clock."""
    sleepers = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        if not path.is_relative_to(TESTS / "integration") and path != Path(__file__)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]
    assert sleepers == []


# -- the front page ----------------------------------------------------------------------------


def test_the_public_names_are_the_same_everywhere():
    """What is listed, what has a home and what can be had are one and the same."""
    assert carbontrack.__all__ == sorted(carbontrack.__all__)
    assert set(carbontrack.__all__) == set(carbontrack._HOMES)
    for name, home in carbontrack._HOMES.items():
        assert getattr(carbontrack, name) is getattr(import_module(home), name)


def test_no_public_name_is_a_module():
    """What `carbontrack.NAME` is does not depend on which of its modules was imported before."""
    inside = {room(module) for module in modules()}
    assert inside & {*carbontrack.__all__, "load_ipython_extension", "__version__"} == set()


def test_type_checkers_see_the_same_names():
    """The imports that only type checkers read name what the lazy ones load."""
    tree = tree_of(PACKAGE / "__init__.py")
    blocks = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname or alias.name: node.module
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == carbontrack._HOMES


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt public name fails as any module's would."""
    with pytest.raises(AttributeError, match="trakc"):
        carbontrack.trakc  # noqa: B018


def test_dir_names_what_can_be_had():
    """Completion in a shell shows the public names before they are loaded."""
    assert set(carbontrack.__all__) | {"__version__"} <= set(dir(carbontrack))


PROBE = """
import __future__, json, os, sys, threading
opened = []
def hook(event, args):
    if event in ("open", "socket.connect", "socket.__new__", "subprocess.Popen", "os.listdir",
                 "os.scandir", "os.fork", "os.posix_spawn", "os.mkdir"):
        opened.append([event, str(args[0]) if args else ""])
import encodings, importlib, _sitebuiltins
before = set(sys.modules)
fds = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
sys.addaudithook(hook)
import carbontrack
watched, opened = opened, []
fds_after = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
print(json.dumps({
    "new": sorted(set(sys.modules) - before),
    "threads": threading.active_count(),
    "opened": watched,
    "fds": len(fds_after) - len(fds),
}))
"""


@cache
def what_an_import_does() -> dict[str, object]:
    """Import the package alone in a new process, and tell what that did."""
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-B",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROBE}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_an_import_loads_nothing_else():
    """`import carbontrack` loads the front page and, at most, a name of its own beside it."""
    new = what_an_import_does()["new"]
    assert [name for name in new if name.split(".")[0] != "carbontrack"] == []


def test_an_import_opens_only_itself():
    """No file but its own code, no folder but the package's, no socket, no process."""
    opened = what_an_import_does()["opened"]
    elsewhere = [
        (event, name)
        for event, name in opened
        if not (event in ("open", "os.listdir") and str(name).startswith(str(ROOT)))
    ]
    assert elsewhere == []
    assert not [name for _, name in opened if "dist-info" in name or name.endswith(".csv")]


def test_an_import_starts_nothing():
    """No thread runs and no descriptor stays open after `import carbontrack`."""
    facts = what_an_import_does()
    assert facts["threads"] == 1
    assert facts["fds"] == 0
