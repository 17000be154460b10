"""Messages of carbontrack: one logger, limited in rate, deferred while a lock is held.

Warnings reach the user in every program: through its own logging if it is set up, else on stderr.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from _thread import get_ident
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from carbontrack.errors import CarbontrackError
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.forking import holding_forks, last_of_worker
from carbontrack.system.interrupts import pass_on, suppressed

SAME_TEXT_S = 3600.0
"""Seconds in which the same warning, whatever its numbers, is printed on stderr once."""


class LastResort(logging.Handler):
    """Prints warnings on stderr in a program that has set up no logging.

    It replaces `logging.lastResort`, which does not name the logger, and repeats messages. Like
    that one it is silent as soon as any other handler receives our messages, including a
    NullHandler, and if `logging.lastResort` is None.

    Attributes:
        speaker: the name of the logger whose messages these are.
    """

    speaker = "carbontrack"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._said_at_s: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message, if no other handler does and it was not printed recently."""
        if getattr(record, SHOWN, False) or _has_other_handlers(self) or sys.is_finalizing():
            return
        with suppressed(Exception), unharmed_stderr():  # or a message that cannot be formatted
            text = record.getMessage()
            error = record.exc_info[1] if record.exc_info else None
            if error is not None:  # the traceback is for logs: it leads through our code only
                text += f": {type(error).__name__}: {error}"
            is_news = getattr(record, EACH_TIME, False) or self._is_news(text)
            if sys.stderr is not None and is_news:
                print(f"carbontrack: {_visible(text)}", file=sys.stderr, flush=True)  # noqa: T201

    def _is_news(self, text: str) -> bool:
        now_s = (self._clock or SystemClock).monotonic_s()
        topic = "".join(sign for sign in text if not sign.isdigit())
        said_at_s = self._said_at_s.get(topic)
        if said_at_s is not None and now_s - said_at_s < SAME_TEXT_S:
            return False
        if len(self._said_at_s) >= _TOPICS:
            self._said_at_s.clear()
        self._said_at_s[topic] = now_s
        return True


_TOPICS = 1000
SHOWN = "carbontrack_shown"
"""The attribute of a log record whose message a Python warning has shown already."""
EACH_TIME = "carbontrack_each_time"
"""The attribute of a log record that is no repetition, though only its numbers are new."""


def _has_other_handlers(ours: LastResort) -> bool:
    """Whether the program has a handler for our messages, or wants no last resort."""
    if logging.lastResort is None:
        return True
    logger: logging.Logger | None = logging.getLogger(ours.speaker)
    while logger is not None:
        if any(handler is not ours for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _with_visible_texts(record: logging.LogRecord) -> bool:
    """Have the program's handlers get what `visible` makes of the texts in a message of ours.

    A name that holds a line feed is no second line in a log. Other arguments are left as they are:
    the program's own objects may fail when they are asked for a text.
    """
    if isinstance(record.msg, str):
        record.msg = _visible(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(map(_with_visible_text, record.args))
    return True


def _with_visible_text(argument: object) -> object:
    if isinstance(argument, str):
        return _visible(argument)
    return _visible(str(argument)) if isinstance(argument, _WITH_TEXTS) else argument


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    try:
        with holding_forks():  # this may be a thread of ours
            from carbontrack.text import visible  # few messages need it
    except ImportError:  # the interpreter is ending
        return text.encode("unicode_escape").decode("ascii")
    return visible(text)


_WITH_TEXTS = (PurePath, CarbontrackError)
LOGGER = logging.getLogger("carbontrack")
"""The package's only logger; the program decides whether and how its messages are shown."""
if not LOGGER.handlers:
    LOGGER.addHandler(LastResort())
    LOGGER.addFilter(_with_visible_texts)
_OURS = __name__.partition(".")[0] + "."


@contextmanager
def silenced() -> Iterator[None]:
    """Keep our messages off stderr while the block runs; the program's own handlers get them."""
    handler = logging.NullHandler()
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def unharmed_stderr() -> Iterator[None]:
    """Leave nothing in the buffer of a stderr that cannot be written, such as a closed pipe.

    Python would try once more when the program ends, and change its exit status for it.
    """
    try:
        yield
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError) as error:
        with suppressed(OSError, ValueError):
            _drop_unwritten()
        pass_on(error)


def _drop_unwritten() -> None:
    stream = sys.__stderr__
    if stream is None or stream is not sys.stderr:
        return
    number = stream.fileno()
    there, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
        stream.flush()
    finally:
        os.dup2(there, number)
        os.close(there)
        os.close(nowhere)


class _Keeper(logging.Filter):
    """Keeps messages of threads in which nothing may wait for a handler of the program's log."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, list[logging.LogRecord]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message may be shown now."""
        kept = self.kept.get(get_ident()) if self.kept else None
        if kept is not None:
            kept.append(record)
        return kept is None


_keeper = _Keeper()
LOGGER.addFilter(_keeper)


@contextmanager
def kept_back(messages: list[logging.LogRecord]) -> Iterator[None]:
    """Append our messages of this thread to a list while the block runs, and show none."""
    _keeper.kept[get_ident()] = messages
    try:
        yield
    finally:
        del _keeper.kept[get_ident()]


class RateLimitedLog:
    """A log that warns at most once in `period_s` for each topic."""

    def __init__(self, clock: Clock | None = None, *, period_s: float = 60.0) -> None:
        self._clock = clock or SystemClock()
        self._period_s = period_s
        self._said_at_s: dict[str, float] = {}

    def warn(self, topic: str, message: str) -> None:
        """Log the message, unless there was a warning of this topic within the period."""
        now_s = self._clock.monotonic_s()
        said_at_s = self._said_at_s.get(topic)
        if said_at_s is None or now_s - said_at_s >= self._period_s:
            self._said_at_s[topic] = now_s
            LOGGER.warning("%s", message)


class OnceLog:
    """A log that logs each text, or each topic, once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(
        self,
        text: str,
        level: int = logging.WARNING,
        error: BaseException | None = None,
        topic: str = "",
    ) -> None:
        """Log the text, unless it was logged before.

        Beyond very many texts, old ones are forgotten.
        """
        topic = topic or text
        if topic not in self._said:
            if len(self._said) >= _TOPICS:
                self._said.clear()
            self._said.add(topic)
            LOGGER.log(level, "%s", text, exc_info=error)


class Losses:
    """The number of lost records of this process, and the reasons, for one line at its end.

    A record is lost if it is in no output and in no journal. Threads and finalizers count at any
    time, so there is no lock: each entry is added, and taken, in one step.

    Attributes:
        is_ending: whether all trackers are being closed, and `say` follows.
        has_speaker: whether somebody calls `say` at the exit, after the last tracker.
    """

    def __init__(self) -> None:
        self.is_ending = self.has_speaker = False
        self._pid = 0
        self._entries: deque[tuple[str, int, bool]] = deque()
        """The reason, the number, and whether it has been logged."""

    def add(self, why: str, count: int = 1, *, is_said: bool = False) -> None:
        """Count lost records; `is_said`: their number has been logged."""
        if self._pid != os.getpid():  # a child does not tell of its parent's
            if not self._pid:
                atexit.register(self._at_exit)
            self._pid, self._entries = os.getpid(), deque()
        self._entries.append((why, count, is_said))
        if len(self._entries) > _MOST_ENTRIES:
            for (each, told), sum_ in self._taken().items():
                self._entries.append((each, sum_, told))

    def is_to_be_said(self, why: str, count: int) -> bool:
        """Count the records that an output has lost at its close.

        False if `say` reports them soon.
        """
        if count:
            self.add(why, count, is_said=not self.is_ending)
        return not (count and self.is_ending)

    def say(self) -> None:
        """Log the total number of lost records and the reasons, unless that was logged already."""
        if self._pid != os.getpid():
            return
        counts: dict[str, int] = {}
        is_news = False
        for (why, told), count in self._taken().items():
            is_news = is_news or not told
            counts[why] = counts.get(why, 0) + count
            self._entries.append((why, count, True))
        total = sum(counts.values())
        if is_news:
            what = "1 record" if total == 1 else f"{total} records"
            verb = "is" if total == 1 else "are"
            reasons = list(counts) if len(counts) == 1 else [f"{n} {w}" for w, n in counts.items()]
            text = f"{what} could not be written and {verb} lost: {'; '.join(reasons)}"
            LOGGER.warning("%s", text, extra={EACH_TIME: True})

    def _taken(self) -> dict[tuple[str, bool], int]:
        """The sums of the entries, which are removed."""
        sums: dict[tuple[str, bool], int] = {}
        for _ in range(len(self._entries)):
            try:
                why, count, told = self._entries.popleft()
            except IndexError:  # another thread has taken the rest
                break
            if len(sums) >= _MOST_REASONS and (why, told) not in sums:
                why = "others"
            sums[why, told] = sums.get((why, told), 0) + count
        return sums

    def _at_exit(self) -> None:
        if not self.has_speaker:
            self.say()


_MOST_ENTRIES = 1000
_MOST_REASONS = 5
"""The most different reasons that are kept."""
LOSSES = Losses()
last_of_worker(LOSSES.say)


class DeferredLog:
    """Messages that must wait until no lock is held.

    A program's log handler may do anything, even open a span in another thread while it holds a
    lock of its own; logging from inside one of our locks could then hang both.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str, BaseException | None]] = deque(maxlen=64)

    def add(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Keep a message; at most 64 are kept, the newest."""
        self._waiting.append((level, message, error))

    def flush(self) -> None:
        """Log the kept messages; call it with no lock of ours held."""
        while self._waiting:
            level, message, error = self._waiting.popleft()
            LOGGER.log(level, "%s", message, exc_info=error)


def warn_user(message: str) -> None:
    """Show a message to the user: a Python warning and a line in the log; never raises.

    For anything that a user should know before a measurement starts and that is not an error. A
    program that turns warnings into errors is not stopped by it.
    """
    message = _visible(message)
    is_shown = False
    # it may treat warnings as errors, or show them its own way
    with suppressed(Exception), unharmed_stderr():
        warnings.warn(f"carbontrack: {message}", stacklevel=_level_of_the_program())
        is_shown = True
    LOGGER.warning("%s", message, extra={SHOWN: is_shown})


def _level_of_the_program() -> int:
    """The stack level of the program's own line, as `warnings.warn` counts from its caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
