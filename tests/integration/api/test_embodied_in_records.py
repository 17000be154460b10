"""The making of the hardware in real records of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import carbontrack


def busy() -> int:
    return sum(n * n for n in range(300_000))


def test_a_figure_of_ones_own_is_billed_by_the_hour():
    """The whole machine at 3,600 g an hour is a gram a second, beside the emissions."""
    tracker = carbontrack.auto(
        region="FR", output=None, scope="machine", embodied_g_per_h=3600.0, pue=2.0
    )
    with tracker, tracker.span("train") as run:
        busy()
    record = run.record
    assert record.embodied_g == pytest.approx(record.duration_s)
    assert record.emissions_g == pytest.approx(record.energy_kwh * record.intensity_g_per_kwh)


def server(folder: Path) -> Path:
    """The proc and sys trees of a machine with two Xeon Gold 6248 and 64 GiB."""
    thread = (
        "processor : {n}\nvendor_id : GenuineIntel\ncpu family : 6\nmodel : 85\n"
        "model name : Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz\nsiblings : 40\ncpu cores : 20\n"
        "flags : fpu vme\n\n"
    )
    (folder / "cpuinfo").write_text("".join(thread.format(n=n) for n in range(80)))
    (folder / "meminfo").write_text(f"MemTotal: {64 * 1024 * 1024} kB\n")
    total = Path("/proc/stat").read_text().splitlines()[0]
    each = (f"cpu{n} {total.split(maxsplit=1)[1]}" for n in range(80))
    (folder / "stat").write_text("\n".join([total, *each]) + "\n")
    online = folder / "devices" / "system" / "cpu" / "online"
    online.parent.mkdir(parents=True)
    online.write_text("0-79\n")
    return folder


def test_a_known_server_bears_the_tables_figures_over_its_life(tmp_path: Path):
    """Two sockets and 64 GiB over the years and the use that the settings say."""
    tracker = carbontrack.auto(
        region="FR",
        output=None,
        scope="machine",
        gpu_ids=(),
        procfs_path=str(server(tmp_path)),
        sysfs_path=str(tmp_path),
        embodied_lifetime_years=5.0,
        embodied_utilisation=0.5,
    )
    with tracker, tracker.span("train") as run:
        busy()
    record = run.record
    assert record.ram_gib == pytest.approx(64, rel=0.1)
    ram_gb = record.ram_gib * 1.073741824
    rest_kg = 66.1 + 2 * 72.7 + 150 + 6.68 + 2 * 51.7  # board, supplies, chassis, assembly, drives
    made_g = (2 * 100 + ram_gb * 1.392 + rest_kg) * 1e3
    rest_kg_sb = 0.00369 + 2 * 0.0248 + 0.0202 + 1.41e-6 + 2 * 0.00186
    made_kg_sb = 2 * 0.0204 + ram_gb * 8.8e-5 + rest_kg_sb
    lives = record.duration_s / 3600 / (5 * 8766 * 0.5)
    assert record.embodied_g == pytest.approx(made_g * lives)
    assert record.abiotic_kg_sb == pytest.approx(made_kg_sb * lives)


def test_a_figure_of_ones_own_leaves_the_metals_to_the_table(tmp_path: Path):
    """It is of CO2e; minerals and metals stay what the known parts take."""
    path = str(server(tmp_path))
    per_s = []
    for g_per_h in (3600.0, None):
        tracker = carbontrack.auto(
            region="FR",
            output=None,
            scope="machine",
            gpu_ids=(),
            procfs_path=path,
            sysfs_path=path,
            embodied_g_per_h=g_per_h,
        )
        with tracker, tracker.span("train") as run:
            busy()
        per_s.append(run.record.abiotic_kg_sb / run.record.duration_s)
    assert per_s[0] == pytest.approx(per_s[1])


def test_a_machine_that_nothing_is_known_of_has_no_figure_of_metals(tmp_path: Path):
    """Unknown, never 0; a figure of one's own is of CO2e, and says nothing of metals."""
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Mystery\n\n")
    (tmp_path / "meminfo").write_text("MemTotal: 1000000 kB\n")
    (tmp_path / "stat").write_text(Path("/proc/stat").read_text())
    tracker = carbontrack.auto(
        region="FR",
        output=None,
        scope="machine",
        gpu_ids=(),
        procfs_path=str(tmp_path),
        sysfs_path=str(tmp_path),
        embodied_g_per_h=12.5,
    )
    with tracker, tracker.span("train") as run:
        busy()
    assert run.record.embodied_g > 0.0
    assert run.record.abiotic_kg_sb is None
