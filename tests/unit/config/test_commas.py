"""Outputs in one text: a comma ends one, unless it belongs to a path that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with commas in the names of what is in it."""
    for name in ("results, 2026", "a,b", "a,b,c", "plain"):
        (tmp_path / name).mkdir()
    (tmp_path / "x, y.csv").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(text: object, **variables: str) -> tuple[str, ...]:
    """The outputs that the environment's text stands for."""
    named = {"CARBONTRACK_OUTPUT": text, **variables} if isinstance(text, str) else variables
    given = {} if isinstance(text, str) else {"output": text}
    return load_settings(given, Environment.take(environ=named)).output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.csv", ("a.csv",)),
        ("a.csv, b.jsonl,", ("a.csv", "b.jsonl")),
        ("results, 2026/runs.csv", ("results, 2026/runs.csv",)),
        ("x, y.csv", ("x, y.csv",)),
        ("a,b/r.csv", ("a,b/r.csv",)),
        ("a,b,c/r.csv", ("a,b,c/r.csv",)),
        ("a,b/r.csv, plain/s.csv", ("a,b/r.csv", "plain/s.csv")),
        ("r.csv,results, 2026/s.db,https://h/x", ("r.csv", "results, 2026/s.db", "https://h/x")),
        ('["a, b.csv", "https://h/x?p=1,2"]', ("a, b.csv", "https://h/x?p=1,2")),
        (' [ "plain/[1].csv" ] ', ("plain/[1].csv",)),
        ("[]", ()),
        ("none", ()),
    ],
)
def test_a_text_names_its_outputs(folder: Path, text: str, expected: tuple[str, ...]) -> None:
    """In the environment, as the argument `--output`, and as a text in a file alike."""
    assert outputs(text) == expected
    (folder / "pyproject.toml").write_text(f"[tool.carbontrack]\noutput = {text!r}\n")
    from_file = load_settings({}, Environment.take(environ={}))
    assert from_file.output == expected
    assert load_settings({"output": text}, Environment.take(environ={})).output == expected


def test_an_absolute_path_is_one_output_too(folder: Path) -> None:
    """As in `CARBONTRACK_OUTPUT=$PWD/…`."""
    path = str(folder / "results, 2026" / "runs.csv")
    assert outputs(path) == (path,)


def test_a_list_is_taken_as_it_is(folder: Path) -> None:
    """A list in Python, or in TOML, needs no rule for commas; nor does a path object."""
    assert outputs(["a, b.csv", Path("c, d.csv")]) == ("a, b.csv", "c, d.csv")
    assert outputs(Path("e, f.csv")) == ("e, f.csv",)


@pytest.mark.parametrize(
    "text",
    ["nowhere, 2026/runs.csv", "a.csv, nowhere/b.csv", "results, 2026", '["a, b.csv"', "[1, 2.5]"],
)
def test_a_message_shows_the_whole_text(folder: Path, text: str) -> None:
    """Not half a path, and what to write where a comma is meant."""
    with pytest.raises(ConfigError) as refused:
        outputs(text)
    message = str(refused.value)
    for part in text.strip("[]").split(","):
        assert part.strip() in message
    if "2.5" not in text:
        assert 'write a list in JSON: ["a, b.csv"]' in message


def test_thousands_of_commas_end(folder: Path) -> None:
    """Each part looks at a few that follow it, not at all of them."""
    text = ",".join(f"{number}.csv" for number in range(3000))
    assert len(outputs(text)) == 3000
