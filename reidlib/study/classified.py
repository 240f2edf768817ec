"""Reads the finished runs of `23_classification`, and decides which belong together.

The module of these runs is imported where there are some: it imports torch, which is slow.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from reidlib.files import FileError, digest
from reidlib.study.alike import OTHER_DATA, differences_in_words, left_out_sentences
from reidlib.study.results import Study

if TYPE_CHECKING:
    from reidlib.classification.pooling_runs import ClassificationRun

DAMAGED = "a damaged record, which 23_classification makes again"


def classification_runs(study: Study, images: str) -> tuple[list["ClassificationRun"], list[str]]:
    """The runs on these images that belong together, by name.

    They have the settings, the images and the code that most of the runs have; where as many have others,
    those of the newest run. Runs whose record is damaged are left out, too.

    Args:
        images: a name in `labelled_images.IMAGE_SET_TITLES`.

    Returns:
        The runs, and one sentence (Markdown) for each reason why others are left out.
    """
    files = sorted((study.runs / f"classification-{images}").glob("*.json"))
    if not files:
        return [], []
    from reidlib.classification.pooling_runs import POOLINGS, read_pooling_run

    name = re.compile(rf"({'|'.join(map(re.escape, POOLINGS))})-seed(0|[1-9]\d*)")
    found, left_out = [], []
    for path in files:
        if not name.fullmatch(path.stem):
            continue
        try:
            found.append((path.stat().st_mtime_ns, read_pooling_run(path)))
        except FileError:
            left_out.append((path.stem, DAMAGED))
    newest_first = [run for _, run in sorted(found, key=lambda one: one[0], reverse=True)]
    most = Counter(map(_made_with, newest_first)).most_common(1)
    wanted = next((run for run in newest_first if _made_with(run) == most[0][0]), None)
    chosen = []
    for _, run in found:
        unlike = list(_unlike(run, wanted))
        if unlike:
            left_out.append((run.name, ", ".join(unlike)))
        else:
            chosen.append(run)
    return chosen, left_out_sentences(left_out)


def _made_with(run: "ClassificationRun") -> str:
    return digest([run.made_from, len(run.correct)])


def _unlike(run: "ClassificationRun", wanted: "ClassificationRun") -> Iterator[str]:
    """How a run was made otherwise than another one, in words."""
    from reidlib.classification.pooling_runs import Settings

    own, other = run.made_from, wanted.made_from
    if (own["data"], len(run.correct)) != (other["data"], len(wanted.correct)):
        yield OTHER_DATA
    values = {
        field.name: [one["settings"].get(field.name) for one in (own, other)] for field in fields(Settings)
    }
    yield from differences_in_words({name: pair for name, pair in values.items() if pair[0] != pair[1]})
    if own["code"] != other["code"]:
        yield "other code"
