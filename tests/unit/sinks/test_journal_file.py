"""One journal file: a log that a killed writer cannot make unreadable."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.sinks.journal.file import (
    COMPACT_ABOVE,
    LINE_LIMIT,
    JournalFile,
    decoded,
    encoded,
    entry_line,
    update_line,
)
from carbontrack.sinks.journal.places import SharedFacts


def reopened(file: JournalFile) -> JournalFile:
    """The file as the next process finds it after this one was killed."""
    file.abandon()
    acquired = JournalFile.acquire(file.path)
    assert acquired is not None
    return acquired


def contents(file: JournalFile) -> dict[tuple[str, ...], object]:
    return {key: (file.get(key) or {})["x"] for key in file.keys("k")}


@pytest.mark.parametrize(
    "entry", [{"x": 1}, {"x": "zwei\nlines\udcff\0"}, {"x": None, "y": [1.5, {"z": True}]}, {}]
)
def test_a_line_reads_back(entry: dict[str, object]) -> None:
    """What was written in a line comes back, in one line, whatever its text."""
    line = encoded(entry)

    assert decoded(line) == entry
    assert line.count(b"\n") == 1


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_an_altered_line_is_no_line(place: int, byte: int) -> None:
    """A line with any one byte changed, or cut off anywhere, is not believed."""
    line = encoded({"x": "some text", "n": 1.25})
    place %= len(line)
    altered = line[:place] + bytes([byte]) + line[place + 1 :]

    assert decoded(line[:place]) is None
    if altered.lower() != line.lower():
        assert decoded(altered) is None


def test_entries_outlive_their_process(tmp_path: Path) -> None:
    """The next process finds what was put, what replaced it, and not what was dropped."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "a"), {"x": 1})
    file.put(("k", "b"), {"x": 2})
    file.put(("k", "a"), {"x": 3})
    file.put(("k", "c"), {"x": 4})
    file.drop([("k", "b"), ("k", "never there")])
    found = reopened(file)

    assert contents(found) == {("k", "a"): 3, ("k", "c"): 4}
    assert found.bad_lines == 0


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    """The file is readable for its user alone, whatever the umask."""
    before = os.umask(0)
    try:
        file = JournalFile.create(tmp_path, "test")
    finally:
        os.umask(before)

    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_locked_journal_cannot_be_acquired(tmp_path: Path) -> None:
    """While its process has it open, nobody else gets it; afterwards one does."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "a"), {"x": 1})

    assert JournalFile.acquire(file.path) is None
    file.abandon()
    first = JournalFile.acquire(file.path)
    assert first is not None
    assert JournalFile.acquire(file.path) is None


def test_an_empty_journal_leaves_no_file(tmp_path: Path) -> None:
    """When everything is settled, the file goes with the process; with an entry it stays."""
    done = JournalFile.create(tmp_path, "test")
    done.put(("k", "a"), {"x": 1})
    done.drop([("k", "a")])
    done.close()
    done.close()
    left = JournalFile.create(tmp_path, "test")
    left.put(("k", "a"), {"x": 1})
    left.close()

    assert list(tmp_path.iterdir()) == [left.path]


def test_links_and_strangers_are_not_opened(tmp_path: Path) -> None:
    """A symbolic link, a directory and a pipe in the journal's folder are passed by."""
    target = tmp_path / "target.txt"
    target.write_bytes(encoded({"put": ["k", "a"], "x": 1}))
    (tmp_path / "link.journal").symlink_to(target)
    (tmp_path / "folder.journal").mkdir()

    assert JournalFile.acquire(tmp_path / "link.journal") is None
    assert JournalFile.acquire(tmp_path / "folder.journal") is None
    assert JournalFile.acquire(tmp_path / "absent.journal") is None


GARBAGE = [b"garbage\n", b"\n", b"\0" * 100 + b"\n", b"00000000 {}\n", encoded({"other": 1})]


@pytest.mark.parametrize(
    "garbage", [*GARBAGE, encoded({"put": 3}), b"x" * (LINE_LIMIT + 9) + b"\n"]
)
def test_bad_lines_are_counted_and_passed_over(tmp_path: Path, garbage: bytes) -> None:
    """Whatever stands between two lines, both are read."""
    path = tmp_path / "x.journal"
    lines = [encoded({"put": ["k", name], "x": name}) for name in "ab"]
    path.write_bytes(lines[0] + garbage + lines[1])
    file = JournalFile.acquire(path)

    assert file is not None
    assert contents(file) == {("k", "a"): "a", ("k", "b"): "b"}
    assert file.bad_lines >= 1


def test_a_torn_end_is_cut_off_before_going_on(tmp_path: Path) -> None:
    """Wherever the last line was torn, the lines before it and those after it are read."""
    lines = [encoded({"put": ["k", name], "x": name}) for name in "ab"]
    for cut in range(1, len(lines[1])):
        path = tmp_path / f"{cut}.journal"
        path.write_bytes(lines[0] + lines[1][:cut])
        file = JournalFile.acquire(path)
        assert file is not None
        file.put(("k", "c"), {"x": "c"})
        assert contents(reopened(file)) == {("k", "a"): "a", ("k", "c"): "c"}


operations = st.lists(
    st.tuples(st.sampled_from("pppd"), st.integers(0, 5), st.integers(0, 2000)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(operations, st.integers(0, 40))
def test_the_file_is_the_map_it_stands_for(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], at: int
) -> None:
    """After any puts and drops, with a kill in between, the file holds what a dict would."""
    file = JournalFile.create(tmp_path_factory.mktemp("j"), "test", size_limit=20_000)
    model: dict[tuple[str, ...], object] = {}
    for number, (kind, name, size) in enumerate(steps):
        key = ("k", str(name))
        if kind == "d":
            file.drop([key])
            model.pop(key, None)
        else:
            model.pop(key, None)
            model[key] = "x" * size
            file.put(key, {"x": "x" * size})
        if number == at:
            file = reopened(file)
    final = reopened(file)

    assert contents(final) == model
    assert list(contents(final)) == list(model)
    final.abandon()


def test_history_is_compacted(tmp_path: Path) -> None:
    """Ten thousand checkpoints of one run take no more room than the limit for history."""
    file = JournalFile.create(tmp_path, "test")
    for number in range(10_000):
        file.put(("k", "run"), {"x": number, "text": "t" * 100})

    assert file.path.stat().st_size <= COMPACT_ABOVE + 200
    assert contents(reopened(file)) == {("k", "run"): 9_999}
    assert list(tmp_path.iterdir()) == [file.path]


def test_a_compacted_journal_is_still_held(tmp_path: Path) -> None:
    """There is no instant in which another process can lock the new file."""
    file = JournalFile.create(tmp_path, "test")
    while True:
        before = file.path.stat().st_ino
        file.put(("k", "run"), {"x": "t" * 1000})
        if file.path.stat().st_ino != before:
            break

    assert JournalFile.acquire(file.path) is None


def test_the_size_has_a_limit(tmp_path: Path) -> None:
    """Live entries beyond the limit are refused, and nothing that was there is harmed."""
    file = JournalFile.create(tmp_path, "test", size_limit=5000)
    line = len(encoded({"put": ["k", "00"], "x": "t" * 100}))
    for number in range(10, 10 + 5000 // line):
        file.put(("k", str(number)), {"x": "t" * 100})
    kept = contents(file)
    with pytest.raises(OSError, match="full"):
        file.put(("k", "one more"), {"x": "t" * 100})
    with pytest.raises(OSError, match="bytes"):
        file.put(("k", "huge"), {"x": "t" * LINE_LIMIT})

    assert len(kept) == 5000 // line
    assert contents(reopened(file)) == kept


def test_a_deleted_file_comes_back_whole(tmp_path: Path) -> None:
    """When a cleaner removes the file under us, the next entry brings everything back."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "a"), {"x": 1})
    file.path.unlink()
    file.put(("k", "b"), {"x": 2})

    assert contents(reopened(file)) == {("k", "a"): 1, ("k", "b"): 2}


def test_a_draft_left_by_a_killed_process_is_in_nobodys_way(tmp_path: Path) -> None:
    """A journal can be compacted whose process was killed while compacting it."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "run"), {"x": "t" * 1000})
    for name in (".draft", ".0.draft"):
        file.path.with_suffix(name).touch()
    acquired = reopened(file)
    for number in range(1000):
        acquired.put(("k", "run"), {"x": str(number) * 300})

    assert acquired.path.stat().st_size < COMPACT_ABOVE + 2000


def test_an_update_changes_columns_of_what_was_put(tmp_path: Path) -> None:
    """Only the last one counts, also for the next process; a put or a drop ends it."""
    file = JournalFile.create(tmp_path, "test")
    assert not file.update_line(("k", "a"), update_line(("k", "a"), {"x": 1}))
    file.put(("k", "a"), {"record": {"x": 1, "y": 1}, "outputs": ["o"]})
    for number in range(2, 5):
        file.update_line(("k", "a"), update_line(("k", "a"), {"x": number}))
    file.put(("k", "b"), {"record": {"x": 1}})
    file.update_line(("k", "b"), update_line(("k", "b"), {"x": 2}))
    file.put(("k", "b"), {"record": {"x": 3}})

    for _ in range(2):
        assert file.get(("k", "a")) == {
            "put": ["k", "a"],
            "record": {"x": 4, "y": 1},
            "outputs": ["o"],
        }
        assert file.get(("k", "b")) == {"put": ["k", "b"], "record": {"x": 3}}
        file = reopened(file)
    file.drop([("k", "a"), ("k", "b")])
    assert len(reopened(file)) == 0


def test_updates_are_compacted(tmp_path: Path) -> None:
    """However many there are, the file stays small, and the last one is in it."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "a"), {"record": {"x": 0, "text": "t" * 1000}})
    for number in range(10_000):
        file.update_line(("k", "a"), update_line(("k", "a"), {"x": number}))

    assert file.path.stat().st_size <= COMPACT_ABOVE + 4096
    entry = reopened(file).get(("k", "a"))
    assert entry is not None
    assert entry["record"]["x"] == 9999


def test_an_update_that_cannot_be_read_leaves_what_was_put(tmp_path: Path) -> None:
    """A killed process loses no more than its last line."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "a"), {"record": {"x": 1}})
    file.update_line(("k", "a"), update_line(("k", "a"), {"x": 2}))
    file.path.write_bytes(file.path.read_bytes()[:-3])
    entry = reopened(file).get(("k", "a"))
    assert entry is not None
    assert entry["record"] == {"x": 1}


SHARED = SharedFacts("1", encoded({"facts": "1", "outputs": ["o"], "record": {"pid": 7}}))


def put_shared(file: JournalFile, key: str, columns: dict[str, object]) -> None:
    """Put an entry that names the facts."""
    line = entry_line(("k", key), {"facts": "1", "record": columns})
    file.put_lines({("k", key): line}, SHARED)


def columns_of(file: JournalFile, key: str) -> object:
    """The columns of an entry, with the facts that it names."""
    return (file.get(("k", key)) or {})["record"]


def test_facts_are_written_once_and_are_in_each_entry_that_names_them(tmp_path: Path) -> None:
    """Also for the next process; an entry's own columns come first."""
    file = JournalFile.create(tmp_path, "test")
    put_shared(file, "a", {"x": 1})
    put_shared(file, "b", {"x": 2, "pid": 8})
    file.update_line(("k", "a"), update_line(("k", "a"), {"x": 3}))

    assert file.path.read_bytes().count(SHARED.line) == 1
    for _ in range(2):
        assert columns_of(file, "a") == {"pid": 7, "x": 3}
        assert columns_of(file, "b") == {"pid": 8, "x": 2}
        assert (file.get(("k", "a")) or {})["outputs"] == ["o"]
        file = reopened(file)


@pytest.mark.parametrize("deleted", [False, True])
def test_facts_are_in_a_file_that_is_written_anew(tmp_path: Path, *, deleted: bool) -> None:
    """As when most of it is outdated, or somebody has deleted it; unless no entry names them."""
    file = JournalFile.create(tmp_path, "test")
    put_shared(file, "a", {"x": 1})
    if deleted:
        file.path.unlink()
    for number in range(1000):
        file.put(("k", "other"), {"x": str(number) * 300})

    assert columns_of(file, "a") == {"pid": 7, "x": 1}
    file.drop([("k", "a")])
    for number in range(1000):
        file.put(("k", "other"), {"x": str(number) * 300})
    assert SHARED.line not in file.path.read_bytes()
    put_shared(file, "b", {"x": 2})
    assert columns_of(reopened(file), "b") == {"pid": 7, "x": 2}


def test_facts_are_written_again_into_a_file_that_was_emptied(tmp_path: Path) -> None:
    """However long one run follows the other, the file stays small, and each can be recovered."""
    file = JournalFile.create(tmp_path, "test")
    for number in range(3000):
        put_shared(file, "a", {"x": "t" * 200})
        if number < 2999:
            file.drop([("k", "a")])

    assert file.path.stat().st_size < COMPACT_ABOVE + 4096
    assert columns_of(reopened(file), "a") == {"pid": 7, "x": "t" * 200}


def test_a_torn_entry_leaves_the_one_before_with_its_facts(tmp_path: Path) -> None:
    """A killed process may have written the facts, or a part of them, and nothing after it."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "b"), {"record": {"x": 1}})
    before = file.path.stat().st_size
    put_shared(file, "a", {"x": 1})
    whole = file.path.read_bytes()
    file.abandon()
    for length in range(before, len(whole)):
        file.path.write_bytes(whole[:length])
        acquired = JournalFile.acquire(file.path)
        assert acquired is not None
        assert (acquired.keys(), acquired.foreign_lines) == ([("k", "b")], 0)
        put_shared(acquired, "a", {"x": 2})
        assert columns_of(acquired, "a") == {"pid": 7, "x": 2}
        acquired.abandon()


@pytest.mark.parametrize("facts", [{"record": []}, {"record": None}, {}, None])
def test_facts_that_cannot_be_understood_leave_the_entry_as_it_is(
    tmp_path: Path, facts: dict[str, object] | None
) -> None:
    """They may be anybody's."""
    file = JournalFile.create(tmp_path, "test")
    file.put(("k", "a"), {"facts": "1", "record": {"x": 1}})
    if facts is not None:
        file.path.write_bytes(encoded({"facts": "1", **facts}) + file.path.read_bytes())

    assert columns_of(reopened(file), "a") == {"x": 1}


def test_a_line_that_was_written_but_not_noted_moves_no_other(tmp_path: Path) -> None:
    """A signal's handler may raise right after a write; the entry is then put once more."""
    file = JournalFile.create(tmp_path, "own")
    file.put(("k", "a"), {"x": 1})
    with file.path.open("ab") as journal:
        journal.write(entry_line(("k", "b"), {"x": 2}))
    file.put(("k", "b"), {"x": 2})
    file.put(("k", "c"), {"x": 3})

    expected = {("k", "a"): 1, ("k", "b"): 2, ("k", "c"): 3}
    assert contents(file) == expected
    assert contents(reopened(file)) == expected
