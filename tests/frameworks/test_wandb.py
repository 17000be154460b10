"""Weights & Biases: what an offline run holds after a measured training."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("wandb")]
pytest.importorskip("wandb")

PROGRAM = """
import json, logging
import wandb
import carbontrack
from carbontrack.integrations.wandb import WandbSink
from carbontrack.testing import FakeClock, FakeMeter

logging.basicConfig(filename="said.log", level=logging.WARNING)
told = {}

def tracked(sink):
    clock = FakeClock()
    meters = [FakeMeter(watts=100.0)]
    return clock, carbontrack.Tracker(meters=meters, grid=50.0, sinks=[sink], clock=clock)

# where no run is active, none is started
clock, tracker = tracked(WandbSink())
with tracker:
    for _ in range(2):
        with tracker.span("train"):
            clock.advance(36.0)
told["run without one"] = wandb.run is not None

# the active run, with the user's own steps
clock, tracker = tracked(WandbSink())
with tracker, wandb.init(mode="offline", project="p", config={"lr": 0.1}) as run:
    told["first folder"] = run.dir
    for epoch in range(3):
        with tracker.span("epoch"):
            clock.advance(36.0)
        told[f"step {epoch}"] = run.step
        run.log({"loss": 1.0 / (1 + epoch)})
    told["summary"] = dict(run.summary)
    told["config"] = dict(run.config)

# a run that is given; live numbers; the record comes when the user logs no more
run = wandb.init(mode="offline", project="p")
told["second folder"] = run.dir
sink = WandbSink(run)
clock, tracker = tracked(sink)
with tracker, tracker.span("train") as span:
    for epoch in range(2):
        clock.advance(36.0)
        sink.log(span.snapshot())
        run.log({"loss": 1.0}, step=10 * epoch)
run.finish()

# a run that has been finished before the block ends
clock, tracker = tracked(WandbSink())
with tracker:
    with tracker.span("late"):
        clock.advance(1.0)
print(json.dumps(told))
"""


def records(data: bytes) -> Iterator[bytes]:
    """The records of an offline run: LevelDB's log format behind a header of 7 bytes."""
    at, block, parts = 7, 32768, b""
    while at + 7 <= len(data):
        left = block - at % block
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            yield parts
            parts = b""


def history(folder: str) -> list[dict[str, Any]]:
    """The rows of the history in the file of an offline run."""
    from wandb.proto import wandb_internal_pb2

    (path,) = Path(folder).parent.glob("*.wandb")
    rows = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return rows


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one program with several offline runs has left."""
    folder = tmp_path_factory.mktemp("wandb")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["said"] = (folder / "said.log").read_text()
    for which in ("first", "second"):
        found[which] = history(found[f"{which} folder"])
    return found


def test_no_run_is_started(told: dict[str, Any]) -> None:
    """Blocks that end before `wandb.init` and after `wandb.finish` start nothing; each is said."""
    assert told["run without one"] is False
    assert told["said"].count("no W&B run is active") == 2


def test_the_summary_has_the_sums_and_the_words(told: dict[str, Any]) -> None:
    """Three epochs of 1 Wh are 3 Wh and 0.15 g; how they are known stands beside them."""
    summary = told["summary"]
    assert summary["carbontrack/energy_kwh"] == pytest.approx(0.003)
    assert summary["carbontrack/emissions_g"] == pytest.approx(0.15)
    assert summary["carbontrack/power_w"] == pytest.approx(100.0)
    assert summary["carbontrack/basis"] == "measured"
    assert summary["carbontrack/status"] == "ok"
    assert "carbontrack/gpu_kwh" not in summary
    assert set(told["config"]) == {"lr"}


def test_the_step_of_the_user_is_not_moved(told: dict[str, Any]) -> None:
    """The user's n-th `log` is step n; our numbers are in the same row."""
    assert [told[f"step {epoch}"] for epoch in range(3)] == [0, 1, 2]
    rows = told["first"]
    assert [row["_step"] for row in rows] == [0, 1, 2]
    assert [row["loss"] for row in rows] == pytest.approx([1.0, 1 / 2, 1 / 3])
    energies = [row["carbontrack/energy_kwh"] for row in rows]
    assert energies == pytest.approx([0.001, 0.002, 0.003])


def test_steps_that_the_user_gives_are_kept(told: dict[str, Any]) -> None:
    """With `run.log(…, step=n)` ours are in a row of the user's or behind the last one."""
    rows = told["second"]
    assert [row["_step"] for row in rows if "loss" in row] == [0, 10]
    assert rows[-1]["carbontrack/energy_kwh"] == pytest.approx(0.002)


def test_wandb_has_the_names_that_are_used() -> None:
    """A release that renames one of them fails here, and says which."""
    from wandb.sdk.wandb_run import Run

    assert "commit" in inspect.signature(Run.log).parameters
    assert "step_metric" in inspect.signature(Run.define_metric).parameters
    assert isinstance(Run.id, property)
