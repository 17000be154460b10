"""Plugins in settings: found before anything starts, and not directed by a project's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.system import plugins
from tests.support.plugins import install


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter "plug" and a sink "lines"; a project whose state folder is its user's."""
    install(monkeypatch, tmp_path / "meters", plugins.METERS, "plug", "make = list")
    install(monkeypatch, tmp_path / "sinks", plugins.SINKS, "lines", "make = list")
    install(monkeypatch, tmp_path / "broken", plugins.SINKS, "broken", "import no_such_library")
    (tmp_path / "project").mkdir()


def settings(
    home: Path, arguments: Mapping[str, object] | None = None, **variables: str
) -> Settings:
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": f"{home}/cfg", **variables}
    here = Environment.take(environ=environ, working_folder=str(home / "project"))
    return load_settings(arguments or {}, here)


def write_project(home: Path, text: str) -> None:
    (home / "project" / "pyproject.toml").write_text(f"[tool.carbontrack]\n{text}\n")


def test_plugins_are_named_like_other_lists(tmp_path: Path) -> None:
    """With or without an address, each once."""
    found = settings(tmp_path, CARBONTRACK_METER_PLUGINS="plug:http://h/x, plug,plug")
    assert found.meter_plugins == ("plug:http://h/x", "plug")
    assert settings(tmp_path, {"meter_plugins": "none"}).meter_plugins == ()


@pytest.mark.parametrize(
    ("variable", "text", "near"),
    [
        ("CARBONTRACK_METER_PLUGINS", "plgu:x", "did you mean 'plug'"),
        ("CARBONTRACK_OUTPUT", "linse:x", "did you mean 'lines'"),
        ("CARBONTRACK_OUTPUT", "linse://x", "did you mean 'lines'"),
    ],
)
def test_an_unknown_plugin_is_an_error_that_names_the_place(
    tmp_path: Path, variable: str, text: str, near: str
) -> None:
    """With the nearest one and those installed."""
    with pytest.raises(ConfigError, match=f"^{variable}='{text}'.*names no plugin") as caught:
        settings(tmp_path, **{variable: text})
    assert near in str(caught.value)
    assert "installed: " in str(caught.value)


def test_an_output_may_be_a_plugin_a_file_or_a_drive(tmp_path: Path) -> None:
    """A file whose name holds a colon is spelt so that nothing takes it for a plugin later."""
    outputs = ["lines:x", "lines://h", r"C:\runs.csv", "run-12:30.csv", "./lines:x.csv"]
    read = settings(tmp_path, {"output": outputs}).output
    assert read == ("lines:x", "lines://h", r"C:\runs.csv", "./run-12:30.csv", "./lines:x.csv")


def test_a_plugin_that_cannot_be_imported_is_an_error_where_it_would_write(tmp_path: Path) -> None:
    """Before anything starts; a command that writes nothing does not import it."""
    given = {"output": "broken:x"}
    with pytest.raises(ConfigError, match=r"output='broken:…' \(argument\).*acme-broken 1\.5"):
        settings(tmp_path, given)
    here = Environment.take(environ={}, working_folder=str(tmp_path))
    assert load_settings(given, here, writes=False).output == ("broken:x",)


@pytest.mark.parametrize("text", ["output = 'lines:/home/me/x'", "meter_plugins = 'plug:http://h'"])
def test_a_project_file_cannot_hand_a_plugin_an_address(tmp_path: Path, text: str) -> None:
    """It may be a file of yours, or where a secret of the plugin would go."""
    write_project(tmp_path, text)
    with pytest.raises(ConfigError, match="may name a plugin but not give it an address"):
        settings(tmp_path)

    mine = {"output": "lines:mine", "meter_plugins": "plug:mine"}
    assert settings(tmp_path, mine).output == ("lines:mine",), "what overrides it is ours"


def test_a_project_file_may_name_a_plugin(tmp_path: Path) -> None:
    """As it may choose any other way of measuring."""
    write_project(tmp_path, "output = 'lines:'\nmeter_plugins = ['plug']")
    found = settings(tmp_path)
    assert (found.output, found.meter_plugins) == (("lines:",), ("plug",))


def test_whose_choice_the_folder_of_journals_is(tmp_path: Path) -> None:
    """A project's file may choose it, and is then not trusted with what stands in there."""
    assert settings(tmp_path).owns_state_dir
    write_project(tmp_path, "state_dir = 'state'")
    assert not settings(tmp_path).owns_state_dir
    assert settings(tmp_path, CARBONTRACK_STATE_DIR=str(tmp_path)).owns_state_dir
