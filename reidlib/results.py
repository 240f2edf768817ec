"""Where things lie under results/, and how they are written: the only module that knows.

    results/<profile>-<dataset>/runs/<method>-seed<k>/   one training run: metrics.json is written last and marks it finished
            checkpoints-<dataset>/runs/<method>-<file>/  the same for released weights that were only scored
                                notebooks/<step>.ipynb   executed notebooks
                                figures/  tables/        what the notebooks save
                                steps/<step>.json        what the pipeline remembers of a finished step
                                report/index.html        the executed notebooks as one offline site

Files are written to a temporary name in their own folder and then renamed: what has its final name is complete.
"""

import io
import json
import math
import os
import re
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reidlib.errors import ReidError

REPOSITORY = Path(__file__).resolve().parent.parent
RUN_METRICS = "metrics.json"  # the last file that a training run writes

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class ResultsError(ReidError):
    """A file under results/ is missing, unreadable or badly named."""


class MissingRunError(ResultsError):
    """A notebook asks for a training run that has not been made."""


@dataclass(frozen=True)
class Study:
    """One profile on one data set, and the folders that belong to it. Making a Study creates nothing on disk."""

    profile: str
    dataset: str
    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def steps(self) -> Path:
        return self.root / "steps"

    @property
    def cache(self) -> Path:
        """Decoded images, shared by all studies under the same results folder; safe to delete."""
        return self.root.parent / "cache"

    def run(self, method: str, seed: int) -> Path:
        """Folder of one training run, whether or not it exists."""
        return self.runs / f"{checked_name(method, 'method')}-seed{int(seed)}"

    def checkpoint_run(self, method: str, checkpoint: str | Path) -> Path:
        """Folder of the run that scores released weights, named after their file."""
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", Path(checkpoint).name.removesuffix(".tar").removesuffix(".pth"))
        return self.runs / f"{checked_name(method, 'method')}-{name}"

    def save_figure(self, figure, name: str) -> Path:
        """Writes a matplotlib figure as figures/<name>.png (200 dpi) and .pdf, and returns the PNG's path.

        The files hold no date and no version, so that an unchanged figure is the same bytes again.
        """
        checked_name(name, "figure")
        formats = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
        for suffix, metadata in formats.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=200, bbox_inches="tight", metadata=metadata)
            write_atomically(self.figures / f"{name}.{suffix}", buffer.getvalue())
        return self.figures / f"{name}.png"

    def save_table(self, frame, name: str) -> Path:
        """Writes a pandas DataFrame as tables/<name>.csv (full precision) and .md (four digits), and returns the CSV's path.

        An index without a name that only counts the rows is left out.
        """
        checked_name(name, "table")
        counts_rows = frame.index.name is None and list(frame.index) == list(range(len(frame)))
        kept = frame if counts_rows else frame.reset_index()
        path = write_atomically(self.tables / f"{name}.csv", kept.to_csv(index=False, lineterminator="\n"))
        write_atomically(self.tables / f"{name}.md", _markdown(kept))
        return path


def open_study(profile: str, dataset: str, results: str | Path = "", *, checkpoints: bool = False) -> Study:
    """The study of one profile and data set under `results` (empty: the checkout's own; relative: to the working folder).

    checkpoints: the study of released weights on that data set, kept apart from what was trained here.
    """
    kind = "checkpoints" if checkpoints else checked_name(profile, "profile")
    folder = f"{kind}-{checked_name(dataset, 'dataset')}"
    base = Path(results).expanduser().absolute() if str(results) else REPOSITORY / "results"
    if base.exists() and not base.is_dir():
        raise ResultsError(f"The results folder {base} is a file; name a folder.")
    return Study(profile=profile, dataset=dataset, root=base / folder)


def require_run(study: Study, method: str, seed: int = 0) -> Path:
    """The folder of a finished run; MissingRunError names the command that makes it."""
    folder = study.run(method, seed)
    if (folder / RUN_METRICS).is_file():
        return folder
    command = f"python run_all.py --profile {study.profile} --dataset {study.dataset} --methods {method}"
    command += f" --seeds {seed}" if seed else ""
    command += " --data-root DIR" if study.dataset == "folder" else ""
    command += "" if study.root.parent == REPOSITORY / "results" else f" --results {shlex.quote(str(study.root.parent))}"
    state = "is unfinished" if folder.exists() else "does not exist"
    raise MissingRunError(
        f"The run {method}-seed{seed} of the study {study.root.name} {state} ({folder}). Make it with: {command} --only 10_train"
    )


def checked_name(name: str, what: str) -> str:
    """`name` itself if it can be one part of a path (letters, digits, _ . + -); otherwise ResultsError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ResultsError(f"The {what} name {name!r} cannot name a file: use letters, digits, and _ . + - only.")
    return name


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Writes `content` (text as UTF-8) under a temporary name beside `path`, then renames it; makes the folders it needs."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, data: Any) -> Path:
    """Writes plain data, numpy scalars and arrays and paths as JSON; NaN and infinities, which JSON lacks, become null."""
    return write_atomically(path, json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; ResultsError says whether it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ResultsError(f"The file {path} does not exist. Run the step that writes it again (python run_all.py).")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        message = f"The file {path} is not valid JSON ({error}). Delete it and run the step that writes it again."
        raise ResultsError(message) from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _markdown(frame) -> str:
    """A pipe table; numbers are right-aligned, a missing value is an en dash."""

    def text(value: Any) -> str:
        if isinstance(value, float | np.floating):
            return f"{value:.4g}" if math.isfinite(value) else "–"
        return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")

    numeric = [frame.dtypes.iloc[column].kind in "iuf" for column in range(frame.shape[1])]
    rows = [
        [text(column) for column in frame.columns],
        ["---:" if right else "---" for right in numeric],
        *([text(value) for value in row] for row in frame.itertuples(index=False, name=None)),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
