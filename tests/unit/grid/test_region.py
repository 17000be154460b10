"""The place of a machine, found step by step and without any network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.errors import NoIntensity, UnknownRegion
from carbontrack.grid import rows
from carbontrack.grid.region import CLOUD_VARIABLES, HINTS, Region, intensity_for, resolve
from carbontrack.grid.tables import lookup


@pytest.fixture
def machine(tmp_path):
    """A machine that knows nothing of itself, until a test writes what it says."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "sys/class/dmi/id").mkdir(parents=True)
    return tmp_path


def dmi(machine, **texts):
    for name, text in texts.items():
        (machine / "sys/class/dmi/id" / name).write_text(f"{text}\n")


def found(machine, hints=None, platform="linux", **given):
    return resolve(
        environ_hints=hints or {},
        sysfs=machine / "sys",
        etc=machine / "etc",
        platform=platform,
        **given,
    )


def test_a_given_region_wins_and_keeps_its_basis(machine):
    """What someone wrote stands above what the machine says."""
    for basis in ("argument", "environment", "config"):
        place = found(
            machine, {"AWS_REGION": "us-east-1"}, region="fra", region_basis=basis, tz="Asia/Tokyo"
        )
        assert place == Region("FR", basis)


def test_a_given_cloud_region_brings_its_cloud_and_pue(machine):
    """The provider's own PUE comes with its region."""
    place = found(machine, region="eu-west-1")

    assert place == Region("aws:eu-west-1", "argument", "aws", "eu-west-1", 1.11)


def test_a_given_region_that_is_no_place_is_an_error(machine):
    """Before anything starts, with the near match."""
    with pytest.raises(UnknownRegion, match="'FR'"):
        found(machine, region="Frnace")


@pytest.mark.parametrize(
    ("hints", "zone"),
    [
        ({"AWS_REGION": "eu-west-3"}, "aws:eu-west-3"),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_DEFAULT_REGION": "eu-west-3"}, "aws:eu-west-3"),
        ({"GOOGLE_CLOUD_REGION": "europe-west9"}, "gcp:europe-west9"),
        ({"REGION_NAME": "West Europe", "WEBSITE_SITE_NAME": "x"}, "azure:westeurope"),
    ],
)
def test_a_clouds_own_variables_name_its_region(machine, hints, zone):
    """Basis cloud, no network."""
    place = found(machine, hints, tz="Asia/Tokyo")

    assert (place.zone, place.basis) == (zone, "cloud")
    assert place.cloud_provider == zone.partition(":")[0]
    assert place.pue is not None


def test_a_command_lines_setting_alone_is_no_evidence(machine):
    """AWS_DEFAULT_REGION is on many laptops; it says where someone deploys, not where this runs."""
    assert found(machine, {"AWS_DEFAULT_REGION": "us-east-1"}, tz="Europe/Paris").zone == "FR"


def test_a_command_lines_setting_counts_on_that_clouds_machine(machine):
    """The firmware says EC2, the setting says where."""
    dmi(machine, sys_vendor="Amazon EC2")

    place = found(machine, {"AWS_DEFAULT_REGION": "us-east-1"})

    assert place.zone == "aws:us-east-1"


@pytest.mark.parametrize("vendor", ["LENOVO", "Dell Inc.", "Google"])
def test_a_laptop_is_not_in_the_cloud_of_its_owners_shell(machine, vendor):
    """A maker of laptops in the firmware speaks against AWS_REGION."""
    dmi(machine, sys_vendor=vendor, product_name="20XW")

    assert found(machine, {"AWS_REGION": "us-east-1"}, tz="Europe/Paris").basis == "timezone"


def test_a_mac_is_not_in_a_cloud_by_a_variable_alone(machine):
    """Where there is no firmware text to ask, only a runtime's own marker counts."""
    hints = {"AWS_REGION": "us-east-1"}

    assert found(machine, hints, platform="darwin", tz="Europe/Paris").zone == "FR"


def test_another_clouds_variable_does_not_move_a_machine(machine):
    """On Google's machine AWS_REGION is only a setting for uploads."""
    dmi(machine, sys_vendor="Google", product_name="Google Compute Engine")

    place = found(machine, {"AWS_REGION": "us-east-1"}, tz="Europe/Brussels")

    assert (place.zone, place.basis, place.cloud_provider) == ("BE", "timezone", "gcp")
    assert place.pue == 1.09


def test_a_virtual_machine_of_nobody_believes_the_variable(machine):
    """QEMU may be anyone's cloud."""
    dmi(machine, sys_vendor="QEMU", product_name="Standard PC")

    assert found(machine, {"AWS_REGION": "eu-north-1"}).zone == "aws:eu-north-1"


@pytest.mark.parametrize(
    ("file", "text", "provider"),
    [
        ("sys_vendor", "Amazon EC2", "aws"),
        ("bios_version", "4.11.amazon", "aws"),
        ("product_name", "Google Compute Engine", "gcp"),
        ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77", "azure"),
        ("chassis_asset_tag", "OracleCloud.com", "oci"),
        ("sys_vendor", "Hetzner", "hetzner"),
        ("sys_vendor", "DigitalOcean", "digitalocean"),
        ("sys_vendor", "Alibaba Cloud", "alibaba"),
    ],
)
def test_firmware_names_the_provider_but_no_region(machine, file, text, provider):
    """A cloud's machine without a known region keeps its provider's PUE, and the wide world."""
    dmi(machine, **{file: text})

    place = found(machine, tz="UTC")

    assert (place.zone, place.basis, place.cloud_provider) == ("WORLD", "unknown", provider)
    assert place.pue is not None


def test_clouds_can_be_left_out(machine):
    """cloud="none": the firmware is not believed either."""
    dmi(machine, sys_vendor="Amazon EC2")

    place = resolve(sysfs=machine / "sys", etc=machine / "etc", tz="Europe/Paris")

    assert place == Region("FR", "timezone")


@pytest.mark.parametrize("code", ["mars-1", "", "FR", "us-east-1\n,x"])
def test_an_unknown_region_in_a_clouds_variable_is_passed_over(machine, code):
    """Nobody wrote it for us, so it is no error."""
    assert found(machine, {"AWS_REGION": code}, tz="Europe/Paris").zone in ("FR",)


@pytest.mark.parametrize(
    ("tz", "zone"),
    [
        ("Europe/Paris", "FR"),
        (":Europe/Paris", "FR"),
        ("/usr/share/zoneinfo/Europe/Paris", "FR"),
        ("posix/Asia/Kolkata", "IN"),
        ("Asia/Calcutta", "IN"),
        ("US/Pacific", "US"),
        ("America/Argentina/Buenos_Aires", "AR"),
        ("Japan", "JP"),
    ],
)
def test_the_time_zone_names_the_country(machine, tz, zone):
    """Current and older names of zones, as TZ may spell them."""
    assert found(machine, tz=tz) == Region(zone, "timezone")


def test_every_time_zone_lies_in_a_country_of_the_tables():
    """No zone of the table leads nowhere."""
    for row in rows.rows("time_zones"):
        assert rows.row("zones", row["country"])["kind"] == "country", row


@pytest.mark.parametrize(
    "tz", ["UTC", "Etc/UTC", "Etc/GMT+5", "GMT", "CET", "EST5EDT", "CET-1CEST", "", None, "Zulu"]
)
def test_an_offset_is_no_place(machine, tz):
    """UTC, offsets and their abbreviations say nothing of where a machine stands."""
    assert found(machine, tz=tz) == Region("WORLD", "unknown")


def test_tz_comes_before_the_files_and_timezone_before_localtime(machine):
    """TZ, then /etc/timezone, then the link of /etc/localtime."""
    (machine / "etc/localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert found(machine).zone == "JP"

    (machine / "etc/timezone").write_text("Europe/Berlin\n")
    assert found(machine).zone == "DE"
    assert found(machine, tz="Europe/Paris").zone == "FR"
    assert found(machine, tz="UTC").zone == "DE"


def test_a_mac_keeps_its_zone_behind_another_link(machine):
    """/var/db/timezone/zoneinfo is where macOS keeps them."""
    (machine / "etc/localtime").symlink_to("/var/db/timezone/zoneinfo/Europe/Zurich")

    assert found(machine, platform="darwin").zone == "CH"


@pytest.mark.parametrize("text", [b"\xff\xfe", b"", b"Nowhere/City\n", b"\x00" * 40])
def test_garbage_in_a_file_is_nothing(machine, text):
    """A broken file does not stop a program; it just says nothing."""
    (machine / "etc/timezone").write_bytes(text)
    (machine / "sys/class/dmi/id/sys_vendor").write_bytes(text)

    assert found(machine) == Region("WORLD", "unknown")


def test_a_time_zone_of_a_place_without_data_is_unknown(machine):
    """Monaco has no figure; a machine that was only found there is billed as the wide world."""
    assert found(machine, tz="Europe/Monaco") == Region("WORLD", "unknown")


def test_a_given_place_without_data_is_an_error_and_a_found_one_is_the_world():
    """Whoever wrote it can mend it; nobody is asked to mend what nobody wrote."""
    with pytest.raises(NoIntensity):
        intensity_for(Region("MC", "argument"))

    assert intensity_for(Region("MC", "timezone")).intensity == lookup("WORLD")


def test_the_source_of_a_region_is_its_tables_figure():
    """A table's figure never changes while a run lasts."""
    source = intensity_for(Region("aws:eu-west-3", "cloud"))

    assert source.intensity == lookup("aws:eu-west-3")
    assert source.constant


def test_all_variables_that_are_read_are_asked_for():
    """The one reader of the environment learns from HINTS what to hand in."""
    assert set(CLOUD_VARIABLES) <= set(HINTS)


def test_resolving_and_looking_up_load_nothing_heavy_and_open_no_socket():
    """The path of every start: no csv reader, no zoneinfo, no requests, no connection."""
    program = """
import sys
def watch(event, args):
    if event.startswith("socket."):
        raise SystemExit(f"a socket: {event}")
sys.addaudithook(watch)
from carbontrack.grid.region import intensity_for, resolve
intensity_for(resolve(region="FR")); resolve(tz="Europe/Paris"); resolve()
heavy = {"csv", "zoneinfo", "requests", "socket", "difflib", "unicodedata", "ctypes", "json"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(rows.__file__).parents[2],  # where the package lies, installed or not
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    """It has no maker and no time zone, whatever writes to it one day."""
    dmi, etc = tmp_path / "sys/class/dmi/id", tmp_path / "etc"
    dmi.mkdir(parents=True)
    etc.mkdir()
    os.mkfifo(dmi / "product_name")
    os.mkfifo(etc / "timezone")
    assert resolve(environ_hints={}, sysfs=tmp_path / "sys", etc=etc).basis == "unknown"
