"""MLflow: what a run shows after a measured training, with a real store."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbontrack.testing import build_powercap

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("mlflow")]
pytest.importorskip("mlflow")

PROGRAM = """
import json, logging, os, sys, threading, time
import mlflow
import carbontrack
from carbontrack.integrations.mlflow import MlflowSink
from carbontrack.testing import FakeClock, FakeMeter

logging.basicConfig(filename="said.log", level=logging.WARNING)
mlflow.set_tracking_uri(os.environ["STORE"])
client = mlflow.MlflowClient()
told = {}

def metrics_of(run):
    return client.get_run(run.info.run_id).data.metrics

def tags_of(run):
    tags = client.get_run(run.info.run_id).data.tags
    return {name: tag for name, tag in tags.items() if name.startswith("carbontrack")}

def tracked(sink):
    clock = FakeClock()
    meters = [FakeMeter(watts=100.0)]
    return clock, carbontrack.Tracker(meters=meters, grid=50.0, sinks=[sink], clock=clock)

# where no run is active, none is started
clock, tracker = tracked(MlflowSink())
with tracker:
    with tracker.span("train"):
        clock.advance(36.0)
    with tracker.span("train"):
        clock.advance(36.0)
told["runs without one"] = len(client.search_runs(["0"]))
told["active"] = mlflow.active_run() is not None

# the run that is active, with the user's own metrics at their own steps
clock, tracker = tracked(MlflowSink())
with tracker, mlflow.start_run() as run:
    for step in range(3):
        with tracker.span("epoch", labels={"step": step}):
            clock.advance(36.0)
        mlflow.log_metric("loss", 1.0 / (1 + step))
        mlflow.log_metric("accuracy", 0.5, step=step)
told["sums"], told["tags"] = metrics_of(run), tags_of(run)
history = client.get_metric_history(run.info.run_id, "carbontrack/energy_kwh")
told["history"] = sorted((one.step, one.value) for one in history)
told["user's steps"] = [one.step for one in client.get_metric_history(run.info.run_id, "accuracy")]

# live numbers, each with the user's epoch
sink = MlflowSink()
clock, tracker = tracked(sink)
with tracker, mlflow.start_run() as run, tracker.span("train") as span:
    for epoch in (1, 2, 3):
        clock.advance(36.0)
        sink.log(span.snapshot(), step=epoch)
history = client.get_metric_history(run.info.run_id, "carbontrack/energy_kwh")
told["live"] = sorted((one.step, one.value) for one in history)

# two threads with a run each; each thread ends its own block
sink = MlflowSink()
clock, tracker = tracked(sink)
runs, both = {}, threading.Barrier(2)
def work(name):
    with mlflow.start_run() as runs[name]:
        both.wait(60)
        with tracker.span(name):
            both.wait(60)
            if name == "a":
                clock.advance(36.0)
            both.wait(60)
        both.wait(60)
with tracker:
    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for one in threads: one.start()
    for one in threads: one.join()
told["threads"] = {name: tags_of(run)["carbontrack.record_id"] for name, run in runs.items()}

# a run that is named, and has ended
name = runs["a"].info.run_id
clock, tracker = tracked(MlflowSink(run_id=name))
with tracker, tracker.span("evaluate"):
    clock.advance(72.0)
told["named"] = metrics_of(runs["a"])["carbontrack/energy_kwh"]

# by settings: the main thread ends the block, and the ticker's thread writes
with mlflow.start_run() as run:
    with carbontrack.track("train", output=["runs.csv", "mlflow:"], region="FR") as span:
        add(2.0)
        time.sleep(0.2)
    carbontrack.api.track.PROVIDER.close()
told["settings"] = metrics_of(run)

# blocks with other settings have other trackers, and the run has the sum of all
with mlflow.start_run() as run:
    blocks = []
    for region in ("FR", "DE"):
        with carbontrack.track("train", output="mlflow:", region=region) as block:
            add(2.0)
            time.sleep(0.2)
        blocks.append(block)
    carbontrack.api.track.PROVIDER.close()
told["regions"] = metrics_of(run), [block.record.emissions_g for block in blocks]
told["record"] = {name: value for name, value in span.record.to_row().items()}
told["row"] = open("runs.csv").read().splitlines()[1].count("train")
print(json.dumps(told))

# a server that takes a request and never answers: the program ends all the same
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    mlflow.set_tracking_uri("http://127.0.0.1:%d" % server.getsockname()[1])
    clock, tracker = tracked(MlflowSink(run_id="7"))
    with tracker, tracker.span("train"):
        clock.advance(36.0)
    server.accept()
    sys.exit(0)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one program with several runs has found in MLflow."""
    folder = tmp_path_factory.mktemp("mlflow")
    powercap = build_powercap(folder / "machine")
    add = f"""
def add(joules):
    from pathlib import Path
    path = Path({str(powercap.directory("package-0") / "energy_uj")!r})
    path.write_text(str(int(path.read_text()) + int(joules * 1e6)))
"""
    done = subprocess.run(
        [sys.executable, "-c", add + PROGRAM],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "CARBONTRACK_SYSFS_PATH": str(powercap.sysfs),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "STORE": (folder / "runs").as_uri(),  # a database syncs the disk at each commit
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["said"] = (folder / "said.log").read_text()
    return found


def test_no_run_is_started(told: dict[str, Any]) -> None:
    """Blocks that end without an active run leave MLflow as it was; one warning says why."""
    assert (told["runs without one"], told["active"]) == (0, False)
    assert told["said"].count("no MLflow run is active") == 1


def test_a_run_has_the_sums_of_its_records(told: dict[str, Any]) -> None:
    """Three epochs of 1 Wh: 3 Wh, 0.15 g, 100 W, by the names of `metrics_of`."""
    sums = told["sums"]
    assert sums["carbontrack/energy_kwh"] == pytest.approx(0.003)
    assert sums["carbontrack/cpu_kwh"] == pytest.approx(0.003)
    assert sums["carbontrack/emissions_g"] == pytest.approx(0.15)
    assert sums["carbontrack/duration_s"] == pytest.approx(108.0)
    assert sums["carbontrack/power_w"] == pytest.approx(100.0)
    assert "carbontrack/gpu_kwh" not in sums
    assert told["history"] == [
        [0, pytest.approx(0.001)],
        [0, pytest.approx(0.002)],
        [0, pytest.approx(0.003)],
    ]


def test_words_are_tags(told: dict[str, Any]) -> None:
    """How the last record is known, and which row it is."""
    assert told["tags"]["carbontrack.basis"] == "measured"
    assert told["tags"]["carbontrack.meters"] == "fake:cpu"
    assert told["tags"]["carbontrack.status"] == "ok"
    assert told["tags"]["carbontrack.record_id"].endswith("-3")


def test_the_metrics_of_the_user_keep_their_steps(told: dict[str, Any]) -> None:
    """Nothing of ours is at the steps of what the user logs."""
    assert told["user's steps"] == [0, 1, 2]
    assert told["sums"]["loss"] == pytest.approx(1.0 / 3.0)


def test_live_numbers_lead_to_the_final_one(told: dict[str, Any]) -> None:
    """`sink.log(span.snapshot(), step=epoch)`; the record comes behind them."""
    assert told["live"] == [
        [1, pytest.approx(0.001)],
        [2, pytest.approx(0.002)],
        [3, pytest.approx(0.003)],
        [3, pytest.approx(0.003)],
    ]


def test_each_thread_reports_to_its_own_run(told: dict[str, Any]) -> None:
    """Two threads with a run each: no record is in the other's run."""
    assert len(set(told["threads"].values())) == 2


def test_a_named_run_gets_what_ends_later(told: dict[str, Any]) -> None:
    """`MlflowSink(run_id=…)` needs no active run, and adds to what another sink has reported."""
    assert told["named"] == pytest.approx(0.0005 + 0.002)


def test_a_server_that_does_not_answer_is_not_waited_for(told: dict[str, Any]) -> None:
    """The program has ended by itself, and was told what is lost."""
    assert "MLflow did not respond within 2 s; 1 reports are lost" in told["said"]


def test_an_output_of_track_reports_what_the_row_says(told: dict[str, Any]) -> None:
    """`track(output=[…, "mlflow:"])`: the figures of MLflow are those of the CSV file."""
    record = told["record"]
    assert told["row"] == 1
    assert record["machine_kwh"] >= 2.0 / 3.6e6
    for name in ("energy_kwh", "energy_low_kwh", "energy_high_kwh", "emissions_g", "cpu_kwh"):
        assert told["settings"][f"carbontrack/{name}"] == pytest.approx(record[name])


def test_blocks_with_other_settings_are_in_the_same_sum(told: dict[str, Any]) -> None:
    """`track(region=…)` of two regions: the run has the emissions of both blocks."""
    metrics, emissions_g = told["regions"]
    assert metrics["carbontrack/emissions_g"] == pytest.approx(sum(emissions_g))


def test_mlflow_has_the_names_that_are_used() -> None:
    """A release that renames one of them fails here, and says which."""
    from mlflow.tracking import MlflowClient, fluent

    assert {"run_id", "metrics", "tags"} <= inspect.signature(
        MlflowClient.log_batch
    ).parameters.keys()
    assert callable(fluent._active_run_stack.get_all_thread_values)
