"""Boosting in a block: native threads are counted, and a failed training leaves nothing open.

The recipes of docs/how-to/boosting.md are run with that page.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import carbontrack
from carbontrack.report.read import iter_records

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("sklearn")]
for needed in ("xgboost", "lightgbm", "sklearn.callback"):
    pytest.importorskip(needed)

import lightgbm  # noqa: E402
import xgboost  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402

from carbontrack.integrations.sklearn import CarbontrackCallback  # noqa: E402

X, Y = make_classification(2000, 20, random_state=0)


def train_xgboost(rounds: int, callback: Callable[[], None] | None = None) -> None:
    """Two threads."""

    class Call(xgboost.callback.TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            if callback is not None:
                callback()
            return False

    parameters = {"objective": "binary:logistic", "nthread": 2, "max_depth": 6}
    xgboost.train(parameters, xgboost.DMatrix(X, Y), rounds, callbacks=[Call()])


def train_lightgbm(rounds: int, callback: Callable[[], None] | None = None) -> None:
    """Two threads."""
    calls = [] if callback is None else [lambda _: callback()]
    parameters = {"objective": "binary", "num_threads": 2, "verbose": -1}
    lightgbm.train(parameters, lightgbm.Dataset(X, Y), rounds, callbacks=calls)


def spin(_: int) -> None:
    """One thread of Python."""
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass


@pytest.mark.parametrize("train", [train_xgboost, train_lightgbm])
def test_native_threads_are_counted(train: Callable[[int], None], tmp_path: Path) -> None:
    """A second of a processor costs what a second of Python does, whoever spends it."""
    settings: dict[str, Any] = {"sysfs_path": str(tmp_path), "cpu_tdp_w": 100.0, "idle": "none"}
    per_s = []
    train(1)  # its threads are there
    for work in (spin, train):
        began_s = time.process_time()
        with carbontrack.track("work", output=None, region="FR", **settings) as run:
            work(100)
        assert run.record is not None
        assert run.record.cpu_kwh is not None
        per_s.append(run.record.cpu_kwh / (time.process_time() - began_s))
    assert 0.7 < per_s[1] / per_s[0] < 1.5  # 0.5 if one of the two threads were not


@pytest.mark.parametrize("train", [train_xgboost, train_lightgbm])
def test_a_training_that_fails_leaves_nothing_open(train: Callable[..., None]) -> None:
    """Neither library calls a hook then; a block needs none."""

    def fail() -> None:
        raise ValueError("no more")

    with (
        pytest.raises(ValueError, match="no more"),
        carbontrack.track("boost", output=None, region="FR") as run,
    ):
        train(3, fail)
    assert run.record is not None
    assert (run.record.status, run.record.error) == ("error", "ValueError: no more")
    assert carbontrack.current_span() is None


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")  # LightGBM 4.6's
def test_candidates_of_a_search_are_measured(tmp_path: Path) -> None:
    """The classifiers take no callbacks of scikit-learn's, and a search over them does."""
    file = tmp_path / "rows.jsonl"
    for kind in (xgboost.XGBClassifier, lightgbm.LGBMClassifier):
        model = kind(n_estimators=2, n_jobs=1, verbosity=0 if "XGB" in kind.__name__ else -1)
        assert not hasattr(model, "set_callbacks")
        search = GridSearchCV(model, {"max_depth": [1, 2]}, cv=2, refit=False)
        search.set_callbacks(CarbontrackCallback(region="FR", output=file)).fit(X[:100], Y[:100])
    rows = list(iter_records(file))
    candidates = [row for row in rows if row.name == "candidate-split-evaluation"]
    assert len(candidates) == 8
    assert all((row.energy_kwh or 0.0) > 0.0 for row in candidates)
