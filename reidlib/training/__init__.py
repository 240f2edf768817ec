"""Trains and scores runs: `fit` for an experiment, `evaluate_checkpoint` for released weights.

    from reidlib.training import fit
    run = fit(experiment, dataset, folder, cache=cache)

A run that was interrupted goes on from its last epoch, and a finished one is only read. `fitting` is the
whole course. `loop` goes through the epochs, `epoch` through one, and `objective` has losses, optimiser and
rate (`schedule`). `run_folder` keeps the files and `records` says what they are made from. `learning` says
whether a run learned; `parallel` shares batches among processes.
"""

from reidlib.training.epoch import DivergedError, OutOfMemoryError
from reidlib.training.fitting import evaluate_checkpoint, fit

__all__ = ["DivergedError", "OutOfMemoryError", "evaluate_checkpoint", "fit"]
