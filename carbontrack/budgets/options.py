"""Options of the plugin: command line over environment over ini, each checked with its place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.settings import nearest
from carbontrack.units import Quantity, parse_quantity

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
    if path.is_dir():
        raise ValueError("is a directory; add a file name")
    if not path.parent.is_dir():
        raise ValueError(f"cannot be written: there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
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
