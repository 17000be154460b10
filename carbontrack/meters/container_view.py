"""Meters in a container whose system files show only its own part of the machine.

lxcfs gives a system container (LXC) its own /proc/stat, /proc/meminfo and list of processors. RAPL
and sensors still count the whole machine. Our share of the container's work is not our share of the
machine's: with 60 other threads busy, their energy would all be attributed to us. So counters of
the whole processor and of all memory are set aside, and the models count the threads and the memory
that the container is shown, for the scope "machine" as well: here the container is the machine.
"""

from __future__ import annotations

from collections.abc import Iterable

from carbontrack.meters.cpu_info import CpuFacts
from carbontrack.meters.meter import MACHINE_HIDDEN, Found, Meter, Refusal


def set_aside(
    meters: Iterable[Meter], sensors: Found, facts: CpuFacts
) -> tuple[tuple[Meter, ...], Found, tuple[Refusal, ...]]:
    """The meters and sensors that do not count the whole machine, and the refusal of the others.

    Sensors of GPUs are kept: GPU energy is attributed by the processes that use it.
    """
    kept = tuple(meter for meter in meters if meter.component == "gpu")
    kept_sensors = tuple(meter for meter in sensors.meters if meter.component == "gpu")
    aside = [meter for meter in (*meters, *sensors.meters) if meter.component != "gpu"]
    if not aside:
        return kept, sensors, ()
    for meter in aside:
        meter.close()
    view = f"/proc/stat shows {facts.threads} of {facts.machine_threads} hardware threads"
    if facts.threads == facts.machine_threads:
        view = "another file is mounted over /proc/stat (lxcfs)"
    reason = f"they count the whole machine, and {view}: this container's share of it is not known"
    ids = ", ".join(meter.id for meter in aside)
    found = Found(kept_sensors, frozenset(m.component for m in kept_sensors), sensors.refused)
    return kept, found, (Refusal(ids, reason, None, MACHINE_HIDDEN),)
