"""Programs of spans and decorated calls that a test generates, and a model of what is theirs.

A program is a list of steps. Each is done by an actor, a thread or a coroutine with a context of
its own; only one of them runs at a time. The model knows only what is open: the energy
that counts is what the machine uses while a span is open or the body of a decorated call runs.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from carbontrack.api.track import current_span, track
from carbontrack.testing import FakeMeter
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench

LENGTHS_S = (0.001, 0.1, 0.25, 0.4, 0.7, 1.0, 1.25, 2.5)
"""How far time moves at once: less and more than what gives a call a row of its own."""


class Step(NamedTuple):
    """One step: what is done, by which actor, and two numbers that mean what the step needs."""

    name: str
    actor: int = 0
    which: int = 0
    how: int = 0


class FailedError(Exception):
    """Raised in the body of a call or block that is to fail."""


LEAVE, FAIL = "leave", "fail"


class Next:
    """Awaited by a coroutine until its next command."""

    def __await__(self) -> Generator[None, Any, Any]:
        return (yield)


class Actor:
    """Does commands one at a time, in a context of its own.

    A command that opens a frame, a decorated call or a `with` block, is in progress until LEAVE or
    FAIL; commands that come meanwhile are done inside of it.
    """

    depth = 0

    def tell(self, command: Any) -> None:
        """Have a command done; returns when the next one can be given."""
        raise NotImplementedError

    def end(self) -> None:
        """Leave all frames, from the inside outwards."""
        while self.depth:
            self.tell(LEAVE)
        self.tell(None)


class ThreadActor(Actor):
    """A thread."""

    def __init__(self, context: contextvars.Context) -> None:
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self._thread.start()

    def tell(self, command: Any) -> None:
        self._todo.put(command)
        error = self._done.get(timeout=60.0)
        if command is None:
            self._thread.join()
        if error is not None:
            raise error

    def _run(self) -> None:
        self._loop()
        self._done.put(None)

    def frame(self) -> None:
        """The body of a call or block: does the commands that come until it is to be left."""
        self.depth += 1
        self._done.put(None)
        try:
            if self._loop() is FAIL:
                raise FailedError
        finally:
            self.depth -= 1

    def _loop(self) -> Any:
        while True:
            command = self._todo.get()
            if command is None or command in (LEAVE, FAIL):
                return command
            error: BaseException | None = None
            try:
                command(self)
            except FailedError:
                pass
            except BaseException as other:
                error = other
            self._done.put(error)


class TaskActor(Actor):
    """A coroutine, stepped in its context as a task is."""

    def __init__(self, context: contextvars.Context) -> None:
        self._context = context
        self._coroutine = self._loop()
        context.run(self._coroutine.send, None)

    def tell(self, command: Any) -> None:
        try:
            self._context.run(self._coroutine.send, command)
        except StopIteration:
            assert command is None

    async def frame(self) -> None:
        self.depth += 1
        try:
            if await self._loop() is FAIL:
                raise FailedError
        finally:
            self.depth -= 1

    async def _loop(self) -> Any:
        while True:
            command = await Next()
            if command is None or command in (LEAVE, FAIL):
                return command
            try:
                going = command(self)
                if going is not None:
                    await going
            except FailedError:
                pass


class Stream:
    """A decorated generator, or an asynchronous one, which any actor may step."""

    runs = False
    ended = False
    made_in: object = None
    """The outermost call around the place where it was made."""

    def __init__(self, body: Any, tracker: int) -> None:
        self.body, self.tracker = body, tracker

    def step(self, command: Callable[[], None] | None) -> None:
        """Have the body do a command, up to its next `yield`."""
        body = self.body
        if isinstance(body, AsyncGenerator):
            with suppress(StopIteration):
                body.asend(command).send(None)
        else:
            body.send(command)

    def close(self) -> None:
        """Close it, as its consumer does."""
        body, self.ended = self.body, True
        if isinstance(body, AsyncGenerator):
            with suppress(StopIteration):
                body.aclose().send(None)
        else:
            body.close()


class Model:
    """What is open, and how much energy was used meanwhile.

    Attributes:
        spans: how many spans are open.
        callers: the calls that the actors are in, one in the other, by actor and tracker.
        ours_j: the energy used while anything was open.
        machine_j: all energy that was used.
        overlapped: whether calls that do not contain each other ran at once while no span was open.
            They are weighed by their lengths then, which together may be longer than the time in
            which any of them ran; the energy between calls, up to the next tick, is theirs then.
        closed: whether the trackers have been closed.
    """

    def __init__(self) -> None:
        self.spans = 0
        self.callers: dict[Any, list[object]] = {}
        self.ours_j = self.machine_j = 0.0
        self.overlapped = False
        self.closed = False

    def advance(self, seconds: float, watts: float) -> None:
        """Time passes."""
        self.machine_j += seconds * watts
        if not self.closed and (self.spans or self.callers):
            self.ours_j += seconds * watts
        if not self.spans and len(self.callers) > 1:
            self.overlapped = True

    @contextmanager
    def calling(self, caller: Any) -> Iterator[None]:
        """The body of a decorated call runs, called by an actor."""
        call = object()
        self.callers.setdefault(caller, []).append(call)
        try:
            yield
        finally:
            self.callers[caller].remove(call)
            if not self.callers[caller]:
                del self.callers[caller]

    def outermost(self, caller: Any) -> object:
        """The outermost call that an actor is in."""
        return self.callers.get(caller, [None])[0]


def _stream():  # type: ignore[no-untyped-def]
    command = yield
    while True:
        if command is not None:
            command()
        command = yield


async def _astream():  # type: ignore[no-untyped-def]
    command = yield
    while True:
        if command is not None:
            command()
        command = yield


class Program:
    """Runs steps on a bench, and the model beside it."""

    def __init__(
        self,
        *,
        spans: str = "roots",
        window_s: float = 10.0,
        trackers: int = 1,
        budget: bool = False,
    ) -> None:
        self.meter = FakeMeter(watts=100.0)
        self.bench = Bench([self.meter])
        self.trackers = [self.bench.tracker]
        for _ in range(1, trackers):
            more = Tracker(meters=self.bench.sampler, sinks=[self.bench.sink], interval_s=3600.0)
            self.trackers.append(more)
        for one in self.trackers:
            one.session.spans = spans  # type: ignore[assignment]
        self.model = Model()
        self.actors: list[Actor] = [ThreadActor(contextvars.Context())]
        self.open: list[Any] = []
        self.streams: list[Stream] = []
        self.names = 0
        self.functions = [self._functions(at, window_s, budget) for at in range(3)]

    def _functions(self, at: int, window_s: float, budget: bool) -> dict[str, Any]:
        at_tracker = at % len(self.trackers)
        given: Any = {"tracker": self.trackers[at_tracker], "window_s": window_s}
        if budget:
            given["budget"] = "60 J"
        program = self

        @track(f"call-{at}", **given)
        def quick(seconds: float, caller: Any) -> None:
            with program.model.calling((caller, at_tracker)):
                program.advance(seconds)

        @track(f"held-{at}", **given)
        def held(actor: ThreadActor) -> None:
            with program.model.calling((actor, at_tracker)):
                actor.frame()

        @track(f"task-{at}", **given)
        async def task(actor: TaskActor) -> None:
            with program.model.calling((actor, at_tracker)):
                await actor.frame()

        stream, astream = (track(f"{f.__name__[1:]}-{at}", **given)(f) for f in (_stream, _astream))
        return {
            "quick": quick, "held": held, "task": task, "stream": stream, "astream": astream,
        }  # fmt: skip

    def name(self, kind: str) -> str:
        """A name that no other span has."""
        self.names += 1
        return f"{kind}-{self.names}"

    # -- steps -----------------------------------------------------------------------------------

    def run(self, steps: list[Step]) -> None:
        """Do the steps, then end everything."""
        for step in steps:
            self.do(step)
        self.finish()

    def do(self, step: Step) -> None:
        actor = self.actors[step.actor % len(self.actors)]
        if step.name in (LEAVE, FAIL):
            if actor.depth:
                actor.tell(step.name)
            return
        work = getattr(self, f"do_{step.name}")
        actor.tell(lambda who: work(who, step))

    def finish(self) -> None:
        """Close the trackers with whatever is open, and leave all frames."""
        self.do_shut(None, Step("shut"))
        self.advance(0.5)
        for actor in self.actors[::-1]:
            actor.end()
        for stream in self.streams:
            if not stream.ended:
                stream.close()

    def advance(self, seconds: float) -> None:
        """Time passes for everyone."""
        self.bench.clock.advance(seconds)
        self.model.advance(seconds, self.meter.watts)

    def do_advance(self, actor: Any, step: Step) -> None:
        self.advance(LENGTHS_S[step.how % len(LENGTHS_S)])

    def do_tick(self, actor: Any, step: Step) -> None:
        self.bench.sampler.tick()

    def do_watts(self, actor: Any, step: Step) -> None:
        self.bench.sampler.tick()  # the fake's power changes at a read, calls are settled at a tick
        self.meter.watts = 10.0 * (1 + step.how)

    def _opened(self, block: Any) -> None:
        self.open.append((block.open(), block.close))
        self.model.spans += 1

    def do_open(self, actor: Any, step: Step) -> None:
        if not self.model.closed:
            self._opened(self.trackers[step.how % len(self.trackers)].span(self.name("root")))

    def do_child(self, actor: Any, step: Step) -> None:
        if self.open and not self.model.closed:
            self._opened(self.open[step.which % len(self.open)][0].span(self.name("child")))

    def do_track(self, actor: Any, step: Step) -> None:
        if self.model.closed:
            return
        budget = "1 kJ" if step.how % 2 else "40 J"
        tracker = {} if current_span() is not None else {"tracker": self.trackers[0]}
        self._opened(track(self.name("track"), budget=budget, **tracker))

    def do_close(self, actor: Any, step: Step) -> None:
        if self.open:
            self.open.pop(step.which % len(self.open))[1]()
            self.model.spans -= 1

    def do_block(self, actor: Any, step: Step) -> Any:
        if self.model.closed:
            return None
        span = self.trackers[step.how % len(self.trackers)].span(self.name("block"))
        if isinstance(actor, TaskActor):
            return self._async_block(actor, span)
        with span:
            self.model.spans += 1
            try:
                actor.frame()
            finally:
                self.model.spans -= 1
        return None

    async def _async_block(self, actor: TaskActor, span: Any) -> None:
        async with span:
            self.model.spans += 1
            try:
                await actor.frame()
            finally:
                self.model.spans -= 1

    def do_call(self, actor: Any, step: Step) -> Any:
        function = self.functions[step.which % len(self.functions)]
        return function["task" if isinstance(actor, TaskActor) else "held"](actor)

    def do_quick(self, actor: Any, step: Step) -> None:
        quick = self.functions[step.which % len(self.functions)]["quick"]
        quick(LENGTHS_S[step.how % len(LENGTHS_S)], actor)

    def do_stream(self, actor: Any, step: Step) -> None:
        kind = "astream" if step.how % 2 else "stream"
        at = step.which % len(self.functions)
        stream = Stream(self.functions[at][kind](), at % len(self.trackers))
        self.streams.append(stream)
        self._step(actor, stream, None)

    def do_step(self, actor: Any, step: Step) -> None:
        free = [stream for stream in self.streams if not stream.ended and not stream.runs]
        if not free:
            return
        stream = free[step.which % len(free)]
        inner = (
            self.do_advance, self.do_open, self.do_close, self.do_quick, self.do_tick, self.do_step,
            self.do_child, self.do_current,
        )[step.how % 8]  # fmt: skip

        def command() -> None:
            inner(actor, Step("", 0, step.which + 1, step.how // 8))

        self._step(actor, stream, command)

    def _step(self, actor: Any, stream: Stream, command: Callable[[], None] | None) -> None:
        stream.runs = True
        # A stream that was made inside a call is part of that one, as long as it runs.
        caller = (actor, stream.tracker)
        outermost = self.model.outermost(caller)
        if command is None:
            stream.made_in = outermost
        is_part = outermost is not None and stream.made_in is outermost
        with self.model.calling(caller if is_part else stream):
            stream.step(command)
        stream.runs = False

    def do_end(self, actor: Any, step: Step) -> None:
        free = [stream for stream in self.streams if not stream.ended and not stream.runs]
        if not free:
            return
        stream = free[step.which % len(free)]
        if step.how % 3:
            stream.close()
        else:  # the interpreter closes what nobody refers to any more
            self.streams.remove(stream)

    def do_shut(self, actor: Any, step: Step) -> None:
        if not self.model.closed:
            for tracker in self.trackers[::-1]:
                tracker.close()
            self.model.closed = True

    def do_current(self, actor: Any, step: Step) -> None:
        span = current_span()
        if span is not None:
            span.snapshot()

    def do_snapshot(self, actor: Any, step: Step) -> None:
        if self.open:
            self.open[step.which % len(self.open)][0].snapshot()

    def do_spawn(self, actor: Any, step: Step) -> None:
        if len(self.actors) < 5:
            context = contextvars.Context() if step.how % 4 == 3 else contextvars.copy_context()
            kind = TaskActor if step.how % 2 else ThreadActor
            self.actors.append(kind(context))


STEPS = (
    "advance", "advance", "advance", "tick", "watts", "open", "open", "child", "track", "close",
    "close", "block", "call", "quick", "quick", "stream", "step", "step", "step", "end", "current",
    "snapshot", "spawn", "shut", LEAVE, LEAVE, FAIL,
)  # fmt: skip
"""The names of the steps, as often as they are drawn."""
