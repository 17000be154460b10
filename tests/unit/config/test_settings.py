"""What each setting accepts, and what its refusals say."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from carbontrack.config.settings import READERS, SECRETS, Settings
from carbontrack.errors import nearest


def test_every_setting_has_a_reader_in_the_order_of_the_fields() -> None:
    """A field without a reader could be set without a check."""
    assert [f.name for f in fields(Settings) if f.name != "origins"] == list(READERS)


def test_settings_with_equal_values_are_one_key() -> None:
    """Trackers are kept by their settings, wherever these were written."""
    here = Settings(region="FR", origins={"region": "argument"})
    there = Settings(region="FR", origins={"region": "environment"})

    assert here == there
    assert {here: "tracker"}[there] == "tracker"
    assert here != Settings(region="DE")


def test_defaults_pass_no_secret_and_no_network() -> None:
    """Without a word from the user there is one file, no address and no look-up."""
    default = Settings()

    assert default.output == ("emissions.csv",)
    assert default.cloud is None
    assert default.intensity_source == ()
    assert default.http_token is None


def test_tokens_do_not_show_in_a_repr() -> None:
    """A repr ends up in logs."""
    shown = repr(Settings(http_token="hush-1", live_token="hush-2"))

    assert "hush" not in shown
    assert {"http_token", "live_token"} == SECRETS


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("region", " FR ", "FR"),
        ("scope", "Machine", "machine"),
        ("interval_s", "0.5", 0.5),
        ("interval_s", 2, 2.0),
        ("pue", "1.2", 1.2),
        ("pue", 1, 1.0),
        ("cpu_tdp_w", 0.1, 0.1),
        ("flush_on_signals", "yes", True),
        ("timeline", 0, False),
        ("timeline", "yes", True),
        ("idle", "Proportional", "proportional"),
        ("disable", "FALSE", False),
        ("gpu_model", "yes", True),
        ("boundary", "Wall", "wall"),
        ("gpu_ids", "0, 1", ("0", "1")),
        ("gpu_ids", [0, "GPU-4e817856-1df4-ab12-3e4f-0123456789ab"],
         ("0", "GPU-4e817856-1df4-ab12-3e4f-0123456789ab")),
        ("gpu_ids", 3, ("3",)),
        ("gpu_ids", "none", ()),
        ("output", "runs.csv,https://example.org/records", ("runs.csv", "https://example.org/records")),
        ("output", Path("runs.JSONL"), ("runs.JSONL",)),
        ("output", ["a.csv", "a.csv", Path("b.db")], ("a.csv", "b.db")),
        ("output", [], ()),
        ("output", "none", ()),
        ("http_token", "abc.def-1\n", "abc.def-1"),
        ("intensity_source", "electricitymaps,table", ("electricitymaps", "table")),
    ],
)  # fmt: skip
def test_what_people_write_is_understood(name: str, given: object, read: object) -> None:
    """Text, numbers, paths and lists all lead to the field's own type."""
    assert READERS[name](given) == read


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("region", "", "not a text"),
        ("region", 33, "not a text"),
        ("scope", "proces", "did you mean 'process'"),
        ("cloud", "auto", "none of none, detect"),
        ("cloud", 1, "none of none, detect"),
        ("interval_s", 0, "from 0.001 to 3600"),
        ("interval_s", -1, "from 0.001 to 3600"),
        ("interval_s", "1 s", "number of seconds"),
        ("interval_s", True, "number of seconds"),
        ("interval_s", float("nan"), "number of seconds"),
        ("interval_s", float("inf"), "number of seconds"),
        ("interval_s", [1], "number of seconds"),
        ("interval_s", 10**400, "number of seconds"),
        ("output", "a\0b.csv", "ends in .csv"),
        ("pue", 0.99, "from 1 to 10"),
        ("cpu_tdp_w", 0, "above 0"),
        ("cpu_tdp_w", -65, "above 0"),
        ("ram_w_per_gib", "lots", "watts per GiB"),
        ("intensity_g_per_kwh", 5001, "from 0 to 5000"),
        ("timeline", "perhaps", "neither true nor false"),
        ("idle_w", -1, "watts from 0 to 5000"),
        ("idle", "proportionl", "did you mean 'proportional'"),
        ("boundary", "plug", "none of components, wall"),
        ("boundary", "walls", "did you mean 'wall'"),
        ("boundary", True, "none of components, wall"),
        ("gpu_model", "a100", "neither true nor false"),
        ("timeline", 2, "neither true nor false"),
        ("timeline", None, "neither true nor false"),
        ("output", "runs", "add a file name"),
        ("output", "runs.timeline.jsonl", "reserved for files of timelines"),
        ("output", ".bashrc", "ends in .csv"),
        ("output", "ftp://example.org/x.csv", "http:// or https://"),
        ("output", "https://", "http:// or https://"),
        ("output", "https://me:secret@example.org/", "http_token"),
        ("output", 1.5, "neither a text nor a list"),
        ("output", ["a.csv", None], "neither a text nor a list"),
        ("gpu_ids", {"0": 1}, "neither a text nor a list"),
        ("http_token", "two\r\nlines", "visible ASCII"),
        ("http_token", "tökên", "visible ASCII"),
        ("sysfs_path", "/no/such/place", "not a directory"),
        ("state_dir", 5, "not a text"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(name: str, given: object, says: str) -> None:
    """The message tells what would have been right."""
    with pytest.raises(ValueError, match=says):
        READERS[name](given)


def test_a_home_folder_may_be_written_with_a_tilde() -> None:
    """Files and variables are not expanded by a shell, so "~" is expanded here."""
    assert READERS["output"]("~/runs.csv") == (str(Path("~/runs.csv").expanduser()),)
    assert READERS["state_dir"]("~/state") == str(Path("~/state").expanduser())


def test_folders_may_be_paths(tmp_path: Path) -> None:
    """Python code has Path objects at hand."""
    assert READERS["sysfs_path"](tmp_path) == str(tmp_path)


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    """A far-fetched suggestion is worse than none."""
    assert nearest("qqqq", READERS) == ""
    assert "region" in nearest("regoin", READERS)
