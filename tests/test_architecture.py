"""The structure of the source tree, held: rooms, sizes, names, and what an import costs.

`lint-imports` holds the layers (contracts in pyproject.toml), and ruff that only `config` reads the
environment and only `system/clock.py` imports `time`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import carbontrack

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "carbontrack"
TESTS = ROOT / "tests"

COSTLY = {"asyncio", "ctypes", "http", "platform", "socket", "subprocess", "urllib", "uuid"}
"""Standard modules that cost milliseconds; the start path imports them where they are used."""
START_PATH = (
    *("errors", "units", "record", "system", "config", "meters", "grid", "attribution"),
    *("sampling", "tracking", "sinks.factory", "sinks.files", "sinks.buffered", "sinks.csv_file"),
    *("sinks.journal", "api.track", "api.provider", "api.assembly"),
)
"""What a block loads; a room, or a module, with all that is in it."""
OFF_PATH = ("system.http", "system.urls", "system.plugins", "grid.live", "meters.plugins")
"""What is loaded only where it is asked for."""
DOORS = ("cli", "integrations", "compat")
SMALL = {
    "api.green": "a public function of its own, and the only caller of grid.advice outside the CLI",
    "api.http_sink": "hands the state folder of the settings to the sink, which may not read them",
    "api.idle_power": "loaded only where an idle policy asks for it, with what few calibrate",
    "api.server_end": "what is known of how one server ends its process, apart from the trackers",
    "attribution.hidden_machine": "loaded only where procfs does not say what the machine does",
    "compat.codecarbon.hook": "what other Pythons run at their start is apart from the package",
    "compat.codecarbon.running": "state of the process, apart from the trackers that it holds",
    "impact.hardware": "what people type for hardware, with the nearest names; an estimate's input",
    "meters.boards": "loaded only on boards with a device tree; what they lack, by their chips",
    "meters.container_view": "loaded only where the system's files show a part of the machine",
    "meters.signs": "loaded only by a program that runs for long, to look for meters again",
    "integrations.pytest_plugin.commit": "the one file that knows the files of git",
    "report.foreign": "what is told of files that are not carbontrack's; the CLI's, not a reader's",
    "server.metrics": "the one file that knows Prometheus' library",
    "report.making": "what follows from the hardware alone, apart from the rule of intervals",
    "report.scale.choice": "asked by every report, and must not load what only large ones need",
    "system.stand_in": "loaded only by handlers that run in the middle of an import",
    "system.signals": "imported by nobody who does not ask for signal handlers",
    "testing.sink": "a fake for users, beside the other fakes, one to a file",
    "cli": "a command to a file",
    "grid.live": "a service to a file",
    "integrations": "a framework to a file",
    "store": "an engine to a file, and a door that imports the one that is asked for",
    "integrations.exporters": "a concept to a file, as the files of integrations are",
}
"""Modules under 80 lines with one importer, or the rooms of such, and why each is a file."""

INTEGRATION_LINES, SERVER_LINES = 80, 150
"""How long the file of a framework may be: it translates names, and the seam does the work."""
SERVERS = {"asgi", "wsgi", "django"}
SHARED_BY_ONE = {"asgi_request"}
"""What a server's file needs and has no room for."""
SHARED = {
    "episode",
    "stack_watch",
    "metrics",
    "tasks",
    "training",
    "tracker_sink",
    "steps",
    "workers",
}
SEAM = SHARED | SHARED_BY_ONE
"""What the files of the frameworks share, and all that they know of each other."""
SAME_ON_PURPOSE = {"CarbontrackCallback", "CarbontrackMiddleware"}
"""What people import from the file of their framework, by the same name in each."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without the package's name in front."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_package(module: str) -> bool:
    """Whether it is a folder with modules in it."""
    return MODULES[module].name == "__init__.py"


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(body: list[ast.stmt], *, top_only: bool = False) -> Iterator[str]:
    """The dotted names that statements import, those for type checkers and in functions too."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            inner = base.startswith("carbontrack")
            yield from (f"{base}.{alias.name}" if inner else base for alias in node.names)
        elif top_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(node.orelse, top_only=True)
        elif not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from imports(getattr(node, field, []), top_only=top_only)


@cache
def inner_imports(module: str) -> frozenset[str]:
    """The modules of the package that a module imports, anywhere in it."""
    found = set()
    for name in imports(tree_of(MODULES[module]).body):
        known = name.removeprefix("carbontrack").removeprefix(".")
        while name.startswith("carbontrack") and known not in MODULES:
            known = known.rpartition(".")[0]
        if name.startswith("carbontrack"):
            found.add(known)
    return frozenset(found - {module})


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds in the package, with the name of its module."""
    for module, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, kinds):
                yield module, node


def code_lines(node: ast.AST, path: Path) -> int:
    """The lines of a function's body that are code: no docstring, comment or empty line."""
    body = node.body  # type: ignore[attr-defined]
    first = body[1:] if ast.get_docstring(node) is not None else body  # type: ignore[arg-type]
    if not first:
        return 0
    lines = path.read_text(encoding="utf-8").splitlines()[first[0].lineno - 1 : node.end_lineno]  # type: ignore[attr-defined]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or lies in one of them."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_the_root_can_be_taken_in_at_a_glance():
    """At most 27 entries in the package's root, folders included, and each room says what it is."""
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 27
    rooms = [path for path in entries if path.is_dir() and path.name != "data"]
    assert [room.name for room in rooms if not (room / "__init__.py").exists()] == []
    assert [m for m, path in MODULES.items() if not ast.get_docstring(tree_of(path))] == []


def test_the_map_names_files_that_are_there():
    """Each file that docs/architecture.md leads a reader to exists."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([a-z_/]+\.py)`", page) if "/" in name}
    assert len(named) > 20
    roots = (PACKAGE, ROOT)
    assert [n for n in sorted(named) if not any((root / n).exists() for root in roots)] == []


def test_layers_are_kept():
    """Imports point down a floor, and rooms of one floor know nothing of each other."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_architecture_page_says_what_the_rooms_say():
    """The map lists each room in the order of the floors, with the sentence of its docstring."""
    contract = (ROOT / "pyproject.toml").read_text().split('type = "layers"')[1].split("\n]")[0]
    floors = [set(line.split(" | ")) for line in re.findall(r'^  "(.+)",$', contract, re.MULTILINE)]
    tops = {module.partition(".")[0] for module in MODULES}
    expected = [
        (module, (ast.get_docstring(tree_of(MODULES[module])) or "").splitlines()[0])
        for floor in floors
        for room in sorted(floor & tops)
        for module in MODULES
        if module == room or (module.startswith(f"{room}.") and is_package(module))
    ]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| `([\w/]+?)/?(?:\.py)?` \| (.+) \|$", page, re.MULTILINE)
    assert [(name.replace("/", "."), sentence) for name, sentence in rows] == expected
    assert [name for name, _ in expected if "." not in name and f' {name}["' not in page] == []


def test_only_config_reads_the_environment_and_only_the_clock_knows_time():
    """Ruff's list of banned names, whatever else of ruff is asked."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", PACKAGE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_no_circles():
    """No module can be reached from itself by imports, those for type checkers included."""
    ahead = {module: inner_imports(module) for module in MODULES if module}
    list(TopologicalSorter(ahead).static_order())


def test_modules_are_imported_never_the_package():
    """Inside the package its front page is not used: it would load what it names in a circle."""
    assert [module for module in MODULES if module and "" in inner_imports(module)] == []


def test_files_functions_and_classes_stay_small():
    """No file above 600 lines, no function above 40 lines of code, no class above 250 lines."""
    long = [m for m, path in MODULES.items() if len(path.read_text().splitlines()) > 600]
    for module, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        if code_lines(node, MODULES[module]) > 40:
            long.append(f"{module}.{node.name}")  # type: ignore[attr-defined]
    for module, node in nodes(ast.ClassDef):
        if node.end_lineno - node.lineno >= 250:  # type: ignore[attr-defined]
            long.append(f"{module}.{node.name}")  # type: ignore[attr-defined]
    assert long == []


def test_no_class_has_the_name_of_another():
    """Whoever reads a class's name knows which one is meant."""
    homes = defaultdict(list)
    for module, node in nodes(ast.ClassDef):
        homes[node.name].append(module)  # type: ignore[attr-defined]
    twice = {name: found for name, found in homes.items() if len(found) > 1}
    for name in SAME_ON_PURPOSE & {*twice}:
        if all(module.startswith("integrations.") for module in twice[name]):
            del twice[name]
    assert twice == {}


def integrations() -> dict[str, Path]:
    """The files of the frameworks, by the framework's name; two are rooms behind their files."""
    found = {module.partition(".")[2]: path for module, path in MODULES.items()}
    return {
        name: path
        for name, path in found.items()
        if MODULES.get(f"integrations.{name}") == path
        and name not in SEAM
        and not name.startswith(("pytest_plugin", "exporters"))
    }


def test_an_integration_is_a_translation():
    """The file of a framework has at most 80 lines, that of a server 150."""
    limits = {
        name: SERVER_LINES if name in SERVERS else INTEGRATION_LINES for name in integrations()
    }
    sizes = {name: len(path.read_text().splitlines()) for name, path in integrations().items()}
    assert {name: size for name, size in sizes.items() if size > limits[name]} == {}


def test_integrations_know_nothing_of_each_other():
    """The file of a framework imports none of another, and is imported by nobody."""
    shared = {f"integrations.{name}" for name in SEAM}
    shared |= {module for module in MODULES if module.startswith("integrations.exporters.")}
    for name in integrations():
        inside = {m for m in inner_imports(f"integrations.{name}") if m.startswith("integrations")}
        assert inside <= shared, name
        users = [m for m in MODULES if f"integrations.{name}" in inner_imports(m)]
        assert users in ([], ["ipython"], [""]), name


def test_a_small_module_has_a_reason():
    """A module under 80 lines with a single importer is a file of its own for a stated reason."""
    importers = defaultdict(set)
    for module in MODULES:
        for other in inner_imports(module):
            importers[other].add(module)
    small = [
        module
        for module, path in MODULES.items()
        if path.stem not in ("__init__", "__main__")
        and len(path.read_text().splitlines()) < 80
        and len(importers[module]) <= 1
    ]
    assert [m for m in small if m not in SMALL and m.rpartition(".")[0] not in SMALL] == []
    assert [
        m for m in SMALL if m in MODULES and m not in small and MODULES[m].stem != "__init__"
    ] == []


def test_the_start_path_imports_nothing_costly_and_nobody_a_library():
    """Every user pays only for what every user needs; a library is imported where it is used."""
    for module, path in MODULES.items():
        room = module.partition(".")[0]
        tops = {name.partition(".")[0] for name in imports(tree_of(path).body, top_only=True)}
        if room not in ("integrations", "server"):  # a plugin may know its host, a server its parts
            assert tops <= {"carbontrack"} | sys.stdlib_module_names, module
        if is_in(module, START_PATH) and not is_in(module, OFF_PATH):
            assert tops & COSTLY == set(), module


def test_a_library_of_the_server_is_known_to_one_file():
    """What carries the requests, or reads them, can be replaced in one place."""
    known = defaultdict(set)
    for module, path in MODULES.items():
        if is_in(module, ("server",)):
            for name in imports(tree_of(path).body):
                known[name.partition(".")[0]].add(module)
    libraries = {n: of for n, of in known.items() if n not in sys.stdlib_module_names}
    del libraries["carbontrack"]
    assert libraries == {
        "msgspec": {"server.body"},
        "prometheus_client": {"server.metrics"},
        "starlette": {"server.app"},
        "uvicorn": {"server.process"},
    }


def test_nothing_is_global():
    """No function rebinds a name of its module."""
    assert [module for module, _ in nodes(ast.Global)] == []


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
    """A unit test turns its own clock; meters of real hardware have one that nobody turns."""
    sleepers = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.relative_to(TESTS).parts[0]
        not in ("integration", "frameworks", "hardware", Path(__file__).name)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]
    assert sleepers == []


def test_no_guard_is_tight():
    """A limit for what must happen says when to give up: nobody's slow machine is a failure."""
    tight = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("run", "communicate", "check_output", "check_call", "wait_procs")
        for given in node.keywords
        if given.arg == "timeout" and isinstance(given.value, ast.Constant)
        if given.value.value is not None and given.value.value < 30
    ]
    assert tight == []


# -- the front page ----------------------------------------------------------------------------


def test_the_public_names_are_the_same_everywhere():
    """What is listed, what has a home and what can be had are one and the same."""
    assert carbontrack.__all__ == sorted(carbontrack.__all__)
    assert set(carbontrack.__all__) == set(carbontrack._HOMES)
    for name, home in carbontrack._HOMES.items():
        assert getattr(carbontrack, name) is getattr(import_module(home), name)


def test_no_public_name_is_a_module():
    """What `carbontrack.NAME` is does not depend on which of its modules was imported before."""
    inside = {module.partition(".")[0] for module in MODULES}
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


# -- what a signal's handler raises ------------------------------------------------------------

BROAD_CLAUSES = 54
"""Clauses that catch an `Exception`, whatever it is. Each guards a call of what is not ours, as a
meter, a sink, a label or a file, or keeps a thread of ours alive; there are to be no more."""
IN_THREADS_OF_OURS = {
    *(
        "grid.live.feed",
        "meters.nvml_driver",
        "sampling.rescan",
        "sampling.ticker",
        "sinks.delivery",
        "sinks.sync",
    ),
}
"""Where no handler of a signal runs."""
PASSES_ON = {"pass_on", "from_outside", "_uncounted", "fail", "_pass_gone"}
"""What gives the program the exception that one of its handlers has raised."""


OF_TIME_LIMITS = {"OSError", "RuntimeError", "TimeoutError"}
"""Whose subclasses the handlers of time limits raise."""


def broad_clauses(
    kinds: Collection[str] = ("Exception", "BaseException"),
) -> Iterator[tuple[str, str, ast.ExceptHandler]]:
    """Module, kind and clause of whatever catches an Exception, or more."""
    for module, clause in nodes(ast.ExceptHandler):
        caught = {getattr(n, "id", "") for n in ast.walk(clause.type or ast.Pass())}  # type: ignore[attr-defined]
        for kind in caught & {*kinds}:
            yield module, kind, clause  # type: ignore[misc]


def test_there_are_no_more_broad_clauses():
    """An exception of the program's handler is to be lost in none of them."""
    broad = [module for module, kind, _ in broad_clauses() if kind == "Exception"]
    assert len(broad) <= BROAD_CLAUSES


def test_no_function_of_a_library_runs_when_an_object_goes():
    """What a handler raises in the callback of a weak collection is printed and lost."""
    named = [
        f"{module}: {getattr(node, 'attr', getattr(node, 'id', ''))}"
        for module, node in nodes(ast.Attribute, ast.Name)
        if getattr(node, "attr", getattr(node, "id", "")).startswith(("WeakSet", "WeakKey"))
        or getattr(node, "attr", getattr(node, "id", "")) == "WeakValueDictionary"
    ]
    assert named == []


def test_a_broad_clause_passes_on_what_a_handler_raises():
    """Unless it is in a thread of ours, it looks where the exception comes from, or raises it."""
    swallowing = []
    for module, _, clause in broad_clauses(("Exception", "BaseException", *OF_TIME_LIMITS)):
        called = {
            getattr(n.func, "id", getattr(n.func, "attr", "")): n
            for n in ast.walk(clause)
            if isinstance(n, ast.Call)
        }
        raises = any(isinstance(n, ast.Raise) for n in ast.walk(clause))
        throws = "partial" in called  # into the body of a generator
        hands_on = any(  # to the caller
            isinstance(n, ast.Return) and getattr(n.value, "id", "") == clause.name
            for n in ast.walk(clause)
        )
        if not (
            raises
            or throws
            or hands_on
            or called.keys() & PASSES_ON
            or module in IN_THREADS_OF_OURS
        ):
            if module.partition(".")[0] == "cli":
                continue  # a command of ours, in no program
            swallowing.append(f"{module}:{clause.lineno}")
    assert swallowing == []


BLINDLY_SUPPRESSED = {"MeterReadError", "NotAJournalError", "Empty", "KeyError"}
"""No handler raises these; the last one is suppressed at the end of a thread of ours."""


def test_nothing_is_suppressed_that_a_handler_may_raise():
    """`suppressed` looks where an exception comes from; `contextlib.suppress` does not."""
    blind = [
        f"{module}:{call.lineno}"
        for module, call in nodes(ast.Call)
        if getattr(call.func, "id", "") == "suppress" and not module.startswith("cli.")  # type: ignore[attr-defined]
        if {getattr(kind, "id", "") for kind in call.args} - BLINDLY_SUPPRESSED  # type: ignore[attr-defined]
    ]
    assert blind == []
