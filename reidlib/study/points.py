"""The scores without learning, with the fingerprint of the test images that they are of.

reference_points.json, in the tables of a study or in the folder of a reference study, holds "data", the
fingerprint, and "points", the rows of `reidlib.evaluation.reference_points`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidlib.datasets.types import ReidDataset
from reidlib.files import FileError, read_json, write_json
from reidlib.study.results import Study, command_of

if TYPE_CHECKING:
    import pandas as pd

POINTS = "reference_points.json"
SCORES = ("rank1", "rank5", "map", "minp")
BOUNDS = ("rank1_low", "rank1_high", "map_low", "map_high")  # None: there is no interval


def keep_points(points: "pd.DataFrame", images: str, folder: Path) -> None:
    """Writes the scores without learning (`reidlib.evaluation.reference_points`).

    Args:
        images: the fingerprint of the test images that they are of.
    """
    write_json(folder / POINTS, {"data": images, "points": points.to_dict("records")})


def kept_points(folder: Path, images: str) -> list[dict[str, Any]]:
    """The rows of `keep_points`; [] if there are none of these test images."""
    return _read(folder, images)[0]


def reference_points(study: Study, dataset: ReidDataset) -> tuple["pd.DataFrame", list[str]]:
    """The scores without learning on a study's test images.

    Returns:
        A table as from `reidlib.evaluation.reference_points`, without rows if there are none of these
        images; then also one sentence (Markdown) that says why, and what makes them again.
    """
    rows, problem = _read(study.reference or study.tables, dataset.fingerprints["test"])
    if not problem:
        return _frame(rows), []
    from reidlib.show.text import in_markdown  # imports pandas, which is slow

    again = "tools/make_reference.py" if study.reference else f"{command_of(study)} --only 01_data"
    return _frame([]), [
        f"The scores without learning are left out, because their file {POINTS} {problem}; "
        f"this makes it again: {in_markdown(again)}"
    ]


def _frame(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd  # slow to import

    numbers = (*SCORES, *BOUNDS)
    return pd.DataFrame(rows, columns=["method", *numbers]).astype(dict.fromkeys(numbers, float))


def _read(folder: Path, images: str) -> tuple[list[dict[str, Any]], str]:
    """The rows for these test images, or none and the reason in words."""
    try:
        content = read_json(folder / POINTS)
    except FileError:
        return [], "is missing or damaged"
    match content:
        case {"data": str(data), "points": [_, *_] as points} if all(map(_is_whole, points)):
            return (points, "") if data == images else ([], "belongs to other images")
    return [], "is missing or damaged"


def _is_whole(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("method"), str)
        and all(isinstance(row.get(name), int | float) for name in SCORES)
        and all(isinstance(row.get(name), int | float | None) for name in BOUNDS)
    )
