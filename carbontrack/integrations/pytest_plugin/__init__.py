"""The pytest plugin: options, the marker and the fixture, and nothing here that costs.

The other modules of this package are loaded when a run asks for them: by an option, by its ini or
environment twin, by a marker on a collected test, or by a test that uses the fixture. `hooks` is
where pytest meets the rest; the others know no pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from carbontrack.integrations.pytest_plugin.fixture import CarbonFigures
    from carbontrack.integrations.pytest_plugin.hooks import CarbonPlugin
    from carbontrack.integrations.pytest_plugin.metrics import Metric


MARKER = "carbon_budget"
_NAME = "carbontrack-budgets"
_ERROR_KEY = "carbon_usage_error"
"""Under which a worker of pytest-xdist tells its controller that the run cannot begin."""
_HELP: dict[str, tuple[str | None, str]] = {
    # name: (metavar, help); in the order of the reference page
    "carbon": (None, "measure the energy and emissions of every test"),
    "carbon_budget": ("QUANTITY", "what each test may use at most: '5 mg', '20 J'"),
    "carbon_session_budget": ("QUANTITY", "what all tests together may use at most"),
    "carbon_metric": ("NAME", "reference, measured or auto (the default)"),
    "carbon_repeat": ("N", "run each measured test N times; 1 by default"),
    "carbon_top": ("N", "how many tests the table shows; 10 by default"),
    "carbon_csv": ("PATH", "append a record for each measured test to a CSV file"),
    "carbon_json": ("PATH", "write the session and its tests as JSON"),
    "carbon_benchmark": ("PATH", "write the list that github-action-benchmark reads"),
    "carbon_save": ("PATH", "save the figures as a baseline"),
    "carbon_add": ("PATH", "add the figures to a baseline, as those of one more process"),
    "carbon_compare": ("PATH", "compare with a saved baseline"),
    "carbon_fail_on": ("PERCENT", "fail tests that surely use this much more than the baseline"),
    "carbon_inconclusive": ("WHAT", "pass, warn (the default) or fail where no verdict is sure"),
    "carbon_reference_watts": ("W", "reference metric: watts of a busy core"),
    "carbon_reference_intensity": ("G", "reference metric: g CO2e per kWh"),
}


class Specs:
    """The hook that the plugin offers to others."""

    @pytest.hookspec(firstresult=True)
    def pytest_carbon_metric(self, config: pytest.Config) -> Metric | None:
        """Give a metric of your own, which measures instead of reference and measured."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer `pytest_carbon_metric`."""
    pluginmanager.add_hookspecs(Specs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add each option and its ini twin; None means "not given", so that the ini can win."""
    group = parser.getgroup("carbontrack", "emission budgets (carbontrack)")
    for name, (metavar, text) in _HELP.items():
        option = "--" + name.replace("_", "-")
        if metavar is None:
            group.addoption(option, action="store_true", default=None, help=text)
            parser.addini(name, text, type=_ini_type(name), default=None)
        else:
            group.addoption(option, metavar=metavar, default=None, help=text)
            parser.addini(name, text, type=_ini_type(name), default=None)


def _ini_type(name: str) -> Any:
    """Text, so that we judge it and name its place; in native TOML numbers and booleans too."""
    if pytest.version_tuple >= (9, 2):
        return str | int | float | bool
    # pytest 9.0 and 9.1 know native TOML, but no choice of types: numbers need quotes there
    return "bool" if pytest.version_tuple >= (9, 0) and name == "carbon" else "string"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and start if an option, the ini or the environment asks for it."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(quantity, ..., *, emissions=None, energy=None, repeat=None, scope='call'): "
        "fail the test if it uses more than the quantity, such as '5 mg' or '20 J'; "
        "scope='all' bills its fixtures too",
    )
    if config.option.help or getattr(config.option, "markers", False):
        return  # runs nothing, and may be what helps to set things right
    from carbontrack.config.environment import pytest_twins

    twins = pytest_twins()
    given = {name: config.getoption(name, None) for name in _HELP}
    if twins or any(option is not None for option in given.values()) or _has_ini(config):
        start(config)
    elif _hands_out_tests(config):
        config.pluginmanager.register(_Listener(config))


def _has_ini(config: pytest.Config) -> bool:
    found = {name: _ini(config, name) for name in _HELP}
    found["carbon"] = str(found["carbon"]).lower() not in ("none", "", "false", "0", "no", "off")
    return any(value not in (None, "") and value is not False for value in found.values())


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"carbontrack: ini {name}: {error}") from None


def _hands_out_tests(config: pytest.Config) -> bool:
    """Whether this is the controller of pytest-xdist, which sees reports but no markers."""
    return bool(config.getoption("tx", None)) and not hasattr(config, "workerinput")


def start(config: pytest.Config) -> CarbonPlugin:
    """The running plugin, started if it is not.

    Raises:
        pytest.UsageError: an option, ini value or environment variable cannot be used.
    """
    plugin: CarbonPlugin | None = config.pluginmanager.get_plugin(_NAME)
    if plugin is None:
        from carbontrack.integrations.pytest_plugin.hooks import CarbonPlugin

        plugin = CarbonPlugin.of(config, tuple(_HELP), lambda name: _ini(config, name))
        config.pluginmanager.register(plugin, _NAME)
    return plugin


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Read the markers when everybody else has added theirs, and start if there is one.

    Raises:
        pytest.UsageError: a marker or a setting cannot be used; the message names its place.
    """
    result = yield
    try:
        if config.pluginmanager.has_plugin(_NAME) or any(map(_asks, items)):
            start(config).plan(items, _uses_fixture)
    except pytest.UsageError as error:
        if not hasattr(config, "workerinput"):
            raise
        # a worker that raised would be told as an internal error; without tests it just ends
        items.clear()
        config.workeroutput[_ERROR_KEY] = str(error)  # type: ignore[attr-defined]
    return result


def _asks(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None or _uses_fixture(item)


def _uses_fixture(item: pytest.Item) -> bool:
    """Whether the fixture `carbon` of a test is ours; a project may have its own of that name."""
    if "carbon" not in getattr(item, "fixturenames", ()):
        return False
    known = getattr(item, "_fixtureinfo", None)
    for definition in reversed(getattr(known, "name2fixturedefs", {}).get("carbon", ())):
        if getattr(definition.func, "__module__", None) == __name__:
            return True
        if "carbon" not in definition.argnames:
            return False  # it hides ours; otherwise it is made of the next one
    return False


class _Listener:
    """Starts the controller's side when the first measured test is reported by a worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "carbon"):
            self._config.pluginmanager.unregister(self)
            start(self._config).pytest_runtest_logreport(report)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear from a worker of pytest-xdist that the run cannot begin.

    Raises:
        pytest.UsageError: it cannot.
    """
    found = getattr(node, "workeroutput", {}).get(_ERROR_KEY)
    if found:
        raise pytest.UsageError(found)


@pytest.fixture
def carbon(request: pytest.FixtureRequest) -> CarbonFigures:
    """What this test has used so far: `energy_joules`, `emissions_g`, `basis`, `measure(name)`."""
    return start(request.config).figures(request.node)
