"""Meters of other packages, beside ours or in their place; nothing is counted twice.

A plugin's meter says in `covers` the components whose energy it contains, by default its own.
Counters and models of ours that contain any of these are left out. `covers = ()` is for hardware
that nothing here counts; such a meter is added. A plugin's meters are taken together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from carbontrack.errors import CarbontrackError, ConfigError, MeterUnavailable
from carbontrack.meters.meter import Meter, Refusal, check_meters, counts_ends
from carbontrack.record import BASES, COMPONENTS, Basis, Component
from carbontrack.system import plugins
from carbontrack.system.interrupts import suppressed
from carbontrack.system.log import LOGGER, warn_user
from carbontrack.values import NamedTuple

Models = Mapping[Component, Callable[[], Meter]]
"""By component, how to make the meter that stands in when the one in service is lost."""


class PluginHost(NamedTuple):
    """The arguments of a plugin; later versions may add more.

    Attributes:
        sysfs, procfs: the roots of these file systems, which settings may have moved.
        address: what the setting says behind the plugin's name and a colon; None without a colon.
    """

    sysfs: Path
    procfs: Path
    address: str | None = None


class _Taken(NamedTuple):
    """A plugin as the setting spells it, one of its meters, and what that contains."""

    text: str
    meter: Meter
    covers: frozenset[Component]

    def overlaps(self, other: _Taken) -> bool:
        """Whether some energy would be counted by both; `other` is of another plugin."""
        inside = self.meter.component in other.covers or other.meter.component in self.covers
        return inside or bool(self.covers & other.covers)


class Joined(NamedTuple):
    """What is read, what stands in, and what is not used."""

    meters: tuple[Meter, ...]
    substitutes: Models
    refused: tuple[Refusal, ...]


class ModelSum:
    """Models of several components as one meter, for a lost one that had covered them all."""

    def __init__(self, component: Component, models: Sequence[Meter]) -> None:
        self._models = models
        self.id = "+".join(model.id for model in models)
        self.component: Component = component
        self.basis: Basis = max((model.basis for model in models), key=BASES.index)
        self.resolution_s = max(model.resolution_s for model in models)
        self.relative_uncertainty = max(model.relative_uncertainty for model in models)
        self.low_j = self.high_j = 0.0
        """The joules if all of them were at their low, or at their high end."""

    def read_joules(self, now_s: float) -> float:
        """The joules of all of them since the first read."""
        joules = [model.read_joules(now_s) for model in self._models]
        ends = [_ends_j(*pair) for pair in zip(self._models, joules, strict=True)]
        self.low_j, self.high_j = (sum(side) for side in zip(*ends, strict=True))
        return sum(joules)

    def close(self) -> None:
        """Close them."""
        for model in self._models:
            model.close()


def _ends_j(model: Meter, joules: float) -> tuple[float, float]:
    if counts_ends(model):
        return model.low_j, model.high_j
    width = model.relative_uncertainty
    return joules * max(0.0, 1.0 - width), joules * (1.0 + width)


def join(
    names: Iterable[str],
    host: PluginHost,
    ours: Sequence[Meter],
    *,
    models: Models,
    spare: Models,
) -> Joined:
    """The meters of these plugins, and those of ours that count something else.

    A plugin's exception, or a fault of its meters, is logged and becomes a refusal.

    Args:
        names: plugins as the setting spells them, "NAME" or "NAME:ADDRESS".
        host: the arguments of each, except the address.
        ours: the meters that were found without them.
        models: how to make a model of each component that has one.
        spare: those of them that stand in when a meter of ours is lost.
    """
    taken: list[_Taken] = []
    refused: list[Refusal] = []
    for text in names:
        try:
            taken += _taken_from(text, host, taken, ours)
        except MeterUnavailable as error:
            refused.append(Refusal(text, str(error), error.cure))
            warn_user(f"meter_plugins={text} is not used: {error}")
            LOGGER.debug("meter_plugins=%s", text, exc_info=error)
    claims = {component: one.meter.id for one in taken for component in sorted(one.covers)}
    left_out = [meter for meter in ours if contents(meter) & claims.keys()]
    for meter in left_out:
        by = claims[min(contents(meter) & claims.keys())]
        refused.append(Refusal(meter.id, f"left out, because {by} counts the same energy"))
    _close(left_out)
    kept = [meter for meter in ours if not contents(meter) & claims.keys()]
    meters = (*kept, *(one.meter for one in taken))
    spare = {name: make for name, make in spare.items() if name not in claims}
    return Joined(meters, {**spare, **_stand_ins(taken, kept, models)}, tuple(refused))


def contents(meter: Meter) -> frozenset[Component]:
    """The components whose energy one of our own meters contains."""
    covers: frozenset[Component] | None = getattr(meter, "covers", None)
    return frozenset({meter.component}) if covers is None else covers


def _taken_from(
    text: str, host: PluginHost, taken: Sequence[_Taken], ours: Sequence[Meter]
) -> list[_Taken]:
    """The meters of a plugin.

    Raises:
        MeterUnavailable: the plugin raises it, something went wrong in it, its meters are not fit
            for use, or some energy would be counted twice.
    """
    made: tuple[Meter, ...] = ()
    try:
        made = _made(text, host)
        mine = _checked(text, made, [meter.id for meter in (*ours, *(t.meter for t in taken))])
        _check_overlap(mine, taken, ours)
    except (Exception, SystemExit) as error:  # the plugin's code, and its meters' properties
        _close(made)
        if isinstance(error, MeterUnavailable):
            raise
        known = isinstance(error, CarbontrackError)
        raise MeterUnavailable(str(error) if known else f"the plugin failed: {error!r}") from error
    return mine


def _made(text: str, host: PluginHost) -> tuple[Meter, ...]:
    name, colon, address = text.partition(":")
    make = plugins.load(plugins.find(plugins.METERS, name))
    made = make(host._replace(address=address if colon else None))
    return (made,) if hasattr(made, "read_joules") else tuple(made)


def _checked(text: str, meters: Sequence[Meter], ids: Sequence[str]) -> list[_Taken]:
    """The meters of a plugin with what they cover; `ids` are those of all others.

    Raises:
        ConfigError: there is none, one says something impossible of itself or lacks something, or
            has the id of another.
    """
    if not meters:
        raise ConfigError("the plugin found no meter")
    check_meters(meters)
    taken = [_Taken(text, meter, _covers(meter)) for meter in meters]
    names = [meter.id for meter in meters]
    twice = [name for name in names if name in ids or names.count(name) > 1]
    if twice:
        raise ConfigError(f"there is more than one meter {twice[0]!r}")
    return taken


def _covers(meter: Any) -> frozenset[Component]:
    if not callable(getattr(meter, "close", None)):
        raise ConfigError(f"the meter {meter.id!r} has no method close")
    given = getattr(meter, "covers", None)
    if given is None:
        return frozenset({meter.component})
    told: list[Any] = [given] if isinstance(given, str) else list(given)
    unknown = [part for part in told if part not in COMPONENTS]
    if unknown:
        known = ", ".join(COMPONENTS)
        raise ConfigError(
            f"the meter {meter.id!r} covers {unknown[0]!r}, which is not one of {known}"
        )
    return frozenset(told)


def _check_overlap(mine: Sequence[_Taken], taken: Sequence[_Taken], ours: Sequence[Meter]) -> None:
    """See to it that nothing is counted twice, and no component only in part.

    Raises:
        ConfigError: a plugin before it counts the same energy, or a meter of ours counts it in one
            with something that this plugin does not count.
    """
    for one, other in product(mine, taken):
        if one.overlaps(other):
            raise ConfigError(
                f"{one.meter.id} and {other.meter.id} of {other.text.partition(':')[0]!r} would "
                "count the same energy twice; the plugin that is named first is used"
            )
    claimed = frozenset[Component]().union(*(one.covers for one in mine))
    for meter in ours:
        inside = contents(meter)
        if inside & claimed and not inside <= claimed:
            raise ConfigError(
                f"{meter.id} counts {', '.join(sorted(inside))} in one; only a plugin that covers "
                "all of these can take its place"
            )


def _stand_ins(taken: Sequence[_Taken], kept: Sequence[Meter], models: Models) -> Models:
    """What stands in for the plugins' meters: the models of what they cover."""
    found: dict[Component, Callable[[], Meter]] = {}
    for component in {one.meter.component for one in taken} - {m.component for m in kept}:
        mine = (one.covers for one in taken if one.meter.component == component)
        covered = frozenset[Component]().union(*mine)
        parts = [part for part in COMPONENTS if part in covered and part in models]
        if parts == [component]:
            found[component] = models[component]
        elif parts:
            makers = [models[part] for part in parts]
            found[component] = partial(_model_sum, component, makers)
    return found


def _model_sum(component: Component, makers: Sequence[Callable[[], Meter]]) -> Meter:
    return ModelSum(component, [make() for make in makers])


def _close(meters: Iterable[Meter]) -> None:
    for meter in meters:
        with suppressed(Exception):  # it is not used, so how it ends is of no account
            meter.close()
