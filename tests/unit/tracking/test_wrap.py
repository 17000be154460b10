"""A decorated function does what it did: results, exceptions, steps and signatures."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.tracking.call import CountedCall
from carbontrack.tracking.decorate import wrap


class Log(CountedCall):
    """Keeps what is said about one call."""

    def __init__(self):
        self.said = []

    def resume(self):
        self.said.append("resume" if self.said else "begin")

    def pause(self):
        self.said.append("pause")

    def end(self, status="ok", error=None):
        self.said.append(status)


class Counter:
    """Begins calls and keeps their logs."""

    def __init__(self):
        self.calls = []

    def __call__(self):
        self.calls.append(Log())
        return self.calls[-1]

    @property
    def said(self):
        """What was said of the only call."""
        (log,) = self.calls
        return log.said


class Broken(CountedCall):
    """A call whose counting fails at every step."""

    def resume(self):
        raise RuntimeError("ours")

    pause = resume

    def end(self, status="ok", error=None):
        raise RuntimeError("ours")


def test_a_function_returns_and_raises_as_before():
    """The result is the same object, and so is the exception."""
    counter, thing, error = Counter(), object(), ValueError("theirs")

    def give(*args, fail=False, **kwargs):
        """Give it back."""
        if fail:
            raise error
        return thing, args, kwargs

    wrapped = wrap(give, counter)
    assert wrapped(1, b=2) == (thing, (1,), {"b": 2})
    with pytest.raises(ValueError, match="theirs") as caught:
        wrapped(fail=True)
    assert caught.value is error
    assert error.__context__ is None
    assert [log.said for log in counter.calls] == [["begin", "ok"], ["begin", "error"]]


def test_it_looks_like_the_function():
    """Name, documentation, signature and module are the function's own."""

    def given_name(a: int, *, b: str = "x") -> float:
        """What it says."""
        return float(a)

    wrapped = wrap(given_name, Counter())
    assert wrapped.__name__ == "given_name"
    assert wrapped.__doc__ == "What it says."
    assert wrapped.__module__ == __name__
    assert wrapped.__wrapped__ is given_name
    assert inspect.signature(wrapped) == inspect.signature(given_name)


def test_methods_of_every_kind():
    """Methods, static and class methods are bound as before, in either order of decorators."""
    counter = Counter()

    class Thing:
        def method(self, x):
            return self, x

        @classmethod
        def make(cls, x):
            return cls, x

        @staticmethod
        def double(x):
            return 2 * x

        def __call__(self, x):
            return -x

    class Tracked(Thing):
        method = wrap(Thing.method, counter)
        make = wrap(Thing.__dict__["make"], counter)
        double = wrap(Thing.__dict__["double"], counter)
        inner = classmethod(wrap(Thing.__dict__["make"].__func__, counter))

    thing = Tracked()
    assert thing.method(1) == (thing, 1)
    assert Tracked.make(2) == (Tracked, 2)
    assert thing.make(2) == (Tracked, 2)
    assert Tracked.double(3) == thing.double(3) == 6
    assert Tracked.inner(4) == (Tracked, 4)
    assert wrap(thing, counter)(5) == -5
    assert len(counter.calls) == 7


def test_partials_and_callables_keep_their_kind():
    """A partial of a coroutine function, and an object with an async call, are awaited."""
    counter = Counter()

    async def work(a, b):
        return a + b

    class Worker:
        async def __call__(self, x):
            return x

    partial = wrap(functools.partial(work, 1), counter)
    assert inspect.iscoroutinefunction(partial)
    assert asyncio.run(partial(2)) == 3
    assert asyncio.run(wrap(Worker(), counter)(4)) == 4
    assert [log.said for log in counter.calls] == [["begin", "ok"]] * 2


@pytest.mark.parametrize("kind", ["plain", "coroutine", "generator", "async generator"])
def test_kinds_are_what_they_were(kind):
    """Whoever inspects the decorated function finds the kind of the bare one."""

    def plain():
        return 1

    async def coroutine():
        return 1

    def generator():
        yield 1

    async def async_generator():
        yield 1

    bare = {f.__name__.replace("_", " "): f for f in (plain, coroutine, generator, async_generator)}
    wrapped = wrap(bare[kind], Counter())
    for question in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert question(wrapped) == question(bare[kind])


@pytest.mark.parametrize("kind", ["plain", "coroutine", "generator", "async generator"])
def test_wrong_arguments_are_told_in_the_functions_own_words(kind):
    """The same `TypeError`: at the call of a plain function, at the first step of the others."""

    def plain(a):
        return a

    async def coroutine(a):
        return a

    def generator(a):
        yield a

    async def async_generator(a):
        yield a

    bare = {f.__name__.replace("_", " "): f for f in (plain, coroutine, generator, async_generator)}
    with pytest.raises(TypeError, match="missing 1 required") as told:
        bare[kind]()
    steps = {
        "plain": lambda made: made,
        "coroutine": asyncio.run,
        "generator": next,
        "async generator": lambda made: asyncio.run(made.__anext__()),
    }
    with pytest.raises(TypeError) as found:
        steps[kind](wrap(bare[kind], Counter())())
    assert str(found.value) == str(told.value)


def test_a_task_cancelled_before_its_start_leaves_no_warning(recwarn):
    """Nothing of the function has been made by then that would have to be awaited."""

    async def work():
        return 1

    async def main():
        task = asyncio.create_task(wrap(work, Counter())())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_call_that_cannot_be_counted_is_made_all_the_same(caplog):
    """Our own mistakes are logged and change nothing."""

    def plain():
        return 1

    def steps():
        got = yield 1
        yield got

    assert wrap(plain, Broken)() == 1
    generator = wrap(steps, Broken)()
    assert next(generator) == 1
    assert generator.send(5) == 5
    assert list(generator) == []
    assert "ours" in caplog.text


def test_a_cancelled_coroutine_is_interrupted():
    """Cancelling reaches the body, and the record's status."""
    counter, seen = Counter(), []

    async def work():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    async def main():
        task = asyncio.create_task(wrap(work, counter)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(seen) == 1
    assert counter.said == ["begin", "interrupted"]


def test_generators_are_counted_only_while_their_body_runs():
    """Every yield pauses, every step resumes; a consumer that stops early is no error."""
    counter = Counter()

    def steps():
        yield 1
        yield 2

    generator = wrap(steps, counter)()
    assert counter.calls == []
    next(generator)
    assert counter.said == ["begin", "pause"]
    generator.close()
    assert counter.said == ["begin", "pause", "resume", "ok"]


def test_a_generator_left_to_the_collector_ends():
    """A generator that nobody closes is ended when it is collected."""
    counter = Counter()

    def steps():
        yield 1

    generator = wrap(steps, counter)()
    next(generator)
    del generator
    gc.collect()
    assert counter.said == ["begin", "pause", "resume", "ok"]


# -- generators, step by step -------------------------------------------------------------------


class MineError(Exception):
    """Thrown in from outside."""


REACTIONS = st.sampled_from(["yield", "return", "raise", "stop", "yield from"])
STEPS = st.lists(
    st.sampled_from(["next", "send", "throw", "exit", "close"]), min_size=1, max_size=8
)


def body(plan, log):  # noqa: C901 - one branch for each way a generator can react
    """A generator that reacts to whatever comes in as its plan says."""

    def inner():
        got = yield "inner"
        log.append(("inner got", got))
        return "inner done"

    for number, (reaction, swallows) in enumerate(plan):
        try:
            if reaction == "yield":
                log.append(("got", (yield number)))
            elif reaction == "return":
                return ("returned", number)
            elif reaction == "raise":
                raise KeyError(number)
            elif reaction == "stop":
                raise StopIteration(number)
            else:
                log.append((yield from inner()))
        except MineError as error:
            log.append(("caught", repr(error)))
            if not swallows:
                raise
        except GeneratorExit:
            log.append("exit")
            if not swallows:
                raise
        finally:
            log.append("finally")
    return "end"


def drive(generator, steps):
    """Take the steps, and tell all that can be seen from outside."""
    seen = []
    for number, step in enumerate([*steps, *["next"] * 20]):  # to the end of either
        try:
            if step == "next":
                seen.append(next(generator))
            elif step == "send":
                seen.append(generator.send(number))
            elif step == "throw":
                seen.append(generator.throw(MineError(number)))
            elif step == "exit":
                seen.append(generator.throw(GeneratorExit(number)))
            else:
                seen.append(("closed", generator.close()))
        except BaseException as error:
            chain = error.__cause__, error.__suppress_context__
            seen.append((type(error).__name__, str(error), repr(chain)))
    return seen


@settings(max_examples=400, deadline=None)
@given(plan=st.lists(st.tuples(REACTIONS, st.booleans()), max_size=6), steps=STEPS)
def test_generators_step_as_the_bare_ones(plan, steps):
    """Whatever is sent, thrown or closed, the decorated generator answers as the bare one."""
    counter, bare_log, log = Counter(), [], []
    bare = drive(body(plan, bare_log), steps)
    wrapped = drive(wrap(body, counter)(plan, log), steps)
    assert wrapped == bare
    assert log == bare_log
    for call in counter.calls:
        assert sum(said in ("ok", "error", "interrupted") for said in call.said) <= 1


async def async_body(plan, log):
    """As `body`, asynchronous."""
    for number, (reaction, swallows) in enumerate(plan):
        try:
            await asyncio.sleep(0)
            if reaction in ("yield", "yield from"):
                log.append(("got", (yield number)))
            elif reaction == "return":
                return
            elif reaction == "raise":
                raise KeyError(number)
            else:
                raise StopAsyncIteration(number)
        except MineError as error:
            log.append(("caught", repr(error)))
            if not swallows:
                raise
        except GeneratorExit:
            log.append("exit")
            if not swallows:
                raise
        finally:
            log.append("finally")


async def drive_async(generator, steps):
    """As `drive`, asynchronous."""
    seen = []
    for number, step in enumerate([*steps, *["next"] * 20]):  # to the end of either
        try:
            if step == "next":
                seen.append(await generator.__anext__())
            elif step == "send":
                seen.append(await generator.asend(number))
            elif step == "throw":
                seen.append(await generator.athrow(MineError(number)))
            elif step == "exit":
                seen.append(await generator.athrow(GeneratorExit(number)))
            else:
                seen.append(("closed", await generator.aclose()))
        except BaseException as error:
            seen.append((type(error).__name__, str(error), repr(error.__cause__)))
    return seen


@settings(max_examples=200, deadline=None)
@given(plan=st.lists(st.tuples(REACTIONS, st.booleans()), max_size=5), steps=STEPS)
def test_async_generators_step_as_the_bare_ones(plan, steps):
    """Whatever is sent, thrown or closed, the decorated one answers as the bare one."""

    async def both():
        bare_log, log = [], []
        bare = async_body(plan, bare_log)
        wrapped = wrap(async_body, Counter())(plan, log)
        seen = await drive_async(bare, steps), await drive_async(wrapped, steps)
        logs = list(bare_log), list(log)
        return seen, logs

    (bare, wrapped), (bare_log, log) = asyncio.run(both())
    assert wrapped == bare
    assert log == bare_log


def test_an_async_generator_left_open_is_quiet(capfd):
    """A loop that ends with the generator open closes it without a complaint."""
    counter = Counter()

    async def steps():
        yield 1
        yield 2

    async def main():
        async for _ in wrap(steps, counter)():
            break

    asyncio.run(main())
    gc.collect()
    assert capfd.readouterr().err == ""
    assert counter.said[-1] in ("ok", "interrupted")  # cancelled with the loop, or before


def test_the_value_of_a_generator_comes_back():
    """`yield from` a decorated generator has its value."""

    def steps():
        yield 1
        return "value"

    def outer():
        return (yield from wrap(steps, Counter())())

    generator = outer()
    next(generator)
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == "value"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close() returns a value from 3.13 on")
def test_the_value_given_on_closing_comes_back():
    """From Python 3.13 on `close` returns what the body returns."""

    def steps():
        try:
            yield 1
        except GeneratorExit:
            return "late"

    generator = wrap(steps, Counter())()
    next(generator)
    assert generator.close() == "late"
