"""Options of the plugin: command line over environment over ini, each checked with its place.

From markers to limits: what one test may use, how often it runs, what is billed.

What the markers say: the limits of each test, and of a bad marker where it stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from carbontrack.config.settings import nearest
from carbontrack.errors import ConfigError
from carbontrack.units import Kind, Quantity, parse_quantity

Scope = Literal["call", "all"]
_KEYS = ("emissions", "energy", "repeat", "scope")


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for a test; None is "nobody said"."""

    emissions: Quantity | None = None
    energy: Quantity | None = None
    repeat: int | None = None
    scope: Scope | None = None

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The limits there are."""
        return tuple(limit for limit in (self.emissions, self.energy) if limit is not None)

    @property
    def says_nothing(self) -> bool:
        """Whether nobody said anything, neither what holds nor how to measure."""
        return all(getattr(self, key) is None for key in _KEYS)

    @property
    def text(self) -> str | None:
        """The limits in words; None where there is none."""
        return " and ".join(limit.text for limit in self.quantities) or None

    def over(self, wider: Limits) -> Limits:
        """These, and what they leave open from the wider ones: the nearest wins per quantity."""
        missing = {key: getattr(wider, key) for key in _KEYS if getattr(self, key) is None}
        return replace(self, **missing)


def layered(from_near_to_far: Sequence[Limits]) -> Limits:
    """What holds where several have a say: for each thing the nearest that says something."""
    found = Limits()
    for wider in from_near_to_far:
        found = found.over(wider)
    return found


def of_quantity(quantity: Quantity | None) -> Limits:
    """The limits that one quantity makes."""
    if quantity is None:
        return Limits()
    if quantity.kind == "emissions":
        return Limits(emissions=quantity)
    return Limits(energy=quantity)


def of_marker(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Limits:
    """Read one marker.

    Raises:
        ConfigError: it holds something that is no quantity, or says one thing twice.
    """
    found: dict[str, Any] = {}
    for text in args:
        quantity = parse_quantity(text)
        if quantity.kind in found:
            raise ConfigError(f"says two times how much {quantity.kind} is allowed")
        found[quantity.kind] = quantity
    for key, given in kwargs.items():
        if key not in _KEYS:
            raise ConfigError(f"has no argument {key!r}{nearest(key, _KEYS)}")
        if given is None:
            continue
        if key in found:
            raise ConfigError(f"says two times how much {key} is allowed")
        found[key] = _argument(key, given)
    if not found:
        raise ConfigError("says nothing; write a quantity, such as '5 mg' or '20 J'")
    return Limits(**found)


def _argument(key: str, given: Any) -> Any:
    if key == "repeat":
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 1000:
            raise ConfigError(f"repeat={given!r} is not a whole number from 1 to 1000")
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


MARKER = "carbon_budget"


def read(items: Sequence[pytest.Item], default: Limits) -> list[Limits]:
    """The limits of every test, in the order of the tests.

    Args:
        items: the tests.
        default: what holds where no marker says anything.

    Raises:
        pytest.UsageError: markers cannot be used; each is named with its place.
    """
    errors: list[str] = []
    known: dict[tuple[int, ...], Limits] = {}
    found: list[Limits] = []
    for item in items:
        marks = list(item.iter_markers_with_node(MARKER))
        key = tuple(id(mark) for _, mark in marks)
        if key not in known:
            own = [_limits_of(node, mark, errors) for node, mark in marks]
            known[key] = layered([*own, default])
        found.append(known[key])
    if errors:
        raise pytest.UsageError("\n".join(errors))
    return found


def _limits_of(node: Any, mark: pytest.Mark, errors: list[str]) -> Limits:
    try:
        return of_marker(mark.args, mark.kwargs)
    except ConfigError as error:
        errors.append(f"{_place(node)}: @pytest.mark.{MARKER}: {error}")
        return Limits()


def _place(node: Any) -> str:
    path, line, _ = node.reportinfo() if hasattr(node, "reportinfo") else (node.path, None, "")
    shown = os.path.relpath(path, node.config.rootpath)
    return f"{shown}:{line + 1}" if line is not None else f"{shown} ({node.nodeid})"


Lookup = Callable[[str], Any]
"""The value under an option's or ini's name; None or False where it is not given.

"" is "not given" in the ini; on a command line it is what a variable that is not set leaves."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for; fields are named as the ini is, without `carbon_`."""

    carbon: bool = False
    budget: Quantity | None = None
    session_budget: Quantity | None = None
    metric: str = "auto"
    repeat: int = 1
    top: int = 10
    csv: Path | None = None
    json: Path | None = None
    benchmark: Path | None = None
    save: Path | None = None
    add: Path | None = None
    compare: Path | None = None
    fail_on: float | None = None
    inconclusive: str = "warn"
    reference_watts: float | None = None
    reference_intensity: float | None = None

    @property
    def measures_all(self) -> bool:
        """Whether every test is measured, or only those that ask by a marker or the fixture."""
        files = (self.csv, self.json, self.benchmark, self.save, self.add, self.compare)
        asks = (self.budget, self.session_budget, *files)
        return self.carbon or any(asked is not None for asked in asks)

    @property
    def compares(self) -> bool:
        """Whether figures are held against others, now or later."""
        return any(path is not None for path in (self.save, self.add, self.compare))


def resolve(
    names: Iterable[str],
    *,
    option: Lookup,
    ini: Lookup,
    environ: Mapping[str, str],
    rootdir: Path,
    cwd: Path,
) -> Options:
    """Find every option's value and check it; even values that a stronger place overrides.

    Args:
        names: the options by their ini names.
        option: the command line.
        ini: the ini file; paths in it are meant from `rootdir`.
        environ: the CARBONTRACK_PYTEST_ variables by the rest of their names, in lower case.
        rootdir: where relative paths of the ini begin.
        cwd: where all other relative paths begin.

    Raises:
        ConfigError: a value cannot be used, or a variable is no option's.
    """
    fields = {name: name.removeprefix("carbon_") for name in names}
    variables = {rest.removeprefix("carbon_"): text for rest, text in environ.items()}
    for rest in variables:
        if rest not in fields.values():
            near = nearest(rest, fields.values())
            raise ConfigError(f"CARBONTRACK_PYTEST_{rest.upper()}: there is no such option{near}")
    found = Options()
    for name, field in fields.items():
        places = (
            (ini(name), f"ini {name}", rootdir),
            (variables.get(field), f"CARBONTRACK_PYTEST_{field.upper()}", cwd),
            (option(name), f"--{name.replace('_', '-')}", cwd),
        )
        for given, place, base in places:
            if place.startswith("--") and isinstance(given, str) and not given.strip():
                raise ConfigError(f"{place} is given an empty value; is a variable not set?")
            if given is None or given is False or given == "":
                continue
            try:
                found = replace(found, **{field: _READERS[field](given, base)})
            except ValueError as error:
                raise ConfigError(f"{place}={given}: {error}") from error
    if found.save is not None and found.save == found.add:
        raise ConfigError(f"{found.save} cannot be written anew and added to; save it or add to it")
    if found.compare is None and option("carbon_fail_on") is not None:
        raise ConfigError("--carbon-fail-on has nothing to judge by; add --carbon-compare=PATH")
    return found


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
    from carbontrack.system.files import obstacle_to_writing

    obstacle = obstacle_to_writing(path)
    if obstacle == "is a directory":
        raise ValueError("is a directory; add a file name")
    if obstacle in ("no directory", "parent is a file"):
        raise ValueError(f"cannot be written: there is no directory {path.parent}")
    if obstacle in ("directory not writable", "no permission"):
        raise ValueError("cannot be written: permission denied")
    return path


def _csv(given: Any, base: Path) -> Path:
    path = _output(given, base)
    if path.suffix.lower() != ".csv":
        raise ValueError("is no name of a CSV file; let it end in .csv")
    return path


def _input(given: Any, base: Path) -> Path:
    path = base / Path(str(given)).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; write one with --carbon-save")
    return path


_READERS: Mapping[str, Callable[[Any, Path], Any]] = {
    "carbon": _flag,
    "budget": _quantity,
    "session_budget": _quantity,
    "metric": _one_of("auto", "reference", "measured"),
    "repeat": _whole(1, 1000),
    "top": _whole(0, 10000),
    "csv": _csv,
    "json": _output,
    "benchmark": _output,
    "save": _output,
    "add": _output,
    "compare": _input,
    "fail_on": _percent,
    "inconclusive": _one_of("pass", "warn", "fail"),
    "reference_watts": _number("a number of watts", 5000.0),
    "reference_intensity": _number("a number of g CO2e per kWh", 5000.0),
}
