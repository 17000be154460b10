"""TensorBoard: what its own reader finds in the event files of a measured training."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest

from carbontrack.errors import ConfigError
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("tensorboard")]
pytest.importorskip("tensorboard")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary import Writer
    from tensorboard.util import tensor_util

    from carbontrack.integrations.tensorboard import TensorBoardSink


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard reads them."""
    found = EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()
    assert tags["scalars"] == []  # what is written since 2.x is shown alike
    return {
        tag: [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in found.Tensors(tag)]
        for tag in tags["tensors"]
    }


def train(sink: TensorBoardSink, **close: Any) -> None:
    """Three epochs of 1 Wh, and live numbers in between."""
    clock = FakeClock()
    tracker = Tracker(meters=[FakeMeter(watts=100.0)], grid=50.0, sinks=[sink], clock=clock)
    with tracker:
        for _ in range(2):
            with tracker.span("epoch"):
                clock.advance(36.0)
        with tracker.span("epoch") as span:
            clock.advance(36.0)
            sink.log(span.snapshot(), step=50)


def test_a_folder_has_the_sums_of_a_training(tmp_path: Path) -> None:
    """1, 2 and 3 Wh, at steps that go on from the user's; unknown parts are missing."""
    train(TensorBoardSink(tmp_path / "runs"))
    found = scalars(tmp_path / "runs")
    assert found["carbontrack/energy_kwh"] == [
        (1, pytest.approx(0.001)),
        (2, pytest.approx(0.002)),
        (50, pytest.approx(0.003)),
        (51, pytest.approx(0.003)),
    ]
    assert found["carbontrack/emissions_g"][-1] == (51, pytest.approx(0.15))
    assert found["carbontrack/power_w"][-1] == (51, pytest.approx(100.0))
    assert "carbontrack/gpu_kwh" not in found


def test_a_writer_of_the_user_is_not_closed(tmp_path: Path) -> None:
    """The scalars are beside the user's own, whose writer goes on."""
    writer = Writer(str(tmp_path))
    writer.add_scalar("loss", 0.5, 7)
    train(TensorBoardSink(writer))
    writer.add_scalar("loss", 0.25, 8)
    writer.close()
    found = scalars(tmp_path)
    assert found["loss"] == [(7, 0.5), (8, 0.25)]
    assert found["carbontrack/energy_kwh"][-1] == (51, pytest.approx(0.003))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_rank_that_does_not_report_leaves_no_file(tmp_path: Path) -> None:
    """The folder is made with the first report."""
    TensorBoardSink(tmp_path / "runs").close()
    assert not (tmp_path / "runs").exists()


def test_a_folder_is_needed() -> None:
    """`tensorboard:` alone, and what is no writer, are errors before anything starts."""
    for given in ("", 3):
        with pytest.raises(ConfigError, match="needs a directory"):
            TensorBoardSink(given)


def test_an_output_names_the_folder(tmp_path: Path) -> None:
    """`output="tensorboard:FOLDER"` is this sink; a relative folder is the one of its start."""
    from carbontrack.sinks.factory import sink_for

    sink = sink_for(f"tensorboard:{tmp_path}/runs")
    assert sink.address == str(tmp_path / "runs")  # type: ignore[attr-defined]
    sink.close()


def test_tensorboard_has_the_names_that_are_used() -> None:
    """A release that renames one of them fails here, and says which."""
    assert list(inspect.signature(Writer.add_scalar).parameters)[1:4] == ["tag", "data", "step"]
    assert callable(Writer.flush)
    assert callable(Writer.close)


def test_the_writer_of_torch_takes_the_same_calls(tmp_path: Path) -> None:
    """`torch.utils.tensorboard.SummaryWriter` too, by order of its parameters."""
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        train(TensorBoardSink(writer))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("carbontrack/energy_kwh")][-1] == (
        51,
        pytest.approx(0.003),
    )
