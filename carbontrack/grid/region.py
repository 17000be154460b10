"""The region of this machine, found without any network."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from carbontrack.errors import NoIntensity
from carbontrack.grid import names, rows
from carbontrack.grid import tables as table
from carbontrack.grid.intensity import GridIntensity
from carbontrack.system.files import read_file
from carbontrack.system.interrupts import pass_on
from carbontrack.values import NamedTuple

WORLD = table.WORLD
_GIVEN = ("argument", "environment", "config")

CLOUD_VARIABLES: dict[str, tuple[str, bool]] = {
    "AWS_REGION": ("aws", True),
    "AWS_DEFAULT_REGION": ("aws", False),
    "GOOGLE_CLOUD_REGION": ("gcp", True),
    "CLOUD_ML_REGION": ("gcp", True),
    "FUNCTION_REGION": ("gcp", True),
    "CLOUDSDK_COMPUTE_REGION": ("gcp", False),
    "CLOUDSDK_COMPUTE_ZONE": ("gcp", False),
    "REGION_NAME": ("azure", True),
    "OCI_RESOURCE_PRINCIPAL_REGION": ("oci", True),
    "FC_REGION": ("alibaba", True),
    "SCW_DEFAULT_REGION": ("scaleway", False),
}
"""Variable -> provider, and whether the cloud itself sets it where code runs. The others are
settings of command-line tools, on laptops too: they are used only on that provider's machines."""
CLOUD_MARKERS = {
    "AWS_EXECUTION_ENV": "aws",
    "AWS_LAMBDA_FUNCTION_NAME": "aws",
    "AWS_BATCH_JOB_ID": "aws",
    "ECS_CONTAINER_METADATA_URI_V4": "aws",
    "SM_TRAINING_ENV": "aws",
    "AIP_MODEL_DIR": "gcp",
    "WEBSITE_SITE_NAME": "azure",
    "AZUREML_RUN_ID": "azure",
    "OCI_RESOURCE_PRINCIPAL_VERSION": "oci",
    "FC_FUNCTION_NAME": "alibaba",
}
"""Variables that a provider's runtimes set, with any value; they do not name a region."""
HINTS = (*CLOUD_VARIABLES, *CLOUD_MARKERS)
"""The environment variables that `resolve` takes in `environ_hints`."""

_DMI = {
    "amazon": "aws",
    "google compute engine": "gcp",  # a Chromebook has "Google" too
    "digitalocean": "digitalocean",
    "hetzner": "hetzner",
    "alibaba": "alibaba",
    "scaleway": "scaleway",
    "oraclecloud": "oci",
    "7783-7084-3265-9085-8269-3286-77": "azure",  # the chassis tag of every Azure machine
}
_DMI_FILES = ("sys_vendor", "product_name", "chassis_asset_tag", "bios_version")
_VIRTUAL = ("qemu", "kvm", "xen", "vmware", "openstack", "red hat", "virtual machine")


class Region(NamedTuple):
    """The place whose grid is used, how it was found, and its cloud, if any.

    `basis` is argument, environment, config, cloud, metadata, timezone or unknown. `pue` is the
    provider's own figure for the region, or its fleet's; None outside clouds.
    """

    zone: str
    basis: str
    cloud_provider: str | None = None
    cloud_region: str | None = None
    pue: float | None = None


def resolve(
    *,
    region: str | None = None,
    region_basis: str = "argument",
    environ_hints: Mapping[str, str] | None = None,
    sysfs: Path = Path("/sys"),
    etc: Path = Path("/etc"),
    tz: str | None = None,
    platform: str = sys.platform,
) -> Region:
    """The place of this machine: the given one, else its cloud, else its time zone, else unknown.

    `environ_hints` holds the variables named by `HINTS`, as far as they are set; None leaves clouds
    out, their firmware included. `tz` is the value of `TZ`. No step uses a network. A detected
    place for which no table has a figure is unknown: no user has given it who could correct it.

    Raises:
        UnknownRegion: the given region is no place, or several.
    """
    if region is not None:
        return of(region, basis=region_basis)
    cloud = None
    if environ_hints is not None:
        vendor = _vendor(sysfs / "class" / "dmi" / "id")
        cloud = _from_cloud(environ_hints, vendor, platform)
    if cloud is not None and cloud.cloud_region:
        return cloud
    here = _from_time_zone(tz, etc) or Region(WORLD, "unknown")
    if cloud is None:
        return here
    return here._replace(cloud_provider=cloud.cloud_provider, pue=cloud.pue)


def of(region: str, *, basis: str) -> Region:
    """A region from its name: its code, and its cloud and PUE if it is a cloud's.

    Raises:
        UnknownRegion: no place is called so, or several are.
    """
    zone = names.normalise(region)
    if ":" not in zone:
        return Region(zone, basis)
    provider, _, code = zone.partition(":")
    cloud = rows.row("cloud_regions", zone)
    pue = float(cloud["pue"]) if cloud and cloud["pue"] else None
    return Region(zone, basis, provider, code, pue)


class YearlyTable:
    """A place's yearly figure: the newest, or that of the year in which it is asked for.

    Attributes:
        intensity: the newest figure.
    """

    constant = True  # within a run: the figure of the year in which it starts
    prompt = True

    def __init__(self, intensity: GridIntensity) -> None:
        self.intensity = intensity

    def at(self, when: datetime) -> GridIntensity:
        """The figure of the year of `when`; a clock that stands before 2000 has the newest."""
        newest = self.intensity
        if newest.year is None or when.year >= newest.year:
            return newest
        from carbontrack.grid import history  # few run in the past

        if when.year < history.FIRST_YEAR:
            return newest
        return history.in_year(newest, table.zone_of(newest.zone), when.year)


def intensity_for(region: Region) -> YearlyTable:
    """The table's figure for a region, as a source that never changes in a run.

    Raises:
        NoIntensity: the region was given, and no table has a figure for it. For a detected region
            the world's average with its wide interval is used instead.
    """
    try:
        return YearlyTable(table.lookup(region.zone))
    except NoIntensity:
        if region.basis in _GIVEN:
            raise
        return YearlyTable(table.lookup(WORLD))


def _vendor(dmi: Path) -> str | None:
    """The machine's maker by its firmware (DMI), in lower case; None where it is not stated."""
    texts = (_first_line(dmi / name) for name in _DMI_FILES)
    return " ".join(filter(None, texts)).strip().lower() or None


def _from_cloud(hints: Mapping[str, str], vendor: str | None, platform: str) -> Region | None:
    """The cloud's region, or its provider alone; None outside clouds."""
    maker = next((cloud for text, cloud in _DMI.items() if text in (vendor or "")), None)
    runtimes = {cloud for name, cloud in CLOUD_MARKERS.items() if hints.get(name)}
    # a laptop's maker, or a system that no cloud offers, makes a variable alone unreliable
    elsewhere = platform != "linux" or (vendor is not None and not _is_virtual(vendor))
    for name, (provider, set_by_cloud) in CLOUD_VARIABLES.items():
        code = hints.get(name, "").strip()
        sure = provider == maker or provider in runtimes
        likely = set_by_cloud and maker is None and not elsewhere
        if code and (sure or likely) and (zone := names.cloud_code(provider, code)):
            return of(zone, basis="cloud")
    known = maker or (sorted(runtimes)[0] if runtimes else None)
    return Region(WORLD, "cloud", known, None, _fleet_pue(known)) if known else None


def _is_virtual(vendor: str) -> bool:
    return any(text in vendor for text in _VIRTUAL)


def _fleet_pue(provider: str) -> float | None:
    found = rows.row("cloud_providers", provider)
    return float(found["pue"]) if found and found["pue"] else None


def _from_time_zone(tz: str | None, etc: Path) -> Region | None:
    """The country of the machine's time zone; None for offsets such as UTC or "CET-1CEST"."""
    for name in (tz, _first_line(etc / "timezone"), _link_target(etc / "localtime")):
        found = rows.row("time_zones", _zone_name(name)) if name else None
        if found and rows.row("intensity", found["country"]):
            return Region(found["country"], "timezone")
    return None


def _zone_name(text: str) -> str:
    """The zone alone: ":Europe/Paris", "/usr/share/zoneinfo/Europe/Paris" -> "Europe/Paris"."""
    name = text.strip().lstrip(":").rpartition("zoneinfo/")[2]
    return name.removeprefix("posix/").removeprefix("right/")


def _first_line(path: Path) -> str | None:
    try:
        return read_file(path).decode("utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        pass_on(error)
        return None


def _link_target(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError as error:
        pass_on(error)
        return None
