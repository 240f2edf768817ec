"""Trains and scores runs: `fit` for an experiment, `evaluate_checkpoint` for released weights."""

from reidlib.training.epoch import DivergedError, OutOfMemoryError
from reidlib.training.fitting import evaluate_checkpoint, fit

__all__ = ["DivergedError", "OutOfMemoryError", "evaluate_checkpoint", "fit"]
