"""Trains and scores runs: `fit` for an experiment, `evaluate_checkpoint` for released weights.

    from reidlib.training import fit
    run = fit(experiment, dataset, folder, cache=cache)

A run that was interrupted goes on from its last epoch, and a finished one is only read. `fitting` is the
whole course. `loop` goes through the epochs, `epoch` through one, and `objective` has losses, optimiser and
rate (`schedule`). `run_folder` keeps the files and `records` says what they are made from. `learning` says
whether a run learned; `parallel` shares batches among processes.

A killed run goes on to the same bits on a CPU. A checkpoint of another version of PyTorch, device, processor
or precision is refused with the difference. A run whose cross-entropy in the last epoch is above 98 % of that
of a guess (the entropy of the training labels) did not learn, and every table says so in place of a score.

Settings for long or many runs, from a notebook's parameter overrides or by --set (`reidlib.experiment` has
all of them):

    validation_identities=100 validate_every=5   100 training people are held out, and scored every five
                                                 epochs; their best weights stay as best-<epoch>.pt
    keep_every=10                                every tenth epoch's weights stay as epoch-<number>.pt
    measure_every=5                              features of 32 training images are measured every five epochs
    processes=4                                  data parallelism on one machine: a GPU each, or cores;
                                                 sync_batch_norm=True joins the batch statistics (GPUs)
    deterministic=True                           the same bits on a GPU, too
    compile=True                                 torch.compile
    tensorboard=True                             curves for TensorBoard, too (pip install tensorboard)
    start_from=FILE                              train on from released weights or a model.pt;
                                                 start_classifiers=False: the people may differ
    precision=bfloat16 embedding_precision=bfloat16      instead of float32, in training and in scoring
"""

from reidlib.training.epoch import DivergedError, OutOfMemoryError
from reidlib.training.fitting import evaluate_checkpoint, fit

__all__ = ["DivergedError", "OutOfMemoryError", "evaluate_checkpoint", "fit"]
