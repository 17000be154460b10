"""From settings to a tracker: the one module that names concrete meters, grids and sinks.

What this machine draws while it idles: as given, as measured here, or as its models have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.attribution.policy import UNKNOWN, Attribution, IdlePower
from carbontrack.attribution.usage import UsageReader
from carbontrack.config import environment, load
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.grid import region as regions
from carbontrack.grid import tables as facility
from carbontrack.grid.intensity import Fixed, IntensitySource
from carbontrack.impact.embodied import embodied_g_per_h
from carbontrack.meters.calibration import Calibration
from carbontrack.meters.cpu_model import power_share
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.meter import Meter, MeterSet
from carbontrack.meters.wall import WALL_ID
from carbontrack.record import BASES, Basis, Component
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.factory import is_file, lasting, sink_for
from carbontrack.system.host import calibration_path, host_id
from carbontrack.system.log import RateLimitedLog, say_aloud
from carbontrack.tracking.propagation import Kin
from carbontrack.tracking.record_builder import Circumstances
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker

if TYPE_CHECKING:
    from carbontrack.grid.cloud_metadata import CloudProbe
    from carbontrack.grid.live.feed import Runner
    from carbontrack.meters.calibration import Calibration
    from carbontrack.sinks.journal.journal import Journal
    from carbontrack.sinks.timelines import TimelineFiles


def idle_power(settings: Settings, meters: MeterSet, kept: Calibration) -> IdlePower:
    """The idle power of each component, as far as it is known.

    The processors': the setting `idle_w`, else what was measured while nothing ran, else the load
    curve's share of the design power. Modelled memory draws the same busy or idle. Where a wall
    meter was calibrated, the rest of the wall's power goes with them.
    """
    cpu_w, basis = _cpu(settings, meters, kept.idle_w)
    ram_w = kept.idle_w.get("ram", _modelled_ram_w(meters))
    gpu_w, other_w = kept.idle_w.get("gpu"), None
    if kept.fit is not None and any(meter.id == WALL_ID for meter in meters):
        other_w = kept.fit.rest_w(sum(watts for watts in (cpu_w, ram_w, gpu_w) if watts))
    return IdlePower(cpu_w, gpu_w, ram_w, other_w, basis)


def _cpu(
    settings: Settings, meters: MeterSet, measured_w: Mapping[str, float]
) -> tuple[float | None, Basis]:
    if settings.idle_w is not None:
        return settings.idle_w, "modelled"
    if "cpu" in measured_w:
        bases = (meter.basis for meter in _of(meters, "cpu"))
        return measured_w["cpu"], max(bases, key=BASES.index, default="modelled")
    tdp_w = meters.hardware.cpu_tdp_w
    return (None if tdp_w is None else tdp_w * power_share(0.0)), "modelled"


def _modelled_ram_w(meters: MeterSet) -> float | None:
    watts = [
        None if meter.basis == "measured" else getattr(meter, "nominal_w", None)
        for meter in _of(meters, "ram")
    ]
    known = [power_w for power_w in watts if power_w is not None]
    return sum(known) if known and len(known) == len(watts) else None


def _of(meters: MeterSet, component: Component) -> list[Meter]:
    return [meter for meter in meters if meter.component == component]


HostKey = tuple[object, ...]


def host_key(settings: Settings) -> HostKey:
    """The settings that decide which meters there are; those who agree in them share a sampler."""
    return (
        settings.sysfs_path,
        settings.procfs_path,
        settings.cpu_tdp_w,
        settings.ram_w_per_gib,
        settings.gpu_ids,
        settings.meter_plugins,
        environment.visible_gpus(),
        kept.fit if (kept := calibration_of(settings)) else None,
    )


def make_sampler(settings: Settings) -> Sampler:
    """Find this machine's meters and put them into a sampler."""
    procfs = Path(settings.procfs_path)
    usage = UsageReader(procfs, Path(settings.sysfs_path))
    host = Host(
        sysfs=Path(settings.sysfs_path),
        procfs=procfs,
        busy_s=usage.machine_busy_s,
        cpu_tdp_w=settings.cpu_tdp_w,
        ram_w_per_gib=settings.ram_w_per_gib,
        gpu_ids=settings.gpu_ids,
        plugins=settings.meter_plugins,
        visible_gpus=environment.visible_gpus(),
        cpu_name_cache=load.state_path(settings),
        wall=kept.fit if (kept := calibration_of(settings)) else None,
    )
    meters = detect(host)
    usage.within_limit = all(m.basis != "measured" for m in meters if m.component == "ram")
    return Sampler(meters, interval_s=settings.interval_s, usage=usage)


def calibration_of(settings: Settings) -> Calibration | None:
    """What was calibrated on this host; a file that cannot be used is said, and left alone."""
    path = calibration_file(settings)
    if not path.exists():
        return None
    from carbontrack.meters.calibration import load_calibration  # few have calibrated

    try:
        return load_calibration(path)
    except ConfigError as error:
        say_aloud(f"the calibration is not used: {error}")
        return None


def calibration_file(settings: Settings) -> Path:
    """Where this host's calibration is kept."""
    return calibration_path(load.state_path(settings), settings.host_id or host_id())


def find_region(settings: Settings) -> regions.Region:
    """Where this machine stands, without any network.

    Raises:
        UnknownRegion: the region that was given is no place.
    """
    origin = settings.origins.get("region", "default")
    return regions.resolve(
        region=settings.region,
        region_basis=origin if origin in ("argument", "environment") else "config",
        environ_hints=None if settings.cloud == "none" else environment.cloud_hints(regions.HINTS),
        sysfs=Path(settings.sysfs_path),
        tz=environment.tz(),
    )


def probe_cloud(
    settings: Settings, region: regions.Region, base_urls: Mapping[str, str] | None = None
) -> CloudProbe | None:
    """Ask the clouds' metadata services behind the caller's back, where `cloud="detect"` wants it.

    A region that was given, or that the cloud's own variables tell, needs no asking.
    """
    if settings.cloud != "detect" or region.basis not in ("timezone", "unknown"):
        return None
    from carbontrack.grid.cloud_metadata import CloudProbe, RegionCache

    cache = RegionCache(load.state_path(settings), Path(settings.procfs_path))
    return CloudProbe(cache=cache, base_urls=base_urls).start()


def make_grid(
    settings: Settings, region: regions.Region, run: Runner | None = None
) -> IntensitySource:
    """Where the intensity comes from: the user's own figure, live services, or the table.

    `run` does the asking of a live service; a thread of its own does where it is None.

    Raises:
        NoIntensity: the region was given, and no table has a figure for it.
    """
    if settings.intensity_g_per_kwh is not None:
        return Fixed.of(settings.intensity_g_per_kwh, zone=region.zone)
    if region.basis == "unknown":
        say_aloud(
            "the region of this machine is not known, so emissions are those of the world's "
            'average grid, with a wide interval; set region="FR" or CARBONTRACK_REGION=FR'
        )
    table = regions.intensity_for(region)
    if not settings.intensity_source:
        return table
    # only those who ask for a network load it
    from carbontrack.grid.live import choose
    from carbontrack.grid.live.feed import Outside

    return choose.make_grid(
        settings.intensity_source,
        region,
        table,
        token=settings.live_token,
        state=load.state_path(settings),
        outside=None if run is None else Outside(run=run, warn=RateLimitedLog().warn),
    )


def assemble(
    settings: Settings,
    *,
    sampler: Sampler | None = None,
    kin: Kin | None = None,
    metadata_urls: Mapping[str, str] | None = None,
) -> Tracker:
    """A tracker as the settings want it; on a given sampler, or on one of its own.

    `kin` tells child processes of its roots; `metadata_urls` moves the clouds' metadata services,
    for tests.

    Raises:
        ConfigError: a setting cannot be used; nothing has been started then.
    """
    region = find_region(settings)
    probe = probe_cloud(settings, region, metadata_urls)
    region = (probe and probe.region) or region
    grid = _grid(settings, region, probe)
    journal = _journal(settings) if settings.output else None
    outputs = tuple(str(Path(o).absolute()) if is_file(o) else o for o in settings.output)
    sinks = [sink_for(o, token=settings.http_token, journal=journal) for o in outputs]
    outputs = tuple(map(lasting, outputs, sinks))
    reads = sampler or make_sampler(settings)
    session = Session(
        reads,
        grid=grid,
        attribution=_attribution(settings, region, reads.meters),
        sinks=sinks,
        circumstances=Circumstances(
            region_basis=region.basis,
            parent_id=environment.parent_id() if kin is None else kin.parent_id(),
            relatives=kin,
            spans=settings.spans,
            facts=_facts(settings, region),
            water_l_per_kwh=_water_l_per_kwh(region),
            embodied_g_per_h=embodied_g_per_h(settings, reads.hardware),
            journal=journal,
            outputs=outputs,
            checkpoint_s=settings.checkpoint_s,
            timelines=_timelines(settings, outputs),
        ),
    )
    if hasattr(grid, "tell"):  # a place that is still being asked for
        grid.tell = partial(_move, session, settings)
    session.sampler.demand_interval(min(settings.interval_s, settings.checkpoint_s))
    return Tracker.of(session, owns_sampler=sampler is None)


def _grid(settings: Settings, region: regions.Region, probe: CloudProbe | None) -> IntensitySource:
    if probe is None or probe.region is not None:
        return make_grid(settings, region)
    from carbontrack.grid.cloud_metadata import Detected

    return Detected(region, probe, partial(make_grid, settings))


def _move(session: Session, settings: Settings, region: regions.Region) -> None:
    """Name the region that a metadata service has named, from now on, in every record.

    The provider's PUE is not changed while a run lasts; the next process knows the region at once.
    """
    session.circumstances = replace(
        session.circumstances,
        region_basis=region.basis,
        facts=_facts(settings, region),
        water_l_per_kwh=_water_l_per_kwh(region),
    )


def _timelines(settings: Settings, outputs: Sequence[str]) -> TimelineFiles | None:
    if not settings.timeline:
        return None
    from carbontrack.sinks.timelines import TimelineFiles  # few ask for it

    return TimelineFiles([Path(output) for output in outputs if is_file(output)])


def _attribution(settings: Settings, region: regions.Region, meters: MeterSet) -> Attribution:
    site = facility.site(region.zone)
    return Attribution(
        scope=settings.scope,
        idle=settings.idle,
        pue=settings.pue or region.pue or 1.0,
        wue_l_per_kwh=site.wue_l_per_kwh if site and settings.wue is None else settings.wue,
        idle_power=_idle_power(settings, meters),
    )


def _idle_power(settings: Settings, meters: MeterSet) -> IdlePower:
    if settings.scope == "machine" or settings.idle == "proportional":
        return UNKNOWN  # nobody asks
    from carbontrack.meters.calibration import Calibration

    return idle_power(settings, meters, calibration_of(settings) or Calibration())


def _water_l_per_kwh(region: regions.Region) -> float | None:
    water = facility.grid_water(region.zone)
    return water.l_per_kwh if water is not None else None


def _journal(settings: Settings) -> Journal:
    # only those who write something pay for these imports
    from carbontrack.sinks.journal.journal import Journal
    from carbontrack.sinks.journal.recovery import opener, pick_up

    state_dir = load.state_path(settings)
    # what killed runs left goes to the outputs that they had
    pick_up(state_dir, opener(is_ours=load.keeps_own_journal(settings)))
    return Journal(state_dir)


def check(settings: Settings) -> None:
    """Find out now, before anything starts, what is wrong with the place and the grid's sources.

    Raises:
        UnknownRegion: the region that was given is no place, or may be one of several.
        NoIntensity: no table has a figure for it.
        ConfigError: a source of intensities is unknown, lacks its token, or covers another region.
    """
    given, live = settings.region is not None, settings.intensity_source
    if settings.disable or not (given or live):
        return
    region, asks = find_region(settings), settings.intensity_g_per_kwh is None
    if given and asks:
        regions.intensity_for(region)
    if live and asks and (given or settings.cloud != "detect"):  # else the place may yet change
        from carbontrack.grid.live import choose

        choose.check(live, region, settings.live_token)


def _facts(settings: Settings, region: regions.Region) -> Mapping[str, Any]:
    rank, world_size = environment.rank_and_world()
    return {
        "host_id": settings.host_id or host_id(),
        "rank": rank,
        "world_size": world_size,
        "cloud_provider": region.cloud_provider,
        "cloud_region": region.cloud_region,
    }
