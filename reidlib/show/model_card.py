"""The model card of a run: what its weights are for and made from, how good they are, and their limits.

It is Markdown with the front matter that Hugging Face's model cards have, and is made from the run's files
alone: neither the images nor the weights are read.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidlib.config import OF_FILES, caveats, title_of
from reidlib.datasets import DATASET_TITLES
from reidlib.evaluation.by_group import group_score
from reidlib.experiment import Experiment
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.show.learning import learning_sentences, marked
from reidlib.show.markdown import table_as_markdown
from reidlib.show.tables import metrics_table, run_sentence, settings_table, weights_sentence
from reidlib.show.text import DASH, in_markdown, percent
from reidlib.statistics import hits

FEW_PEOPLE = 100  # with fewer test people, intervals are too narrow (`reidlib.statistics`)
OWN = "folder"  # images of one's own, which have no name

# Family → the paper, as a link.
PAPERS = {
    "abdnet": "[ABD-Net](https://arxiv.org/abs/1908.01114) (Chen et al., ICCV 2019)",
    "pfsa": "[Parameter-Free Spatial Attention](https://arxiv.org/abs/1811.12150) (Wang et al., 2018)",
}
OF_DATA = {
    "dukemtmc-reid": "DukeMTMC-reID was withdrawn by its makers in 2019: ask whether weights made from "
    "it may be used before you pass them on.",
}

CARD = """{front}
# {title}

A network that turns the image of a person into {dimensions} numbers, so that images of one person lie near
each other. It is made for research: to reproduce and compare the methods of {paper}. {weights}

**Identifying people without a lawful basis is not an intended use.** Nor is watching or tracking them, or any
decision about a person that rests on a match.{errors}

## Data

{data}

## Scores

{scores}
{sentence}

### By the query's camera

{cameras}
Intervals (95 %) are over people, from this one training.

## Limits

{limits}

## How it was made

{made}
Settings that differ from the defaults, which are the released code's:

{settings}
## Use

```python
from pathlib import Path
from reidlib.run import read_run

model = read_run(Path("{name}")).model()  # this folder
```

`model(images).embedding` takes images (B, 3, {height}, {width}) as `reidlib.images.normalisation.normalise`
makes them. Compare embeddings by Euclidean distance.
"""


def model_card(run: Run) -> str:
    """The model card of a finished run, as Markdown.

    Raises:
        FileError: a file of the run is missing or damaged.
    """
    experiment, metrics = run.experiment, run.metrics
    return CARD.format(
        front=_front_matter(run),
        title=f"{title_of(run.method)} on {_data_title(experiment)}, {_which(run)}",
        dimensions=metrics["embedding_dim"],
        paper=PAPERS[experiment.family],
        weights=weights_sentence(run),
        errors=_errors_sentence(run),
        data=_data_sentences(run),
        scores=table_as_markdown(_scores(run)),
        sentence=run_sentence(run),
        cameras=table_as_markdown(camera_table(run)),
        limits="\n".join(f"- {sentence}" for sentence in limits(run)),
        made=table_as_markdown(_making(run)),
        settings=table_as_markdown(settings_table(_without_paths(experiment))),
        name=run.name,
        height=experiment.height,
        width=experiment.width,
    )


def camera_table(run: Run) -> pd.DataFrame:
    """Rank-1 and mAP of the queries of each camera in %, with 95 % intervals over people."""
    queries = run.queries
    people = queries["identity"].to_numpy()
    values = {
        "rank-1": hits(queries["first_match_rank"].to_numpy(float)),
        "mAP": queries["average_precision"].to_numpy(float),
    }
    rows = []
    for camera in np.unique(queries["camera"]):
        own = (queries["camera"] == camera).to_numpy()
        scores = {name: group_score(of[None], people, own) for name, of in values.items()}
        row = {"camera": str(camera), "queries": scores["mAP"].queries, "people": scores["mAP"].people}
        for name, score in scores.items():
            known = score.mean if score.queries else None
            row[f"{name} [95 %]"] = marked(run, percent(known, (score.low, score.high)))
        rows.append(row)
    return pd.DataFrame(rows)


def limits(run: Run) -> list[str]:
    """What must be known before the weights are used or their scores are compared: sentences (Markdown)."""
    experiment, people = run.experiment, run.queries["identity"].nunique()
    made_from = {name: getattr(experiment, name) for name in ("start_from", "pretrained", "backbone")}
    sentences = [
        *learning_sentences([run]),
        *caveats(experiment.profile, experiment.dataset, made_from),
        *filter(None, [OF_DATA.get(experiment.dataset)]),
        "The intervals are over people, of one training. Another seed gives other scores.",
    ]
    if people < FEW_PEOPLE:
        sentences.append(f"Only {people} people were searched for: the intervals are rather too narrow.")
    return [
        *sentences,
        "Not measured: other cameras than these, people who changed their clothes, and whether scores differ "
        "between groups of people, such as by age, sex or skin colour.",
    ]


def _front_matter(run: Run) -> str:
    """YAML between two lines of dashes. JSON is YAML, so it quotes whatever a name holds."""
    experiment = run.experiment
    own_images = experiment.dataset == OWN
    fields: dict[str, Any] = {"language": "en", **_licence(run), "pipeline_tag": "image-feature-extraction"}
    fields["tags"] = ["person-re-identification", "image-retrieval", "pytorch", experiment.family]
    fields["tags"] += [DID_NOT_LEARN.replace(" ", "-")] if run.learned is False else []
    fields |= {} if own_images else {"datasets": [experiment.dataset]}
    fields["metrics"] = ["rank-1", "mAP"]
    if run.learned is not False:  # otherwise they are no scores of the method
        scores = [
            {
                "type": name,
                "value": round(100 * run.metrics[key], 2),
                "name": f"{name} in %: {said} over people",
            }
            for name, key in (("rank-1", "rank1"), ("mAP", "map"))
            for said in [percent(run.metrics[key], run.metrics[f"{key}_interval"])]
        ]
        dataset = {"type": experiment.dataset, "name": _data_title(experiment), "split": "query and gallery"}
        task = {"type": "image-feature-extraction", "name": "person re-identification"}
        result = {"task": task, "dataset": dataset, "metrics": scores}
        fields["model-index"] = [{"name": run.name, "results": [result]}]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _licence(run: Run) -> dict[str, str]:
    """The code's licence covers weights that only drawn people made; others follow from their images."""
    experiment = run.experiment
    only_drawn = run.metrics["synthetic"] and experiment.pretrained is False and not experiment.start_from
    if only_drawn and not run.metrics.get("checkpoint"):
        return {"license": "mit"}
    return {"license": "other", "license_name": "terms-of-the-images-and-weights-it-was-made-from"}


def _data_title(experiment: Experiment) -> str:
    return DATASET_TITLES.get(experiment.dataset, experiment.dataset)


def _which(run: Run) -> str:
    source = run.metrics.get("checkpoint")
    return f"weights of {in_markdown(source['file'])}" if source else f"seed {run.seed}"


def _errors_sentence(run: Run) -> str:
    if run.learned is False:
        return f" This run {DID_NOT_LEARN}: its weights are of no use but to study why."
    wrong = f"{100 * (1 - run.metrics['rank1']):.0f}"
    return f" The first image found was of somebody else for {wrong} % of the queries here."


def _data_sentences(run: Run) -> str:
    metrics, made_from = run.metrics, run.made_from
    tested = (
        f"Tested with {metrics['query_images']:,} query images against {metrics['gallery_images']:,} gallery "
        f"images (fingerprint `{made_from['scores']['data']}`)."
    )
    if metrics.get("checkpoint"):
        return f"What the weights were trained on is not known here. {tested}"
    return (
        f"Data set: {_data_title(run.experiment)}. Trained on {metrics['train_images']:,} images of "
        f"{metrics['train_identities']:,} people (fingerprint `{made_from['weights']['data']}`). {tested}"
    )


def _scores(run: Run) -> pd.DataFrame:
    """Beside the paper's scores, where it has any of this row and data set."""
    table = metrics_table(run)
    return table if (table["paper"] != DASH).any() else table[["metric", "ours [95 %]"]]


def _making(run: Run) -> pd.DataFrame:
    """Network, cost, versions and hardware."""
    metrics = run.metrics
    facts = {
        "parameters": f"{metrics['parameters']:,}",
        "images seen": f"{metrics['images_seen']:,}",
        "training (s)": f"{metrics['train_seconds']:.0f}",
        "scoring (s)": f"{metrics['score_seconds']:.0f}",
        **metrics["made_by"],
        "scored by": metrics["scored_by"]["commit"],
    }
    return pd.DataFrame({"fact": list(facts), "": [str(value) for value in facts.values()]})


def _without_paths(experiment: Experiment) -> Experiment:
    """Files are named without their folders, which are of no concern to others."""
    files = {name: getattr(experiment, name) for name in OF_FILES}
    named = {name: Path(value).name for name, value in files.items() if value and isinstance(value, str)}
    return replace(experiment, **named)
