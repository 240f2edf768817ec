"""The networks of all rows as a table: size, cost and time. Nothing here depends on a run or a data set."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from reidlib.config import METHODS, SETTINGS, experiment_for, settings_of
from reidlib.devices import cpu_threads
from reidlib.experiment import Experiment
from reidlib.models.networks import FAMILIES
from reidlib.provenance import provenance_here
from reidlib.settings import ConfigError, choose
from reidlib.show.network_trace import Trace, network_of, trace_without_numbers

# Settings that a page about networks takes from the caller: of the network, of the image and, for the
# drawing, of what acts on the network.
_OF_IMAGES = ("height", "width", "classes")
_OF_LOSSES = {
    "abdnet": (
        *("of_weight", "of_positions", "of_intermediate_weight", "ow_weight", "ow_reach"),
        *("triplet_weight", "images_per_identity", "batch_size"),
    ),
    "pfsa": (),
}
_WITHOUT_WEIGHTS = ("pretrained",)
PUBLISHED = {"abdnet": "abdnet", "pfsa": "pfsa"}  # family → the row that its paper publishes


@dataclass(frozen=True)
class Rows:
    """The rows of METHODS whose network exists with these settings, and why the others do not."""

    possible: Mapping[str, Experiment]
    impossible: Mapping[str, str]

    def published(self, family: str) -> Experiment:
        """The family's published row or, where the settings rule it out, the fullest that they allow.

        Raises:
            ConfigError: the settings rule out all rows of the family.
        """
        rows = [row for row in reversed(METHODS) if settings_of(row).get("family", "abdnet") == family]
        for row in (PUBLISHED[family], *rows):
            if row in self.possible:
                return self.possible[row]
        raise ConfigError(self.impossible[PUBLISHED[family]])


def rows_of(profile: str, overrides: Mapping[str, Any] | None = None) -> Rows:
    """Every row of METHODS under a profile, with the overrides that shape its network.

    Raises:
        ConfigError: an unknown profile or setting.
    """
    possible, impossible = {}, {}
    for name in overrides or {}:
        choose("setting", name, SETTINGS)
    for row in METHODS:
        family = experiment_for(row, profile=profile).family
        _, of_network = FAMILIES[family]
        taken = {*of_network, *_OF_IMAGES, *_OF_LOSSES[family]}.difference(_WITHOUT_WEIGHTS)
        own = {name: value for name, value in (overrides or {}).items() if name in taken}
        try:
            possible[row] = experiment_for(row, profile=profile, **own)
        except ConfigError as error:
            impossible[row] = str(error)
    return Rows(possible, impossible)


def networks_table(rows: Rows, *, images: int = 2, repeats: int = 3) -> pd.DataFrame:
    """Parameters, multiply-adds and embedding of every row's network, here and under the papers' settings.

    The time is this machine's, see `milliseconds`. Rows that differ in losses only have one network and one
    time. A row that the settings rule out has no numbers here.

    Returns:
        Columns row, "parameters (M)", "multiply-adds (G)", "embedding", "ms per image", and the first three
        again with "papers' " before.
    """
    measured: dict[tuple, dict] = {}
    found = []
    for row, method in METHODS.items():
        cells = {"row": method.title}
        experiment = rows.possible.get(row)
        if experiment is not None:
            key = network_key(experiment)
            if key not in measured:
                network, size = network_of(experiment), (experiment.height, experiment.width)
                time_here = milliseconds(network, *size, images=images, repeats=repeats)
                measured[key] = {**_sizes(trace_without_numbers(experiment)), "ms per image": time_here}
            cells |= measured[key]
        papers = experiment_for(row)
        key = ("papers", *network_key(papers))
        if key not in measured:
            sizes = _sizes(trace_without_numbers(papers))
            measured[key] = {f"papers' {name}": value for name, value in sizes.items()}
        found.append(cells | measured[key])
    columns = ["row", *SIZES, "ms per image", *(f"papers' {name}" for name in SIZES)]
    return pd.DataFrame(found).reindex(columns=columns).astype({"embedding": "Int64"})


SIZES = ("parameters (M)", "multiply-adds (G)", "embedding")


def _sizes(traced: Trace) -> dict[str, float]:
    whole = traced.modules[""]
    length = traced.output.embedding.shape[1]
    return dict(zip(SIZES, (whole.parameters / 1e6, whole.multiply_adds / 1e9, length), strict=True))


def network_key(experiment: Experiment) -> tuple:
    """What makes two rows' networks the same: the settings of the network and the size of an image."""
    _, of_network = FAMILIES[experiment.family]
    names = sorted({*of_network, *_OF_IMAGES}.difference(_WITHOUT_WEIGHTS))
    return (experiment.family, *(getattr(experiment, name) for name in names))


def milliseconds(network: nn.Module, height: int, width: int, *, images: int, repeats: int) -> float:
    """Median time for an image of a forward pass in float32 with one CPU thread.

    It is the thread's own time, so it hardly depends on what else the machine does.

    Args:
        images: in a batch; they hold noise.
        repeats: of the pass. The first is slower, so a median of three or more leaves it out.
    """
    network = network.to(memory_format=torch.channels_last).eval()  # as in evaluation
    batch = torch.rand(images, 3, height, width).to(memory_format=torch.channels_last)
    times = []
    with cpu_threads(1), torch.inference_mode():
        for _ in range(repeats):
            start = time.thread_time()
            network(batch)
            times.append(time.thread_time() - start)
    return 1000 * statistics.median(times) / images


def left_out_sentences(rows: Rows) -> list[str]:
    """Which rows have no network with these settings, and why."""
    titles: dict[str, list[str]] = {}
    for row, why in rows.impossible.items():
        titles.setdefault(why, []).append(METHODS[row].title)
    return [f"Without numbers here: {', '.join(names)}. {why}" for why, names in titles.items()]


def machine_sentence() -> str:
    """Where the times were measured, in words."""
    here = provenance_here()
    return f"Times are this machine's: {here['processor']}, PyTorch {here['torch']}, one thread, float32."


def networks_sentence(table: pd.DataFrame) -> str:
    """What the rows' parts cost, in words: the published networks beside the rows without attention."""
    by_title = table.set_index("row")
    parts = []
    for row, base in (("abdnet", "baseline"), ("pfsa", "gap")):
        one, other = by_title.loc[METHODS[row].title], by_title.loc[METHODS[base].title]
        more = [100 * (one[f"papers' {name}"] / other[f"papers' {name}"] - 1) for name in SIZES[:2]]
        parts.append(
            f"{METHODS[row].title} has {more[0]:+z.1f} % parameters and {more[1]:+z.1f} % multiply-adds "
            f"beside {METHODS[base].title}"
        )
    return f"Under the papers' settings, {'; '.join(parts)}."
