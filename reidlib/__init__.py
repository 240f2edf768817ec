"""Models, losses, data and evaluation of the person re-identification study in notebooks/.

`embedder` turns one's own images into embeddings. Everything else is in the packages.
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
