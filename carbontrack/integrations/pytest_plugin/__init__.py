"""The pytest plugin: options, the marker and the fixture, and nothing here that costs.

The other modules of this package are loaded when a run asks for them: by an option, by its ini key
or environment variable, by a marker on a collected test, or by a test that uses the fixture.
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
"""The key under which a pytest-xdist worker tells its controller that the run cannot start."""
HELP: dict[str, tuple[str | None, str]] = {
    # name: (metavar, help)
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
    "carbon_fail_on": ("PERCENT", "fail tests that clearly use this much more than the baseline"),
    "carbon_inconclusive": (
        "WHAT",
        "pass, warn (the default) or fail where the result is inconclusive",
    ),
    "carbon_reference_watts": ("W", "reference metric: watts of a busy core"),
    "carbon_reference_intensity": ("G", "reference metric: g CO2e per kWh"),
}
"""The help of each option. pytest asks for it in every run, and only a run that asks for
carbontrack loads `options.Options`, which declares the rest: type, default and reader."""


class Specs:
    """The hook that other plugins can implement."""

    @pytest.hookspec(firstresult=True)
    def pytest_carbon_metric(self, config: pytest.Config) -> Metric | None:
        """Return a metric of your own to measure by, in place of reference and measured."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer `pytest_carbon_metric`."""
    pluginmanager.add_hookspecs(Specs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add each option and its ini key; None means "not given", so that the ini value counts."""
    group = parser.getgroup("carbontrack", "emission budgets (carbontrack)")
    for name, (metavar, text) in HELP.items():
        takes = {"action": "store_true"} if metavar is None else {"metavar": metavar}
        group.addoption("--" + name.replace("_", "-"), default=None, help=text, **takes)
        parser.addini(name, text, type=_ini_type(name), default=None)


def _ini_type(name: str) -> Any:
    """Text, so that errors can name its place; in native TOML numbers and booleans too."""
    if pytest.version_tuple >= (9, 2):
        return str | int | float | bool
    # pytest 9.0 and 9.1 read native TOML, but allow one type per key: numbers need quotes there
    return "bool" if pytest.version_tuple >= (9, 0) and name == "carbon" else "string"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and start if an option, the ini or the environment asks for it."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(quantity, ..., *, emissions=None, energy=None, repeat=None, scope='call'): "
        "fail the test if it uses more than the quantity, such as '5 mg' or '20 J'; "
        "scope='all' includes its fixtures",
    )
    if config.option.help or getattr(config.option, "markers", False):
        return  # no test runs, and a bad setting must not hide the help
    from carbontrack.config.environment import pytest_variables

    variables = pytest_variables()
    given = {name: config.getoption(name, None) for name in HELP}
    if variables or any(option is not None for option in given.values()) or _has_ini(config):
        start(config)
    elif _is_controller(config):
        config.pluginmanager.register(_Listener(config))


def _has_ini(config: pytest.Config) -> bool:
    found = {name: _ini(config, name) for name in HELP}
    found["carbon"] = str(found["carbon"]).lower() not in ("none", "", "false", "0", "no", "off")
    return any(value not in (None, "") and value is not False for value in found.values())


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (TypeError, ValueError) as error:
        from carbontrack.text import visible

        raise pytest.UsageError(visible(f"carbontrack: ini {name}: {error}")) from None


def _is_controller(config: pytest.Config) -> bool:
    """Whether this process is the controller of pytest-xdist, which sees reports but no markers."""
    return bool(config.getoption("tx", None)) and not hasattr(config, "workerinput")


def start(config: pytest.Config) -> CarbonPlugin:
    """The running plugin; it is started at the first call.

    Raises:
        pytest.UsageError: an option, ini value or environment variable cannot be used.
    """
    plugin: CarbonPlugin | None = config.pluginmanager.get_plugin(_NAME)
    if plugin is None:
        from carbontrack.integrations.pytest_plugin.hooks import CarbonPlugin

        plugin = CarbonPlugin.of(config, lambda name: _ini(config, name))
        config.pluginmanager.register(plugin, _NAME)
        if plugin.output is not None:
            config.pluginmanager.register(plugin.output, f"{_NAME}-output")
    return plugin


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Read the markers after all other plugins have added theirs, and start if there is one.

    Raises:
        pytest.UsageError: a marker or a setting cannot be used; the message names its place.
    """
    result = yield
    try:
        if config.pluginmanager.has_plugin(_NAME) or any(map(_asks, items)):
            start(config).plan(items, MARKER, _uses_fixture)
    except pytest.UsageError as error:
        if not hasattr(config, "workerinput"):
            raise
        # pytest reports an exception in a worker as an internal error; without tests it just ends
        items.clear()
        config.workeroutput[_ERROR_KEY] = str(error)  # type: ignore[attr-defined]
    return result


def _asks(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None or _uses_fixture(item)


def _uses_fixture(item: pytest.Item) -> bool:
    """Whether a test uses our fixture `carbon`; a project may have its own of that name."""
    if "carbon" not in getattr(item, "fixturenames", ()):
        return False
    known = getattr(item, "_fixtureinfo", None)
    for definition in reversed(getattr(known, "name2fixturedefs", {}).get("carbon", ())):
        if getattr(definition.func, "__module__", None) == __name__:
            return True
        if "carbon" not in definition.argnames:
            return False  # it replaces ours; otherwise it uses the next one
    return False


class _Listener:
    """Starts the controller's side when the first measured test is reported by a worker."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "carbon"):
            self._config.pluginmanager.unregister(self)
            output = start(self._config).output
            if output is not None:
                output.pytest_runtest_logreport(report)  # this hook is being called already


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run if a pytest-xdist worker reports that it cannot start.

    Raises:
        pytest.UsageError: the worker's message.
    """
    found = getattr(node, "workeroutput", {}).get(_ERROR_KEY)
    if found:
        raise pytest.UsageError(found)


@pytest.fixture
def carbon(request: pytest.FixtureRequest) -> CarbonFigures:
    """The figures of this test so far: `energy_joules`, `emissions_g`, `basis`, `measure(name)`."""
    return start(request.config).figures(request.node)
