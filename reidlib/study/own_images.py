"""One's own images as a study: what `run_all.py --images` asks for is checked, and opened in the notebook."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidlib.config import METHODS, caveats, experiment_for_file, title_of
from reidlib.datasets import DATASET_TITLES
from reidlib.datasets.own_images import OwnImages, read_own_images, unreadable
from reidlib.experiment import Experiment
from reidlib.files import absolute_path
from reidlib.run import read_run
from reidlib.settings import ConfigError, choose, in_short
from reidlib.study.results import Study

if TYPE_CHECKING:
    import numpy as np

    from reidlib.image_embedder import Embedder

NOTEBOOK = "40_your_images"
LABELS, SKIP = "labels", "skip_unreadable"  # data options


@dataclass(frozen=True)
class Searched:
    """One's own images and their embeddings.

    Attributes:
        own: without the images that were left out.
        embeddings: `query` (Q, D) and `gallery` (G, D), float32.
        embedder: what made them.
        sentences: what was read, and from where (Markdown).
    """

    own: OwnImages
    embeddings: dict[str, "np.ndarray"]
    embedder: "Embedder"
    sentences: tuple[str, ...]


def read_images(root: str, queries: Sequence[str], options: Mapping[str, Any]) -> OwnImages:
    """Finds images and labels by the notebook's parameters. Nothing is decoded.

    Raises:
        ConfigError: an unknown data option, or one with an impossible value.
        DatasetError, UnreadableImageError: as in `read_own_images` and `OwnImages.without`.
    """
    for name in options:
        choose("data option", name, (LABELS, SKIP))
    labels, skip = options.get(LABELS, "auto"), options.get(SKIP, False)
    if not isinstance(labels, str) or not isinstance(skip, bool):
        raise ConfigError(
            f"data_options: expected text for {LABELS} and True or False for {SKIP}, got {in_short(options)}."
        )
    if not root:
        raise ConfigError("data_root is empty: name the folder of images to search.")
    own = read_own_images(root, queries, labels=labels)
    return own.without(unreadable(own.paths, decode=False), skip)


def weights_experiment(run: str, method: str, overrides: Mapping[str, Any], profile: str) -> Experiment:
    """The settings of a run, or of a file of weights; files are not read.

    Args:
        run: the folder of a finished run, or a file.
        method, overrides, profile: of a file. A run has its own.

    Raises:
        ReidError: there is no such run, or method and settings are missing, unknown or too many.
    """
    if not run:
        raise ConfigError("run is empty: name the folder of a finished run, or a file of released weights.")
    if not absolute_path(run, "run").is_dir():
        choose("method", method, METHODS)
        return experiment_for_file(method, dataset="folder", profile=profile, **overrides)
    if overrides:
        raise ConfigError(f"The run {run} has its own settings: leave {', '.join(overrides)} out.")
    return read_run(Path(run)).experiment


def own_caveats(experiment: Experiment) -> list[str]:
    """What a reader must know of the network before trusting the rankings, one sentence each."""
    own = {name: getattr(experiment, name) for name in ("pretrained", "start_from", "backbone")}
    sentences = caveats(experiment.profile, "folder", own)
    if experiment.dataset == "synthetic":
        sentences.insert(0, "The network was trained on synthetic people, drawn by a program.")
    return [*sentences, "A ranking is a guess about looks; it identifies nobody."]


def open_own_images(
    study: Study,
    run: str,
    root: str,
    queries: Sequence[str],
    method: str,
    overrides: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Searched:
    """Reads and embeds one's own images by the notebook's parameters. The gallery's embeddings are cached.

    Raises:
        ReidError: something asked for is not there or does not fit; unreadable images are listed.
    """
    from reidlib.image_embedder import embed_own_images, load_embedder  # torch takes seconds to import
    from reidlib.show.learning import learning_sentences
    from reidlib.show.text import in_markdown

    experiment = weights_experiment(run, method, overrides, study.profile)
    own = read_images(root, queries, options)
    of_run = Path(run).is_dir()
    of_file = {} if of_run else {"method": method, "profile": study.profile, "dataset": "folder", **overrides}
    embedder = load_embedder(run, **of_file)
    skip = options.get(SKIP, False)
    own, embeddings = embed_own_images(embedder, own, cache=study.cache, skip_unreadable=skip)
    trained = f", trained on {DATASET_TITLES[experiment.dataset]}" if of_run else ""
    sentences = [
        f"{len(own.dataset.query):,} queries, {len(own.dataset.gallery):,} images that are searched.",
        f"Weights: {in_markdown(embedder.name)} ({title_of(experiment.method)}){trained}; "
        f"{embeddings['gallery'].shape[1]:,} numbers for each image.",
        *map(in_markdown, own.notes),
        *(
            f"Left out, because it cannot be read: {in_markdown(str(path.name))} ({in_markdown(reason)})."
            for path, reason in own.left_out.items()
        ),
        *(learning_sentences([read_run(Path(run))]) if of_run else []),
    ]
    return Searched(own, embeddings, embedder, tuple(sentences))


def require_weights(run: str, methods: Sequence[str], given: Sequence[str]) -> str:
    """The method of `--run`: a run's own, or the one named for a file of weights.

    Args:
        given: options that were given and are about a file of weights only.

    Raises:
        ReidError: there is no such run or file, or the options do not fit it.
    """
    if Path(run).is_dir():
        for name in given:
            raise ConfigError(
                f"--{name} is for a file of weights; the run of --run has its own: leave it out."
            )
        return read_run(Path(run)).method
    from reidlib.checkpoints import state_dict_in  # imports torch
    from reidlib.torch_files import read_torch_file

    state_dict_in(read_torch_file(Path(run)), run)
    if len(methods) != 1:
        raise ConfigError(
            "--run with a file of weights needs --methods with the one method that they are of, such as "
            "--methods abdnet."
        )
    return choose("method", methods[0], METHODS)
