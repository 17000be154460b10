"""The plugin's options: three places, one meaning, and a complaint that names the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carbontrack.errors import ConfigError
from carbontrack.integrations.pytest_plugin.options import Options, plain_id, resolve
from carbontrack.units import parse_quantity

PLACES = ("option", "ini", "environment")
FIELDS = [field.name for field in fields(Options)]
NAMES = [name if name == "carbon" else f"carbon_{name}" for name in FIELDS]


def resolved(folder: Path, **given: Mapping[str, Any]) -> Options:
    """The options of a run in a folder, from what each place gives under the ini's names."""
    ini, environment = given.get("ini", {}), given.get("environment", {})
    return resolve(
        option=given.get("option", {}).get,
        ini=ini.get,
        environ={name.removeprefix("carbon_"): value for name, value in environment.items()},
        rootdir=folder,
        cwd=folder,
    )


def spelt(place: str, name: str) -> str:
    """An option as its place writes it."""
    return {
        "option": f"--{name.replace('_', '-')}",
        "ini": f"ini {name}",
        "environment": f"CARBONTRACK_PYTEST_{name.removeprefix('carbon_').upper()}",
    }[place]


USABLE: list[tuple[str, str, Any]] = [
    ("carbon", "true", True),
    ("carbon_budget", "2 J", parse_quantity("2 J")),
    ("carbon_session_budget", "3 mg", parse_quantity("3 mg")),
    ("carbon_metric", "reference", "reference"),
    ("carbon_metric", "measured", "measured"),
    ("carbon_repeat", "3", 3),
    ("carbon_top", "1", 1),
    ("carbon_csv", "a.csv", Path("a.csv")),
    ("carbon_json", "a.json", Path("a.json")),
    ("carbon_benchmark", "b.json", Path("b.json")),
    ("carbon_save", "s.json", Path("s.json")),
    ("carbon_add", "s.json", Path("s.json")),
    ("carbon_compare", "base.json", Path("base.json")),
    ("carbon_inconclusive", "fail", "fail"),
    ("carbon_reference_watts", "9.5", 9.5),
    ("carbon_reference_intensity", "123", 123.0),
]
ASKS_TO_MEASURE = {
    "carbon", "carbon_budget", "carbon_session_budget", "carbon_csv", "carbon_json",
    "carbon_benchmark", "carbon_save", "carbon_add", "carbon_compare",
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("name", "value", "meaning"), USABLE)
def test_each_option_means_the_same_in_each_place(
    tmp_path: Path, place: str, name: str, value: str, meaning: object
) -> None:
    """Alone, without help from any other; and all others keep their defaults."""
    (tmp_path / "base.json").touch()
    if isinstance(meaning, Path):
        meaning = tmp_path / meaning
    found = resolved(tmp_path, **{place: {name: value}})

    assert found == Options(**{name.removeprefix("carbon_"): meaning})
    assert found.measures_all is (name in ASKS_TO_MEASURE)


def test_every_option_is_tried() -> None:
    """A new one is not forgotten here; the limit of a comparison has a test of its own."""
    assert {name for name, _, _ in USABLE} == set(NAMES) - {"carbon_fail_on"}


@pytest.mark.parametrize("place", PLACES)
def test_a_limit_is_a_percentage_beside_a_baseline(tmp_path: Path, place: str) -> None:
    """On the command line it needs one; elsewhere it waits for a run that compares."""
    (tmp_path / "base.json").touch()
    base = {"carbon_compare": "base.json"}
    limit = {place: {"carbon_fail_on": "19%"}}
    found = resolved(
        tmp_path, **({"ini": base} | limit if place != "ini" else {"option": base} | limit)
    )
    assert found.fail_on == 0.19

    if place == "option":
        with pytest.raises(ConfigError, match="--carbon-fail-on needs a baseline"):
            resolved(tmp_path, **limit)
    else:
        assert resolved(tmp_path, **limit) == Options(fail_on=0.19)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("carbon", "perhaps", "is neither true nor false"),
        ("carbon_budget", "5 bananas", "unknown unit 'bananas'"),
        ("carbon_session_budget", "much", "is not a quantity"),
        ("carbon_metric", "mesured", "did you mean 'measured'"),
        ("carbon_repeat", "0", "whole number from 1"),
        ("carbon_top", "-1", "whole number from 0"),
        ("carbon_csv", "a.txt", "let it end in .csv"),
        ("carbon_json", "no/such/a.json", "there is no directory"),
        ("carbon_json", ".", "is a directory; add a file name"),
        ("carbon_save", "no/such/a.json", "there is no directory"),
        ("carbon_add", "no/such/a.json", "there is no directory"),
        ("carbon_benchmark", "no/such/a.json", "there is no directory"),
        ("carbon_compare", "nowhere.json", "there is no file"),
        ("carbon_fail_on", "ten", "is not a percentage"),
        ("carbon_inconclusive", "shrug", "is none of pass, warn, fail"),
        ("carbon_reference_watts", "0", "a number of watts above 0"),
        ("carbon_reference_intensity", "-3", "above 0"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, place: str, name: str, value: str, complaint: str
) -> None:
    """The message says where the value stands and what is wrong with it."""
    with pytest.raises(ConfigError) as refused:
        resolved(tmp_path, **{place: {name: value}})

    message = str(refused.value)
    assert message.startswith(f"{spelt(place, name)}={value}")
    assert ": is " not in message
    assert complaint in message


@pytest.mark.parametrize("name", NAMES)
def test_the_stronger_place_wins(tmp_path: Path, name: str) -> None:
    """Command line over environment over ini, for every option."""
    first, second, third = {
        "carbon": ("true", "false", "true"),
        "carbon_budget": ("1 J", "2 J", "3 J"),
        "carbon_session_budget": ("1 J", "2 J", "3 J"),
        "carbon_metric": ("auto", "reference", "measured"),
        "carbon_csv": ("a.csv", "b.csv", "c.csv"),
        "carbon_fail_on": ("1%", "2%", "3%"),
        "carbon_inconclusive": ("pass", "warn", "fail"),
    }.get(name, ("1", "2", "3"))
    for file in ("1", "2", "3"):
        (tmp_path / file).touch()
    places = {"ini": {name: first}, "environment": {name: second}, "option": {name: third}}
    base = {"carbon_compare": "1"} if name == "carbon_fail_on" else {}
    field = name.removeprefix("carbon_")

    def value(*given: str) -> object:
        some = {place: base | places[place] for place in given}
        return getattr(resolved(tmp_path, **some), field)

    alone = {place: value(place) for place in places}
    assert value("ini", "environment") == alone["environment"] != alone["ini"]
    assert value("ini", "environment", "option") == alone["option"] != alone["environment"]


def test_a_weaker_place_is_checked_though_a_stronger_one_wins(tmp_path: Path) -> None:
    """What is wrong in the ini is said on the day it is written, not when it first counts."""
    with pytest.raises(ConfigError, match="ini carbon_repeat=none is "):
        resolved(tmp_path, ini={"carbon_repeat": "none"}, option={"carbon_repeat": "2"})


def test_a_variable_that_is_no_options_is_refused(tmp_path: Path) -> None:
    """It would do nothing, and nobody would know."""
    with pytest.raises(
        ConfigError,
        match=r"CARBONTRACK_PYTEST_BUGET: there is no such option.*did you mean 'budget'",
    ):
        resolved(tmp_path, environment={"buget": "5 J"})


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("name", NAMES[1:])
def test_an_empty_value_is_refused_on_the_command_line(
    tmp_path: Path, name: str, value: str
) -> None:
    """A variable of CI that is not set must not switch the gate off."""
    with pytest.raises(ConfigError, match=f"{spelt('option', name)} has an empty value"):
        resolved(tmp_path, option={name: value})


@pytest.mark.parametrize("place", ["ini", "environment"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_value_elsewhere_is_not_given(tmp_path: Path, name: str, place: str) -> None:
    """There an empty value takes nothing away."""
    assert resolved(tmp_path, **{place: {name: ""}}) == Options()


def test_paths_of_the_ini_begin_at_its_folder_and_all_others_where_the_run_began(
    tmp_path: Path,
) -> None:
    """An ini means the same wherever the run is started."""
    (tmp_path / "below").mkdir()
    places = {
        "ini": {"carbon_json": "a"},
        "environ": {"csv": "b.csv"},
        "option": {"carbon_save": "c"},
    }
    found = resolve(
        option=places["option"].get,
        ini=places["ini"].get,
        environ=places["environ"],
        rootdir=tmp_path,
        cwd=tmp_path / "below",
    )
    assert (found.json, found.csv, found.save) == (
        tmp_path / "a", tmp_path / "below" / "b.csv", tmp_path / "below" / "c",
    )  # fmt: skip


def test_one_file_is_not_saved_and_added_to(tmp_path: Path) -> None:
    """The one replaces what the other would keep."""
    with pytest.raises(ConfigError, match=r"a\.json cannot be both replaced and added to"):
        resolved(tmp_path, option={"carbon_add": "a.json"}, ini={"carbon_save": "a.json"})


@pytest.mark.parametrize(
    ("name", "added", "groups", "plain"),
    [
        ("test_it", "@serial", ["serial"], "test_it"),
        ("test_it[a@b]", "@serial", ["serial"], "test_it[a@b]"),
        ("me@serial", "@serial", ["serial"], "me@serial"),
        ("me@serial", "", ["serial"], "me@serial"),
        ("test_it", "@a_b", ["b", "a"], "test_it"),
        ("test_it", "@b", ["b", "a"], "test_it"),
        ("test_it", "@default", [None], "test_it"),
        ("test_it", "@elsewhere", ["serial"], "test_it@elsewhere"),
        ("test_it", "@elsewhere", [], "test_it@elsewhere"),
    ],
)
def test_a_plain_id_has_no_group(
    name: str, added: str, groups: list[str | None], plain: str
) -> None:
    """As versions of pytest below 9.2 have it under --dist loadgroup; only that is taken off."""
    marks = [pytest.mark.xdist_group(*filter(None, [group])).mark for group in groups]

    def item(*, loadgroup: bool | None) -> Any:
        return SimpleNamespace(
            parent=SimpleNamespace(nodeid="test_a.py"),
            name=name,
            nodeid=f"test_a.py::{name}{added}",
            config=SimpleNamespace(getoption=lambda option, _: loadgroup),
            iter_markers=lambda _: iter(marks),
        )

    assert plain_id(item(loadgroup=True)) == f"test_a.py::{plain}"
    for without in (False, None):
        assert plain_id(item(loadgroup=without)) == f"test_a.py::{name}{added}"
