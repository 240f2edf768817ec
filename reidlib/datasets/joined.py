"""Several data sets together: training on all of them, and whether two of them show the same people.

In a joined set, the people and the cameras of each source stay apart. It is tested as its first source is; a
query is never searched in the gallery of another source.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from reidlib.datasets.types import DatasetError, ReidDataset, Split
from reidlib.files import FileError, digest, read_json
from reidlib.images.contents import content_digests

TEST = ("query", "gallery")


@dataclass(frozen=True, eq=False)
class JoinedDataset(ReidDataset):
    """The training images of several data sets, with the query and the gallery of the first.

    `root` is the first one's. `sources`: name → data set, in the order in which they were joined.
    """

    sources: Mapping[str, ReidDataset] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """As of every data set. "training" covers the training images of all sources, in their order.

        The names of the sources do not count.
        """
        own = [source.fingerprints for source in self.sources.values()]
        numbers = [self.train.ids.tolist(), self.train.cameras.tolist()]
        training = digest([[one["training"] for one in own], *numbers])[:16]
        return {"training": training, "test": own[0]["test"]}


def join_datasets(sources: Mapping[str, ReidDataset]) -> JoinedDataset:
    """Joins data sets for training.

    The first source keeps its identities and cameras. Those of each further one are shifted past all that
    came before, test people included. So two sources share no number, and the labels of training
    (`train_labels`) are 0..C-1 over the people of all sources.

    Args:
        sources: name → data set, two or more.

    Raises:
        DatasetError: there are fewer than two; or people of one source's training images are known to be in
            another's, or in the test images of the first.
    """
    if len(sources) < 2:
        raise DatasetError(f"Data sets to join: expected two or more, got {len(sources)}. Name another one.")
    _require_different_people(sources)
    (first_name, first), *others = sources.items()
    train, notes = [first.train], [f"{first_name}: {note}" for note in first.notes]
    next_id = 1 + max(int(split.ids.max()) for split in first.splits.values())
    next_camera = 1 + int(first.cameras.max())
    for name, source in others:
        own = source.train
        id_shift, camera_shift = next_id - int(own.ids.min()), next_camera - int(own.cameras.min())
        train.append(Split(own.paths, own.ids + id_shift, own.cameras + camera_shift))
        next_id, next_camera = 1 + int(train[-1].ids.max()), 1 + int(train[-1].cameras.max())
        notes.append(
            f"{name}: its {source.num_train_identities} training people ({len(own)} images) were added; "
            f"{id_shift} was added to their identities and {camera_shift} to their cameras"
        )
    joined = Split(
        tuple(path for split in train for path in split.paths),
        np.concatenate([split.ids for split in train]),
        np.concatenate([split.cameras for split in train]),
    )
    notes.append(f"query and gallery are those of {first_name}")
    return JoinedDataset(
        "joined",
        first.root,
        joined,
        first.query,
        first.gallery,
        tuple(notes),
        cache=first.cache,
        keep_digests=first.keep_digests,
        sources=dict(sources),
    )


def sources_of(dataset: ReidDataset) -> tuple[ReidDataset, ...]:
    """The data sets that were joined, or the data set itself."""
    return tuple(dataset.sources.values()) if isinstance(dataset, JoinedDataset) else (dataset,)


def people_in_both(trained_on: ReidDataset, other: ReidDataset, parts: Iterable[str] = TEST) -> str:
    """Why training people of a data set must be in another one, in words; "" if nothing says so.

    Two things say so: an image that is in both, by content; and, where two data sets number the same people
    (CUHK03's two forms, rendered people of one seed), an identity that is in both. The same person in other
    images of other data sets cannot be seen.

    Args:
        parts: the splits of `other`; query and gallery unless another is asked for.
    """
    parts, other = tuple(parts), sources_of(other)[0]
    theirs = {content for part in parts for content in _contents(other, part)}
    their_people = np.concatenate([other.splits[part].ids for part in parts])
    for source in sources_of(trained_on):
        images = theirs.intersection(_contents(source, "train"))
        if images:
            return f"{len(images)} image{'s are' if len(images) > 1 else ' is'} in both"
        numbered = _numbered_as(source)
        people = np.intersect1d(source.train.ids, their_people[their_people > 0])
        if numbered and numbered == _numbered_as(other) and len(people):
            return f"{len(people)} people of {numbered} are in both"
    return ""


@functools.lru_cache(maxsize=16)  # a data set is compared with several others
def _contents(dataset: ReidDataset, part: str) -> list[str]:
    paths = dataset.splits[part].paths
    return content_digests(paths, cache=dataset.cache, keep=dataset.keep_digests)


def _numbered_as(dataset: ReidDataset) -> str:
    """Data sets of which this is equal have the same people under the same identities. "": none is known."""
    if dataset.name.startswith("cuhk03-np-"):
        return "CUHK03"
    try:
        return f"the renderer's seed {read_json(dataset.root / 'synthetic.json')['spec']['seed']}"
    except (FileError, KeyError, TypeError):
        return ""


def _require_different_people(sources: Mapping[str, ReidDataset]) -> None:
    (first_name, first), *_ = sources.items()
    names = list(sources)
    pairs = [(one, other) for place, one in enumerate(names) for other in names[:place]]
    for one, other in pairs:
        if reason := people_in_both(sources[one], sources[other], ("train",)):
            raise DatasetError(
                f"{one} and {other} cannot be joined, because they train on the same people ({reason}): "
                "a person would count as two. Leave one out."
            )
    for name in names[1:]:
        if reason := people_in_both(sources[name], first):
            raise DatasetError(
                f"{name} cannot be joined to {first_name}, because its training people are in the test "
                f"images of {first_name} ({reason}): the scores would be of people known from training. "
                f"Leave {name} out."
            )
