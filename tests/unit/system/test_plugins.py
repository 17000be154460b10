"""Entry points: found by name, near names offered, errors that name the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.system import plugins
from tests.support.plugins import install

SUFFIXES = (".csv", ".db")


def test_a_plugin_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it names is imported when it is loaded, not before."""
    install(monkeypatch, tmp_path, plugins.SINKS, "kafka", "make = dict")
    point = plugins.find(plugins.SINKS, "kafka")

    assert not any(name.startswith("plugin_kafka") for name in sys.modules)
    assert plugins.load(point) is dict
    assert plugins.described(point) == "the plugin 'kafka' of acme-kafka 1.5 (carbontrack.sinks)"


def test_a_misspelt_name_is_refused_with_the_nearest_and_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says what is installed."""
    install(monkeypatch, tmp_path / "a", plugins.METERS, "desk-plug", "")
    install(monkeypatch, tmp_path / "b", plugins.METERS, "pdu", "")

    with pytest.raises(ValueError, match="did you mean 'desk-plug'") as caught:
        plugins.find(plugins.METERS, "desk-plgu")
    assert "installed: pdu, desk-plug" in str(caught.value)


def test_where_nothing_is_installed_the_sentence_says_so() -> None:
    """A group that nobody has."""
    with pytest.raises(ValueError, match=r"group carbontrack\.none; none is installed$"):
        plugins.find("carbontrack.none", "x")


def test_what_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was not there a moment ago is looked for again."""
    with pytest.raises(ValueError, match="names no plugin"):
        plugins.find(plugins.SINKS, "late")
    install(monkeypatch, tmp_path, plugins.SINKS, "late", "make = dict")

    assert plugins.find(plugins.SINKS, "late").name == "late"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library", "no_such_library"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "has no attribute 'make'"),
        ("make = 'text'", "'text', which cannot be called"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_that_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    """Whatever the module does while it is imported."""
    install(monkeypatch, tmp_path, plugins.SINKS, "broken", source)
    with pytest.raises(ConfigError, match=r"acme-broken 1\.5") as caught:
        plugins.load(plugins.find(plugins.SINKS, "broken"))
    assert said in str(caught.value)


def test_a_file_with_a_colon_in_its_name_is_a_file_unless_a_plugin_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was a file before stays one; a plugin's name, or a slip of one, is not taken for it."""
    install(monkeypatch, tmp_path, plugins.SINKS, "parquet", "")

    assert plugins.find_sink("run-12:30.csv", "run-12", SUFFIXES) is None
    found = plugins.find_sink("parquet:runs.db", "parquet", SUFFIXES)
    assert found is not None
    assert found.name == "parquet"
    with pytest.raises(ValueError, match="did you mean 'parquet'"):
        plugins.find_sink("parqet:runs.db", "parqet", SUFFIXES)
    with pytest.raises(ValueError, match="did you mean 'https'"):
        plugins.find_sink("htps:carbon.example/x.csv", "htps", SUFFIXES)
    with pytest.raises(ValueError, match="names no plugin"):
        plugins.find_sink("quokka:runs", "quokka", SUFFIXES)
    with pytest.raises(ValueError, match="http:// or https://"):
        plugins.find_sink("ftp://host/runs.csv", "ftp", SUFFIXES)


def test_who_names_no_plugin_does_not_pay_for_looking(tmp_path: Path) -> None:
    """Neither importlib.metadata nor our module for plugins is loaded by an ordinary block."""
    program = (
        "import sys, carbontrack\n"
        "with carbontrack.track('x', region='FR', output=None): pass\n"
        "with carbontrack.track('y', region='FR', output='y.csv'): pass\n"
        "print([m for m in sys.modules if 'plugin' in m or m == 'importlib.metadata'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
