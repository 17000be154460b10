"""Sinks of other packages: made from an output's text, kept at a distance, recovered like files."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import told
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.factory import is_file, is_url, lasting, sink_for
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import RETRY_FOR_S, opener, recover
from carbontrack.sinks.plugin import PluginSink
from carbontrack.system import plugins
from carbontrack.testing.clock import FakeClock
from tests.support.plugins import install
from tests.support.records import a_record

LINES = """
    from pathlib import Path
    from carbontrack import ConfigError

    class make:
        def __init__(self, address):
            if not address.strip('/'):
                raise ConfigError('it needs a file')
            self.path = Path(address).absolute()
            self.address = str(self.path)
        def write(self, record):
            if self.path.with_suffix('.locked').exists():
                raise RuntimeError('locked')
            with open(self.path, 'a') as file:
                file.write(f'{record.record_id} {record.status}\\n')
        def close(self):
            if self.path.with_suffix('.stuck').exists():
                raise RuntimeError('stuck')
"""


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plugin "lines", and the file that it writes to."""
    install(monkeypatch, tmp_path / "site", plugins.SINKS, "lines", LINES)
    return tmp_path / "runs.txt"


def test_a_plugin_makes_the_sink_of_an_output(lines: Path) -> None:
    """What stands behind the colon is handed over as it is, and the record as well."""
    sink = sink_for(f"lines:{lines}")
    sink.write(a_record(1))
    sink.close()

    assert isinstance(sink, PluginSink)
    assert lines.read_text() == "run-7f3a:1 ok\n"


@pytest.mark.parametrize(("output", "given"), [("echo:", ""), ("echo://h/x?y", "//h/x?y")])
def test_an_address_is_all_that_follows_the_first_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, given: str
) -> None:
    """Slashes too; what it means is the plugin's to say."""
    source = """
        class make:
            def __init__(self, address): self.given = address
            def write(self, record): ...
            def close(self): ...
    """
    install(monkeypatch, tmp_path, plugins.SINKS, "echo", source)
    sink = sink_for(output)

    assert isinstance(sink, PluginSink)
    assert sink._sink.given == given  # type: ignore[attr-defined]
    assert lasting(output, sink) == output


def test_paths_addresses_and_plugins_are_told_apart() -> None:
    """A drive letter is no plugin, and neither is a path that holds a colon further on."""
    files = ["runs.csv", r"C:\runs.csv", "C:runs.csv", "./a:b.csv", "/a/b:c.csv", "~/x:y.db"]
    assert all(is_file(output) and not is_url(output) for output in files)
    urls = ["https://h/x", "HTTP://h/x"]
    assert all(is_url(output) and not is_file(output) for output in urls)
    named = ["logfmt:", "logfmt:stderr", "my-sink.v2:x", "s3://bucket/key"]
    assert not any(is_url(output) or is_file(output) for output in named)


def test_a_file_with_a_colon_in_its_name_has_its_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before there were plugins; a path object is a file whatever is installed."""
    monkeypatch.chdir(tmp_path)
    install(monkeypatch, tmp_path / "site", plugins.SINKS, "lines", LINES)

    assert isinstance(sink_for("run-12:30.csv"), CsvSink)
    assert isinstance(sink_for(Path("lines:x.csv")), CsvSink)


def test_what_is_shown_of_an_output_holds_no_secret() -> None:
    """A webhook's address is its key."""
    assert told("slack:T000/B000/hush") == "slack:…"
    assert told("https://h/x?key=hush") == "https://h/x"
    assert told("runs.csv") == "runs.csv"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise OSError('no broker')", "OSError('no broker')"),
        ("raise SystemExit(2)", "SystemExit(2)"),
        ("return None", "made None, which has no method write and none close"),
    ],
)
def test_a_plugin_that_makes_no_sink_is_an_error_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    """The error names the package; records would have nowhere to go."""
    install(monkeypatch, tmp_path, plugins.SINKS, "bad", f"def make(address):\n    {body}")
    with pytest.raises(ConfigError, match=r"output bad:….*acme-bad 1\.5") as caught:
        sink_for("bad:hush")

    assert said in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_plugin_may_refuse_an_address_in_its_own_words(lines: Path) -> None:
    """Its ConfigError is passed on as a sentence."""
    with pytest.raises(ConfigError, match=r"\(carbontrack.sinks\): it needs a file$"):
        sink_for("lines://")


def test_an_unknown_plugin_is_an_error_with_the_nearest_name(lines: Path) -> None:
    """By hand as in a setting."""
    with pytest.raises(ConfigError, match=r"output 'lins:…' names no plugin.*did you mean 'lines'"):
        sink_for("lins:x")


def test_a_record_that_is_not_taken_is_kept_and_written_by_the_next_run(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any directory, as the sink's own address holds there; nothing is raised meanwhile."""
    monkeypatch.chdir(tmp_path)
    journal = Journal(tmp_path / "state")
    sink = sink_for("lines:runs.txt", journal=journal)
    lines.with_suffix(".locked").touch()
    sink.write(a_record(1))
    lines.with_suffix(".locked").unlink()
    sink.write(a_record(2))
    sink.close()
    journal.close()

    monkeypatch.chdir("/")
    found = recover(tmp_path / "state")
    assert [(one.record.record_id, one.trouble) for one in found] == [("run-7f3a:1", None)]
    assert lines.read_text() == "run-7f3a:2 ok\nrun-7f3a:1 ok\n"
    assert recover(tmp_path / "state") == []


def test_a_record_that_is_neither_taken_nor_kept_is_a_loss(lines: Path) -> None:
    """Which whoever hands it over counts and says, without its address."""
    sink = sink_for(f"lines:{lines}")
    lines.with_suffix(".locked").touch()
    with pytest.raises(
        SinkError, match=r"lines:… did not accept a record: RuntimeError\('locked'\)"
    ):
        sink.write(a_record(1))
    assert repr(sink) == "PluginSink('lines:…')"


def test_close_is_handed_on_once(lines: Path) -> None:
    """A failure is an error of sinks, whatever the plugin raised."""
    sink = sink_for(f"lines:{lines}")
    lines.with_suffix(".stuck").touch()
    with pytest.raises(SinkError, match="stuck"):
        sink.close()
    sink.close()


def test_a_killed_run_is_recovered_into_its_plugin(lines: Path, tmp_path: Path) -> None:
    """As into the files that it had."""
    journal = Journal(tmp_path / "state")
    journal.checkpoint(a_record(1), [f"lines:{lines}"])
    journal.close()
    (found,) = recover(tmp_path / "state")

    assert (found.output, found.trouble) == (f"lines:{lines}", None)
    assert lines.read_text() == "run-7f3a:1 recovered\n"


def test_a_plugin_that_is_gone_keeps_its_records_for_a_week(tmp_path: Path) -> None:
    """Each attempt says what is missing; then they are set aside like those of a lost folder."""
    journal = Journal(tmp_path / "state")
    journal.checkpoint(a_record(1), ["uninstalled://[half"])
    journal.close()
    (first,) = recover(tmp_path / "state")
    (again,) = recover(tmp_path / "state")

    assert first.trouble is not None
    assert "names no plugin of the group carbontrack.sinks" in first.trouble
    assert again.trouble == first.trouble
    clock = FakeClock(now=datetime.now(timezone.utc) + timedelta(seconds=RETRY_FOR_S + 60.0))
    recover(tmp_path / "state", clock=clock)
    (letter,) = (tmp_path / "state" / "dead-letter").iterdir()
    assert "run-7f3a:1" in letter.read_text()
    assert recover(tmp_path / "state") == []


def test_a_journal_that_a_project_chose_hands_nothing_to_a_plugin(
    lines: Path, tmp_path: Path
) -> None:
    """Its entries may be the project's own, and a project may not direct a plugin; files go on."""
    journal = Journal(tmp_path / "state")
    journal.checkpoint(a_record(1), [f"lines:{lines}", str(tmp_path / "runs.csv")])
    journal.close()
    found = recover(tmp_path / "state", open_sink=opener(is_ours=False))

    assert [one.trouble is None for one in found] == [False, True]
    assert "state_dir that a project's file has set" in str(found[0].trouble)
    assert not lines.exists()
    assert [one.trouble for one in recover(tmp_path / "state")] == [None]
