"""`carbontrack estimate`: energy and emissions of a run before it runs."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable

from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.errors import ConfigError
from carbontrack.impact.embodied import AS_ANTIMONY, format_antimony
from carbontrack.impact.equivalents import compare
from carbontrack.impact.estimate import Estimate, estimate
from carbontrack.units import (
    JOULES_PER_KWH,
    format_grams,
    format_joules,
    format_watts,
    format_with_interval,
)

_MADE = (
    "not part of the emissions: the named hardware, without board, chassis, power supplies and "
    "drives"
)
_EPILOG = """\
examples:
  carbontrack estimate --gpu A100 --gpus 8 --hours 24 --region FR
  carbontrack estimate --power-w 350 --hours 12 --intensity 432
"""
_NAMES = (
    "power_w",
    "gpu",
    "gpus",
    "cpu",
    "cpus",
    "ram_gib",
    "hours",
    "utilisation",
    "pue",
    "region",
    "year",
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "estimate",
        run,
        description="Estimate the energy and emissions of a run before it starts, with intervals.",
        epilog=_EPILOG,
        usage="carbontrack estimate --hours H (--region R | --intensity G) [options]",
        keep_lines=True,
    )
    add = parser.add_argument
    add(
        "--power-w",
        type=float,
        metavar="W",
        help="mean power of all hardware in watts, instead of names",
    )
    add("--gpu", metavar="MODEL", help='GPU or TPU: "A100", "RTX 4090", "TPU v3"')
    add("--gpus", type=int, metavar="N", help="number of GPUs (1)")
    add("--cpu", metavar="MODEL", help='processor: "Xeon Gold 6248"')
    add("--cpus", type=int, metavar="N", help="number of processors (1)")
    add("--ram-gib", type=float, metavar="G", help="memory installed, in GiB")
    add("--hours", type=float, metavar="H", help="duration in hours")
    add("--utilisation", type=float, metavar="U", help="share of the time at work, from 0 to 1 (1)")
    add(
        "--pue",
        type=float,
        metavar="P",
        help="power usage effectiveness of the data centre (1, or that of the region)",
    )
    add("--region", metavar="R", help="where it runs: FR, US-CA, aws:eu-west-3")
    add("--year", type=int, metavar="Y", help="the grid of an earlier year, from 2000")
    add(
        "--intensity",
        type=float,
        metavar="G",
        help="carbon intensity in g CO2e/kWh, instead of --region",
    )
    add("--json", action="store_true", help="print the figures as JSON")
    add("--verbose", action="store_true", help="add sources")


def run(args: Namespace) -> int:
    """Print the estimate."""
    given = {name: getattr(args, name) for name in _NAMES}
    try:
        found = estimate(**given, intensity_g_per_kwh=args.intensity)
    except ConfigError as error:
        raise ConfigError(_in_options(str(error))) from error
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
        return 0
    terminal = Terminal(sys.stdout)
    terminal.say(terminal.table(rows(found, verbose=args.verbose)) + "\n")
    return 0


def _in_options(text: str) -> str:
    """An error message with the names of options instead of those of arguments."""
    text = text.replace("region or intensity_g_per_kwh", "--region or --intensity")
    text = text.replace("year without region", "--year without --region")
    text = text.replace("the name of a gpu or cpu", "hardware: --gpu or --cpu")
    text = text.replace("intensity_g_per_kwh", "--intensity")
    text = re.sub(r"\b(power_w|ram_gib)\b", lambda found: _option(found[1]), text)
    return re.sub(rf"(?<!-)\b({'|'.join(_NAMES)})=", lambda found: f"{_option(found[1])} ", text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def rows(found: Estimate, *, verbose: bool = False) -> list[tuple[str, str]]:
    """The estimate as labels and texts."""
    joules = found.energy_kwh * JOULES_PER_KWH
    low_j, high_j = (k * JOULES_PER_KWH for k in (found.energy_low_kwh, found.energy_high_kwh))
    grams = found.emissions_g
    low_g, high_g = found.emissions_low_g, found.emissions_high_g
    table = [
        ("energy", _with_interval(joules, low_j, high_j, format_joules)),
        ("emissions", _with_interval(grams, low_g, high_g, format_grams, " CO2e")),
    ]
    comparison = compare(energy_joules=joules, emissions_g=grams)
    if comparison is not None:
        table.append(("about", comparison.sourced if verbose else comparison.text))
    if found.water_l is not None:
        table.append(("water", f"{found.water_l:.3g} litres, at power stations and on site"))
    if found.embodied_g is not None:
        made_g = (found.embodied_g, found.embodied_low_g, found.embodied_high_g)
        made = _with_interval(*made_g, format_grams, " CO2e")
        table.append(("embodied", f"{made}, {_MADE}"))
    if found.abiotic_kg_sb is not None:
        kg_sb = (found.abiotic_kg_sb, found.abiotic_low_kg_sb, found.abiotic_high_kg_sb)
        table.append(("metals", f"{format_antimony(*kg_sb, gap='  ')}: {AS_ANTIMONY}"))
    power = _with_interval(found.power_w, found.power_low_w, found.power_high_w, format_watts)
    table.append(
        ("power", f"{power} for {found.hours:g} h; PUE {found.pue:g} ({found.pue_source})")
    )
    table += [("how", sentence) for sentence in found.how]
    return [*table, ("grid", _grid(found, verbose=verbose))]


def _with_interval(
    best: float, low: float | None, high: float | None, form: Callable[..., str], of: str = ""
) -> str:
    if low is not None and low == high:
        return f"{form(best)}{of}"
    return format_with_interval(best, low, high, form, of=of, gap="  ")


def _grid(found: Estimate, *, verbose: bool) -> str:
    text = f"{found.intensity_g_per_kwh:.4g} g CO2e/kWh"
    if found.region is None:
        return f"{text}, as given"
    year = f" in {found.intensity_year}" if found.intensity_year else ""
    source = f" ({found.intensity_source})" if verbose else ""
    return f"{found.region}, {text}{year}{source}"
