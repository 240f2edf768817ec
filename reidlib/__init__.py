"""Person re-identification, reproduced: ABD-Net and Parameter-Free Spatial Attention.

The notebooks in notebooks/ call this package, and `python run_all.py` runs them. From Python:

    from pathlib import Path

    from reidlib import training
    from reidlib.config import experiment_for
    from reidlib.datasets import load_dataset

    experiment = experiment_for("abdnet", profile="demo", dataset="synthetic", epochs=3)
    run = training.fit(experiment, load_dataset("synthetic"), Path("runs/abdnet-seed0"), cache=Path("cache"))
    run.metrics["map"], run.model()

`reidlib.embedder` turns one's own images into embeddings.

One rule decides where a line lies. Of the last three groups, each imports from itself and from above, never
from below; only `reidlib.training.fit` also scores what it has trained:

    settings      experiment (every setting), config (METHODS: every row of every table; PROFILES), switches
                  (paper against released code), claims (of both papers)
    files         run (a run's files), files, torch_files, code_digest, provenance
    the weights   datasets, synthetic (drawn people), images, models, losses, checkpoints (released weights),
                  training, classification
    the scores    evaluation, reranking, statistics, crossed (differences over seeds and people),
                  image_embedder (own images), neighbours (large galleries)
    shows, runs   show (tables, figures, sentences), study (steps, results, command line), report (the site),
                  export (ONNX, torch.export)

What is wrong with a setting, a file or the data is a `reidlib.errors.ReidError`, with the fix in its message.
`python -m pydoc reidlib.PACKAGE` says what each package holds.
"""

from typing import Any

__version__ = "0.1.0"


def embedder(run_or_checkpoint: Any, method: str = "", **settings: Any) -> Any:
    """An object that turns images into embeddings, `reidlib.image_embedder.Embedder`. Example:

    embed = reidlib.embedder("results/demo-synthetic/runs/abdnet-seed0")
    embeddings = embed(["one.jpg", "two.jpg"])  # (2, D) float32

    Args:
        run_or_checkpoint: the folder of a finished run, or a file of released weights (.pth.tar).
        method: of a file of weights, the row of `reidlib.config.METHODS` that they are of, such as "abdnet".
        settings: of a file of weights, settings of `reidlib.experiment.Experiment`, such as height=256, and a
            profile, such as profile="demo".

    Raises:
        ReidError: the run or the file cannot be used; the message says why, and what can.
    """
    from reidlib.image_embedder import load_embedder  # torch takes seconds to import

    return load_embedder(run_or_checkpoint, method, **settings)
