"""What the plugin is asked for: the options of a run, and the markers of its tests.

An option is declared once, as a field of `Options`: its name, type, default and reader. The names
on the command line, in the ini and in the environment follow from the field's. The command line
takes precedence over the environment, and the environment over the ini; every value is checked,
and an error names the place it stands in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from carbontrack.config import environment
from carbontrack.errors import ConfigError, nearest
from carbontrack.text import visible
from carbontrack.units import Kind, Quantity, parse_quantity
from carbontrack.values import NamedTuple

Scope = Literal["call", "all"]
Value = TypeVar("Value")
MAX_ROUNDS = 1000
"""The most rounds that an option or a marker can ask for."""


@dataclass(frozen=True, slots=True)
class BudgetMarker:
    """The arguments of a test's `carbon_budget` markers; None is "not given"."""

    emissions: Quantity | None = None
    energy: Quantity | None = None
    repeat: int | None = None
    scope: Scope | None = None

    @property
    def limits(self) -> tuple[Quantity, ...]:
        """The limits that are given."""
        return tuple(limit for limit in (self.emissions, self.energy) if limit is not None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is given, neither a limit nor how to measure."""
        return all(getattr(self, key) is None for key in _KEYS)

    @property
    def text(self) -> str | None:
        """The limits as text; None where there is none."""
        return " and ".join(limit.text for limit in self.limits) or None

    def merged_with(self, wider: BudgetMarker) -> BudgetMarker:
        """These arguments, and from a marker of a wider scope those that are not given here."""
        missing = {key: getattr(wider, key) for key in _KEYS if getattr(self, key) is None}
        return replace(self, **missing)


_KEYS = tuple(one.name for one in fields(BudgetMarker))


def merge_markers(nearest_first: Iterable[BudgetMarker]) -> BudgetMarker:
    """One marker of several: for each argument the nearest marker that gives it."""
    found = BudgetMarker()
    for wider in nearest_first:
        found = found.merged_with(wider)
    return found


def marker_of_quantity(quantity: Quantity | None) -> BudgetMarker:
    """A marker with one limit, or with none."""
    if quantity is None:
        return BudgetMarker()
    if quantity.kind == "emissions":
        return BudgetMarker(emissions=quantity)
    return BudgetMarker(energy=quantity)


def parse_marker(args: Iterable[Any], kwargs: Mapping[str, Any]) -> BudgetMarker:
    """Check the arguments of one marker.

    Raises:
        ConfigError: an argument cannot be used, or is given twice.
    """
    found: dict[str, Any] = {}
    for text in args:
        quantity = parse_quantity(text)
        if quantity.kind in found:
            raise ConfigError(f"gives two limits of {quantity.kind}")
        found[quantity.kind] = quantity
    for key, given in kwargs.items():
        if key not in _KEYS:
            raise ConfigError(f"has no argument {key!r}{nearest(key, _KEYS)}")
        if given is None:
            continue
        if key in found:
            raise ConfigError(f"gives two values of {key}")
        found[key] = _argument(key, given)
    if not found:
        raise ConfigError("has no arguments; write a quantity, such as '5 mg' or '20 J'")
    return BudgetMarker(**found)


def _argument(key: str, given: Any) -> Any:
    if key == "repeat":
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_ROUNDS:
            raise ConfigError(f"repeat={given!r} is not a whole number from 1 to {MAX_ROUNDS}")
        return given
    if key == "scope":
        if given not in ("call", "all"):
            raise ConfigError(f"scope={given!r} is neither 'call' nor 'all'")
        return given
    return _of_kind("emissions" if key == "emissions" else "energy", given)


def _of_kind(kind: Kind, text: Any) -> Quantity:
    quantity = parse_quantity(text)
    if quantity.kind != kind:
        raise ConfigError(f"{kind}={text!r} is a quantity of {quantity.kind}")
    return quantity


def read_markers(
    items: Sequence[pytest.Item], name: str, default: BudgetMarker
) -> list[BudgetMarker]:
    """The marker of every test, merged of all that apply to it, in the order of the tests.

    Args:
        items: the tests.
        name: the marker's.
        default: what holds where no marker says otherwise.

    Raises:
        pytest.UsageError: markers cannot be used; the message lists them with their places.
    """
    errors: list[str] = []
    known: dict[tuple[int, ...], BudgetMarker] = {}
    found: list[BudgetMarker] = []
    for item in items:
        marks = list(item.iter_markers_with_node(name))
        key = tuple(id(mark) for _, mark in marks)
        if key not in known:
            own = [_marker_of(node, mark, errors) for node, mark in marks]
            known[key] = merge_markers([*own, default])
        found.append(known[key])
    if errors:
        raise pytest.UsageError("\n".join(map(visible, errors)))
    return found


def _marker_of(node: Any, mark: pytest.Mark, errors: list[str]) -> BudgetMarker:
    try:
        return parse_marker(mark.args, mark.kwargs)
    except ConfigError as error:
        errors.append(f"{_place(node)}: {_sentence(f'@pytest.mark.{mark.name}', error)}")
        return BudgetMarker()


def _sentence(subject: str, error: Exception) -> str:
    """An error that begins with its verb has the subject in front, any other a colon."""
    verbs = ("is ", "has ", "gives ", "cannot ")
    return f"{subject}{'' if str(error).startswith(verbs) else ':'} {error}"


def _place(node: Any) -> str:
    path, line, _ = node.reportinfo() if hasattr(node, "reportinfo") else (node.path, None, "")
    shown = os.path.relpath(path, node.config.rootpath)
    return f"{shown}:{line + 1}" if line is not None else f"{shown} ({node.nodeid})"


def plain_id(item: pytest.Item) -> str:
    """The id of a test, without the group that pytest-xdist adds to it under --dist loadgroup.

    With it a test would have another name in each way of running, and no baseline would fit.
    """
    own = item.nodeid if item.parent is None else f"{item.parent.nodeid}::{item.name}"
    added = item.nodeid.removeprefix(own)
    if not (added and item.config.getoption("loadgroup", None)):  # from pytest 9.2 on none is added
        return item.nodeid
    marks = item.iter_markers("xdist_group")  # the nearest first
    names = [
        str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks
    ]
    # of several groups xdist adds all, older versions of it the nearest
    is_group = added in (f"@{'_'.join(sorted(set(names)))}", f"@{names[0]}" if names else None)
    return own if is_group else item.nodeid


def _flag(given: Any, _: Path) -> bool:
    word = str(given).strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("is neither true nor false")


def _quantity(given: Any, _: Path) -> Quantity:
    return parse_quantity(str(given))


def _one_of(*names: str) -> Callable[[Any, Path], str]:
    def read(given: Any, _: Path) -> str:
        name = str(given).strip().lower()
        if name not in names:
            raise ValueError(f"is none of {', '.join(names)}{nearest(name, names)}")
        return name

    return read


def _whole(low: int, high: int) -> Callable[[Any, Path], int]:
    def read(given: Any, _: Path) -> int:
        text = str(given).strip()
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(text)

    return read


def _number(what: str, high: float) -> Callable[[Any, Path], float]:
    def read(given: Any, _: Path) -> float:
        try:
            number = float(given)
        except ValueError:
            number = -1.0
        if not 0.0 < number <= high:
            raise ValueError(f"is not {what} above 0 and up to {high:g}")
        return number

    return read


def _percent(given: Any, _: Path) -> float:
    text = str(given).strip()
    try:
        percent = float(text.removesuffix("%")) if text.endswith("%") else -1.0
    except ValueError:
        percent = -1.0
    if not 0.0 <= percent <= 1000.0:
        raise ValueError("is not a percentage, such as '10%'")
    return percent / 100.0


def _output(given: Any, base: Path) -> Path:
    path = base / Path(str(given)).expanduser()
    from carbontrack.system.files import behind_link, obstacle_to_writing

    obstacle = obstacle_to_writing(path)
    if obstacle == "is a directory":
        raise ValueError("is a directory; add a file name")
    if obstacle in ("no directory", "parent is a file"):
        raise ValueError(f"cannot be written: there is no directory {behind_link(path).parent}")
    if obstacle in ("directory not writable", "no permission"):
        raise ValueError("cannot be written: permission denied")
    return path


def _csv(given: Any, base: Path) -> Path:
    path = _output(given, base)
    if path.suffix.lower() != ".csv":
        raise ValueError("is not the name of a CSV file; let it end in .csv")
    return path


def _input(given: Any, base: Path) -> Path:
    return base / Path(str(given)).expanduser()


def _option(read: Callable[[Any, Path], Value], default: Value) -> Value:
    """Declare an option.

    Args:
        read: makes a value of what is given, and of the directory where relative paths begin;
            raises ValueError where that cannot be used.
        default: the value where nothing is given.
    """
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for; every option is declared here.

    Its help stands in the package's `__init__`, since pytest asks for it in every run.
    """

    carbon: bool = _option(_flag, default=False)
    budget: Quantity | None = _option(_quantity, default=None)
    session_budget: Quantity | None = _option(_quantity, default=None)
    metric: str = _option(_one_of("auto", "reference", "measured"), default="auto")
    repeat: int = _option(_whole(1, MAX_ROUNDS), default=1)
    top: int = _option(_whole(0, 10000), default=10)
    csv: Path | None = _option(_csv, default=None)
    json: Path | None = _option(_output, default=None)
    benchmark: Path | None = _option(_output, default=None)
    save: Path | None = _option(_output, default=None)
    add: Path | None = _option(_output, default=None)
    compare: Path | None = _option(_input, default=None)
    fail_on: float | None = _option(_percent, default=None)
    inconclusive: str = _option(_one_of("pass", "warn", "fail"), default="warn")
    reference_watts: float | None = _option(_number("a number of watts", 5000.0), default=None)
    reference_intensity: float | None = _option(
        _number("a number of g CO2e per kWh", 5000.0), default=None
    )

    @property
    def measures_all(self) -> bool:
        """Whether every test is measured, or only those with a marker or the fixture."""
        files = (self.csv, self.json, self.benchmark, self.save, self.add, self.compare)
        asks = (self.budget, self.session_budget, *files)
        return self.carbon or any(asked is not None for asked in asks)

    @property
    def adds_to_compared(self) -> bool:
        """Whether this run is compared with the file that it is then added to."""
        return self.compare is not None and _is_same(self.compare, self.add)

    @property
    def compares(self) -> bool:
        """Whether figures are compared with others, in this run or a later one."""
        return any(path is not None for path in (self.save, self.add, self.compare))


class Option(NamedTuple):
    """One option by the names that it has in each place."""

    field: str
    default: Any
    read: Callable[[Any, Path], Any]

    @property
    def ini(self) -> str:
        """Its key in the ini file, and its name for pytest."""
        return self.field if self.field == "carbon" else f"carbon_{self.field}"

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return f"--{self.ini.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{environment.PYTEST}{self.field.upper()}"


OPTIONS = tuple(Option(one.name, one.default, one.metadata["read"]) for one in fields(Options))


Lookup = Callable[[str], Any]
"""The value under an option's or ini's name; None or False where it is not given.

"" is "not given" in the ini; on a command line it is what a variable that is not set leaves."""


def resolve(
    *,
    option: Lookup,
    ini: Lookup,
    environ: Mapping[str, str],
    rootdir: Path,
    cwd: Path,
) -> Options:
    """Find every option's value and check it; even values that a stronger place overrides.

    Args:
        option: the command line.
        ini: the ini file; its relative paths begin at `rootdir`.
        environ: the CARBONTRACK_PYTEST_ variables by the rest of their names, in lower case.
        rootdir: pytest's root directory.
        cwd: the working directory, where all other relative paths begin.

    Raises:
        ConfigError: a value cannot be used, or a variable belongs to no option.
    """
    variables = {rest.removeprefix("carbon_"): text for rest, text in environ.items()}
    known = [declared.field for declared in OPTIONS]
    for rest in variables:
        if rest not in known:
            variable = f"{environment.PYTEST}{rest.upper()}"
            raise ConfigError(f"{variable}: there is no such option{nearest(rest, known)}")
    found = Options()
    for declared in OPTIONS:
        weakest_first = (
            (ini(declared.ini), f"ini {declared.ini}", rootdir),
            (variables.get(declared.field), declared.variable, cwd),
            (option(declared.ini), declared.flag, cwd),
        )
        for given, place, base in weakest_first:
            if place == declared.flag and isinstance(given, str) and not given.strip():
                raise ConfigError(f"{place} has an empty value; is a variable not set?")
            if given is None or given is False or given == "":
                continue
            try:
                found = replace(found, **{declared.field: declared.read(given, base)})
                if declared.field == "compare":
                    _check_baseline(found)
            except ValueError as error:
                raise ConfigError(_sentence(f"{place}={given}", error)) from error
            except OSError as error:  # a folder that may not be entered, a name that is too long
                raise ConfigError(f"{place}={given}: {error.strerror}") from error
    _check_combination(found, fails_on=option("carbon_fail_on") is not None)
    return found


def _is_same(one: Path, other: Path | None) -> bool:
    return other is not None and one.resolve() == other.resolve()


def _check_baseline(found: Options) -> None:
    path = found.compare
    if path is None or path.is_file() or (found.adds_to_compared and not path.exists()):
        return
    raise ValueError(
        f"there is no file {path}; make it with --carbon-add={path}, here or in an earlier run"
    )


def _check_combination(found: Options, *, fails_on: bool) -> None:
    if found.save is not None and found.save == found.add:
        raise ConfigError(
            f"{found.save} cannot be both replaced and added to; use --carbon-save or --carbon-add"
        )
    if found.compare is None and fails_on:
        raise ConfigError("--carbon-fail-on needs a baseline; add --carbon-compare=PATH")
