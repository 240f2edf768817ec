"""Chooses each family's learning rate by one small grid, on people held out of the training set.

    python tools/choose_rates.py synthetic
    python tools/choose_rates.py cuhk03-np-detected --data-root DIR --pretrained FILE

Each row of the grid is trained with each rate for a few steps and scored on held-out training people; test
images are never read into it. `reidlib.show.rates` says which rate is chosen. The table goes to
results/reference/rates.csv, where each finished line stays: the tool goes on where it was stopped, and the
study's report shows the table.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reidlib.config import experiment_for
from reidlib.datasets import ReidDataset
from reidlib.errors import ReidError
from reidlib.evaluation.ranking import split_scores
from reidlib.experiment import Experiment
from reidlib.files import REPOSITORY, replacing
from reidlib.show.rates import RATES, rates_table
from reidlib.study.results import Study
from reidlib.study.runs import study_dataset
from reidlib.training.epoch import Row
from reidlib.training.loop import Training, environment, train
from reidlib.training.run_folder import RunFolder

KEY = ["dataset", "weights", "family", "learning_rate", "method"]
CACHE = REPOSITORY / "results" / "cache-rates"
EPOCHS, STEPS = 6, 40
HELD_OUT = {"synthetic": 30, "cuhk03-np-detected": 100, "folder": 10}  # people
# Family → its rows, and the values tried: learning rate of the new layers.
GRID = {
    "abdnet": (("baseline",), (2e-4, 5e-4, 1e-3)),
    "pfsa": (("gap", "gap+sa1", "pfsa"), (0.03, 0.1, 0.3)),
}
# Rows that hardly learn with any rate of the grid, and higher rates, which take no part in the choice: it is
# the family's. SA₁'s weights sum to 1 over the map, so the mean over the map is smaller than GAP's by the
# number of places, and a higher rate might have made up for it. On photographs none did.
BEYOND = {"gap+sa1": (1.0, 3.0, 10.0, 30.0)}
# The papers' optimisers. From random weights the trunk learns at the full rate.
OPTIMISERS = {
    "abdnet": {"optimizer": "adam", "trunk_rate": 1.0, "weight_decay": 5e-4},
    "pfsa": {"optimizer": "sgd", "weight_decay": 5e-4},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=sorted(HELD_OUT))
    parser.add_argument("--data-root", default="", help="folder of the data set; empty: its usual place")
    parser.add_argument("--pretrained", default="", help="file of the trunk's weights; empty: random ones")
    args = parser.parse_args()
    torch.set_num_threads(1)  # so that several can run side by side, to the same bits
    dataset = study_dataset(Study("demo", args.dataset, Path("unused")), args.data_root, keep_digests=False)
    weights = "given up to layer3" if args.pretrained else "random"
    for family, (methods, rates) in GRID.items():
        beyond = [(method, rate) for method in methods for rate in BEYOND.get(method, ())]
        for method, rate in [(method, rate) for rate in rates for method in methods] + beyond:
            row = {"dataset": args.dataset, "weights": weights, "family": family, "method": method}
            row["learning_rate"] = rate
            done = read()
            if not (done[KEY] == pd.Series(row)[KEY]).all(axis=1).any():
                add(row | trial(method, rate, dataset, args.pretrained))
    print(rates_table().to_string(index=False))


def trial(method: str, rate: float, dataset: ReidDataset, pretrained: str) -> dict[str, Any]:
    """Trains one row with one rate. Returns the rest of its line in the table."""
    experiment = trial_experiment(method, rate, dataset.name, pretrained)
    device = torch.device("cpu")

    def score(model: torch.nn.Module, people: ReidDataset, prefix: str, device: torch.device) -> Row:
        scores = split_scores(model, experiment, people, cache=CACHE, device=device)
        return {f"{prefix}_{name}": value for name, value in scores.items()}

    with tempfile.TemporaryDirectory(prefix="reidlib-rates-") as place:
        folder = Path(place) / f"{method} at {rate:g}"
        folder.mkdir()
        training = Training(
            experiment=experiment,
            dataset=dataset,
            folder=RunFolder(folder),
            cache=CACHE,
            record={},
            environment=environment(experiment, device),
            scorer=score,
        )
        model, rows = train(training, device)
    classes, last = training.trained_on.num_train_identities, rows[-1]
    heads = len(model(torch.zeros(2, 3, experiment.height, experiment.width)).logits)
    per_head = last["cross_entropy"] / (heads if experiment.heads == "sum" else 1)
    return {
        "optimizer": experiment.optimizer,
        "trunk_rate": experiment.trunk_rate,
        "steps": EPOCHS * STEPS,
        "held_out_people": experiment.validation_identities,
        "cross_entropy": round(per_head, 4),
        "uniform_guess": round(math.log(classes), 4),
        "validation_rank1": round(last["validation_rank1"], 4),
        "validation_map": round(last["validation_map"], 4),
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 1),
    }


def trial_experiment(method: str, rate: float, dataset: str, pretrained: str) -> Experiment:
    family = next(name for name, (methods, _) in GRID.items() if method in methods)
    settings = OPTIMISERS[family] | {"learning_rate": rate, "pretrained": pretrained or False}
    if family == "pfsa":  # a tenth for a pretrained trunk, as published
        settings["trunk_rate"] = 0.1 if pretrained else 1.0
    return experiment_for(
        method,
        dataset=dataset,
        profile="demo",
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_identities=HELD_OUT[dataset],
        **settings,
    )


def read() -> pd.DataFrame:
    return pd.read_csv(RATES) if RATES.is_file() else pd.DataFrame(columns=KEY)


def add(row: dict[str, Any]) -> None:
    """Adds a line to the table, sorted; other processes may add theirs meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(CACHE / "rates.lock"):
        table = pd.concat([read(), pd.DataFrame([row])], ignore_index=True).sort_values(KEY)
        with replacing(RATES) as file:
            table.to_csv(file, index=False)


if __name__ == "__main__":
    try:
        main()
    except ReidError as error:
        sys.exit(f"choose_rates.py: {error}")
