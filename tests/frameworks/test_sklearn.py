"""scikit-learn's callbacks: each fit is one record, and a candidate's part of it is known.

Exact figures come from estimators that let a fake clock run while they fit; worker processes and
threads are joblib's own.
"""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import carbontrack
from carbontrack.errors import BudgetExceeded, ConfigError
from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.span import Span

pytestmark = [
    pytest.mark.framework,
    pytest.mark.xdist_group("sklearn"),  # importing it, and starting its workers, is most of it
]
for needed in ("sklearn.callback", "joblib"):
    pytest.importorskip(needed)

import joblib  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin, clone  # noqa: E402
from sklearn.callback import CallbackSupportMixin, FitCallback, with_callbacks  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: E402, F401
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV  # noqa: E402
from sklearn.model_selection import (  # noqa: E402
    GridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
)
from sklearn.neural_network import MLPClassifier  # noqa: E402
from sklearn.pipeline import Pipeline, make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import SVC  # noqa: E402

from carbontrack.integrations.sklearn import CarbontrackCallback  # noqa: E402

X, Y = make_classification(60, 4, random_state=0)
WATTS = 100.0
ROOT = Path(__file__).parents[2]
IN_WORKERS = """
import time
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from carbontrack.integrations.sklearn import CarbontrackCallback

x, y = make_classification(60, 4, random_state=0)
settings = {"region": "FR", "output": "rows.jsonl", "cpu_tdp_w": 100.0}
# a budget, which each candidate exceeds as well, is the search's
callback = CarbontrackCallback(budget="1e-4 J", on_exceed=lambda verdict: None, **settings)
search = GridSearchCV(RandomForestClassifier(5), {"max_depth": [1, 2]}, cv=2, n_jobs=2)
for written in (4, 8):
    search.set_callbacks(callback).fit(x, y)
    with open("rows.jsonl") as rows:  # at once: the workers are still there
        assert sum("candidate-split-evaluation" in row for row in rows) == written
    time.sleep(0.2)  # a worker looks for its parent at most every 50 ms
alone = CarbontrackCallback(scope="machine", **settings)
cross_val_score(LogisticRegression().set_callbacks(alone), x, y, cv=2, n_jobs=2)
assert alone.record is None  # it is in the workers
"""


class Burner:
    """A machine of 100 W with a fake clock, and estimators that use it for a while to fit."""

    def __init__(self) -> None:
        self.clock, self.sink = FakeClock(), MemorySink()
        self.tracker = carbontrack.Tracker(
            meters=[FakeMeter(watts=WATTS)], grid=50.0, sinks=[self.sink], clock=self.clock
        )
        self.fits: list[tuple[Span | None, float]] = []
        """What was the current span in each fit, and the seconds that it took."""
        burner = self

        class Burn(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
            """Fits for so many seconds, then raises what it was given, if it was."""

            def __init__(self, seconds: float = 1.0, error: type | None = None) -> None:
                self.seconds, self.error = seconds, error

            def fit(self, x: Any, y: Any) -> Any:
                burner.clock.advance(self.seconds)
                burner.fits.append((carbontrack.current_span(), self.seconds))
                if self.error is not None:
                    raise self.error("too hot")
                self.classes_ = [0, 1]
                return self

            def predict(self, x: Any) -> Any:
                return [0] * len(x)

        self.estimator = Burn

    def joules(self, record: Record | None) -> float:
        """The energy of a record."""
        assert record is not None
        assert record.energy_kwh is not None
        return record.energy_kwh * 3.6e6

    def check(self, record: Record | None) -> list[Record]:
        """The parts of a fit, each with exactly its own energy, whose sum is that of the fit."""
        parts = []
        for span, seconds in self.fits:
            assert span is not None
            assert span.record is not None
            assert self.joules(span.record) == pytest.approx(WATTS * seconds)
            parts.append(span.record)
        assert self.joules(record) == pytest.approx(sum(map(self.joules, parts)))
        assert carbontrack.current_span() is None
        self.fits.clear()
        return parts


@pytest.fixture
def burner() -> Iterator[Burner]:
    """A machine whose tracker is closed at the end."""
    made = Burner()
    with made.tracker:
        yield made


def by_name(file: Path) -> dict[str, list[Record]]:
    """The rows of a file by their names."""
    found = defaultdict(list)
    for record in iter_records(file):
        found[record.name].append(record)
    return found


def test_the_hooks_are_those_of_scikit_learn() -> None:
    """A hook that is renamed there, or is new, is named here."""
    theirs = {name for name in vars(FitCallback) if not name.startswith("_")}
    theirs |= {name for base in FitCallback.__mro__ for name in vars(base) if name[0] != "_"}
    ours = {name for name in vars(CarbontrackCallback) if name[0] != "_"} - {"record"}
    assert ours == theirs, f"scikit-learn's callbacks have {theirs}, ours {ours}"
    assert isinstance(CarbontrackCallback(), FitCallback)


def test_each_candidate_is_a_part_of_its_search(burner: Burner) -> None:
    """Each fit to a split has its own energy, its number in `cv_results_`, and the fit's name."""
    callback = CarbontrackCallback(tracker=burner.tracker, labels={"team": "a"})
    search = GridSearchCV(
        burner.estimator(), {"seconds": [1.0, 3.0]}, cv=2, return_train_score=True
    )
    search.set_callbacks(callback).fit(X, Y)
    run = callback.record
    assert run is not None
    assert (run.name, run.status, burner.joules(run)) == ("GridSearchCV.fit", "ok", 900.0)
    assert (run.labels["estimator"], run.labels["team"]) == ("Burn", "a")
    *candidates, refit = burner.check(run)
    assert [record.name for record in candidates] == ["candidate-split-evaluation"] * 4
    assert refit.name == "refit-with-best-params"
    assert {record.parent_id for record in (*candidates, refit)} == {run.record_id}
    labels = {"team": "a", "fit": run.labels["fit"]}
    assert [dict(record.labels) for record in candidates] == [
        {**labels, "candidate": candidate, "split": split}
        for candidate in (0, 1)
        for split in (0, 1)
    ]
    assert [record.record_id for record in burner.sink.records] == [run.record_id]


@pytest.mark.parametrize("kind", ["random", "halving"])
def test_candidates_have_their_number_of_the_results(burner: Burner, kind: str) -> None:
    """What a candidate burned is what `cv_results_` has at its number, in later rounds as well."""
    callback = CarbontrackCallback(tracker=burner.tracker)
    choices = {"seconds": [1.0, 2.0, 3.0, 4.0, 5.0]}
    if kind == "random":
        search = RandomizedSearchCV(burner.estimator(), choices, n_iter=4, cv=2, refit=False)
    else:
        search = HalvingRandomSearchCV(
            burner.estimator(), choices, n_candidates=4, min_resources=10, cv=2, refit=False
        )
    search.set_callbacks(callback).fit(X, Y)
    burned = [seconds for _, seconds in burner.fits]
    candidates = burner.check(callback.record)
    parameters = search.cv_results_["params"]
    assert len(candidates) == 2 * len(parameters)
    assert [parameters[one.labels["candidate"]]["seconds"] for one in candidates] == burned
    assert [one.labels["split"] for one in candidates] == [0, 1] * len(parameters)


def test_the_steps_of_a_pipeline_are_parts(burner: Burner) -> None:
    """Each step has its own energy; a search inside a pipeline is one step."""
    callback = CarbontrackCallback(tracker=burner.tracker)
    pipe = Pipeline([("scale", StandardScaler()), ("burn", burner.estimator(seconds=2.0))])
    pipe.set_callbacks(callback).fit(X, Y)
    (step,) = burner.check(callback.record)
    assert step.name == "fit-final-estimator"
    inner = GridSearchCV(burner.estimator(), {"seconds": [1.0, 2.0]}, cv=2, refit=False)
    make_pipeline(StandardScaler(), inner).set_callbacks(callback).fit(X, Y)
    spans = {span for span, _ in burner.fits}
    assert len(spans) == 1
    assert burner.joules(callback.record) == 600.0


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "error"), (KeyboardInterrupt, "interrupted")]
)
def test_what_ends_a_fit_is_in_its_record(burner: Burner, error: type, status: str) -> None:
    """An exception, or Ctrl-C, passes unchanged and ends what is open; the next fit is new."""
    callback = CarbontrackCallback(tracker=burner.tracker)
    search = GridSearchCV(
        burner.estimator(error=error), {"seconds": [1.0]}, cv=2, error_score="raise"
    ).set_callbacks(callback)
    with pytest.raises(error, match=r"^too hot$"):
        search.fit(X, Y)
    failed = callback.record
    (part,) = burner.check(failed)
    assert failed is not None
    for record in (failed, part):
        assert (record.status, record.error) == (status, f"{error.__name__}: too hot")
    search.set_params(estimator__error=None).fit(X, Y)
    assert callback.record is not None
    assert callback.record.status == "ok"
    assert callback.record.record_id != failed.record_id
    assert {part.status for part in burner.check(callback.record)} == {"ok"}


def test_a_part_that_scikit_learn_does_not_end_ends_with_the_fit(burner: Burner) -> None:
    """The refit and the steps of a pipeline have no last hook where they fail."""
    callback = CarbontrackCallback(tracker=burner.tracker)
    pipe = make_pipeline(StandardScaler(), burner.estimator(error=ValueError))
    with pytest.raises(ValueError, match="too hot"):
        pipe.set_callbacks(callback).fit(X, Y)
    (part,) = burner.check(callback.record)
    assert (part.name, part.status) == ("fit-final-estimator", "error")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_candidate_that_scikit_learn_lets_fail_is_counted(burner: Burner) -> None:
    """With `error_score` the search goes on; what the candidate used is its part of it."""
    callback = CarbontrackCallback(tracker=burner.tracker)
    search = GridSearchCV(burner.estimator(), {"error": [ValueError, None]}, cv=2, refit=False)
    search.set_callbacks(callback).fit(X, Y)
    assert len(burner.check(callback.record)) == 4
    assert callback.record is not None
    assert callback.record.status == "ok"


def test_an_exception_around_a_fit_is_not_the_fits_own(burner: Burner) -> None:
    """A fit in an `except` clause has not failed."""
    callback = CarbontrackCallback(tracker=burner.tracker)
    search = GridSearchCV(burner.estimator(), {"seconds": [1.0]}, cv=2).set_callbacks(callback)
    try:
        raise KeyError("around")
    except KeyError:
        search.fit(X, Y)
    parts = burner.check(callback.record)
    assert callback.record is not None
    assert {record.status for record in (callback.record, *parts)} == {"ok"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_a_budget_ends_the_search_and_no_candidate_as_failed(burner: Burner) -> None:
    """`BudgetExceeded` comes at a candidate's end, out of `fit`, though `error_score` is set."""
    callback = CarbontrackCallback(tracker=burner.tracker, budget="500 J", on_exceed="raise")
    search = GridSearchCV(burner.estimator(), {"seconds": [4.0, 4.5, 5.0]}, cv=2)
    with pytest.raises(BudgetExceeded):
        search.set_callbacks(callback).fit(X, Y)
    assert len(burner.fits) == 2
    burner.check(callback.record)
    assert callback.record is not None
    assert callback.record.status == "budget"


def test_what_a_budget_calls_may_stop_the_search(burner: Burner) -> None:
    """A function for `on_exceed` raises what it likes, out of `fit`."""

    def stop(verdict: object) -> None:
        raise LookupError("enough")

    callback = CarbontrackCallback(tracker=burner.tracker, budget="500 J", on_exceed=stop)
    search = GridSearchCV(burner.estimator(), {"seconds": [4.0, 4.5, 5.0]}, cv=2)
    with pytest.raises(LookupError, match="enough"):
        search.set_callbacks(callback).fit(X, Y)
    assert len(burner.fits) == 2
    burner.check(callback.record)


def test_estimators_stay_as_they_are(burner: Burner) -> None:
    """`get_params`, `clone`, copies and pickles know nothing of what is open or measured here."""
    callback = CarbontrackCallback(tracker=burner.tracker, budget="1 g")
    plain = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2)
    search = clone(plain).set_callbacks(callback)
    assert repr(search) == repr(plain)
    assert search.get_params().keys() == plain.get_params().keys()
    search = clone(search).fit(X, Y)  # a clone has the same callback
    first = callback.record
    assert first is not None
    assert not hasattr(search.best_estimator_, "_skl_callbacks")
    for copied in (pickle.loads(pickle.dumps(search)), copy.deepcopy(search)):
        assert list(copied.predict(X)) == list(search.predict(X))
        copied.fit(X, Y)  # nothing goes to the tracker, which is not copied
    assert callback.record.record_id == first.record_id


def test_only_compositions_have_parts(tmp_path: Path) -> None:
    """Iterations of a solver have no rows; `spans="roots"` leaves out parts as well."""
    file = tmp_path / "rows.jsonl"
    callback = CarbontrackCallback(region="FR", output=file)
    LogisticRegression(max_iter=100).set_callbacks(callback).fit(X, Y)
    make_pipeline(StandardScaler(), LogisticRegression()).set_callbacks(callback).fit(X, Y)
    rows = by_name(file)
    assert {name: len(found) for name, found in rows.items()} == {
        "LogisticRegression.fit": 1,
        "fit-transform-standardscaler": 1,
        "fit-final-estimator": 1,
        "Pipeline.fit": 1,
    }
    callback = CarbontrackCallback(region="FR", output=file, spans="roots", name="named")
    make_pipeline(StandardScaler(), LogisticRegression()).set_callbacks(callback).fit(X, Y)
    assert sum(map(len, by_name(file).values())) == 5
    assert len(by_name(file)["named"]) == 1


def test_inside_an_open_span_its_settings_hold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The fit is a child there, and nothing is said of a setting that nobody has given."""
    file = tmp_path / "rows.jsonl"
    callback = CarbontrackCallback()
    search = GridSearchCV(LogisticRegression(), {"C": [1.0, 2.0]}, cv=2).set_callbacks(callback)
    with carbontrack.track("job", region="FR", output=file, spans="all") as job:
        search.fit(X, Y)
    rows = by_name(file)
    assert {name: len(found) for name, found in rows.items()} == {
        "job": 1,
        "GridSearchCV.fit": 1,
        "candidate-split-evaluation": 4,
        "refit-with-best-params": 1,
    }
    assert callback.record is not None
    assert job.record is not None
    assert callback.record.parent_id == job.record.record_id
    assert "ignored" not in caplog.text


def test_threads_are_parts_of_their_search(tmp_path: Path) -> None:
    """joblib's threads begin with an empty context; a candidate there is a child all the same."""
    file = tmp_path / "rows.jsonl"
    callback = CarbontrackCallback(region="FR", output=file)
    search = GridSearchCV(RandomForestClassifier(5), {"max_depth": [1, 2]}, cv=2, n_jobs=2)
    with joblib.parallel_backend("threading"):
        search.set_callbacks(callback).fit(X, Y)
    rows = by_name(file)
    (run,) = rows["GridSearchCV.fit"]
    candidates = rows["candidate-split-evaluation"]
    assert len(candidates) == 4
    assert {(one.parent_id, one.pid) for one in candidates} == {(run.record_id, os.getpid())}
    assert sum(one.energy_kwh or 0.0 for one in candidates) <= (run.energy_kwh or 0.0)
    assert carbontrack.current_span() is None


def test_worker_processes_write_rows_that_are_added_up_once(tmp_path: Path) -> None:
    """Two searches and a cross-validation in one pool of processes, which was made for the first.

    The processors are known to the model only, so that energy goes by the time on them.
    """
    (tmp_path / "sys").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_WORKERS],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CARBONTRACK_SYSFS_PATH": str(tmp_path / "sys"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = by_name(tmp_path / "rows.jsonl")
    searches = rows["GridSearchCV.fit"]
    assert len(searches) == 2
    for search in searches:
        fit = search.labels["fit"]
        candidates = [c for c in rows["candidate-split-evaluation"] if c.labels["fit"] == fit]
        places = sorted((c.labels["candidate"], c.labels["split"]) for c in candidates)
        assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert search.pid not in {c.pid for c in candidates}
        assert (search.status, {c.status for c in candidates}) == ("budget", {"ok"})
        assert {(c.parent_id, c.parent_holds) for c in candidates} == {(search.record_id, True)}
        assert sum(c.energy_kwh or 0.0 for c in candidates) <= (search.energy_kwh or 0.0)
    folds = rows["LogisticRegression.fit"]
    assert len(folds) == 2
    assert searches[0].pid not in {fold.pid for fold in folds}
    assert {fold.scope for fold in folds} == {"process"}  # of two workers on one machine
    everything = [record for found in rows.values() for record in found]
    counted = [one for one in everything if one.parent_id is None or one.parent_holds is False]
    assert {one.record_id for one in counted} == {one.record_id for one in (*searches, *folds)}


def test_what_fails_here_does_not_end_a_fit(
    burner: Burner, caplog: pytest.LogCaptureFixture
) -> None:
    """A search of somebody else's with the same names and no `n_splits_` is fitted; once said."""

    class Search(CallbackSupportMixin, BaseEstimator):  # type: ignore[misc]
        estimator = burner.estimator()

        @with_callbacks
        def fit(self, x: Any, y: Any) -> Any:
            root = self._init_callback_context(max_subtasks=2)
            for _ in range(2):
                task = root.subcontext(task_name="candidate-split-evaluation")
                task.call_on_fit_task_begin(estimator=self)
                self.estimator.fit(x, y)
                task.call_on_fit_task_end(estimator=self)
            return self

    callback = CarbontrackCallback(tracker=burner.tracker)
    Search().set_callbacks(callback).fit(X, Y)
    assert burner.joules(callback.record) == 200.0
    assert caplog.text.count("on_fit_task_begin failed; this is logged only once") == 1


def test_settings_are_checked_at_once(tmp_path: Path) -> None:
    """What cannot be used is an error before anything begins; off is off."""
    for wrong in ({"regoin": "FR"}, {"labels": 3}, {"on_exceed": "raise"}, {"name": ""}):
        with pytest.raises(ConfigError):
            CarbontrackCallback(**wrong)
    file = tmp_path / "rows.jsonl"
    callback = CarbontrackCallback(disable=True, output=file)
    make_pipeline(StandardScaler(), LogisticRegression()).set_callbacks(callback).fit(X, Y)
    assert callback.record is not None
    assert callback.record.status == "disabled"
    assert not file.exists()


@pytest.mark.parametrize(
    "kind",
    [
        RandomForestClassifier,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        SVC,
        MLPClassifier,
    ],
)
def test_what_takes_no_callbacks_is_as_the_docs_say(kind: Callable[[], Any]) -> None:
    """These do not, in this release; inside a search or a pipeline they are measured."""
    assert not hasattr(kind(), "set_callbacks"), "docs/how-to/scikit-learn.md says that it does not"
    with pytest.raises(AttributeError, match="set_callbacks"):
        kind().set_callbacks(CarbontrackCallback())


@pytest.mark.filterwarnings("ignore")  # what will be in the next release, and the solver
def test_logistic_regressions_are_as_the_docs_say() -> None:
    """The one with cross-validation calls no hook in this release; any solver's fit is measured."""
    callback = CarbontrackCallback(region="FR", output=None)
    LogisticRegressionCV(Cs=2, cv=2).set_callbacks(callback).fit(X, Y)
    assert callback.record is None, "docs/how-to/scikit-learn.md says that it calls no hook"
    LogisticRegression(solver="liblinear").set_callbacks(callback).fit(X, Y)
    assert callback.record is not None
    assert callback.record.name == "LogisticRegression.fit"


def test_an_older_release_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that installs what is needed."""
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "carbontrack.integrations.sklearn")
        patch.setitem(sys.modules, "sklearn.callback", None)
        with pytest.raises(ImportError, match=r'pip install "carbontrack\[sklearn\]"'):
            importlib.import_module("carbontrack.integrations.sklearn")
