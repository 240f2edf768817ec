"""Curves for TensorBoard, an optional package."""

from collections.abc import Mapping

from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.run import RunFiles


def require_tensorboard() -> type:
    """TensorBoard's writer class. Raises ReidError if the package cannot be imported."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ReidError(
            f"tensorboard = True, but TensorBoard cannot be loaded ({error}): pip install tensorboard, or "
            "leave it False. curves.csv has the same numbers."
        ) from None
    return SummaryWriter


class Board:
    """Writes the curves for TensorBoard to the run's folder `tensorboard`, if the experiment asks for it.

    Raises:
        ReidError: the experiment asks for it, but TensorBoard is not installed.
    """

    def __init__(self, experiment: Experiment, files: RunFiles, done: int):
        self.writer = None
        if experiment.tensorboard:  # a repeated epoch replaces its old point
            self.writer = require_tensorboard()(str(files.tensorboard), purge_step=done + 1)

    def add(self, row: Mapping[str, float]) -> None:
        """Adds one epoch's row of curves.csv."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
