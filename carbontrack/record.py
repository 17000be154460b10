"""The record: one flat, frozen, versioned row for each finished span, and where records go.

A number's name ends in its unit. Unknown is None, never 0. The order of the fields is the order of
the columns and never changes within a schema version; older versions can still be read. Below the
record: the protocol of sinks, a record as HTML for notebooks, and the name of the file of timelines
next to a file of records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from carbontrack.errors import ConfigError
from carbontrack.system.interrupts import suppressed
from carbontrack.system.log import RateLimitedLog
from carbontrack.units import (
    JOULES_PER_KWH,
    format_grams,
    format_joules,
    format_seconds,
    format_with_interval,
    joules_from,
)
from carbontrack.values import Value, field, fields_of, replace

SCHEMA = 2
Status = Literal["ok", "error", "interrupted", "budget", "recovered", "disabled"]
Basis = Literal["measured", "modelled", "assumed"]
Component = Literal["cpu", "gpu", "ram", "other"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
BASES: tuple[Basis, ...] = get_args(Basis)
"""From the strongest to the weakest."""
WHOLE_MACHINE = "machine"
"""The key of a rate for the whole machine instead of one of its components."""
TIMELINE_SUFFIX: Final = ".timeline.jsonl"
"""The ending of the files of timelines."""
_PARTS = (("cpu", "CPU"), ("gpu", "GPU"), ("ram", "memory"), ("other", "other"))
_SEEN = (("cpu", "CPU"), ("gpu", "GPU"), ("ram", "memory"))
NAME_LIMIT = 10_000
"""The most characters of a name."""
LABELS_LIMIT = 64 << 10
"""The most bytes of a record's labels as JSON in UTF-8."""
LINE_LIMIT = 256 << 10
"""Bytes of a line above which `shortened` cuts the record so that every reader accepts it."""
_LONGEST_TEXT = 4000
"""The most characters of a text that `shortened` keeps."""
_DEEPEST = 8
_LONGEST_NUMBER_BITS = 4096
_MOST_CONTAINERS = 100_000
"""The most lists and mappings that `plain` follows, since a list may contain itself."""
Cell = str | int | float | bool | None


class Record(Value, kw_only=True):
    """The energy and emissions of one span, how they are known, and their interval.

    `energy_kwh` is the user's share, as `scope` says, times `pue`; the components are before
    `pue`; `machine_kwh` is the energy of the whole machine in the same time. `emissions_g` is the
    location-based emissions of `energy_kwh`, in grams of CO2e; `embodied_g`, `water_l` and
    `market_emissions_g` are never included in it. The reference page of the documentation explains
    every field.
    """

    schema: int = SCHEMA
    record_id: str
    run_id: str
    parent_id: str | None = None
    name: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "ok"
    error: str | None = None
    started_at: str
    ended_at: str
    duration_s: float | None = None
    calls: int | None = 1
    cpu_kwh: float | None = None
    gpu_kwh: float | None = None
    ram_kwh: float | None = None
    other_kwh: float | None = None
    energy_kwh: float | None = None
    energy_low_kwh: float | None = None
    energy_high_kwh: float | None = None
    machine_kwh: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None
    water_l: float | None = None
    embodied_g: float | None = None
    region: str | None = None
    region_basis: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_low_g_per_kwh: float | None = None
    intensity_high_g_per_kwh: float | None = None
    intensity_source: str | None = None
    intensity_year: int | None = None
    pue: float | None = None
    basis: Basis | None = None
    cpu_basis: Basis | None = None
    gpu_basis: Basis | None = None
    ram_basis: Basis | None = None
    meters: str | None = None
    coverage: float | None = None
    max_gap_s: float | None = None
    missed_reads: int | None = None
    faults: str | None = None
    scope: str | None = None
    idle: str | None = None
    cpu_share: float | None = None
    cpu_model: str | None = None
    cpu_threads: int | None = None
    cpu_tdp_w: float | None = None
    gpu_models: str | None = None
    gpu_count: int | None = None
    ram_gib: float | None = None
    host_id: str | None = None
    pid: int | None = None
    rank: int | None = None
    world_size: int | None = None
    cloud_provider: str | None = None
    cloud_region: str | None = None
    os: str | None = None
    python: str | None = None
    carbontrack: str | None = None
    parent_holds: bool | None = None
    job_id: str | None = None
    attempt: int | None = None
    local_rank: int | None = None
    task_id: str | None = None
    market_emissions_g: float | None = None
    abiotic_kg_sb: float | None = None

    def to_row(self) -> dict[str, Cell]:
        """A mapping from column name to plain value, in column order; labels as JSON text."""
        return dict(zip(COLUMNS, row_cells(self), strict=True))

    def _repr_html_(self) -> str:
        return record_html(self)

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Record:
        """Read a row back, from values or from text, of this schema version or an older one.

        Columns that this version does not know are ignored; columns that the row lacks are None.

        Raises:
            ValueError: a required column is missing, or a cell does not have the type of its
                column.
        """
        values: dict[str, Any] = {}
        for name, convert in CONVERTERS.items():
            cell = row.get(name)
            if cell is None or cell == "":
                if name == "calls" and name in row:
                    values[name] = None  # empty is unknown; only a row without it means one call
                continue
            try:
                values[name] = convert(cell)
            except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
                raise ValueError(f"column {name!r} cannot contain {cell!r}: {error}") from error
        missing = [name for name in REQUIRED if name not in values]
        if missing:
            raise ValueError(f"the row has no {', '.join(missing)}")
        return cls(**values)


def unmeasured_record(name: str, labels: Mapping[str, Any], at: tuple[str, str]) -> Record:
    """The record of a block that was not measured, with when it began and ended."""
    return Record(
        record_id="disabled",
        run_id="disabled",
        name=name,
        labels=labels,
        status="disabled",
        started_at=at[0],
        ended_at=at[1],
        calls=None,
    )


class Sink(Protocol):
    """A destination of records, such as a file or a server."""

    def write(self, record: Record) -> None:
        """Write the record. An exception is logged once, and the record counts as lost."""
        ...

    def close(self) -> None:
        """Release files and connections; a second call does nothing."""
        ...


def checked_name(name: object) -> str:
    """The name of a span, checked.

    Raises:
        ConfigError: it is not a text, an empty one, or longer than `NAME_LIMIT`.
    """
    if isinstance(name, str) and name and len(name) <= NAME_LIMIT:
        return name
    if isinstance(name, str) and name:
        raise ConfigError(
            f"a name may have at most {NAME_LIMIT} characters, and this one has {len(name)}: "
            f"{name[:40]!r}…"
        )
    raise ConfigError(f"a name must be a text of at least one character, not {name!r}")


def checked_labels(labels: object) -> dict[str, Any]:
    """A copy of the labels of a span, checked.

    Raises:
        ConfigError: they are not a mapping, or are longer than `LABELS_LIMIT`.
    """
    if not isinstance(labels, Mapping):
        raise ConfigError(f"labels must be a mapping, such as {{'n': 3}}, not {labels!r:.80}")
    copied = dict(labels)
    if not _are_surely_short(copied):
        size = _size(copied)
        if size > LABELS_LIMIT:
            longest = max(copied, key=lambda key: _size(copied[key]))
            raise ConfigError(
                f"labels may take at most {LABELS_LIMIT} bytes as JSON, and these take {size}, "
                f"most of them {longest!r:.80}; put long texts into a file, and the file's name "
                "into a label"
            )
    return copied


def _are_surely_short(labels: Mapping[Any, Any]) -> bool:
    """Whether the labels are clearly within the limit, which is a fast check for most labels."""
    size = 0
    for key, content in labels.items():
        if type(key) is not str or type(content) not in (str, int, float, bool):
            return False
        size += len(key) + 32
        if type(content) is str:
            size += len(content)
        elif type(content) is int:
            size += content.bit_length()
    return size * 6 <= LABELS_LIMIT  # a control character becomes six


def _size(content: object) -> int:
    """Bytes of the content as JSON."""
    return len(_json(content).encode(errors="backslashreplace"))


def _json(content: object) -> str:
    import json  # takes 2 ms, needed only where records are written

    with suppressed(Exception):  # a label may be any object
        return json.dumps(content, ensure_ascii=False, allow_nan=False, default=str)
    return json.dumps(plain(content), ensure_ascii=False)


def shortened(record: Record) -> Record:
    """The record with long texts and labels cut, so that every reader accepts its row.

    This is logged.
    """
    _WARNINGS.warn(
        "shortened",
        f"a record of {record.name[:40]!r} is longer than readers accept; its long texts and "
        "labels are cut",
    )
    texts = ((name, getattr(record, name)) for name in COLUMNS if name != "labels")
    changes: dict[str, Any] = {
        name: _cut(text) for name, text in texts if isinstance(text, str) and _cut(text) != text
    }
    if _size(dict(record.labels)) > LABELS_LIMIT:
        changes["labels"] = _cut_labels(record.labels)
    return replace(record, **changes)


_WARNINGS = RateLimitedLog()


def _cut(text: str) -> str:
    return text if len(text) <= NAME_LIMIT else f"{text[:_LONGEST_TEXT]}…"


def _cut_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    room = LABELS_LIMIT - 100
    for key, content in plain(dict(labels)).items():
        text = content if isinstance(content, str) else _json(content)
        short = content if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
        room -= _size({_cut(key): short})
        if room < 0:
            kept["…"] = f"{len(labels) - len(kept)} labels are left out"
            break
        kept[_cut(key)] = short
    return kept


def timeline_path(output: Path) -> Path:
    """The file of the timelines of the records in `output`: runs.csv has runs.timeline.jsonl."""
    return output.with_name(f"{output.stem}{TIMELINE_SUFFIX}")


def plain(content: object, depth: int = 0, count: Iterator[int] | None = None) -> Any:
    """Any object as JSON can represent it: keys and unknown types as text, to a limited depth.

    NaN and the infinities, which JSON does not have, become None. `count` counts the containers.
    """
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, int):
        # Python refuses to write a longer one as text
        return content if content.bit_length() <= _LONGEST_NUMBER_BITS else _text(content)
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, (Mapping, list, tuple)):
        return _plain_container(content, depth, itertools.count() if count is None else count)
    return _text(content)


def _plain_container(content: Any, depth: int, count: Iterator[int]) -> Any:
    if depth == _DEEPEST or next(count) > _MOST_CONTAINERS:
        return "…"
    with suppressed(Exception):  # a mapping of the program's own
        if isinstance(content, Mapping):
            pairs = list(content.items())
            return {_text(key): plain(inner, depth + 1, count) for key, inner in pairs}
        return [plain(inner, depth + 1, count) for inner in list(content)]
    return _text(content)


def _text(content: object) -> str:
    with suppressed(Exception):
        return str(content)
    return f"<{type(content).__name__}>"


def _labels(cell: object) -> Mapping[str, Any]:
    if isinstance(cell, Mapping):
        return dict(cell)
    import json

    value = json.loads(str(cell))
    if not isinstance(value, dict):
        raise TypeError("labels must be a JSON object")
    return value


def _whole(cell: object) -> int:
    return cell if isinstance(cell, int) else int(float(str(cell)))


def _number(cell: object) -> float:
    return float(cell) if isinstance(cell, (int, float)) else float(str(cell))


def _truth(cell: object) -> bool:
    text = str(cell).strip().lower()
    if text not in ("true", "false", "1", "0", "1.0", "0.0"):
        raise ValueError("it is neither true nor false")
    return text[0] in "t1"


def _type_of(name: str) -> str:
    return str(fields_of(Record)[name].type).split(" ")[0]


_NUMBER_TYPES = {"int": _whole, "float": _number}
COLUMNS: tuple[str, ...] = tuple(fields_of(Record))
"""The columns of schema 2, in order."""
cells_of: Callable[[Record], tuple[Any, ...]] = attrgetter(*COLUMNS)
"""The values of a record's columns, in order; labels are a mapping."""
_LABELS = COLUMNS.index("labels")


def row_cells(record: Record) -> list[Cell]:
    """The values of a record's columns, in order; labels as JSON text."""
    cells: list[Any] = list(cells_of(record))
    labels = dict(record.labels)
    cells[_LABELS] = _json(labels) if labels else "{}"
    return cells


NUMBER_COLUMNS: tuple[str, ...] = tuple(n for n in COLUMNS if _type_of(n) in _NUMBER_TYPES)
"""The columns that hold numbers."""
TRUTH_COLUMNS: tuple[str, ...] = tuple(n for n in COLUMNS if _type_of(n) == "bool")
"""The columns that hold true or false; the columns that are in neither tuple hold text."""
CONVERTERS: dict[str, Callable[[object], Any]] = {
    name: (_NUMBER_TYPES | {"bool": _truth}).get(_type_of(name), str) for name in COLUMNS
} | {"labels": _labels}
REQUIRED = ("record_id", "run_id", "name", "started_at", "ended_at")


def record_html(record: Any, *, state: str | None = None) -> str:
    """The record as a small table; `state` is shown instead of its status."""
    from carbontrack.text import visible_html  # needed only in notebooks

    length = "" if record.duration_s is None else f", {format_seconds(record.duration_s)}"
    status = state or record.status
    heading = f"<b>{visible_html(record.name)}</b>{visible_html(length)}, {visible_html(status)}"
    rows = "".join(_row(label, text) for label, text in _rows(record))
    return f"<div>{heading}</div><table>{rows}</table>"


def plain_html(text: str) -> str:
    """A text, escaped."""
    from carbontrack.text import visible_html

    return f"<code>{visible_html(text)}</code>"


def energy_text(record: Any) -> str:
    """The energy and its interval: "1.50 Wh (1.20 to 1.80 Wh)"."""
    joules = joules_from(record.energy_kwh)
    if joules is None:
        return "unknown"
    low_j, high_j = joules_from(record.energy_low_kwh), joules_from(record.energy_high_kwh)
    return format_with_interval(joules, low_j, high_j, format_joules)


def emissions_text(record: Any) -> str:
    """The emissions and their interval: "1.50 g (1.20 to 1.80 g)"."""
    if record.emissions_g is None:
        return "unknown"
    low_g, high_g = record.emissions_low_g, record.emissions_high_g
    return format_with_interval(record.emissions_g, low_g, high_g, format_grams)


def boundary_text(found: Any) -> str | None:
    """What the energy of a record, or of a sum, covers: "CPU and memory, not wall power".

    None where nothing is known, or where something else than these parts is counted as well.
    """
    names = [name for part, name in _SEEN if getattr(found, f"{part}_kwh") is not None]
    if not names or found.other_kwh is not None:
        return None
    return f"{' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))}, not wall power"


def _row(label: str, text: str) -> str:
    from carbontrack.text import visible_html

    left = ' style="text-align:left"'
    return f"<tr><th{left}>{visible_html(label)}</th><td{left}>{visible_html(text)}</td></tr>"


def _rows(record: Any) -> Iterator[tuple[str, str]]:
    if record.error:
        yield "error", record.error
    ends_at = boundary_text(record) if record.basis in BASES[1:] else None
    yield "energy", energy_text(record) + (f", {ends_at}" if ends_at else "")
    yield "CO2e", emissions_text(record)
    parts = list(_parts(record))
    if parts:
        yield "parts", "; ".join(parts)
    if record.intensity_g_per_kwh is not None:
        year = f", {record.intensity_year}" if record.intensity_year else ""
        source = f", {record.intensity_source}" if record.intensity_source else ""
        grams = f"{record.intensity_g_per_kwh:.0f} g CO2e/kWh"
        yield "grid", f"{record.region}, {grams}{source}{year}"


def _parts(record: Any) -> Iterator[str]:
    for column, name in _PARTS:
        kwh = getattr(record, f"{column}_kwh")
        if kwh is not None:
            basis = getattr(record, f"{column}_basis", record.basis)
            known = f" {basis}" if basis else ""
            yield f"{name} {format_joules(kwh * JOULES_PER_KWH)}{known}"


def plugin_of(output: str) -> tuple[str, str] | None:
    """Name and address of an output of a plugin: "logfmt:stderr" -> ("logfmt", "stderr").

    None for files and for http(s) addresses. A name is a letter, and then one or more letters,
    digits and "+", "-", ".", "_": a single letter is a Windows drive.
    """
    name, colon, address = output.partition(":")
    if not colon or len(name) < 2 or name.lower() in ("http", "https"):
        return None
    is_name = name[0].isalpha() and name.isascii()
    if is_name and all(sign.isalnum() or sign in "+-._" for sign in name):
        return name, address
    return None


def told(output: str) -> str:
    """The output as it may be shown: a URL or the address of a plugin can contain a key."""
    plugin = plugin_of(output)
    if plugin is not None:
        return f"{plugin[0]}:…"
    if "://" not in output:
        return output
    from carbontrack.system.urls import shown  # few outputs are URLs

    return shown(output)
