"""Meters of other packages: what they replace, what they are added to, why they are refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest

from carbontrack.errors import MeterGone
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.meter import Meter, Refusal, counts_ends
from carbontrack.meters.plugins import Joined, PluginHost, contents, join
from carbontrack.meters.ram_model import RamModel
from carbontrack.record import Component
from carbontrack.system import plugins
from carbontrack.testing import FakeMeter, build_powercap
from tests.support.plugins import install

HOST = PluginHost(Path("/sys"), Path("/proc"))
MODELS = {"cpu": lambda: CpuModel(100.0, lambda: 0.0, 4), "ram": lambda: RamModel(16.0)}


class Packages:
    """Installs plugins into folders of their own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch

    def __call__(self, name: str, body: str) -> None:
        """A plugin whose function `make(host)` has this body; `meter` makes one with `covers`."""
        source = (
            "from carbontrack.errors import MeterUnavailable\n"
            "from carbontrack.testing import FakeMeter\n"
            "def meter(id, component='cpu', covers=None, **facts):\n"
            "    made = FakeMeter(id, component)\n"
            "    vars(made).update(facts)\n"
            "    if covers is not None: made.covers = covers\n"
            "    return made\n"
            "def make(host):\n"
            f"    {body}\n"
        )
        install(self._monkeypatch, self._folder / name, plugins.METERS, name, source)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    return Packages(tmp_path / "site", monkeypatch)


def joined(names: Iterable[str], *ours: Meter) -> Joined:
    """What comes of these plugins beside a package and memory that are measured."""
    mine = ours or (FakeMeter("rapl:package-0"), FakeMeter("rapl:dram-0", "ram"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return join(names, HOST, mine, models=MODELS, spare=MODELS)


def ids(found: Iterable[Meter]) -> list[str]:
    return [meter.id for meter in found]


def reasons(found: Joined) -> dict[str, str]:
    return {refusal.id: refusal.reason for refusal in found.refused}


def test_a_meter_takes_the_place_of_ours_for_its_component(package: Packages) -> None:
    """The same energy is not counted twice; the doctor can say what is left out, and it is shut."""
    package("shunt", "return [meter('shunt:cpu')]")
    rapl, dram = FakeMeter("rapl:package-0"), FakeMeter("rapl:dram-0", "ram")
    found = joined(["shunt"], rapl, dram)

    assert ids(found.meters) == ["rapl:dram-0", "shunt:cpu"]
    assert reasons(found) == {
        "rapl:package-0": "left out, because shunt:cpu counts the same energy"
    }
    assert (rapl.closed, dram.closed) == (True, False)
    assert ids(make() for make in found.substitutes.values()) == ["model:ram", "model:cpu"]


def test_a_wall_meter_covers_what_it_says(package: Packages) -> None:
    """Everything inside the plug is left out; the models of it all stand in when it is lost."""
    package("plug", "return meter('plug:desk', 'other', ('cpu', 'ram', 'gpu', 'other'))")
    ours = [FakeMeter("model:cpu"), FakeMeter("model:ram", "ram"), FakeMeter("nvml:a", "gpu")]
    found = joined(["plug"], *ours)

    assert ids(found.meters) == ["plug:desk"]
    assert set(reasons(found)) == {"model:cpu", "model:ram", "nvml:a"}
    assert list(found.substitutes) == ["other"]
    stand_in = found.substitutes["other"]()
    assert (stand_in.id, stand_in.component) == ("model:cpu+model:ram", "other")
    assert stand_in.basis == "modelled"
    stand_in.read_joules(0.0)
    assert stand_in.read_joules(10.0) == pytest.approx((12.0 + 16 * 0.15) * 10.0)
    assert counts_ends(stand_in), "those of the processor, and the memory's"
    assert stand_in.low_j == pytest.approx((1.0 + 16 * 0.045) * 10.0)
    assert stand_in.high_j == pytest.approx((36.0 + 16 * 0.60) * 10.0)
    stand_in.close()
    with pytest.raises(MeterGone):
        stand_in.read_joules(11.0)


def test_hardware_that_we_do_not_count_is_added(package: Packages) -> None:
    """An accelerator of another make beside NVIDIA's board: both are counted."""
    package("npu", "return [meter(f'npu:{n}', 'gpu', ()) for n in range(2)]")
    found = joined(["npu"], FakeMeter("rapl:package-0"), FakeMeter("nvml:a", "gpu"))

    assert ids(found.meters) == ["rapl:package-0", "nvml:a", "npu:0", "npu:1"]
    assert found.refused == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("('cpu', 'ram')", "('cpu',)"),
        ("('cpu', 'other')", "()"),
        ("()", "('other', 'cpu')"),
    ],
)
def test_of_two_plugins_that_count_the_same_the_first_is_used(
    package: Packages, first: str, second: str
) -> None:
    """The order of the setting decides, and the reason names the other."""
    package("a", f"return meter('a:1', 'other', {first})")
    package("b", f"return meter('b:1', 'other', {second})")
    found = joined(["a", "b"])

    assert "a:1" in ids(found.meters)
    assert "b:1" not in ids(found.meters)
    assert "b:1 and a:1 of 'a' would count the same energy" in reasons(found)["b"]
    assert "b:1" in ids(joined(["b", "a"]).meters)


def test_what_ours_counts_in_one_is_replaced_whole_or_not_at_all(package: Packages) -> None:
    """A socket with its memory cannot give up the processor alone."""
    socket = FakeMeter("hwmon:grace-0")
    socket.covers = frozenset({"cpu", "ram"})  # type: ignore[attr-defined]
    package("half", "return meter('half:cpu')")
    package("whole", "return meter('whole:cpu', 'cpu', ['cpu', 'ram'])")

    half, whole = joined(["half"], socket), joined(["whole"], socket)
    assert ids(half.meters) == ["hwmon:grace-0"]
    assert "hwmon:grace-0 counts cpu, ram in one" in reasons(half)["half"]
    assert ids(whole.meters) == ["whole:cpu"]


def test_the_sensors_of_this_package_say_what_they_contain(tmp_path: Path) -> None:
    """Grace's socket holds its memory, and detection with a plugin goes by that."""
    folder = tmp_path / "class" / "hwmon" / "hwmon0"
    (folder / "device").mkdir(parents=True)
    (folder / "name").write_text("power_meter\n")
    (folder / "device" / "power1_oem_info").write_text("Grace Power Socket 0\n")
    (folder / "device" / "power1_average").write_text("300000000\n")
    (meter,) = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=()))

    assert contents(meter) == {"cpu", "ram"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise MeterUnavailable('no plug answers', 'switch it on')", "no plug answers"),
        ("raise RuntimeError('oh')", "the plugin failed: RuntimeError('oh')"),
        ("raise SystemExit(1)", "the plugin failed: SystemExit(1)"),
        ("return None", "the plugin failed: TypeError"),
        ("return []", "found no meter"),
        ("return [object()]", "has id=None; it must be a text"),
        ("return [meter('x', 'disk')]", "component='disk'; it must be one of cpu, gpu, ram, other"),
        ("return [meter('x', basis='guessed')]", "basis='guessed'; it must be one of measured"),
        ("return [meter('x', resolution_s='1')]", "resolution_s='1'; it must be a number"),
        ("return [meter('x', relative_uncertainty=None)]", "relative_uncertainty=None"),
        ("return [meter('x', close=None)]", "has no method close"),
        ("return [meter('x', read_joules=1)]", "read_joules=1; it must be a method"),
        ("return [meter('x', low_j=0.0)]", "has low_j only; it must have both low_j and high_j"),
        ("return [meter('x', covers='disk')]", "covers 'disk', which is not one of cpu, gpu"),
        ("return [meter('x', covers=5)]", "the plugin failed: TypeError"),
        ("return [meter('x'), meter('x')]", "more than one meter 'x'"),
        ("return [meter('rapl:package-0')]", "more than one meter 'rapl:package-0'"),
        ("return [meter('x', 'gpu'), meter('y', 'disk')]", "component='disk'"),
    ],
)
def test_a_plugin_that_is_not_fit_for_use_changes_nothing(
    package: Packages, body: str, said: str
) -> None:
    """Its meters are taken together or not at all; ours count on, and the reason is kept."""
    package("bad", body)
    found = joined(["bad"])

    assert ids(found.meters) == ["rapl:package-0", "rapl:dram-0"]
    assert set(found.substitutes) == {"cpu", "ram"}
    assert list(reasons(found)) == ["bad"]
    assert said in reasons(found)["bad"]


def test_a_reason_is_said_and_its_cure_kept(package: Packages) -> None:
    """Who named a plugin is told when it is not used, without being stopped."""
    package("off", "raise MeterUnavailable('no plug answers', 'switch it on')")
    with pytest.warns(UserWarning, match="meter_plugins=off:1 is not used: no plug answers"):
        found = join(["off:1"], HOST, [], models={}, spare={})

    assert found.refused == (Refusal("off:1", "no plug answers", "switch it on"),)


def test_meters_of_a_refused_plugin_are_closed(package: Packages) -> None:
    """What they hold open is given back, even if closing fails."""
    package(
        "bad",
        "def fail(): raise OSError\n"
        "    global made\n"
        "    made = [meter('x', close=fail), meter('y'), meter('y')]\n"
        "    return made",
    )
    joined(["bad"])

    made = plugins.load(plugins.find(plugins.METERS, "bad")).__globals__["made"]
    assert [one.closed for one in made] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "address"), [("told", None), ("told:", ""), ("told:http://h:1/x", "http://h:1/x")]
)
def test_a_plugin_is_told_where_to_look(package: Packages, text: str, address: str | None) -> None:
    """The roots of the file systems, and what stands behind the first colon."""
    package("told", "return meter(repr(tuple(map(str, host))))")
    (meter,) = joined([text], FakeMeter("nvml:a", "gpu")).meters[1:]

    assert meter.id == repr(("/sys", "/proc", str(address)))


def test_a_plugin_is_loaded_by_detection_only_if_it_is_named(
    package: Packages, tmp_path: Path
) -> None:
    """What is installed is not simply used."""
    package("shunt", "return [meter('shunt:cpu')]")
    tree = build_powercap(tmp_path / "sys")
    host = Host(busy_s=lambda: 0.0, sysfs=tree.sysfs, gpu_ids=())

    assert ids(detect(host)) == ["rapl:package-0", "rapl:dram-0"]
    found = detect(host._replace(plugins=("shunt",)))
    assert ids(found) == ["rapl:dram-0", "shunt:cpu"]
    assert "rapl:package-0" in {refusal.id for refusal in found.refused}
    component: Component = "cpu"
    assert found.substitutes[component]().id == "model:cpu"
