"""Assembly: from settings and environment to a tracker with concrete meters, grid and sinks."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.attribution.policy import UNKNOWN, Attribution, IdlePower
from carbontrack.attribution.usage import UsageReader
from carbontrack.config.environment import Environment
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.grid import region as regions
from carbontrack.grid import tables as facility
from carbontrack.grid.intensity import Fixed, IntensitySource
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.meter import Hardware, MeterSet
from carbontrack.record import WHOLE_MACHINE, Sink
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.factory import default_sink, is_file, lasting, sink_for
from carbontrack.system.files import removed_working_folder
from carbontrack.system.forking import holding_forks, is_worker
from carbontrack.system.host import calibration_path, host_id
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import RateLimitedLog, warn_user
from carbontrack.tracking.checkpoints import Checkpoints
from carbontrack.tracking.propagation import Propagator
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker

if TYPE_CHECKING:
    from carbontrack.grid.cloud_metadata import CloudProbe, Detected
    from carbontrack.grid.live.feed import Runner
    from carbontrack.meters.calibration import Calibration
    from carbontrack.meters.wall import WallFit
    from carbontrack.sinks.journal.journal import Journal
    from carbontrack.sinks.timelines import TimelineFiles
    from carbontrack.system.clock import Clock
    from carbontrack.tracking.remote_parent import RemoteParents


HostKey = tuple[object, ...]


def host_key(settings: Settings, environment: Environment, wall: WallFit | None) -> HostKey:
    """The settings that determine the meters; trackers with equal keys share a sampler."""
    return (
        settings.sysfs_path,
        settings.procfs_path,
        settings.cpu_tdp_w,
        settings.ram_w_per_gib,
        settings.gpu_ids,
        settings.gpu_model,
        settings.meter_plugins,
        settings.boundary,
        environment.visible_gpus,
        environment.gpu_variables,
        environment.has_fake_files,
        wall,
    )


def make_sampler(settings: Settings, environment: Environment, wall: WallFit | None) -> Sampler:
    """Make a sampler for the meters of this machine."""
    procfs = Path(settings.procfs_path)
    usage = UsageReader(procfs, Path(settings.sysfs_path))
    usage.unsaid_gpu_part = _unsaid_gpu_part(settings, environment)
    host = Host(
        sysfs=Path(settings.sysfs_path),
        procfs=procfs,
        busy_s=usage.least_busy_s,
        own_s=usage.own_cpu_s,
        cpu_tdp_w=settings.cpu_tdp_w,
        ram_w_per_gib=settings.ram_w_per_gib,
        gpu_ids=settings.gpu_ids,
        gpu_model=settings.gpu_model,
        plugins=settings.meter_plugins,
        visible_gpus=environment.visible_gpus,
        gpu_variables=environment.gpu_variables,
        cpu_name_cache=environment.state_path(settings.state_dir),
        wall=wall,
        models_wall=settings.boundary == "wall",
        hidden=usage.hidden,
        busy_is_own=usage.busy_is_own,
        counts_whole=settings.scope == "machine",
    )
    meters = detect(host)
    usage.within_limit = all(m.basis != "measured" for m in meters if m.component == "ram")
    # a meter of the wall, or of another package, is made of those that there are at the start
    is_fixed = wall is not None or settings.boundary == "wall" or settings.meter_plugins != ()
    again = None if is_fixed else (partial(_signs, host), partial(detect, host))
    return Sampler(meters, interval_s=settings.interval_s, usage=usage, again=again)


def _unsaid_gpu_part(settings: Settings, environment: Environment) -> float:
    """The share of a board whose users could not be detected: all ranks of this node may use it.

    All of it if the launcher or the user may have assigned separate boards to each rank.
    """
    orders = {"CUDA_DEVICE_ORDER"}
    may_differ = (environment.visible_gpus, settings.gpu_ids) != (None, None)
    may_differ = may_differ or not {name for name, _ in environment.gpu_variables} <= orders
    return 1.0 if may_differ else 1.0 / (environment.launch.local_size or 1)


def _signs(host: Host) -> Hashable:
    with holding_forks():
        from carbontrack.meters.signs import signs  # not in a short program

    return signs(host)


def calibration_of(settings: Settings, environment: Environment) -> Calibration | None:
    """The calibration of this host, if any; the user is warned of a file that cannot be used."""
    path = calibration_file(settings, environment)
    if not os.path.exists(path):  # noqa: PTH110 - Path's raises in a folder of another user
        return None
    from carbontrack.meters.calibration import load_calibration  # loaded only if needed

    try:
        return load_calibration(path)
    except ConfigError as error:
        pass_on(error)
        warn_user(f"the calibration is not used: {error}")
        return None


def wall_fit(settings: Settings, environment: Environment) -> WallFit | None:
    """The calibration line from metered power to wall power, if this host was calibrated."""
    calibration = calibration_of(settings, environment)
    return None if calibration is None else calibration.fit


def calibration_file(settings: Settings, environment: Environment) -> Path:
    """The path of the calibration of this host."""
    return calibration_path(
        environment.state_path(settings.state_dir), _host_id(settings, environment)
    )


def _host_id(settings: Settings, environment: Environment) -> str:
    if settings.host_id is not None or environment.has_fake_files:
        return settings.host_id or host_id()
    return _own_host_id()


@lru_cache(maxsize=1)
def _own_host_id() -> str:
    """The id of this machine, which does not change while a process runs."""
    return host_id()


def find_region(settings: Settings, environment: Environment) -> regions.Region:
    """Find the region of this machine without any network.

    Raises:
        UnknownRegion: the region that was given is unknown.
    """
    origin = settings.origins.get("region", "default")
    return regions.resolve(
        region=settings.region,
        region_basis=origin if origin in ("argument", "environment") else "config",
        environ_hints=None if settings.cloud == "none" else dict(environment.cloud_hints),
        sysfs=Path(settings.sysfs_path),
        tz=environment.time_zone,
    )


def probe_cloud(
    settings: Settings,
    environment: Environment,
    region: regions.Region,
    base_urls: Mapping[str, str] | None = None,
) -> CloudProbe | None:
    """Query the clouds' metadata services in the background, if `cloud="detect"` is set.

    No query is needed if the region was given or is named by the cloud's variables.
    """
    if settings.cloud != "detect" or region.basis not in ("timezone", "unknown"):
        return None
    from carbontrack.grid.cloud_metadata import CloudProbe, RegionCache

    cache = RegionCache(environment.state_path(settings.state_dir), Path(settings.procfs_path))
    return CloudProbe(cache=cache, base_urls=base_urls).start()


def make_grid(
    settings: Settings,
    environment: Environment,
    region: regions.Region,
    run: Runner | None = None,
) -> IntensitySource:
    """Make the intensity source: the user's own figure, live services, or the table.

    `run` runs the queries of a live service; None: a thread does.

    Raises:
        NoIntensity: the region was given, and no table has a figure for it.
    """
    if settings.intensity_g_per_kwh is not None:
        return Fixed.of(settings.intensity_g_per_kwh, zone=region.zone)
    if region.basis == "unknown":
        warn_user("region unknown, world average used; set CARBONTRACK_REGION=CODE")
    table = regions.intensity_for(region)
    if not settings.intensity_source:
        return table
    # loaded only where a live source is configured
    from carbontrack.grid.live import choose
    from carbontrack.grid.live.feed import Outside

    return choose.make_grid(
        settings.intensity_source,
        region,
        table,
        token=settings.live_token,
        state=environment.state_path(settings.state_dir),
        outside=None if run is None else Outside(run=run, warn=RateLimitedLog().warn),
    )


def current_environment() -> Environment:
    """A snapshot of the process's environment, as it is now."""
    return Environment.now(regions.HINTS)


def assemble(
    settings: Settings,
    environment: Environment,
    *,
    sampler: Sampler | None = None,
    propagator: Propagator | None = None,
    metadata_urls: Mapping[str, str] | None = None,
    sinks: Sequence[Sink] = (),
) -> Tracker:
    """Assemble a tracker from the settings and the environment.

    Args:
        settings: the settings.
        environment: a snapshot of the environment; the environment itself is not read.
        sampler: a sampler shared with other trackers; None: the tracker has its own.
        propagator: propagates the parent id to child processes.
        metadata_urls: other addresses for the clouds' metadata services, for tests.
        sinks: sinks that receive the records in addition to the outputs.

    Raises:
        ConfigError: a setting cannot be used; nothing has been started then.
    """
    region = find_region(settings, environment)
    probe = probe_cloud(settings, environment, region, metadata_urls)
    region = (probe and probe.region) or region
    detected = _detected_later(settings, environment, region, probe)
    grid = detected or make_grid(settings, environment, region)
    reads = sampler or make_sampler(settings, environment, wall_fit(settings, environment))
    attribution = _attribution(settings, environment, region, reads.meters)
    resource = _resource(settings, environment, region, reads)
    session = _session(RecordBuilder(resource, Ledger(attribution, grid), reads), settings,
                       environment, propagator, sinks)  # fmt: skip
    if detected is not None:
        detected.on_found = partial(_update_region, session, settings, environment)
    session.sampler.request_interval(min(settings.interval_s, settings.checkpoint_s))
    return Tracker.of(session, owns_sampler=sampler is None)


def _session(
    builder: RecordBuilder,
    settings: Settings,
    environment: Environment,
    propagator: Propagator | None,
    more_sinks: Sequence[Sink],
) -> Session:
    folder = environment.working_folder or removed_working_folder()
    outputs = tuple(
        str(Path(folder, output)) if is_file(output) else output for output in settings.output
    )
    is_default = settings.origins.get("output") == "default"
    journal = checkpoints = None
    if outputs:
        state_dir = environment.state_path(settings.state_dir)
        # The queue to a server must be one sink's only, or records would arrive twice.
        is_shared = all(is_file(output) for output in outputs)
        journal = _journal(state_dir, is_ours=settings.owns_state_dir, is_shared=is_shared)
    if is_default and journal is not None:
        sinks = [default_sink(output, journal=journal) for output in outputs]
    else:
        sinks = [sink_for(o, token=settings.http_token, journal=journal) for o in outputs]
    outputs = tuple(map(lasting, outputs, sinks))
    if journal is not None:
        checkpoints = Checkpoints(journal, outputs, settings.checkpoint_s)
    return Session(
        builder,
        sinks=[*sinks, *more_sinks],
        spans=settings.spans,
        checkpoints=checkpoints,
        timelines=_timelines(settings, outputs),
        propagator=propagator,
        parents=_parents(settings, environment, propagator, builder.sampler.clock),
    )


def _parents(
    settings: Settings, environment: Environment, propagator: Propagator | None, clock: Clock
) -> RemoteParents | None:
    """The parents of this process's roots in other processes; None: very likely there are none."""
    text = environment.parent_id if propagator is None else propagator.extract()
    state_dir = environment.state_path(settings.state_dir)
    # Lightning's rank 0 starts the other ones of its node, and all of them measure from then on
    may_be_inside = is_worker() or (environment.launch.local_rank or 0) > 0
    if text is None and not may_be_inside and not (settings.output and _is_inside(state_dir)):
        return None
    return parents_of(text, state_dir, settings.scope, clock)


def _is_inside(state_dir: Path) -> bool:
    from carbontrack.sinks.journal.journal import has_tracked_ancestor  # is loaded, with an output

    return has_tracked_ancestor(state_dir)


def parents_of(
    text: str | None, state_dir: Path, scope: str, clock: Clock | None = None
) -> RemoteParents:
    """The parents in other processes, found from the environment and from their open spans."""
    # few processes have one
    from carbontrack.tracking.remote_parent import ParentContext, RemoteParents

    context = None if text is None else ParentContext.parse(text)
    return RemoteParents(context, state_dir, scope=scope, clock=clock)


def _detected_later(
    settings: Settings,
    environment: Environment,
    region: regions.Region,
    probe: CloudProbe | None,
) -> Detected | None:
    """The grid of a region that a metadata service has not named yet; None: it is known."""
    if probe is None or probe.region is not None:
        return None
    from carbontrack.grid.cloud_metadata import Detected

    return Detected(region, probe, partial(make_grid, settings, environment))


def _update_region(
    session: Session, settings: Settings, environment: Environment, region: regions.Region
) -> None:
    """Use the region that a metadata service returned in all records from now on.

    The PUE stays as it is in this process; the next one has the region from its start.
    """
    session.builder.resource = _resource(settings, environment, region, session.sampler)


def _resource(
    settings: Settings, environment: Environment, region: regions.Region, sampler: Sampler
) -> Resource:
    water = facility.grid_water(region.zone)
    embodied_g_per_h, abiotic_kg_sb_per_h = _making_per_h(settings, sampler.hardware)
    return Resource(
        region_basis=region.basis,
        water_l_per_kwh=water.l_per_kwh if water is not None else None,
        embodied_g_per_h=embodied_g_per_h,
        abiotic_kg_sb_per_h=abiotic_kg_sb_per_h,
        market_g_per_kwh=settings.market_g_per_kwh,
        columns={
            "host_id": _host_id(settings, environment),
            **environment.launch.columns(),
            "cloud_provider": region.cloud_provider,
            "cloud_region": region.cloud_region,
        },
        labels=dict(environment.launch.labels),
    )


def _timelines(settings: Settings, outputs: Sequence[str]) -> TimelineFiles | None:
    if not settings.timeline:
        return None
    from carbontrack.sinks.timelines import TimelineFiles  # loaded only if needed

    try:
        return TimelineFiles([Path(output) for output in outputs if is_file(output)])
    except ConfigError as error:
        pass_on(error)
        if settings.origins.get("output") != "default":
            raise
        warn_user(f"no timeline is kept: {error}")
        return None


def _attribution(
    settings: Settings, environment: Environment, region: regions.Region, meters: MeterSet
) -> Attribution:
    site = facility.site(region.zone)
    return Attribution(
        scope=settings.scope,
        idle=settings.idle,
        pue=settings.pue or region.pue or 1.0,
        wue_l_per_kwh=site.wue_l_per_kwh if site and settings.wue is None else settings.wue,
        idle_power=_idle_power(settings, environment, meters),
    )


def _idle_power(settings: Settings, environment: Environment, meters: MeterSet) -> IdlePower:
    if settings.scope == "machine" or settings.idle == "proportional":
        return UNKNOWN  # not needed
    from carbontrack.api.idle_power import idle_power
    from carbontrack.meters.calibration import Calibration

    return idle_power(settings, meters, calibration_of(settings, environment) or Calibration())


def _making_per_h(
    settings: Settings, hardware: Hardware
) -> tuple[Mapping[str, float] | None, Mapping[str, float] | None]:
    """Embodied impact per hour of use: g CO2e, and kg Sb eq of minerals and metals.

    By component or for the whole machine; None: unknown.
    """
    rates = None
    if hardware.cpu_sockets is not None and hardware.ram_gib is not None:
        from carbontrack.impact.embodied import rates_per_h  # else the table need not be read

        rates = rates_per_h(
            hardware,
            lifetime_years=settings.embodied_lifetime_years,
            utilisation=settings.embodied_utilisation,
        )
    g, kg_sb = rates or (None, None)
    if settings.embodied_g_per_h is not None:
        g = {WHOLE_MACHINE: settings.embodied_g_per_h}
    return g, kg_sb


def _journal(state_dir: Path, *, is_ours: bool, is_shared: bool) -> Journal:
    # loaded only where there is an output
    from carbontrack.sinks.journal.journal import Journal

    journal = Journal.shared(state_dir) if is_shared else Journal(state_dir)
    if journal.has_others():
        from carbontrack.sinks.journal.pickup import hasten, pick_up_later  # few find any

        # records of killed runs go to the outputs that these had
        pick_up_later(state_dir, is_ours=is_ours)
        journal.before_leftovers = partial(hasten, state_dir)
    return journal


def check(settings: Settings, environment: Environment) -> None:
    """Check the region and the intensity sources, before anything starts.

    Raises:
        UnknownRegion: the region that was given is unknown or ambiguous.
        NoIntensity: no table has a figure for it.
        ConfigError: an intensity source is unknown, lacks its token, or covers another region.
    """
    given, live = settings.region is not None, settings.intensity_source
    if settings.disable or not (given or live):
        return
    region, asks = find_region(settings, environment), settings.intensity_g_per_kwh is None
    if given and asks:
        regions.intensity_for(region)
    if live and asks and (given or settings.cloud != "detect"):  # else the region may still change
        from carbontrack.grid.live import choose

        choose.check(live, region, settings.live_token)
