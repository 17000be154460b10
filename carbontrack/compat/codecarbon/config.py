"""CodeCarbon's parameters: their defaults, its files of settings, and what becomes of each here.

A value is taken from the argument, else from `CODECARBON_NAME` in the environment, else from
`./.codecarbon.config`, else from `~/.codecarbon.config`, sections `[codecarbon]`. All but arguments
are text.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from carbontrack.compat.codecarbon.log import LOGGER, warn_once
from carbontrack.config.environment import codecarbon_variables
from carbontrack.errors import nearest

NOT_GIVEN: Final = object()
"""The default of each parameter: an argument None is a value."""
FILE = ".codecarbon.config"
SECTION = "codecarbon"


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        default: its value where nobody gives one.
        read: makes a value of a text; raises ValueError.
        instead: what to do here instead, where the parameter has no counterpart; None: it has one.
    """

    default: Any = None
    read: Callable[[str], Any] = str
    instead: str | None = None


def _flag(text: str) -> bool:
    return text.strip().lower() == "true"


_IS_OURS = "carbontrack chooses the counters itself, and no energy is counted twice"
_NO_ACCOUNT = (
    "carbontrack has no service with accounts; send records to a server of yours with "
    "CARBONTRACK_OUTPUT=https://…"
)
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
    "save_to_prometheus": Parameter(
        default=False,
        read=_flag,
        instead="carbontrack.integrations.prometheus is scraped, and pushes nothing",
    ),
    "save_to_logfire": Parameter(
        default=False,
        read=_flag,
        instead="carbontrack.integrations.opentelemetry exports to any backend",
    ),
    "prometheus_url": Parameter(
        instead="carbontrack.integrations.prometheus is scraped, and pushes nothing"
    ),
    "output_handlers": Parameter(),
    "gpu_ids": Parameter(),
    "emissions_endpoint": Parameter(),
    "experiment_id": Parameter(""),
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
PLACES: Mapping[str, Parameter] = {
    "country_iso_code": Parameter(),
    "region": Parameter(),
    "cloud_provider": Parameter(),
    "cloud_region": Parameter(),
    "country_2letter_iso_code": Parameter(),
}
"""The parameters that say where the machine is."""


class Conf:
    """The values of one tracker's parameters.

    Args:
        given: the arguments; those that are `NOT_GIVEN` are looked up elsewhere.
        external: the text of each parameter that files and the environment name.
        known: the parameters that there are.

    Raises:
        TypeError: there is no parameter of such a name.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        external: Mapping[str, str],
        known: Mapping[str, Parameter] = PARAMETERS,
    ) -> None:
        self._known = known
        refuse_unknown(given, known)
        self._values = {
            name: given[name]
            if given.get(name, NOT_GIVEN) is not NOT_GIVEN
            else _looked_up(name, one, external)
            for name, one in known.items()
        }
        self.given = {name for name in known if given.get(name, NOT_GIVEN) is not NOT_GIVEN}
        """The names of the arguments that were given."""
        self.named = self.given | (external.keys() & known.keys())
        """The names of all that somebody has set."""

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def warn_of_others(self) -> None:
        """Say once of each parameter without a counterpart how to have the same here."""
        for name in sorted(self.named):
            parameter = self._known[name]
            if parameter.instead is not None and self[name] != parameter.default:
                warn_once(f"{name} does nothing in carbontrack: {parameter.instead}")


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for a name that is no parameter.

    Raises:
        TypeError: it tells the nearest right name.
    """
    names = set(known)
    for name in given:
        if name not in names:
            raise TypeError(
                f"CodeCarbon's trackers have no parameter {name!r}{nearest(name, sorted(names))}"
            )


def _looked_up(name: str, parameter: Parameter, external: Mapping[str, str]) -> Any:
    text = external.get(name)
    if text is None:
        return parameter.default
    try:
        return parameter.read(text)
    except ValueError:
        LOGGER.error("%s=%r in the configuration is no such value, and is ignored", name, text)
        return None


def external_config(
    home: Path | None = None, folder: Path | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What files and the environment say, by the names of parameters.

    Args:
        home: where the user's own file is; by default the user's home folder.
        folder: where the project's file is; by default the working folder.
        environ: the variables; by default the process's.
    """
    try:
        home = Path.home() if home is None else home
    except RuntimeError:  # a user without a home
        home = None
    found: dict[str, str] = {}
    for place in (home, Path() if folder is None else folder):
        if place is not None:
            found |= _of_file(place / FILE)
    variables = codecarbon_variables(environ)
    return found | {name.lower(): text for name, text in variables.items()}


def _of_file(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser[SECTION]) if parser.has_section(SECTION) else {}
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        LOGGER.error("%s cannot be read, and is ignored: %s", path, error)
        return {}
