"""The small files of reference runs, which are committed: writes them, and says whether a run is there.

results/reference/<study>/reference_points.json     scores without learning, see reidlib.study.points
                          runs/<run>/weights.json   as in reidlib.run; no weights, embeddings or images
                                     scores.json
                                     metrics.json   also "finished", the time when the run was finished
                                     curves.csv     six digits
                                     queries.csv.gz six digits, compressed
No file holds a path of the machine that made it.
"""

import datetime
import gzip
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidlib.config import OF_FILES
from reidlib.files import FileError, plain, read_json, write_atomically, write_json
from reidlib.run import Run, RunFiles, StaleRunError, read_run

if TYPE_CHECKING:
    import pandas as pd

_FACTS = ("finished", "made_by", "train_seconds", "score_seconds", "query_images")
# An absolute path in a text: of Unix, of a home folder, or of Windows.
_PATH = re.compile(r"(?<![\w./\\~:])(?:~?/|~\w+/|[A-Za-z]:[\\/])[^\s'\"]+")


class ReferenceFiles(RunFiles):
    """The paths of a reference run's files."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.queries = folder / "queries.csv.gz"


def keep_run(run: Run, root: Path) -> Path:
    """Copies a finished run's small files into a reference study, and returns the copy's folder.

    metrics.json is last: if it exists, the copy is complete.

    Args:
        root: the study's folder, results/reference/<study>.
    """
    kept = ReferenceFiles(root / "runs" / run.name)
    kept.metrics.unlink(missing_ok=True)
    for record in ("weights_record", "scores_record"):
        write_json(getattr(kept, record), without_paths(read_json(getattr(run.files, record))))
    write_atomically(kept.curves, _as_csv(run.curves))
    # Without a time, the same table gives the same bytes.
    write_atomically(kept.queries, gzip.compress(_as_csv(run.queries).encode(), mtime=0))
    finished = datetime.datetime.fromtimestamp(run.files.metrics.stat().st_mtime, datetime.UTC)
    metrics = {**read_json(run.files.metrics), "finished": finished.isoformat(timespec="seconds")}
    write_json(kept.metrics, without_paths(metrics))
    return kept.folder


def is_kept(name: str, weights: Mapping[str, Any], scores: Mapping[str, Any], root: Path) -> bool:
    """Whether a reference study has a whole run of this name, made from these two records."""
    try:
        run = read_kept_run(root / "runs" / name)
    except (FileError, StaleRunError):
        return False
    return run.made_from == plain(without_paths({"weights": weights, "scores": scores}))


def read_kept_run(folder: Path) -> Run:
    """A reference run all of whose files are there and can be read.

    Raises:
        FileError, StaleRunError: a file is missing, damaged or of another version of the study.
    """
    run, kept = read_run(folder), ReferenceFiles(folder)
    if missing := [name for name in _FACTS if name not in run.metrics]:
        raise FileError(f"{kept.metrics} lacks {', '.join(missing)}.")
    if not kept.curves.is_file():
        raise FileError(f"The file {kept.curves} does not exist.")
    try:
        content = gzip.decompress(kept.queries.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"The file {kept.queries} is missing or damaged ({type(error).__name__}).") from error
    if content.count(b"\n") != run.metrics["query_images"] + 1:
        raise FileError(f"The file {kept.queries} does not have the {run.metrics['query_images']} queries.")
    return run


def without_paths(data: Any) -> Any:
    """Plain data in which every absolute path is replaced by the name of its file."""
    if isinstance(data, dict):
        return {
            key: Path(value).name if key in OF_FILES and isinstance(value, str) else without_paths(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [without_paths(value) for value in data]
    if isinstance(data, str):
        return _PATH.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], data)
    return data


def _as_csv(frame: "pd.DataFrame") -> str:
    def six_digits(value: float) -> str:
        return repr(float(f"{value:.6g}"))  # "1.0", so that a column of floats stays one

    return frame.to_csv(index=False, lineterminator="\n", float_format=six_digits)
