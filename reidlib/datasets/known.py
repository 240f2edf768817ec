"""The data sets that the study knows by name: title, usual folders and layout of each."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from reidlib.datasets.market1501 import has_market_layout, read_market_layout
from reidlib.datasets.msmt17 import has_msmt17_layout, read_msmt17
from reidlib.datasets.types import ImageRow

# (root, notes) → the images of "train", "query" and "gallery". A reader appends sentences for the report to
# `notes`. Its rows may be in any order. People count from 1; identity 0 is a distractor in the gallery. A
# size of 0 is reported as an empty file.
Reader = Callable[[Path, list[str]], dict[str, list[ImageRow]]]


class KnownDataset(NamedTuple):
    """One data set. Without the last three fields it has Market-1501's layout."""

    title: str  # in tables and figures
    folders: tuple[str, ...]  # its usual folders inside a data root
    read: Reader = read_market_layout
    is_there: Callable[[Path], bool] = has_market_layout  # whether a folder holds any part of the layout
    holds: str = "bounding_box_train/, bounding_box_test/ and query/"  # what its root holds, for messages


DATASETS: dict[str, KnownDataset] = {
    "synthetic": KnownDataset("synthetic (embedded)", ("synthetic",)),
    "market1501": KnownDataset(
        "Market-1501", ("Market-1501-v15.09.15", "Market-1501", "market1501", "Market1501")
    ),
    "dukemtmc-reid": KnownDataset("DukeMTMC-reID", ("DukeMTMC-reID", "dukemtmc-reid")),
    "cuhk03-np-labeled": KnownDataset(
        "CUHK03-NP labeled", ("cuhk03-np/labeled", "CUHK03-NP/labeled", "labeled")
    ),
    "cuhk03-np-detected": KnownDataset(
        "CUHK03-NP detected", ("cuhk03-np/detected", "CUHK03-NP/detected", "detected")
    ),
    "msmt17": KnownDataset(
        "MSMT17",
        ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17"),
        read_msmt17,
        has_msmt17_layout,
        "list_train.txt, train/, test/ …",
    ),
    "folder": KnownDataset("own folder", ()),
    "joined": KnownDataset("joined data sets", ()),
}

DATASET_TITLES = {name: known.title for name, known in DATASETS.items()}
