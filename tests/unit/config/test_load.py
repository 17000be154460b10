"""Where settings are found, who wins, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from carbontrack.config import environment, load
from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError, UnknownSettingError
from carbontrack.grid.live.choose import SERVICES
from carbontrack.grid.region import HINTS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder without any configuration, and a project folder in it."""
    (tmp_path / "project" / "deep").mkdir(parents=True)
    return tmp_path


def here(folder: Path, **environ: str) -> Environment:
    """The environment of a program that stands in a folder."""
    return Environment.take(environ=environ, working_folder=str(folder))


def settings(
    home: Path, arguments: Mapping[str, object] | None = None, **variables: str
) -> Settings:
    """Load with nothing but what the test hands in."""
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": f"{home}/cfg", **variables}
    return load_settings(arguments or {}, here(home / "project" / "deep", **environ))


def write_user(home: Path, text: str) -> Path:
    path = home / "cfg" / "carbontrack" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_project(home: Path, text: str) -> Path:
    path = home / "project" / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_configuration_all_is_default(home: Path) -> None:
    """Nothing said, nothing changed, and every origin says so."""
    found = settings(home)

    assert found == Settings()
    assert set(found.origins.values()) == {"default"}


def test_the_stronger_place_wins_setting_by_setting(home: Path) -> None:
    """Argument, then environment, then pyproject.toml, then the user's own file."""
    user = write_user(home, 'region = "US"\npue = 1.4\nscope = "machine"\nspans = "all"\n')
    project = write_project(home, '[tool.carbontrack]\nregion = "DE"\npue = 1.3\nscope = "process"')

    found = settings(home, {"region": "FR"}, CARBONTRACK_REGION="SE", CARBONTRACK_PUE="1.2")

    assert (found.region, found.pue, found.scope, found.spans) == ("FR", 1.2, "process", "all")
    assert [found.origins[name] for name in ("region", "pue", "scope", "spans", "wue")] == [
        "argument",
        "environment",
        str(project),
        str(user),
        "default",
    ]


def test_an_argument_of_none_is_not_given_except_for_output(home: Path) -> None:
    """Command lines pass None for what was left out; output=None asks for silence."""
    found = settings(home, {"region": None, "output": None}, CARBONTRACK_REGION="SE")

    assert found.region == "SE"
    assert found.output == ()


def test_only_the_nearest_project_file_counts(home: Path) -> None:
    """A project inside another one is its own master, even when it says nothing of us."""
    write_project(home, '[tool.carbontrack]\nregion = "DE"')
    assert settings(home).region == "DE"

    (home / "project" / "deep" / "pyproject.toml").write_text("[project]\nname = 'x'")
    assert settings(home).region is None


@pytest.mark.parametrize(
    "text",
    [
        "[ tool . carbontrack ]\nregion = 'DE'",
        '[tool."carbontrack"]\nregion = "DE"',
        "[tool]\ncarbontrack = {region = 'DE'}",
        "tool.carbontrack.region = 'DE'",
        "tool = {carbontrack = {region = 'DE'}}",
    ],
)
def test_every_spelling_of_the_table_is_read(home: Path, text: str) -> None:
    """TOML has several ways to write one table, and the short cut past the parser knows them."""
    write_project(home, text)

    assert settings(home).region == "DE"


def test_a_project_that_only_depends_on_us_is_not_parsed(home: Path) -> None:
    """Broken TOML that does not concern us is none of our business."""
    write_project(home, "[project]\ndependencies = ['carbontrack'\n[tool.other]\n")

    assert settings(home) == Settings()


def test_a_user_file_may_be_handed_in(home: Path, tmp_path: Path) -> None:
    """Tests and tools can bring a file of their own."""
    path = tmp_path / "mine.toml"
    path.write_text("interval_s = 5")

    found = load_settings({}, here(home, HOME=str(home)), user_config=path)

    assert found.interval_s == 5.0
    assert found.origins["interval_s"] == str(path)


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        ({"CARBONTRACK_REGOIN": "FR"}, {}, "CARBONTRACK_REGOIN: .* 'CARBONTRACK_REGION'"),
        ({"CARBONTRACK_REGOIN": ""}, {}, "CARBONTRACK_REGOIN"),
        ({}, {"regoin": "FR"}, "argument regoin: .* 'region'"),
        ({}, {"regoin": None}, "argument regoin"),
    ],
)
def test_a_misspelt_name_is_an_error_that_knows_better(
    home: Path, variables: dict[str, str], arguments: dict[str, object], says: str
) -> None:
    """A setting that silently does nothing is worse than none."""
    with pytest.raises(UnknownSettingError, match=says):
        settings(home, arguments, **variables)


def test_a_name_that_is_like_no_other_says_where_the_names_are(home: Path) -> None:
    """Such as an argument of another tool."""
    with pytest.raises(UnknownSettingError, match="`carbontrack doctor --all` lists the settings"):
        settings(home, {"country_iso_code": "DEU"})


def test_a_misspelt_name_in_a_file_names_the_file(home: Path) -> None:
    """The path is half of the cure."""
    path = write_project(home, "[tool.carbontrack]\nregoin = 'FR'")
    with pytest.raises(UnknownSettingError) as caught:
        settings(home)
    assert str(path) in str(caught.value)
    assert "did you mean 'region'" in str(caught.value)

    path.unlink()
    path = write_user(home, "intervall_s = 1")
    with pytest.raises(UnknownSettingError) as caught:
        settings(home)
    assert str(path) in str(caught.value)
    assert "did you mean 'interval_s'" in str(caught.value)


def test_a_bad_value_names_its_place_even_when_overridden(home: Path) -> None:
    """A mistake is found when it is made, not when the override goes away."""
    with pytest.raises(ConfigError, match="CARBONTRACK_INTERVAL_S='0' is not a number of seconds"):
        settings(home, {"interval_s": 1}, CARBONTRACK_INTERVAL_S="0")

    with pytest.raises(ConfigError, match="argument cpu_tdp_w=-65"):
        settings(home, {"cpu_tdp_w": -65})


def test_our_other_variables_are_no_misspelt_settings(home: Path) -> None:
    """The ids of parent and job, and the test plugin's options, share the prefix."""
    found = settings(home, CARBONTRACK_PARENT_ID="r1", CARBONTRACK_JOB_ID="j1",
                     CARBONTRACK_PYTEST_BUDGET="5 mg")  # fmt: skip

    assert found == Settings()


def test_an_empty_variable_is_an_unset_one(home: Path) -> None:
    """CI systems define variables that they leave empty."""
    assert settings(home, CARBONTRACK_REGION="", CARBONTRACK_OUTPUT=" ") == Settings()


def test_broken_files_of_ours_are_errors(home: Path) -> None:
    """Half a configuration is not obeyed in silence."""
    path = write_project(home, "[tool.carbontrack]\nregion = \n")
    with pytest.raises(ConfigError, match=r"pyproject.toml is not valid TOML"):
        settings(home)
    path.write_text("[tool]\ncarbontrack = 3")
    with pytest.raises(ConfigError, match="is not a table"):
        settings(home)
    path.unlink()
    write_user(home, "region = \n")
    with pytest.raises(ConfigError, match=r"config.toml is not valid TOML"):
        settings(home)


@pytest.mark.parametrize("garbage", [b"region = '\xff'", bytes(512)])
def test_garbage_where_nobody_looked_for_it_stops_nobody(home: Path, garbage: bytes) -> None:
    """It counts as absent, and a note says so; where it has worked before, it is an error."""
    path = write_user(home, "")
    path.write_bytes(garbage)
    with pytest.warns(UserWarning, match=r"config.toml cannot be read: .* are not used"):
        assert settings(home) == Settings()
    write_project(home, "").write_bytes(b"[tool.carbontrack]\nregion = '\xff'")
    with pytest.warns(UserWarning, match=r"pyproject.toml cannot be read: .* are not used"):
        assert settings(home) == Settings()
    with pytest.raises(ConfigError, match="cannot be read"):
        load.load_settings({}, here(home / "project"), strict=True)


def test_the_emergency_switch_needs_no_sound_configuration(home: Path) -> None:
    """Whoever turns us off must not have to repair our settings first."""
    write_project(home, "[tool.carbontrack]\nnonsense = 1")

    found = settings(home, CARBONTRACK_DISABLE="1", CARBONTRACK_TYPO="x", CARBONTRACK_PUE="bad")

    assert found.disable
    assert found.origins["disable"] == "environment"


def test_the_emergency_switch_yields_to_an_argument_and_to_no(home: Path) -> None:
    """The order of precedence has no exception."""
    assert not settings(home, {"disable": False}, CARBONTRACK_DISABLE="1").disable
    assert not settings(home, CARBONTRACK_DISABLE="0").disable
    with pytest.raises(ConfigError, match="CARBONTRACK_DISABLE='maybe'"):
        settings(home, CARBONTRACK_DISABLE="maybe")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("no/such/place/x.csv", "there is no directory"),
        ("folder.csv", "is a directory"),
        ("x" * 300 + ".csv", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_said_before_the_start(
    home: Path, output: str, says: str
) -> None:
    """Nobody wants to learn after a week that the week was not written down."""
    (home / "project" / "deep" / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=says):
        settings(home, {"output": output})

    environ = {"HOME": str(home)}
    reader = load_settings(
        {"output": output}, here(home / "project" / "deep", **environ), writes=False
    )
    assert reader.output == (output,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_said_before_the_start(home: Path) -> None:
    """The same for a directory without permission."""
    (home / "closed").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="permission denied"):
        settings(home, {"output": f"{home}/closed/x.csv"})
    (home / "closed").chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        settings(home, {"output": f"{home}/closed/x.csv"})


@pytest.mark.parametrize(
    "text",
    [
        "output = 'https://evil.example/x'",
        "output = ['a.csv', 'https://evil.example/x']",
        "state_dir = '/tmp/planted'",
    ],
)
def test_a_project_file_cannot_lead_a_token_away(home: Path, text: str) -> None:
    """A stranger's checkout neither names the address nor the journal that a token goes to."""
    write_project(home, f"[tool.carbontrack]\n{text}")
    with pytest.raises(ConfigError, match="may not decide where a token is sent") as caught:
        settings(home, CARBONTRACK_HTTP_TOKEN="hush")
    assert "hush" not in str(caught.value)

    write_user(home, "http_token = 'hush'")
    with pytest.raises(ConfigError, match="may not decide where a token is sent"):
        settings(home)


def test_a_project_file_cannot_put_its_token_beside_our_address(home: Path) -> None:
    """Our records would land in a stranger's account."""
    write_project(home, "[tool.carbontrack]\nhttp_token = 'theirs'")
    with pytest.raises(ConfigError, match="may not decide where a token is sent"):
        settings(home, {"output": "https://ours.example/"})


def test_a_project_file_may_post_without_a_token_of_ours(home: Path) -> None:
    """A team's collector needs no secret, or has its token beside its address."""
    write_project(home, "[tool.carbontrack]\noutput = 'https://team.example/'")
    assert settings(home).output == ("https://team.example/",)

    write_project(
        home, "[tool.carbontrack]\noutput = 'https://team.example/'\nhttp_token = 'shared'"
    )
    assert settings(home).http_token == "shared"
    assert settings(home, {"output": "own.csv"}).output == ("own.csv",)


def test_the_error_names_the_line_that_the_user_may_add(home: Path) -> None:
    """Where the token is, the address has to be named, without its query being shown."""
    write_project(home, "[tool.carbontrack]\noutput = ['a.csv', 'https://team.example/x?key=hush']")
    with pytest.raises(ConfigError) as caught:
        settings(home, CARBONTRACK_HTTP_TOKEN="t")
    line = "CARBONTRACK_OUTPUT=a.csv,https://team.example/x in the environment, next to http_token"
    assert line in str(caught.value)
    with pytest.raises(ConfigError, match=r"the argument output='a.csv,https://team.example/x'"):
        settings(home, {"http_token": "t"})
    write_user(home, "http_token = 't'")
    with pytest.raises(ConfigError, match=r"output = 'a.csv,.*' in /.*/config.toml, next to"):
        settings(home)

    named = {"CARBONTRACK_HTTP_TOKEN": "t", "CARBONTRACK_OUTPUT": "https://team.example/x"}
    assert settings(home, **named).output == ("https://team.example/x",)


@pytest.mark.parametrize("source", ["electricitymaps", "energycharts,WattTime", "a-plugin"])
def test_a_project_file_cannot_choose_who_gets_the_live_token(home: Path, source: str) -> None:
    """Each service has tokens of its own, and ours may be for another one."""
    write_project(home, f"[tool.carbontrack]\nintensity_source = '{source}'")
    with pytest.raises(ConfigError, match="may not decide where a token is sent") as caught:
        settings(home, CARBONTRACK_LIVE_TOKEN="hush")
    assert f"CARBONTRACK_INTENSITY_SOURCE={source} in the environment" in str(caught.value)
    assert "hush" not in str(caught.value)

    named = {"CARBONTRACK_LIVE_TOKEN": "hush", "CARBONTRACK_INTENSITY_SOURCE": source}
    assert settings(home, **named).live_token == "hush"


def test_a_project_file_may_choose_a_service_that_takes_no_token(home: Path) -> None:
    """Whatever other tokens there are."""
    names = [name for name, (_, needs_token) in SERVICES.items() if not needs_token]
    write_project(home, f"[tool.carbontrack]\nintensity_source = {[*names, 'table']}")
    assert settings(home, CARBONTRACK_LIVE_TOKEN="hush").intensity_source == (*names, "table")
    assert {*names, "table"} == load._WITHOUT_TOKEN


def test_a_projects_token_may_be_used_beside_our_state_folder(home: Path) -> None:
    """Nothing of ours is directed by it: a token goes to the addresses beside it only."""
    write_project(
        home, "[tool.carbontrack]\noutput = 'https://team.example/'\nhttp_token = 'shared'"
    )
    assert settings(home, CARBONTRACK_STATE_DIR=str(home)).http_token == "shared"


@pytest.mark.parametrize(
    "output",
    [
        "htps://carbon.example/?key=hush",
        "ftp://carbon.example/x?key=hush",
        "a.csv,htps://carbon.example/?key=hush",
        '["a.csv", "htps://carbon.example/?key=hush"]',
        "https:///x?key=hush",
        "https://me:hush@carbon.example/x",
    ],
)
def test_no_query_is_quoted_in_an_error(home: Path, output: str) -> None:
    """It often holds a key, and errors end up in logs."""
    with pytest.raises(ConfigError) as caught:
        settings(home, CARBONTRACK_OUTPUT=output)
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        settings(home, {"output": [output, "/nowhere/at/all/x.csv"]})
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        settings(home, {"output": ["https://carbon.example/?key=hush", "/nowhere/at/all/x.csv"]})
    assert "hush" not in str(caught.value)


def test_the_repr_of_settings_shows_no_secret(home: Path) -> None:
    """Neither tokens, nor the query of an address, nor what is handed to a plugin."""
    found = settings(home, {"output": ["https://carbon.example/x?key=hush"], "http_token": "hush"})
    assert "output=('https://carbon.example/x',)" in repr(found)
    assert "hush" not in repr(found)
    assert repr(found).startswith("Settings(region=None, cloud=None, ")


def test_neither_token_nor_password_is_quoted_in_an_error(home: Path) -> None:
    """Errors end up in logs."""
    with pytest.raises(ConfigError) as caught:
        settings(home, CARBONTRACK_HTTP_TOKEN="hush hush")
    assert "hush" not in str(caught.value)

    with pytest.raises(ConfigError) as caught:
        settings(home, CARBONTRACK_OUTPUT="https://me:hush@example.org/")
    assert "hush" not in str(caught.value)


def test_a_plain_start_parses_and_imports_nothing(home: Path) -> None:
    """Without a configuration file no parser, no platformdirs and no difflib is loaded."""
    code = (
        "import sys, carbontrack.config.load as c; c.load_settings();"
        "print([m for m in ('tomllib', 'tomli', 'platformdirs', 'difflib') if m in sys.modules])"
    )
    environ = {"HOME": str(home), "PYTHONPATH": str(Path(load.__file__).parents[2])}

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )

    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_state_folder_is_the_users_unless_set(home: Path) -> None:
    """Journals live where the system keeps state."""
    environ = {"HOME": str(home), "XDG_STATE_HOME": f"{home}/st"}

    assert load.state_path(Settings(state_dir="/x"), here(home, **environ)) == Path("/x")
    if sys.platform == "linux":
        assert load.state_path(Settings(), here(home, **environ)) == home / "st" / "carbontrack"
        environ["XDG_STATE_HOME"] = "relative"
        assert (
            load.state_path(Settings(), here(home, **environ)) == home / ".local/state/carbontrack"
        )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs decides")
def test_a_user_without_a_home_has_state_and_no_configuration(home: Path) -> None:
    """A container may run as a user that nobody has heard of."""
    environ = {"HOME": "not/absolute"}

    assert load_settings({}, here(home, **environ)) == Settings()
    folder = load.state_path(Settings(), here(home, **environ))
    assert folder.is_absolute()
    assert folder.name == f"carbontrack-{os.getuid()}"


def test_our_folders_are_those_of_platformdirs() -> None:
    """The short cut on Linux says what the library would say."""
    import platformdirs

    expected = platformdirs.user_state_path("carbontrack", appauthor=False)
    assert load.state_path(Settings()) == expected


def test_a_parent_is_carried_to_the_child() -> None:
    """A child's environment is ours with the parent's id, and the child reads it back."""
    child = environment.child_environ("r-1", {"A": "b"})

    assert child == {"A": "b", "CARBONTRACK_PARENT_ID": "r-1"}
    assert environment.parent_id(child) == "r-1"


def test_a_job_is_carried_to_the_child() -> None:
    """A child belongs to the job that is told to it, whatever its environment says otherwise."""
    inherited = {"CARBONTRACK_JOB_ID": "outer", "SLURM_JOB_ID": "17"}

    assert environment.child_environ(None, inherited) == inherited
    child = environment.child_environ("r-1", inherited, job_id="j-1")
    assert environment.launch(child).job_id == "j-1"


@pytest.mark.parametrize("text", ["", "  ", "x" * 129, "a\nb", "é"])
def test_a_strange_parent_is_no_parent(text: str) -> None:
    """The id goes into a record, so it must look like one."""
    assert environment.parent_id({"CARBONTRACK_PARENT_ID": text}) is None


def test_hints_of_clouds_are_handed_on_as_they_are() -> None:
    """Judging them is the region's task; an empty one is none."""
    environ = {"AWS_REGION": "eu-west-3", "REGION_NAME": " ", "HOME": "/root"}

    assert environment.cloud_hints(HINTS, environ) == {"AWS_REGION": "eu-west-3"}


def test_small_facts_of_the_environment() -> None:
    """Unset is None; what is set comes back as it stands."""
    assert environment.visible_gpus({}) is None
    assert environment.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ""
    variables = {"HIP_VISIBLE_DEVICES": "", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "OTHER": "x"}
    known = (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("HIP_VISIBLE_DEVICES", ""))
    assert environment.gpu_variables(variables) == known
    taken = Environment.take(environ=variables, working_folder="/")
    assert taken.gpu_variables == known
    part = taken.for_tracker(state_dir=None, has_relative_output=False)
    assert part.gpu_variables == known
    assert environment.tz({}) is None
    assert environment.tz({"TZ": ":Europe/Paris"}) == "Europe/Paris"
    assert environment.no_color({"NO_COLOR": "1"})
    assert not environment.no_color({"NO_COLOR": ""})
    assert environment.dumb_terminal({})
    assert environment.dumb_terminal({"TERM": "dumb"})
    assert not environment.dumb_terminal({"TERM": "xterm-256color"})


class Vanishing(dict[str, str]):
    """Variables of which one is removed between the look at all names and the look at its text."""

    def __iter__(self) -> Iterator[str]:
        return iter([*super().__iter__(), "TZ", "CARBONTRACK_REGION"])


def test_a_variable_that_another_thread_removes_is_not_set(home: Path) -> None:
    """The environment may change while it is read; what has gone has gone."""
    found = Environment.take(environ=Vanishing(HOME=str(home)), working_folder=str(home))
    assert (found.time_zone, found.variables) == (None, ())
    assert found.state_folder == f"{home}/.local/state/carbontrack"


def test_trackers_are_told_apart_by_what_they_depend_on(home: Path) -> None:
    """Not by variables that only settings come from, nor by a rank that is set later."""

    def key(state_dir: str | None = None, **environ: str) -> Environment:
        taken = here(home, HOME=str(home), **environ)
        return taken.for_tracker(state_dir=state_dir, has_relative_output=False)

    assert key() == key(CARBONTRACK_REGION="FR") == key(RANK="0", WORLD_SIZE="2")
    assert key() != key(TZ="Europe/Paris")
    assert key() != key(CUDA_VISIBLE_DEVICES="0")
    assert key() != key(XDG_STATE_HOME=f"{home}/elsewhere")
    assert key("/var/x") == key("/var/x", XDG_STATE_HOME=f"{home}/elsewhere")
