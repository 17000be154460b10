"""The settings with their types, defaults, units and ranges; `carbontrack.config.load` reads them.

Each setting is declared once, as a field of `Settings`: type, default, meaning, and the reader that
converts a given value (text from the environment, a value from TOML or Python) to the field's type
or raises ValueError with the end of the sentence "interval_s=0 …".
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, SupportsFloat

from carbontrack.errors import nearest
from carbontrack.record import TIMELINE_SUFFIX, plugin_of, told
from carbontrack.system.interrupts import suppressed
from carbontrack.values import Value, field, fields_of

Reader = Callable[[object], Any]

FILE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".db", ".sqlite", ".sqlite3")
"""The allowed suffixes of a path in `output`, which choose the format. Any other file, such as a
shell's start-up script, cannot become an output by mistake or malice."""


def _text(given: object) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ValueError("is not a text")
    return given.strip()


def _token(given: object) -> str:
    token = _text(given)
    # RFC 7230 allows visible ASCII in a header; a line break in a token would end the header
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("is not a token; it may contain visible ASCII characters only")
    return token


def _one_of(*names: str) -> Reader:
    def read(given: object) -> str:
        name = given.strip().lower() if isinstance(given, str) else None
        if name not in names:
            raise ValueError(f"is none of {', '.join(names)}{nearest(name or '', names)}")
        return name

    return read


def _number(unit: str, low: float, high: float, *, above: bool = False) -> Reader:
    def read(given: object) -> float:
        limits = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        number = math.nan  # which no interval contains
        if isinstance(given, (str, SupportsFloat)) and not isinstance(given, bool):
            with suppressed(ValueError, OverflowError):
                number = float(given)
        if not low <= number <= high or (above and number == low):
            raise ValueError(f"is not {unit} {limits}")
        return number

    return read


def _flag(given: object) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).strip().lower() if isinstance(given, (str, int)) else ""
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("is neither true nor false")


def _items(given: object) -> tuple[str, ...]:
    """The entries of a list, or of a text: a list in JSON, or with commas; "none" is ()."""
    if isinstance(given, str):
        if given.strip().lower() == "none":
            return ()
        if given.lstrip().startswith("["):
            return _json_items(given)
        return tuple(part.strip() for part in given.split(",") if part.strip())
    entries = given if isinstance(given, (list, tuple)) else (given,)
    return tuple(_item(entry) for entry in entries)


def _item(entry: object) -> str:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return str(entry)
    path = os.fspath(entry) if isinstance(entry, os.PathLike) else entry
    if not isinstance(path, str) or not path.strip():
        raise ValueError("is neither a text nor a list of texts")
    return path.strip()


def _json_items(text: str) -> tuple[str, ...]:
    import json  # lists in the environment are rare

    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f"begins like a list but is not valid JSON; {A_COMMA}")  # noqa: TRY004
    return tuple(map(_item, found))


A_COMMA = 'for a name with a comma in it write a list in JSON: ["a, b.csv"]'
"""What to do where a comma in a path was taken for the end of an output."""


def _outputs(given: object) -> tuple[str, ...]:
    has_commas = isinstance(given, str) and "," in given and not given.lstrip().startswith("[")
    items = _items(_paths_kept_whole(str(given)) if has_commas else given)
    try:
        return tuple(dict.fromkeys(map(_output, items)))
    except ValueError as error:
        raise ValueError(f"{error}; {A_COMMA}" if has_commas else str(error)) from None


_COMMAS_IN_A_PATH = 20


def _paths_kept_whole(text: str) -> list[str]:
    """The outputs in a text with commas, of which some belong to a file or folder that exists."""
    rest, found = text.split(","), []
    while rest:
        sizes = range(2, min(len(rest), _COMMAS_IN_A_PATH) + 1)
        joined = {n: os.path.expanduser(",".join(rest[:n]).strip()) for n in sizes}  # noqa: PTH111
        files = (n for n in sizes if _is_one_file(joined[n]))
        folders = (n for n in sizes if os.path.isdir(joined[n]))  # noqa: PTH112 - as above
        size = next(files, next(folders, 1))  # a folder cannot be an output, which an error says
        found.append(",".join(rest[:size]).strip())
        rest = rest[size:]
    return [item for item in found if item]


def _is_one_file(path: str) -> bool:
    """Whether a path with a comma is a file that exists, or one to be made in such a folder."""
    if os.path.lexists(path):
        return not os.path.isdir(path)  # noqa: PTH112 - pathlib is not needed for a question
    folder = os.path.dirname(path)  # noqa: PTH120 - as above
    # the comma must be in what exists: "a.csv,b.csv" lies in a folder that exists, too
    return "," in folder and path.lower().endswith(FILE_SUFFIXES) and os.path.isdir(folder)  # noqa: PTH112


def _output(item: str) -> str:
    if (plugin := plugin_of(item)) is not None:
        return _plugin_output(item, plugin[0])
    if "://" in item:
        from urllib.parse import urlsplit  # addresses are rare, and this import is slow

        parts = urlsplit(item)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("is not an address that starts with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("contains a user name or password; give a token as http_token instead")
        return item
    path = os.path.expanduser(item)  # noqa: PTH111 - text in, text out; "./x" stays "./x"
    if not path.lower().endswith(FILE_SUFFIXES) or "\0" in path:
        raise ValueError(
            f"is neither an http(s) address nor a file that ends in {', '.join(FILE_SUFFIXES)}; "
            "for a directory, add a file name, such as emissions.csv"
        )
    if path.lower().endswith(TIMELINE_SUFFIX):
        raise ValueError(f"ends in {TIMELINE_SUFFIX}, which is reserved for files of timelines")
    return path


def _plugin_output(item: str, name: str) -> str:
    from carbontrack.system import plugins  # loaded only if a plugin is named

    if plugins.find_sink(item, name, FILE_SUFFIXES) is None:
        return _output(f"./{item}")  # with "./" it can only be a file
    return item


def _meter_plugins(given: object) -> tuple[str, ...]:
    from carbontrack.system import plugins  # as above

    found = _items(given)
    for item in found:
        plugins.find(plugins.METERS, item.partition(":")[0])
    return tuple(dict.fromkeys(found))


def _directory(given: object) -> str:
    path = _folder(given)
    if not os.path.isdir(path):  # noqa: PTH112 - pathlib is not needed for one question
        raise ValueError("is not a directory")
    return path


def _folder(given: object) -> str:
    path = os.fspath(given) if isinstance(given, os.PathLike) else given
    return os.path.expanduser(_text(path))  # noqa: PTH111 - as above


def _read(reader: Reader) -> dict[str, Reader]:
    """The metadata of a setting: its reader."""
    return {"reader": reader}


class Settings(Value, kw_only=True):
    """Every setting with its default; equal and of equal hash where all values are equal.

    `carbontrack.config.load` makes and checks it; a `Settings` made by hand is not checked.
    """

    region: str | None = field(default=None, metadata=_read(_text))
    """The machine's region: "FR", "US-CA", "aws:eu-west-3"; None: detected without network."""
    cloud: Literal["none", "detect"] | None = field(
        default=None, metadata=_read(_one_of("none", "detect"))
    )
    """None: the cloud's environment variables and DMI are read; "detect": its metadata service is
    queried as well, over the network; "none": the machine is in no cloud, whatever these say."""
    output: tuple[str, ...] = field(default=("emissions.csv",), metadata=_read(_outputs))
    """Files (.csv, .jsonl, .db), http(s) addresses and plugins ("NAME:ADDRESS") that get each
    record; () for none."""
    http_token: str | None = field(default=None, repr=False, metadata=_read(_token))
    """The bearer token sent to an http(s) output."""
    scope: Literal["process", "machine"] = field(
        default="process", metadata=_read(_one_of("process", "machine"))
    )
    """Which part of the machine's energy is attributed: this process tree's share, or all of it."""
    idle: Literal["proportional", "reserved", "none"] = field(
        default="proportional", metadata=_read(_one_of("proportional", "reserved", "none"))
    )
    """How idle energy is attributed in scope "process": in proportion to the load, by the reserved
    processors, or not at all."""
    idle_w: float | None = field(
        default=None, metadata=_read(_number("a number of watts", 0, 5000))
    )
    """Idle power of the processors, all packages together, in watts, up to 5000; None: the value
    that `carbontrack calibrate --idle` measured on this host, else from the design power."""
    interval_s: float = field(
        default=1.0, metadata=_read(_number("a number of seconds", 0.001, 3600))
    )
    """Seconds between two ticks of the sampler; 0.001 to 3600."""
    pue: float | None = field(default=None, metadata=_read(_number("a ratio", 1, 10)))
    """Power usage effectiveness of the site, 1 to 10; None: the cloud provider's if known, else
    1.0."""
    wue: float | None = field(
        default=None, metadata=_read(_number("a number of litres per kWh", 0, 100))
    )
    """Water usage effectiveness of the site, litres per kWh, 0 to 100; None: unknown."""
    embodied_g_per_h: float | None = field(
        default=None, metadata=_read(_number("a number of grams per hour", 0, 1e6))
    )
    """Embodied emissions of this machine per hour of its life, in grams; None: from the table of
    parts."""
    embodied_lifetime_years: float | None = field(
        default=None, metadata=_read(_number("a number of years", 0, 50, above=True))
    )
    """The lifetime of the hardware in years, above 0 and up to 50; None: 4."""
    embodied_utilisation: float = field(
        default=1.0, metadata=_read(_number("a share", 0, 1, above=True))
    )
    """The share of its lifetime in which the hardware is in use, above 0 and up to 1."""
    cpu_tdp_w: float | None = field(
        default=None, metadata=_read(_number("a number of watts", 0, 5000, above=True))
    )
    """Thermal design power of one CPU package, in watts, up to 5000; None: from the table."""
    ram_w_per_gib: float | None = field(
        default=None, metadata=_read(_number("a number of watts per GiB", 0, 10))
    )
    """Power of installed memory, watts per GiB, 0 to 10; None: the value of the model."""
    gpu_ids: tuple[str, ...] | None = field(default=None, metadata=_read(_items))
    """GPUs to count, by index or UUID; None: those this process may use; (): none."""
    gpu_model: bool = field(default=False, metadata=_read(_flag))
    """Model NVIDIA GPUs that show neither energy nor power, by their name and the utilisation that
    the driver reports, with basis "assumed"; False: they are not counted."""
    meter_plugins: tuple[str, ...] = field(default=(), metadata=_read(_meter_plugins))
    """Plugins whose meters are used too, or instead: "NAME" or "NAME:ADDRESS"; (): none."""
    boundary: Literal["components", "wall"] = field(
        default="components", metadata=_read(_one_of("components", "wall"))
    )
    """What is counted in addition to processor, memory and GPUs: nothing, or the further wall power
    of a server with this design power, assumed, unless a wall meter was calibrated."""
    intensity_g_per_kwh: float | None = field(
        default=None, metadata=_read(_number("a number of g CO2e per kWh", 0, 5000))
    )
    """Your own carbon intensity of the grid, g CO2e per kWh, 0 to 5000; None: from the source."""
    market_g_per_kwh: float | None = field(
        default=None, metadata=_read(_number("a number of g CO2e per kWh", 0, 5000))
    )
    """Carbon intensity of your electricity contract, for market-based emissions, g CO2e per kWh,
    0 to 5000; None: not known."""
    intensity_source: tuple[str, ...] = field(default=(), metadata=_read(_items))
    """Live sources, in the order they are tried; (): the yearly table, without network."""
    live_token: str | None = field(default=None, repr=False, metadata=_read(_token))
    """The token of the live intensity source."""
    spans: Literal["roots", "all"] = field(default="roots", metadata=_read(_one_of("roots", "all")))
    """Which spans have their own row: roots only, or children as well."""
    timeline: bool = field(default=False, metadata=_read(_flag))
    """Write the power over time of each root span to a file next to the output."""
    checkpoint_s: float = field(
        default=10.0, metadata=_read(_number("a number of seconds", 0.1, 3600))
    )
    """Seconds between two checkpoints of an open run, 0.1 to 3600: the most a kill can lose."""
    sysfs_path: str = field(default="/sys", metadata=_read(_directory))
    """The root of sysfs; for containers that mount the host's elsewhere, and for tests."""
    procfs_path: str = field(default="/proc", metadata=_read(_directory))
    """The root of procfs, for the same purposes."""
    state_dir: str | None = field(default=None, metadata=_read(_folder))
    """The directory of the journal; None: the user's state directory, found when it is needed."""
    host_id: str | None = field(default=None, metadata=_read(_text))
    """The name of this host in records; None: a keyed hash of its machine id or name."""
    flush_on_signals: bool = field(default=False, metadata=_read(_flag))
    """Write open spans on SIGTERM and SIGHUP, before their effect; False: no handler."""
    disable: bool = field(default=False, metadata=_read(_flag))
    """Turn all of carbontrack into a no-op."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each setting comes from: "argument", "environment", a file's path, or "default"."""

    @property
    def owns_state_dir(self) -> bool:
        """Whether the journals' folder was set by the user, not by a project's file."""
        return self.is_users("state_dir")

    def is_users(self, name: str) -> bool:
        """Whether a setting was left alone or set by the user, not by a project's file."""
        origin = self.origins.get(name, "default")
        return os.path.basename(origin) != "pyproject.toml"  # noqa: PTH119 - runs at every start

    def __repr__(self) -> str:
        shown = {n: getattr(self, n) for n, one in fields_of(Settings).items() if one.repr}
        # the query of an address often holds a key
        shown["output"] = tuple(map(told, self.output))
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


READERS: Mapping[str, Reader] = {
    name: one.metadata["reader"]
    for name, one in fields_of(Settings).items()
    if "reader" in one.metadata
}
"""The reader of each setting, in the order of the fields."""
SECRETS = frozenset(name for name in READERS if not fields_of(Settings)[name].repr)
"""Settings whose values are never printed."""
