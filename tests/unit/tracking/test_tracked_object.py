"""Tracked objects that are more than functions: what else they are stays reachable."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import pickle
import subprocess
import sys
from typing import Any

import pytest

from carbontrack.api.track import track
from carbontrack.errors import ConfigError
from tests.support.bench import Bench


class Model:
    """A callable object with methods, operators and state, as of torch."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor
        self.hooks: list[str] = []

    def __call__(self, x: int, *, bias: int = 0) -> int:
        """The forward pass."""
        return self.factor * x + bias

    def __len__(self) -> int:
        return 3

    def __getitem__(self, at: int) -> int:
        return (1, 2, 3)[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.factor == self.factor

    __hash__ = None  # type: ignore[assignment]

    def train(self) -> Model:
        return self


@pytest.fixture
def bench():
    with Bench() as made:
        yield made


def tracked(bench: Bench, it: Any) -> Any:
    """The object, with a row for each of its calls."""
    return track(tracker=bench.tracker, window_s=0)(it)


@track("counted", output=None, region="FR")
@functools.lru_cache
def cached(n: int) -> int:
    """The number itself."""
    return n


def test_a_cached_function_is_still_one(bench):
    """Its cache can be asked and cleared; calls are counted, hits too."""

    @functools.lru_cache
    def square(n: int) -> int:
        """By itself."""
        return n * n

    made = tracked(bench, square)
    assert [made(3), made(3), made(n=3)] == [9, 9, 9]
    assert made.cache_info().hits == 1
    made.cache_clear()
    assert square.cache_info().currsize == 0
    assert (made.__name__, made.__doc__) == ("square", "By itself.")
    assert str(inspect.signature(made)) == "(n: 'int') -> 'int'"
    assert isinstance(made, type(square))
    assert len(bench.records) == 3


def test_a_cached_method_is_bound(bench):
    """In a class it is a method, whose cache is reached through the class and the instance."""

    class Thing:
        @functools.lru_cache  # noqa: B019 - as programs have it
        def double(self, x: int) -> int:
            return 2 * x

        double = tracked(bench, double)

        @staticmethod
        @functools.cache
        def half(x: float) -> float:
            return x / 2

    thing = Thing()
    assert (thing.double(2), Thing.double(thing, 2)) == (4, 4)
    assert thing.double.cache_info().hits == Thing.double.cache_info().hits == 1
    assert len(bench.records) == 2


def test_an_object_keeps_its_methods_operators_and_class(bench):
    """Attributes are read, set and deleted on the object; operators are its own."""
    model = Model()
    made = tracked(bench, model)
    assert made(2, bias=1) == 5
    made.factor = 10
    assert (model.factor, made(2)) == (10, 20)
    made.hooks.append("a")
    assert model.hooks == ["a"]
    del made.hooks
    assert not hasattr(model, "hooks")
    assert (len(made), made[1], list(made)) == (3, 2, [1, 2, 3])
    assert made == Model(10)
    assert made.train() is model
    assert isinstance(made, Model)
    assert callable(made)
    assert repr(made) == repr(model)
    assert vars(made) is vars(model)
    assert str(inspect.signature(made)) == "(x: 'int', *, bias: 'int' = 0) -> 'int'"
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)
    with pytest.raises(AttributeError, match="'Model' object has no attribute 'nothing'"):
        made.nothing  # noqa: B018 - the access is what is tested
    assert len(bench.records) == 2


def test_an_object_in_a_class_is_not_bound(bench):
    """An object without `__get__` gets no `self`, as without the decorator."""
    model = Model()

    class Holder:
        forward = tracked(bench, model)

    assert Holder().forward(3) == 6
    assert len(bench.records) == 1


def test_other_callables_keep_what_they_are(bench):
    """numpy's functions, single dispatch, partials, C objects: each has its attributes."""
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    add = tracked(bench, numpy.add)
    assert (add(1, 2), add.reduce([1, 2, 3]), add.nin) == (3, 6, 2)
    assert isinstance(add, numpy.ufunc)
    twice = tracked(bench, numpy.vectorize(lambda x: 2 * x))
    assert list(twice([1, 2])) == [2, 4]
    assert twice.pyfunc(3) == 6

    @functools.partial(tracked, bench)
    @functools.singledispatch
    def kind(_: object) -> str:
        return "any"

    @kind.register
    def _(_: int) -> str:
        return "int"

    assert (kind("a"), kind(1)) == ("any", "int")
    assert int in kind.registry
    partial = tracked(bench, functools.partial(max, 1, default=0))
    assert (partial.func, partial.args, partial.keywords) == (max, (1,), {"default": 0})
    assert tracked(bench, operator.itemgetter(1))([1, 2]) == 2


def test_a_plain_function_is_still_a_plain_function(bench):
    """No object stands between: the wrapper is a function, as it was."""
    for one in (lambda: 1, len, Model().train, functools.partial(len, "a")):
        assert inspect.isfunction(tracked(bench, one))


def test_a_joblib_memory_is_still_one(bench, tmp_path):
    """The cache can be looked into and cleared."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")

    def slow(x: int) -> int:
        return x + 1

    made = tracked(bench, joblib.Memory(tmp_path, verbose=0).cache(slow))
    assert (made(1), made(1)) == (2, 2)
    assert made.check_call_in_cache(1)
    made.clear(warn=False)
    assert not made.check_call_in_cache(1)
    assert len(bench.records) == 2


def test_a_stoppable_object_keeps_its_attributes(bench):
    """The same with `on_exceed`, which wraps in another way."""
    model = Model()
    made = track(tracker=bench.tracker, budget="5 kWh", on_exceed="raise")(model)
    assert (made(1), made.factor, isinstance(made, Model)) == (2, 2, True)
    assert len(bench.records) == 1


# -- copies and pickles --------------------------------------------------------------------------


def test_a_copy_is_a_copy_of_the_object_and_counted(bench):
    """State is the copy's own, as that of the bare object's copies."""
    made = tracked(bench, Model())
    for copied in (copy.copy(made), copy.deepcopy(made)):
        copied.factor = 7
        assert (copied(1), made(1)) == (7, 2)
    assert len(bench.records) == 4


def test_a_module_s_object_is_pickled_by_its_name():
    """As functions are: what is loaded is the very same object."""
    assert pickle.loads(pickle.dumps(cached)) is cached
    assert copy.deepcopy(cached).__wrapped__ is cached.__wrapped__


def test_an_object_without_a_name_is_pickled_by_value():
    """And tracked again where it is loaded."""
    made: Any = track("model", output=None, region="FR")(Model(5))
    loaded = pickle.loads(pickle.dumps(made))
    assert (loaded(1), loaded.factor, isinstance(loaded, Model)) == (5, 5, True)
    assert loaded.__wrapped__ is not made.__wrapped__
    assert type(loaded) is not Model


BY_VALUE = """
import cloudpickle, pickle, subprocess, sys
import carbontrack
options = {"region": "FR", "output": "rows.csv", "window_s": 0}
@carbontrack.track("function", **options)
def function(x): return x + 1
@carbontrack.track("stoppable", budget="5 kWh", on_exceed="raise", **options)
def stoppable(x): return x + 1
class Model:
    def __call__(self, x): return x + 1
model = carbontrack.track("object", **options)(Model())
load = "import pickle, sys; assert pickle.load(sys.stdin.buffer)(1) == 2"
for used in (False, True):
    for one in (function, stoppable, model):
        pickled = cloudpickle.dumps(one)
        subprocess.run([sys.executable, "-c", load], input=pickled, check=True)
    function(1), stoppable(1), model(1)
"""


def test_functions_of_the_main_program_go_to_workers_by_value(tmp_path):
    """As joblib, Dask and Ray send them, before and after their first call; each call has a row."""
    pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    (tmp_path / "program.py").write_text(BY_VALUE)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = (tmp_path / "rows.csv").read_text().splitlines()[1:]
    names = [row.split(",")[4] for row in rows]
    assert {name: names.count(name) for name in names} == {
        "function": 4,
        "stoppable": 4,
        "object": 4,
    }


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_tracker_and_a_span_say_why_they_are_not_pickled(act, bench):
    """And what to do instead, also inside of what somebody pickles."""
    with bench.tracker.span("a") as span:
        for one, advice in ((bench.tracker, "Create it where"), (span, "Open one where")):
            for whole in (one, [one]) if act is not copy.copy else (one,):
                with pytest.raises(TypeError, match=f"cannot be pickled or copied: .*{advice}"):
                    act(whole)
    assert pickle.loads(pickle.dumps(span.record)) == span.record


def test_a_function_that_closes_over_a_tracker_is_refused_with_the_sentence(bench):
    """What joblib and Ray show is ours, not that of a lock inside."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    tracker = bench.tracker

    def work() -> object:
        return tracker.span("a")

    with pytest.raises(
        TypeError, match=r"Create it where the work is done, with carbontrack\.auto"
    ):
        cloudpickle.dumps(work)
    with pytest.raises(TypeError, match="a Tracker cannot be pickled"):
        cloudpickle.dumps(track(tracker=tracker)(lambda: 1))


# -- the order of decorators -----------------------------------------------------------------------


def decorated(package: str) -> Any:
    """What a package's decorator returns."""
    if package == "click":
        return pytest.importorskip("click", reason="click is not installed").command()(lambda: 1)
    if package == "celery":
        celery = pytest.importorskip("celery", reason="celery is not installed")
        return celery.Celery("t", broker="memory://").task(len)
    if package == "pytest":
        return pytest.fixture(lambda: 1)
    return {
        "property": property(lambda self: 1),
        "cached_property": functools.cached_property(lambda self: 1),
        "singledispatchmethod": functools.singledispatchmethod(lambda self: 1),
    }[package]


@pytest.mark.parametrize(
    ("package", "order"),
    [
        ("click", r"@click\.command\(\), then @track, then def"),
        ("celery", r"@app\.task, then @track, then def"),
        ("pytest", r"@pytest\.fixture, then @track, then def"),
        ("property", "put @track below @property, next to the function"),
        ("cached_property", "put @track below @cached_property, next to the function"),
        ("singledispatchmethod", "put @track below @singledispatchmethod"),
    ],
)
def test_what_is_never_called_is_refused_with_the_right_order(package, order):
    """Its framework calls what is inside; tracked, it would count nothing."""
    with pytest.raises(ConfigError, match=order):
        track(decorated(package))


def test_the_right_order_counts(bench):
    """Below the framework's decorator the function is counted, and the framework finds its own."""
    click = pytest.importorskip("click", reason="click is not installed")
    from click.testing import CliRunner

    @click.command()
    @click.option("--n", type=int)
    @functools.partial(tracked, bench)
    def command(n: int) -> None:
        click.echo(n + 1)

    assert CliRunner().invoke(command, ["--n", "1"]).output == "2\n"
    assert [record.calls for record in bench.records] == [1]
