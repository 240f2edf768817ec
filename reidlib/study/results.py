"""The folders and files under results/.

results/<profile>-<dataset>/runs/<method>-seed<k>/   one training run (its files: reidlib.run)
        checkpoints-<dataset>/runs/<method>-<file>-<digest>/
                                                     the same for released weights that were only scored
                            notebooks/<step>.ipynb   executed notebooks
                            figures/  tables/        what the notebooks save
                            explorer/                what the report's explorer shows
                            embeddings/              of one's own images (images-<folder>-<digest>/ only)
                            steps/<step>.json        what a finished step depended on
                            report/index.html        the executed notebooks as one offline site
        reference-<study>/                           the same for a reference study; its runs are committed in
        reference/<study>/runs/                      (reidlib.study.reference_files)
        reference-report/<study>/index.html          a site for each reference study, with links to the others
"""

import io
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reidlib.datasets import PLACES
from reidlib.errors import ReidError
from reidlib.files import (
    REPOSITORY,
    absolute_path,
    digest,
    file_digest,
    replacing,
    write_atomically,
    write_json,
)
from reidlib.run import RunFiles
from reidlib.show.markdown import table_as_markdown
from reidlib.study.latex import table_as_latex
from reidlib.study.parameters import check_values

REFERENCE = REPOSITORY / "results" / "reference"  # committed, see reidlib.study.reference
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class ResultsError(ReidError):
    """A folder or name under results/ cannot be used."""


class MissingRunError(ResultsError):
    """A notebook asks for a training run that has not been made."""


@dataclass(frozen=True)
class Study:
    """One profile on one data set, and its folders. Making a Study creates nothing on disk.

    reference: the folder of a reference study, whose runs it shows; None: it has its own.
    """

    profile: str
    dataset: str
    root: Path
    reference: Path | None = None

    @property
    def runs(self) -> Path:
        return (self.reference or self.root) / "runs"

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
    def explorer(self) -> Path:
        return self.root / "explorer"

    @property
    def embeddings(self) -> Path:
        return self.root / "embeddings"

    @property
    def report(self) -> Path:
        if self.reference:  # beside the others, so that their links hold wherever the folder goes
            return self.root.parent / "reference-report" / self.reference.name
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
        """Folder of the run that scores released weights, named after their file and its content.

        Many files of weights have the same name, such as model.pth.tar.

        Raises:
            ResultsError: the file cannot be read.
        """
        file = Path(checkpoint)
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", file.name.removesuffix(".tar").removesuffix(".pth"))
        try:
            content = file_digest(file)[:8]
        except OSError as error:
            raise ResultsError(
                f"The weights {file} cannot be read ({error.strerror}): pass the path of a file made by "
                "torch.save (.pth, .pth.tar)."
            ) from error
        return self.runs / f"{checked_name(method, 'method')}-{name[:64]}-{content}"

    def save_figure(self, figure, name: str, data=None) -> Path:
        """Writes a matplotlib figure as figures/<name>.png (200 dpi) and .pdf, and returns the PNG's path.

        The figure's alternative text (`reidlib.show.drawing.described`) stands in both. The files hold no
        date and no version, so an unchanged figure gives the same bytes.

        Args:
            data: the numbers that are drawn. A DataFrame is written as figures/<name>.csv, a mapping from
                names to arrays as .npz; None: the figure shows images, or a saved table has its numbers.
        """
        figure.set_gid(checked_name(name, "figure"))  # the report links the picture to its files
        text = figure.get_label()
        formats = {
            "png": {"Software": None} | ({"Description": text} if text else {}),
            "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Subject": text or None},
        }
        for suffix, metadata in formats.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=200, bbox_inches="tight", metadata=metadata)
            write_atomically(self.figures / f"{name}.{suffix}", buffer.getvalue())
        if isinstance(data, Mapping):
            buffer = io.BytesIO()
            np.savez(buffer, **data)
            write_atomically(self.figures / f"{name}.npz", buffer.getvalue())
        elif data is not None:
            write_atomically(self.figures / f"{name}.csv", _csv(data))
        return self.figures / f"{name}.png"

    def save_explorer(self, explorer) -> Path:
        """Writes a `reidlib.show.explorer.Explorer` to explorer/. Returns the path of its JSON."""
        for name, content in explorer.sheets.items():
            suffix = "png" if content[1:4] == b"PNG" else "webp"
            write_atomically(self.explorer / f"{name}.{suffix}", content)
        return write_json(self.explorer / "explorer.json", explorer.data)

    def save_card(self, run: Path, text: str) -> Path:
        """Writes a run's model card (`reidlib.show.model_card`) into its folder. Returns the path."""
        return write_atomically(RunFiles(run).card, text)

    def save_table(self, frame, name: str) -> Path:
        """Writes a pandas DataFrame as tables/<name>.csv (full precision), .md and .tex (four digits).

        Returns the CSV's path. An index without a name that only counts the rows is left out.
        """
        checked_name(name, "table")
        for suffix, write in {"csv": _csv, "md": _markdown, "tex": _latex}.items():
            write_atomically(self.tables / f"{name}.{suffix}", write(_with_index(frame)))
        return self.tables / f"{name}.csv"

    def save_embeddings(self, table, names, embeddings: np.ndarray, name: str) -> Path:
        """Writes embeddings/<name>.parquet, and the same as <name>.npy with <name>.csv beside it.

        Row i of each file is the same image. The Parquet file has the table's columns, `name` (the file's
        name as bytes, which text cannot always hold) and `embedding` (a list of float32).

        Args:
            table: a pandas DataFrame of N rows, such as file, identity, camera.
            names: N names of files, as they are on the disk.
            embeddings: (N, D) float32.

        Returns:
            The Parquet file's path.
        """
        import polars as pl  # slow to import

        path = self.embeddings / f"{checked_name(name, 'embeddings')}.parquet"
        columns = {column: _without_gaps(table[column]) for column in table}
        columns["name"] = pl.Series([os.fsencode(one) for one in names], dtype=pl.Binary)
        values = np.ascontiguousarray(embeddings, np.float32)
        columns["embedding"] = pl.Series(values, dtype=pl.Array(pl.Float32, values.shape[1]))
        with replacing(path) as temporary:
            pl.DataFrame(columns).write_parquet(temporary)
        with replacing(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, embeddings)
        write_atomically(path.with_suffix(".csv"), _csv(table))
        return path

    def has_table(self, frame, name: str) -> bool:
        """Whether tables/<name>.csv holds just this frame."""
        path = self.tables / f"{checked_name(name, 'table')}.csv"
        return path.is_file() and path.read_bytes() == _csv(_with_index(frame))


def open_study(
    profile: str,
    dataset: str,
    results: str | Path = "",
    *,
    checkpoints: bool = False,
    own_images: bool = False,
    reference: str = "",
    **parameters: Any,
) -> Study:
    """The study of one profile and data set. A notebook's parameters are checked here, before they are used.

    Args:
        results: folder of the studies; empty: results/ of the checkout; a relative path is taken from the
            working folder.
        checkpoints: the study that scores released weights on the data set. It has its own folder, apart
            from what was trained here.
        own_images: the study that searches one's own images, those in the folder `data_root`. It has a folder
            named after that one.
        reference: folder of the reference study whose runs are shown; empty: none.
        parameters: other parameters of the notebook, to be checked (see `reidlib.study.parameters`).

    Raises:
        ParameterError: a parameter has an impossible value.
        FileError: the results folder cannot be there.
    """
    check_values(profile=profile, dataset=dataset, results=_text(results), reference=reference, **parameters)
    base = absolute_path(results, "The results folder") if str(results) else REPOSITORY / "results"
    if base.is_symlink() and not base.exists():
        raise ResultsError(
            f"The results folder {base} is a link to {base.readlink()}, which does not exist. Make that "
            "folder, or name another one."
        )
    if base.exists() and not base.is_dir():
        raise ResultsError(f"The results folder {base} is a file; name a folder.")
    if reference:
        folder = absolute_path(reference, "The reference study")
        return Study(profile, dataset, base / f"reference-{folder.name}", folder)
    if own_images:
        folder = absolute_path(parameters.get("data_root", ""), "The folder of images")
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", folder.name)[:64]
        return Study(profile, "folder", base / f"images-{name}-{digest(str(folder))[:8]}")
    return Study(profile, dataset, base / f"{'checkpoints' if checkpoints else profile}-{dataset}")


def _text(path: Any) -> Any:
    return str(path) if isinstance(path, Path) else path


def require_run(study: Study, method: str, seed: int = 0) -> Path:
    """The folder of a finished run. Raises MissingRunError, which names the command that makes the run."""
    folder = study.run(method, seed)
    if RunFiles(folder).metrics.is_file():
        return folder
    command = command_of(study, f"--methods {method}" + (f" --seeds {seed}" if seed else ""))
    state = "is unfinished" if folder.exists() else "does not exist"
    raise MissingRunError(
        f"The run {method}-seed{seed} of the study {study.root.name} {state} ({folder}). "
        f"Make it with: {command} --only 10_train"
    )


def command_of(study: Study, options: str = "") -> str:
    """The command line that runs a study, with these options. Of a folder of images it says only DIR."""
    command = f"python run_all.py --profile {study.profile} --dataset {study.dataset}"
    command += f" {options}" if options else ""
    command += PLACES.get(study.dataset, "")
    if study.root.parent == REPOSITORY / "results":
        return command
    return f"{command} --results {shlex.quote(str(study.root.parent))}"


def checked_name(name: str, what: str) -> str:
    """Returns `name` if it can name a file (letters, digits, _ . + -). Otherwise raises ResultsError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ResultsError(
            f"The {what} name {name!r} cannot name a file: use letters, digits, and _ . + - only."
        )
    return name


def _with_index(frame):
    """The frame with its index as first columns, unless the index only counts the rows."""
    counts_rows = frame.index.name is None and list(frame.index) == list(range(len(frame)))
    return frame if counts_rows else frame.reset_index()


def _without_gaps(column) -> list:
    """A column of a pandas frame as a list, with None where it has no value."""
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def _csv(frame) -> bytes:
    """UTF-8 has no characters for odd bytes in the name of a file: they become escapes."""
    text = _with_index(frame).to_csv(index=False, lineterminator="\n")
    return text.encode(errors="backslashreplace")


def _markdown(frame) -> bytes:
    return table_as_markdown(frame).encode(errors="backslashreplace")


def _latex(frame) -> bytes:
    return table_as_latex(frame).encode()
