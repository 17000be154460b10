"""CodeCarbon's parameters: where a value comes from, and what is said of those without effect."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.compat.codecarbon import log
from carbontrack.compat.codecarbon.config import (
    ALL,
    NOT_GIVEN,
    PARAMETERS,
    PLACES,
    Conf,
    external_config,
    signature,
)


@pytest.fixture(autouse=True)
def said() -> Iterator[None]:
    """What was said before this test may be said again."""
    before = set(log._said)
    log._said.clear()
    yield
    log._said.update(before)


def write(folder: Path, text: str) -> Path:
    """A folder with a file of settings."""
    folder.mkdir(exist_ok=True)
    (folder / ".codecarbon.config").write_text(text)
    return folder


def test_an_argument_goes_before_the_environment_the_project_and_the_user(tmp_path: Path) -> None:
    """Each source is taken where the stronger ones say nothing, and the default behind all."""
    home = write(
        tmp_path / "home",
        "[codecarbon]\nproject_name = home\npue = 1.1\nwue=0.1\napi_call_interval=3\n",
    )
    folder = write(tmp_path / "work", "[codecarbon]\nproject_name=work\npue=1.2\nwue=0.2\n")
    environ = {"CODECARBON_PROJECT_NAME": "variable", "codecarbon_Pue": "1.3", "OTHER": "1"}
    external = external_config(home, folder, environ)
    conf = Conf({"project_name": "argument", "wue": NOT_GIVEN}, external)
    found = [conf[name] for name in ("project_name", "pue", "wue", "api_call_interval")]
    assert found == ["argument", 1.3, 0.2, 3]
    assert conf["measure_power_secs"] == 15.0
    assert conf.given == {"project_name"}
    assert conf.named == {"project_name", "pue", "wue", "api_call_interval"}


def test_texts_become_the_values_they_stand_for(tmp_path: Path) -> None:
    """A flag is true for "true" in any case alone; a text that is no number is said and ignored."""
    texts = {"save_to_file": "False", "save_to_logger": "TRUE", "pue": "high", "wue": "0.5"}
    conf = Conf({}, texts)
    assert (conf["save_to_file"], conf["save_to_logger"]) == (False, True)
    assert (conf["pue"], conf["wue"]) == (1.0, 0.5)
    assert Conf({"api_call_interval": "2"}, {})["api_call_interval"] == 2
    assert Conf({"output_dir": tmp_path}, {})["output_dir"] is tmp_path


@pytest.mark.parametrize(
    "text", ["no section", "[other]\na=1\n", "[codecarbon]\nx\n= 3", "[codecarbon]\npue=%d%%\n"]
)
def test_a_file_that_cannot_be_read_is_said_and_ignored(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a broken file nor a foreign one ends a program."""
    folder = write(tmp_path, text)
    conf = Conf({}, external_config(tmp_path / "nowhere", folder, {}))
    assert conf["pue"] == 1.0
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * (text != "[other]\na=1\n")


def test_a_projects_file_names_files_of_rows_alone(tmp_path: Path) -> None:
    """No start-up script of a shell; the user's own file and environment may name any."""
    text = "[codecarbon]\noutput_file = .bashrc\noutput_dir = /home\n"
    project, home = write(tmp_path / "work", text), write(tmp_path / "home", text)
    nowhere = tmp_path / "nowhere"
    assert external_config(nowhere, project, {}) == {"output_dir": "/home"}
    assert external_config(home, nowhere, {})["output_file"] == ".bashrc"
    assert external_config(nowhere, project, {"CODECARBON_OUTPUT_FILE": "x"})["output_file"] == "x"
    write(project, "[codecarbon]\noutput_file = Runs.CSV\n")
    assert external_config(nowhere, project, {}) == {"output_file": "Runs.CSV"}


def test_an_unknown_argument_is_an_error_with_the_nearest_name() -> None:
    """Whichever tracker it is given to."""
    with pytest.raises(TypeError, match="did you mean 'project_name'"):
        Conf({"projct_name": "x"}, {})
    with pytest.raises(TypeError, match="argument of OfflineEmissionsTracker"):
        Conf({"country_iso_code": "FRA"}, {}, PARAMETERS)


def test_a_misspelt_name_in_the_environment_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is no error: these files are those of other programs too."""
    environ = {"CODECARBON_PROJCT_NAME": "x", "CODECARBON_PROJECT_ID": "y", "CODECARBON_ZZZ": "z"}
    for _ in range(2):
        external_config(Path("/nowhere"), Path("/nowhere"), environ)
    [warning] = caplog.records
    assert "did you mean 'project_name'" in warning.getMessage()


NO_COUNTERPART = {
    "save_to_api": True,
    "save_to_prometheus": True,
    "save_to_logfire": True,
    "api_endpoint": "https://api.example.org",
    "api_key": "secret",
    "prometheus_url": "localhost:9091",
    "metadata": {"boamps": {}},
    "force_mode_cpu_load": True,
    "rapl_include_dram": True,
    "rapl_prefer_psys": True,
}


@pytest.mark.parametrize(("name", "value"), NO_COUNTERPART.items())
def test_what_has_no_counterpart_is_said_once_with_the_way_out(
    name: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """The program goes on; the message names what to do instead, and no secret."""
    for _ in range(2):
        Conf({name: value}, {}).warn_of_others()
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert warning.getMessage() == f"{name} does nothing in carbontrack: {ALL[name].instead}"
    assert "secret" not in warning.getMessage()


def test_the_table_says_of_each_parameter_whether_it_has_a_counterpart() -> None:
    """These and no others have none."""
    assert {name for name, one in ALL.items() if one.instead} == NO_COUNTERPART.keys()


def test_a_key_that_a_file_holds_for_other_programs_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """CodeCarbon's commands write such files; only what switches something on is told."""
    external = {"api_key": "k", "api_endpoint": "https://x", "save_to_api": "true"}
    Conf({}, external).warn_of_others()
    assert [r.getMessage().split()[0] for r in caplog.records] == ["save_to_api"]


def test_the_signature_names_the_parameters() -> None:
    """Editors, `help` and programs that ask `inspect` see them, by position where CodeCarbon's."""
    found = signature(PARAMETERS, PLACES).parameters
    assert list(found) == ["self", *PARAMETERS, *PLACES]
    assert found["metadata"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert found["region"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(PARAMETERS)[:8] == [
        *("project_name", "measure_power_secs", "api_call_interval", "api_endpoint", "api_key"),
        *("output_dir", "output_file", "output_methods"),
    ]


def test_levels_and_preambles_are_those_of_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    """A level in any spelling; one that is none is said, and a preamble stands before messages."""
    before = log.LOGGER.level
    try:
        log.set_level("error")
        assert log.LOGGER.level == logging.ERROR
        log.set_level("30")
        assert log.LOGGER.level == logging.WARNING
        log.set_level(10)
        assert log.LOGGER.level == logging.DEBUG
        log.set_level("loud")
        log.set_preamble("mine")
        log.LOGGER.warning("%d g", 3)
        assert [r.getMessage() for r in caplog.records] == [
            "log_level='loud' is not a log level and is ignored",
            "[mine] 3 g",
        ]
    finally:
        log.set_preamble(None)
        log.LOGGER.setLevel(before)


def test_what_a_level_has_kept_back_is_not_said_yet(caplog: pytest.LogCaptureFixture) -> None:
    """A later tracker with another level says it."""
    before = log.LOGGER.level
    try:
        for level in ("error", "info", "info"):
            log.set_level(level)
            log.warn_once("kept back")
    finally:
        log.LOGGER.setLevel(before)
    assert [r.getMessage() for r in caplog.records] == ["kept back"]


def test_a_program_without_logging_sees_who_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with our name; a program that has handlers gets the messages there alone."""
    log.LOGGER.parent, before = None, log.LOGGER.parent
    try:
        log.warn_once("a message for this test")
        kept = logging.NullHandler()
        log.LOGGER.addHandler(kept)
        log.warn_once("another message for this test")
        log.LOGGER.removeHandler(kept)
    finally:
        log.LOGGER.parent = before
    assert capsys.readouterr().err == "carbontrack: a message for this test\n"
