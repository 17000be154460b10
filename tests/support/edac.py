"""A sysfs tree of memory controllers, as the kernel's EDAC drivers lay it out.

After Documentation/ABI/testing/sysfs-devices-edac, Documentation/admin-guide/ras.rst and
drivers/edac/edac_mc_sysfs.c of Linux.
"""

DDR4 = "Registered-DDR4"


def controller(sysfs, number):
    """The folder of one memory controller, with the files beside its modules."""
    folder = sysfs / "devices" / "system" / "edac" / "mc" / f"mc{number}"
    (folder / "power").mkdir(parents=True, exist_ok=True)
    for name in ("ce_count", "ue_count", "seconds_since_reset"):
        (folder / name).write_text("0\n")
    (folder / "mc_name").write_text("F19h\n")
    (folder / "max_location").write_text("channel 2 slot 1 \n")
    return folder


def add_dimm(sysfs, mc, index, mib, kind=DDR4):
    """A module, as Intel's drivers show it; empty slots have no folder."""
    location = f"channel {index // 2} slot {index % 2} "
    _part(controller(sysfs, mc) / f"dimm{index}", mib, location, kind)


def add_rank(sysfs, mc, row, channel, mib, kind=DDR4):
    """A rank of a module, as AMD's driver shows it."""
    name = f"rank{row * 8 + channel}"
    _part(controller(sysfs, mc) / name, mib, f"csrow {row} channel {channel} ", kind)


def add_subchannels(sysfs, mc, mib, kind, count=4):
    """Soldered memory of a client, as Intel's igen6 driver shows it: two channels, two chips."""
    for index in range(count):
        add_dimm(sysfs, mc, index, mib, kind)
    (controller(sysfs, mc) / "mc_name").write_text(f"Intel_client_SoC MC#{mc}\n")


def add_row(sysfs, mc, row, mib, channels=2, kind="Registered-DDR3"):
    """A row across channels, which is all that kernels before 3.6 show."""
    folder = controller(sysfs, mc) / f"csrow{row}"
    folder.mkdir()
    (folder / "size_mb").write_text(f"{mib}\n")
    (folder / "mem_type").write_text(f"{kind}\n")
    for channel in range(channels):
        (folder / f"ch{channel}_dimm_label").write_text("\n")
        (folder / f"ch{channel}_ce_count").write_text("0\n")


def _part(folder, mib, location, kind):
    (folder / "power").mkdir(parents=True)
    (folder / "size").write_text(f"{mib}\n")
    (folder / "dimm_location").write_text(f"{location}\n")
    (folder / "dimm_label").write_text("CPU_SrcID#0_MC#0_Chan#0_DIMM#0\n")
    (folder / "dimm_mem_type").write_text(f"{kind}\n")
    (folder / "dimm_dev_type").write_text("x4\n")
    (folder / "dimm_edac_mode").write_text("S4ECD4ED\n")
    for name in ("dimm_ce_count", "dimm_ue_count"):
        (folder / name).write_text("0\n")
