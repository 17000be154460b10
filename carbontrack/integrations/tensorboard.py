"""TensorBoard: energy and emissions as scalars, next to those of the training.

`output=["emissions.csv", "tensorboard:runs/first"]` writes an event file into that directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    from tensorboard.summary import Writer
except ImportError as error:
    cure = 'pip install "carbontrack[tensorboard]"'
    raise ImportError(f"TensorBoard is not installed: {cure}") from error

from carbontrack.errors import ConfigError
from carbontrack.integrations.tracker_sink import TrackerSink, sums_of_process


class TensorBoardSink(TrackerSink[Any]):
    """Writes scalars to a directory, or with your own writer, which it does not close.

    Args:
        writer_or_dir: a directory of event files; or a writer that has `add_scalar` and `flush`,
            such as `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, writer_or_dir: Any) -> None:
        is_folder = bool(isinstance(writer_or_dir, (str, Path)) and str(writer_or_dir))
        super().__init__(sums_of_process() if is_folder else None)
        if not is_folder and not callable(getattr(writer_or_dir, "add_scalar", None)):
            raise ConfigError(
                "TensorBoard needs a directory, such as 'tensorboard:runs/first', or a writer with "
                f"add_scalar, not {writer_or_dir!r}"
            )
        self._folder = str(Path(writer_or_dir).absolute()) if is_folder else ""
        self.address = self._folder
        self._writer: Any = None if is_folder else writer_or_dir

    def find_run(self) -> tuple[str, Any] | None:
        """The writer; created only now, so that ranks that do not report leave no file."""
        if self._writer is None:
            self._writer = Writer(self._folder)
        return self._folder, self._writer

    def report(self, run: Any, numbers: dict[str, float], *rest: Any) -> None:
        """Add the scalars and flush them."""
        _, step = rest  # facts are words, and no scalars
        for name, number in numbers.items():
            run.add_scalar(name, number, step)
        run.flush()

    def finish(self) -> None:
        """Close the event file, if the sink created it."""
        if self._folder and self._writer is not None:
            self._writer.close()
            self._writer = None
