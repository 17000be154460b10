"""CodeCarbon's parameters: their defaults, its files of settings, and how each is treated here.

A value is taken from the argument, else from `CODECARBON_NAME` in the environment, else from
`./.codecarbon.config`, else from `~/.codecarbon.config`, sections `[codecarbon]`. All but arguments
are text.
"""

from __future__ import annotations

import configparser
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from carbontrack.compat.codecarbon.log import LOGGER, warn_once
from carbontrack.config.environment import codecarbon_variables
from carbontrack.errors import nearest
from carbontrack.system.interrupts import attempt

NOT_GIVEN: Final = object()
"""The default of each parameter: an argument None is a value."""
FILE = ".codecarbon.config"
SECTION = "codecarbon"
_ITS_COMMANDS = ("organization_id", "project_id", "api_token")
"""Entries of CodeCarbon's own commands in these files, which no tracker reads."""


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        default: its value if none is given.
        read: makes a value of a text; raises ValueError.
        instead: what to do here instead, where the parameter has no counterpart; None: it has one.
    """

    default: Any = None
    read: Callable[[Any], Any] = str
    instead: str | None = None


def _flag(text: object) -> bool:
    return str(text).strip().lower() == "true"


_IS_OURS = "carbontrack chooses the counters itself, and no energy is counted twice"
_NO_ACCOUNT = (
    "carbontrack has no hosted service; send records to your own server with "
    "CARBONTRACK_OUTPUT=https://…"
)
_IS_SCRAPED = "carbontrack.integrations.prometheus is scraped; it pushes nothing"
PARAMETERS: Mapping[str, Parameter] = {
    "project_name": Parameter("codecarbon"),
    "measure_power_secs": Parameter(15.0, float),
    "api_call_interval": Parameter(8, int),
    "api_endpoint": Parameter(instead=_NO_ACCOUNT),
    "api_key": Parameter(instead=_NO_ACCOUNT),
    "output_dir": Parameter("."),
    "output_file": Parameter("emissions.csv"),
    "output_methods": Parameter(),
    "save_to_file": Parameter(default=True, read=_flag),
    "save_to_api": Parameter(default=False, read=_flag, instead=_NO_ACCOUNT),
    "save_to_logger": Parameter(default=False, read=_flag),
    "logging_logger": Parameter(),
    "save_to_prometheus": Parameter(default=False, read=_flag, instead=_IS_SCRAPED),
    "save_to_logfire": Parameter(
        default=False,
        read=_flag,
        instead="carbontrack.integrations.opentelemetry exports to any backend",
    ),
    "prometheus_url": Parameter(instead=_IS_SCRAPED),
    "output_handlers": Parameter(),
    "gpu_ids": Parameter(),
    "emissions_endpoint": Parameter(),
    "experiment_id": Parameter("5b0fa12a-3dd7-45bb-9766-cc326314d9f1"),
    "experiment_name": Parameter("base"),
    "electricitymaps_api_token": Parameter(),
    "co2_signal_api_token": Parameter(),
    "tracking_mode": Parameter("machine"),
    "log_level": Parameter("info"),
    "on_csv_write": Parameter("append"),
    "logger_preamble": Parameter(""),
    "force_cpu_power": Parameter(None, float),
    "force_ram_power": Parameter(None, float),
    "pue": Parameter(1.0, float),
    "wue": Parameter(0.0, float),
    "force_carbon_intensity_g_co2e_kwh": Parameter(None, float),
    "force_mode_cpu_load": Parameter(default=False, read=_flag, instead=_IS_OURS),
    "allow_multiple_runs": Parameter(default=True, read=_flag),
    "rapl_include_dram": Parameter(default=False, read=_flag, instead=_IS_OURS),
    "rapl_prefer_psys": Parameter(default=False, read=_flag, instead=_IS_OURS),
    "metadata": Parameter(instead="`carbontrack report --format boamps` writes a BoAmps report"),
}
"""The parameters of both trackers, in the order of their positional arguments."""
PLACES: Mapping[str, Parameter] = {
    "country_iso_code": Parameter(),
    "region": Parameter(),
    "cloud_provider": Parameter(),
    "cloud_region": Parameter(),
    "country_2letter_iso_code": Parameter(),
}
"""The parameters for the machine's location, arguments of `OfflineEmissionsTracker` only."""
ALL: Mapping[str, Parameter] = {**PARAMETERS, **PLACES}


def signature(*tables: Mapping[str, Parameter]) -> inspect.Signature:
    """The signature of a method with these parameters: the first table's also by position."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    found = (
        inspect.Parameter(name, kind, default=one.default)
        for table, kind in zip(tables, kinds, strict=False)
        for name, one in table.items()
    )
    return inspect.Signature([self, *found])


class Conf:
    """The values of one tracker's parameters.

    Args:
        given: the arguments; those that are `NOT_GIVEN` are looked up elsewhere.
        external: the text of each parameter that files and the environment name.
        allowed: the names that arguments may have.

    Raises:
        TypeError: there is no argument of such a name.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        external: Mapping[str, str],
        allowed: Iterable[str] = tuple(ALL),
    ) -> None:
        refuse_unknown(given, allowed)
        self.given = {name for name, one in given.items() if one is not NOT_GIVEN}
        """The names of the arguments that were given."""
        self.named = self.given | (external.keys() & ALL.keys())
        """The names of all parameters that were set anywhere."""
        self._values = {
            name: _value(name, one, given[name] if name in self.given else external.get(name))
            for name, one in ALL.items()
        }

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def warn_of_others(self) -> None:
        """Log once, for each parameter without a counterpart, how to get the same here.

        For values from files only switches are logged: an address or a key alone switches nothing
        on.
        """
        for name in sorted(self.named):
            instead, value = ALL[name].instead, self[name]
            is_meant = name in self.given or value is True
            if instead is not None and is_meant and value != ALL[name].default:
                warn_once(f"{name} does nothing in carbontrack: {instead}")


def refuse_unknown(given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise TypeError for a name that no argument has.

    Raises:
        TypeError: with the nearest right name.
    """
    names = set(allowed)
    for name in given:
        if name in names:
            continue
        if name in PLACES:
            raise TypeError(
                f"{name!r} is an argument of OfflineEmissionsTracker, not of this class"
            )
        raise TypeError(
            f"CodeCarbon's trackers have no parameter {name!r}{nearest(name, sorted(names))}"
        )


def _value(name: str, parameter: Parameter, given: Any) -> Any:
    """The given value, converted; the default if none was given, or it cannot be read."""
    if given is None:
        return parameter.default
    is_number = parameter.read in (float, int)
    if not isinstance(given, str) and not is_number:
        return given
    value, error = attempt(parameter.read, given)
    if error is not None:
        LOGGER.error("%s=%r is not a valid value and is ignored", name, given)
        return parameter.default
    return value


def external_config(
    home: Path | None = None, folder: Path | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The values from files and the environment, by the names of parameters.

    Args:
        home: where the user's own file is; by default the user's home directory.
        folder: where the project's file is; by default the working directory.
        environ: the variables; by default the process's.
    """
    if home is None:
        home, _ = attempt(Path.home)  # a user may have none
    found = {} if home is None else _of_file(home / FILE)
    found |= _of_a_project((Path() if folder is None else folder) / FILE)
    found |= codecarbon_variables(environ)
    for name in sorted(found.keys() - ALL.keys() - {*_ITS_COMMANDS}):
        if near := nearest(name, ALL):
            warn_once(f"there is no parameter {name!r}, which the configuration names{near}")
    return found


def _of_a_project(path: Path) -> dict[str, str]:
    """The values of a project's file, whose source the user may not fully trust.

    So it may not direct rows into any file, such as a shell's start-up script.
    """
    found = _of_file(path)
    name = found.get("output_file", "")
    if name and not name.strip().lower().endswith(".csv"):
        LOGGER.error("output_file=%r in %s does not end in .csv and is ignored", name, path)
        del found["output_file"]
    return found


def _of_file(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    _, error = attempt(parser.read, path, encoding="utf-8")
    if error is not None:  # no text, no configuration, or nothing that may be read
        LOGGER.error("%s cannot be read and is ignored: %s", path, error)
        return {}
    return dict(parser[SECTION]) if parser.has_section(SECTION) else {}
