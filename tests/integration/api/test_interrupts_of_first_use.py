"""An exception of a signal's handler while trackers are made from settings, used and closed.

As in test_interrupts_at_every_line, but by the functions that most programs call: `track` and
`auto` without a tracker of their own. Each trial begins and ends with no tracker in the process;
the last tests begin with nothing imported, in a forked process each.
"""

from __future__ import annotations

import contextvars
import csv
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import carbontrack
from carbontrack.api.track import PROVIDER
from carbontrack.sinks.journal.recovery import recover
from tests.support.interpreters import run
from tests.support.raising import Model, Raiser, without_a_trace
from tests.support.trials import Hung, Timeout, could_not_pass, forget_locks

EVERY_POINT = bool(os.environ.get("CARBONTRACK_EVERY_POINT"))
_PATIENCE_S = 60.0
LOCKED = "another thread waits for a lock"

ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: KeyboardInterrupt("stop"),
    lambda: Timeout("the time is over"),
    lambda: TimeoutError("the time is over"),
)

Given = dict[str, Any]


def block(given: Given) -> None:
    with carbontrack.track("stopped", **given):
        pass


def two_blocks(given: Given) -> None:
    for _ in range(2):
        with carbontrack.track("stopped", **given):
            pass


def block_inside(given: Given) -> None:
    with carbontrack.track("around", **given), carbontrack.track("inside", **given):
        pass


def budget(given: Given) -> None:
    with carbontrack.track("stopped", budget="1 kWh", on_exceed="raise", **given) as span:
        span.check()


def call(given: Given) -> None:
    work = carbontrack.track("stopped", **given)(lambda: None)
    work()
    work()


def call_inside(given: Given) -> None:
    with carbontrack.track("around", **given):
        carbontrack.track("stopped")(lambda: None)()


def auto(given: Given) -> None:
    with carbontrack.auto(**given) as tracker, tracker.span("stopped"):
        pass


def dropped(given: Given) -> None:
    tracker = carbontrack.auto(**given)
    with tracker.span("stopped"):
        pass


def progress(given: Given) -> None:
    bar: Any = type("Bar", (), dict.fromkeys(("__init__", "update", "set_postfix_str", "close"), _))
    for _i in carbontrack.progress(range(2), bar=bar, name="stopped", **given):
        pass


def _(*_: object, **__: object) -> None:
    pass


def end(given: Given) -> None:
    """What happens at the exit of the program, with a block open and a call not written."""
    carbontrack.track("stopped call", **given)(lambda: None)()
    block = carbontrack.track("stopped", **given)
    block.__enter__()
    try:
        PROVIDER.close()
    finally:
        given["is_closed_again"] = True


DOORS = (block, two_blocks, block_inside, budget, call, call_inside, auto, dropped, progress, end)


def attempt(
    door: Callable[[Given], None], nth: int, error: BaseException, model: Model, folder: Path
) -> tuple[Raiser, list[str]]:
    """One trial; returns where the exception was raised, and what did not hold."""
    given = {
        "output": str(folder / "runs.csv"),
        "state_dir": str(folder / "state"),
        "region": "FR",
    }
    raiser = Raiser(nth, error, model=model)
    broken: list[str] = []

    def inside() -> None:
        broken.extend(_saw(raiser, door, given, error))
        if given.pop("is_closed_again", False):
            PROVIDER.close()
        broken.extend(_afterwards(given, raiser))

    before = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, 60.0)
    gc.disable()
    try:
        without_a_trace(lambda: contextvars.copy_context().run(inside))
    except Hung:
        broken.append("it hangs")
    except Exception as odd:
        broken.append(f"afterwards {odd!r}")
    finally:
        # where only a trace can raise, at a `with`, a lock may stay held, which says nothing of us
        if LOCKED in broken or not (raiser.place is None or raiser.place.is_real):
            forget_locks()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
        gc.collect(1)
    return raiser, broken


def _give_up(*_: object) -> None:
    raise Hung


def _saw(
    raiser: Raiser, door: Callable[[Given], None], given: Given, error: BaseException
) -> Iterator[str]:
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with raiser:
            door(given)
    except BaseException as seen:
        if seen is not error:
            yield f"the program saw {seen!r}"
        error.__traceback__ = None
    else:
        if raiser.place is not None and not could_not_pass(unraisable, error):
            trace = error.__traceback__
            where = "" if trace is None else f" in {trace.tb_frame.f_code.co_name}"
            yield f"the exception was swallowed{where}"
    finally:
        sys.unraisablehook = hook


def _afterwards(given: Given, raiser: Raiser) -> Iterator[str]:
    here = carbontrack.current_span()
    if here is not None:
        yield f"{here!r} is current"
    is_real = raiser.place is None or raiser.place.is_real
    if is_real:
        thread = threading.Thread(target=_later, args=("thread", given), daemon=True)
        thread.start()
        thread.join(_PATIENCE_S)
        if thread.is_alive():
            yield LOCKED
            return
    if not _later("main", given):
        yield "a later block is no root"
    PROVIDER.close()
    yield from _rows(Path(given["output"]), Path(given["state_dir"]), is_real)


def _later(where: str, given: Given) -> bool:
    with carbontrack.track(f"later {where}", **given) as span:
        pass
    carbontrack.track(f"later call {where}", **given)(lambda: None)()
    return span.parent is None


def _rows(output: Path, state_dir: Path, is_real: bool) -> Iterator[str]:
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = Counter(row["name"] for row in rows)
    for where in ("main", "thread") if is_real else ("main",):
        if names[f"later {where}"] != 1 or names[f"later call {where}"] != 1:
            yield f"a later block or call has no row ({where})"
    ids = [row["record_id"] for row in rows]
    if len(set(ids)) != len(ids):
        yield "a record is written twice"
    if {found.record.record_id for found in recover(state_dir)} & set(ids):
        yield "a written record is recovered as well"


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _torture(door: Callable[[Given], None], model: Model, folder: Path, stride: int) -> None:
    found: dict[str, list[str]] = {}
    nth, points = 1, 0
    while True:
        error = ERRORS[points % len(ERRORS)]()
        place = folder / str(nth)
        place.mkdir()
        raiser, broken = attempt(door, nth, error, model, place)
        if raiser.seen < nth:
            assert not broken, f"without any exception: {broken}"
            break
        for promise in broken if raiser.place is not None else ():
            where = f"{raiser.place.file}: {raiser.place.function}: {raiser.place.marked}"
            found.setdefault(promise, []).append(where)
        nth += stride
        points += 1
        if LOCKED in broken:
            break  # nothing in this process would end any more
    assert points > 1
    said = [f"{promise}:\n    " + "\n    ".join(found[promise][:20]) for promise in found]
    assert not found, f"of {points} points\n" + "\n".join(said)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_at_every_line(door: Callable[[Given], None], tmp_path: Path) -> None:
    """The exception reaches the program, and the next block, call and tracker are whole."""
    _torture(door, "line", tmp_path, 1 if EVERY_POINT else 73)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_at_every_bytecode(door: Callable[[Given], None], tmp_path: Path) -> None:
    """Where the interpreter looks for signals."""
    _torture(door, "signal", tmp_path, 1 if EVERY_POINT else 1597)


FRESH = """
import json, os, sys, types
sys.path.insert(0, sys.argv[1])
root, stride = sys.argv[1], int(sys.argv[2])
package = os.path.join(root, "carbontrack", "")
class Timeout(Exception): pass

def child(nth):
    os.mkdir(str(nth))
    os.chdir(str(nth))
    os.environ["CARBONTRACK_STATE_DIR"] = os.path.abspath("state")
    seen, error, place = 0, Timeout("the time is over"), None
    def local(frame, event, arg):
        nonlocal seen, place
        if event == "line":
            seen += 1
            if seen == nth:
                sys.settrace(None)
                code = frame.f_code
                place = f"{code.co_filename[len(package):]}: {code.co_name}: line {frame.f_lineno}"
                raise error
        return local
    def called(frame, event, arg):
        return local if frame.f_code.co_filename.startswith(package) else None
    broken = []
    sys.settrace(called)
    try:
        import carbontrack
        with carbontrack.track("stopped"): pass
    except BaseException as saw:
        if saw is not error: broken.append(f"the program saw {saw!r}")
    else:
        if place is not None: broken.append("the exception was swallowed")
    sys.settrace(None)
    try:
        import carbontrack
        if carbontrack.current_span() is not None: broken.append("something is current")
        with carbontrack.track("later") as span: pass
        if span.parent is not None: broken.append("the later block is no root")
        carbontrack.track("later call")(lambda: None)()
    except BaseException as odd: broken.append(f"afterwards {odd!r}")
    return {"seen": seen, "place": place, "broken": broken}

nth, trials = 1, []
while True:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with os.fdopen(writing, "w") as answers: answers.write(json.dumps(child(nth)))
        sys.exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers: answer = json.loads(answers.read() or "{}")
    status = os.waitpid(pid, 0)[1]
    if not answer or status: answer.setdefault("broken", []).append(f"it ends with {status}")
    answer["nth"] = nth
    if "seen" in answer and answer["seen"] < nth: break
    trials.append(answer)
    nth += stride
print(json.dumps(trials))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_from_the_import_on(version: str, tmp_path: Path) -> None:
    """Even the import of the package, or of a part of it, can be interrupted and done again."""
    root = Path(carbontrack.__file__).parents[1]
    stride = 1 if EVERY_POINT else 397
    done = run(version, FRESH, tmp_path, root, stride, limit_s=3600.0)
    assert done.returncode == 0, done.stderr[-4000:]
    trials = json.loads(done.stdout.splitlines()[-1])
    assert len(trials) > 10
    broken = [trial for trial in trials if trial["broken"]]
    assert not broken, f"of {len(trials)} points: {broken[:20]}"
    for trial in trials:
        rows = tmp_path / str(trial["nth"]) / "runs.csv"
        names = Counter[str]()
        if rows.exists():
            with rows.open(encoding="utf-8", newline="") as file:
                names.update(row["name"] for row in csv.DictReader(file))
        assert (names["later"], names["later call"]) == (1, 1), trial
