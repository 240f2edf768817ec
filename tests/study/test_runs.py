"""Which runs belong together. Notebooks with tables show those of all seeds, and name the others."""

import copy
import json
import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import IPython.display
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from made_up_runs import IMAGES, fabricate, fabricate_reference

import run_all
from reidlib.config import METHODS, PROFILES, experiment_for_file
from reidlib.datasets import load_dataset
from reidlib.evaluation.ranking import rank
from reidlib.experiment import Housekeeping, ScoringSettings, TrainingSettings
from reidlib.files import REPOSITORY, file_digest
from reidlib.run import StaleRunError
from reidlib.settings import ConfigError
from reidlib.show import selection
from reidlib.study import reference
from reidlib.study.command_line import Request
from reidlib.study.points import keep_points
from reidlib.study.reference import NOT_KEPT
from reidlib.study.results import MissingRunError, Study
from reidlib.study.runs import belonging, finished_runs, load_run, runs_by_dataset

OTHER = "1" * 16  # fingerprint of other images


@pytest.fixture
def study(tmp_path):
    return Study("demo", "folder", tmp_path / "demo-folder")


def on(study, dataset):
    """The study with the same profile and results folder, on another data set."""
    return Study(study.profile, dataset, study.root.with_name(f"{study.profile}-{dataset}"))


def images(training=IMAGES, test=IMAGES):
    """A data set with these fingerprints; only what the choice of runs needs."""
    return SimpleNamespace(root="/data", fingerprints={"training": training, "test": test})


def names_of(runs):
    return [run.name for run in runs]


# ----------------------------------------------------------------------------------------------- one data set


@pytest.mark.parametrize("other", [{"trained_on": OTHER}, {"scored_on": OTHER}])
def test_runs_on_other_images_are_named_and_left_out(study, other):
    """--data-root A for both rows, then --data-root B for the baseline alone, into the same results."""
    fabricate(study, "baseline+pam")
    fabricate(study, "baseline", **other)
    fabricate(study, "abdnet", **other)
    data = images(other.get("trained_on", IMAGES), other.get("scored_on", IMAGES))
    runs, sentences = belonging(study, finished_runs(study), data, {})
    assert names_of(runs) == ["abdnet-seed0", "baseline-seed0"]
    assert sentences == ["`baseline+pam-seed0` is left out, made with other images."]
    runs, sentences = belonging(study, finished_runs(study), images(), {})
    assert names_of(runs) == ["baseline+pam-seed0"]
    assert sentences == ["`abdnet-seed0`, `baseline-seed0` are left out, made with other images."]


def test_runs_with_other_settings_are_named_and_left_out(study):
    """--set epochs=3 for one row only: neither call compares 3 with 8 epochs."""
    fabricate(study, "baseline")
    fabricate(study, "baseline+pam", settings={"epochs": 3})
    runs, sentences = belonging(study, finished_runs(study), images(), {})
    assert names_of(runs) == ["baseline-seed0"]
    assert sentences == ["`baseline+pam-seed0` is left out, made with epochs = 3 in place of 8."]
    runs, sentences = belonging(study, finished_runs(study), images(), {"epochs": 3})
    assert names_of(runs) == ["baseline+pam-seed0"]
    assert sentences == ["`baseline-seed0` is left out, made with epochs = 8 in place of 3."]


def test_rows_may_differ_by_what_they_are_and_seeds_by_their_number(study):
    made = [fabricate(study, method, seed=seed) for method in METHODS for seed in (0, 7)]
    made += [fabricate(study, "abdnet.cam-sign.as-written")]
    assert belonging(study, made, images(), {}) == (made, [])


def test_every_setting_counts_but_those_that_change_no_score(study):
    run = fabricate(study, "pfsa")
    settings = {"labels": ("method", "dataset", "profile", "seed")}
    settings |= {
        group: run.experiment.group(group) for group in (TrainingSettings, ScoringSettings, Housekeeping)
    }
    found = {}
    for name in [name for names in settings.values() for name in names if name not in settings["labels"]]:
        changed = copy.copy(run.experiment)
        object.__setattr__(changed, name, "another value")  # no value of this setting: the row cannot have it
        found[name] = bool(belonging(study, [replace(run, experiment=changed)], images(), {})[0])
    ignored = {name for name, belongs in found.items() if belongs}
    assert (
        ignored == {*settings[Housekeeping], "bootstrap_resamples", "single_shot"}
        and len(ignored) < len(found) / 4
    )


def test_two_files_of_weights_are_compared_by_content(study, tmp_path):
    """A file that was moved is the same file; a page names no path of this machine."""
    ours, moved, another = (tmp_path / name for name in ("ours.pth", "moved.pth", "another.pth"))
    for path, content in ((ours, b"1"), (moved, b"1"), (another, b"2")):
        path.write_bytes(content)
    run = fabricate(study, "baseline", settings={"pretrained": str(ours)})
    record = json.loads(run.files.weights_record.read_text())
    record["made_from"]["pretrained"] = file_digest(ours)  # as training writes it
    run.files.weights_record.write_text(json.dumps(record))
    for path, fits in ((ours, True), (moved, True), (another, False)):
        runs, sentences = belonging(study, finished_runs(study), images(), {"pretrained": str(path)})
        assert bool(runs) == fits
    assert sentences == ["`baseline-seed0` is left out, made with other pretrained weights."]
    assert belonging(study, finished_runs(study), images(), {})[0] == []


def test_a_setting_that_a_row_cannot_have_is_a_reason(study):
    """O.F. is for ABD-Net's rows. Where it is asked for, runs of PFSA's have other settings."""
    made = [fabricate(study, "baseline", settings={"of_weight": 1e-6}), fabricate(study, "gap")]
    runs, (sentence,) = belonging(study, made, images(), {"of_weight": 1e-6})
    assert runs == made[:1] and sentence.startswith(
        "`gap-seed0` is left out, made with settings that its row cannot"
    )
    assert "of_weight penalises ABD-Net's feature maps" in sentence


def test_a_wrong_setting_is_said_and_no_reason_to_leave_runs_out(study):
    with pytest.raises(ConfigError, match="Unknown setting 'epoch'. Did you mean 'epochs'?"):
        belonging(study, [fabricate(study, "gap")], images(), {"epoch": 3})


def test_what_everything_is_compared_with_has_to_be_there(study):
    data, finished = images(), [fabricate(study, "abdnet")]
    with pytest.raises(MissingRunError, match="--methods baseline"):
        belonging(study, finished, data, {}, needs="baseline")
    finished.append(fabricate(study, "baseline", seed=3, settings={"epochs": 3}))
    with pytest.raises(StaleRunError, match=r"baseline-seed3 does not fit .* epochs = 3 in place of 8\."):
        belonging(study, finished, data, {}, needs="baseline")
    finished.append(fabricate(study, "baseline", seed=5))
    assert names_of(belonging(study, finished, data, {}, needs="baseline")[0]) == [
        "abdnet-seed0",
        "baseline-seed5",
    ]


def test_a_single_run_has_the_settings_asked_for(study):
    """Notebooks that show some runs cannot leave one out: they stop, and say why."""
    fabricate(study, "gap", settings={"epochs": 3})
    assert load_run(study, "gap", dataset=images(), overrides={"epochs": 3}).experiment.epochs == 3
    assert load_run(study, "gap").experiment.epochs == 3, "whatever they are"
    with pytest.raises(
        StaleRunError, match="made with epochs = 3 in place of 8. Name the data root and the settings"
    ):
        load_run(study, "gap", dataset=images(), overrides={})
    with pytest.raises(StaleRunError, match="/data .*other images, epochs = 3"):
        load_run(study, "gap", dataset=images(OTHER), overrides={})


# ------------------------------------------------------------------------------------------ several data sets


def test_other_data_sets_show_the_runs_on_most_runs_images(study):
    fabricate(study, "baseline", trained_on=OTHER)
    market = on(study, "market1501")
    fabricate(market, "baseline")
    fabricate(market, "abdnet")
    fabricate(market, "pfsa", scored_on=OTHER)
    runs, sentences = runs_by_dataset(study, images(OTHER), {})
    assert names_of(runs["folder"]) == ["baseline-seed0"], "by the data set that is given"
    assert names_of(runs["market1501"]) == ["abdnet-seed0", "baseline-seed0"]
    assert runs["msmt17"] == []
    assert sentences == ["Market-1501: `pfsa-seed0` is left out, made with other images."]


def test_of_as_many_runs_the_newest_ones_images_count(study):
    market = on(study, "market1501")
    old, new = fabricate(market, "pfsa"), fabricate(market, "abdnet", trained_on=OTHER)
    for run, time in ((old, 1_000), (new, 2_000)):
        os.utime(run.files.metrics, (time, time))
    assert names_of(runs_by_dataset(study, images(), {})[0]["market1501"]) == ["abdnet-seed0"]
    os.utime(old.files.metrics, (3_000, 3_000))
    assert names_of(runs_by_dataset(study, images(), {})[0]["market1501"]) == ["pfsa-seed0"]


def test_other_data_sets_have_overrides_of_their_own(study):
    """The overrides of this call are not those of the other study: its runs have batches of 16 together."""
    market, settings = on(study, "market1501"), {"batch_size": 16, "dropout": 0.25}
    for method in ("baseline", "abdnet", "gap"):
        fabricate(market, method, settings=settings)
    fabricate(market, "pfsa", settings={"head_dim": 64})
    runs, sentences = runs_by_dataset(study, images(), {"epochs": 3})
    assert names_of(runs["market1501"]) == ["abdnet-seed0", "baseline-seed0", "gap-seed0"]
    assert sentences == [
        "Market-1501: the runs were made with dropout = 0.25, batch_size = 16, unlike those of this study.",
        "Market-1501: `pfsa-seed0` is left out, made with head_dim = 64 in place of 128, "
        "dropout = 0.5 in place of 0.25, batch_size = 32 in place of 16.",
    ]


def test_overrides_are_known_even_if_no_row_shows_them_all(study):
    """Under paper, `gap` has 100 epochs and batches of 48 anyway, `baseline` a learning rate of 3e-4."""
    paper = Study("paper", "folder", study.root.with_name("paper-folder"))
    settings = {"epochs": 100, "batch_size": 48, "learning_rate": 3e-4, "images_per_identity": 4}
    for method in ("baseline", "gap", "abdnet"):
        fabricate(on(paper, "market1501"), method, settings=settings)
    runs, (sentence,) = runs_by_dataset(paper, images(), {})
    assert len(runs["market1501"]) == 3
    assert all(f"{name} = " in sentence for name in settings)
    assert runs_by_dataset(paper, images(), settings)[1] == [], "this call has the same"


# ---------------------------------------------------------------------------------------------- the notebooks


@pytest.fixture
def shown(study, root, monkeypatch):
    """A call that runs a notebook's code on the study (until a cell) → what it displays, and its figures."""
    point = {"rank1": 0.2, "rank1_low": 0.1, "rank1_high": 0.3, "rank5": 0.4, "map": 0.1, "minp": 0.02}
    references = pd.DataFrame([{"method": "colour histogram", **point, "map_low": 0.05, "map_high": 0.15}])
    keep_points(references, load_dataset("folder", root).fingerprints["test"], study.tables)

    def run(notebook, *, until="", **parameters):
        outputs = []
        monkeypatch.setattr(IPython.display, "display", outputs.append)
        monkeypatch.setattr(
            Study, "save_figure", lambda study, figure, name, data=None: outputs.append(figure)
        )
        names = {}
        for cell in nbformat.read(REPOSITORY / "notebooks" / f"{notebook}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, names)
            if "parameters" in cell.metadata.get("tags", ()):
                names |= {"profile": study.profile, "dataset": study.dataset, "data_root": str(root)}
                names |= {"results": str(study.root.parent), **parameters}
            if cell.id == until:
                break
        return outputs

    yield run
    plt.close("all")


@pytest.fixture
def made(study, dataset):
    """`fabricate` on the images of `dataset`."""
    here = {"trained_on": dataset.fingerprints["training"], "scored_on": dataset.fingerprints["test"]}
    return lambda method, precision=0.25, **options: fabricate(study, method, precision, **here | options)


def pages(outputs):
    return [output.data for output in outputs if isinstance(output, IPython.display.Markdown)]


TABLES = [
    ("20_ablation_abdnet", "baseline", "abdnet", "ablation_abdnet"),
    ("21_ablation_spatial_attention", "gap", "pfsa", "ablation_pfsa"),
    ("90_report", "baseline", "pfsa", "seeds"),
]


@pytest.mark.parametrize(("notebook", "reference", "method", "table"), TABLES)
def test_tables_and_figures_need_no_seed_zero(shown, made, study, notebook, reference, method, table):
    """With --seeds 1, they say what they say with seed 0; they used to say "not run"."""
    seen = []
    for seed in (0, 1):
        for name, precision in ((reference, 0.25), (method, 0.375)):
            made(name, precision, seed=seed)
        outputs = shown(notebook)
        (figure,) = (output for output in outputs if isinstance(output, plt.Figure))
        assert f"seed {seed}, 95 % intervals" in figure.get_suptitle()
        seen.append((study.tables / f"{table}.csv").read_text())
        for name in (reference, method):
            study.run(name, seed).rename(study.root / f"{name}-{seed}")
    assert seen[0] == seen[1] and "37.5" in seen[0]


@pytest.mark.parametrize(("notebook", "reference", "method", "table"), TABLES)
def test_tables_and_figures_show_several_seeds(shown, made, study, notebook, reference, method, table):
    for seed, precision in enumerate((0.25, 0.375)):
        made(reference, precision, seed=seed)
        made(method, precision + 0.125, seed=seed)
    outputs = shown(notebook)
    (figure,) = (output for output in outputs if isinstance(output, plt.Figure))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert f"{METHODS[method].title}, 2 seeds" in labels
    assert "43.8 ± 8.8" in (study.tables / f"{table}.csv").read_text()


PUBLISHED = {  # saved table → what a published row has in it, and the title of a row of ours
    "ablation_abdnet": ("Baseline (XE) + PAM + CAM", "78.5", "ABD-Net"),
    "market1501": ("ABD-Net", "88.28", "ABD-Net"),
    "dukemtmc": ("ABD-Net", "78.59", "ABD-Net"),
    "msmt17": ("ABD-Net", "60.8", "ABD-Net"),
    "pfsa": ("Parameter-Free Spatial Attention", "91.7", "ours (demo)"),
}


def test_every_published_table_is_saved_with_its_rows_and_ours_over_all_seeds(shown, made, study, root):
    for dataset in ("folder", "market1501", "dukemtmc-reid", "msmt17"):
        place = study if dataset == study.dataset else on(study, dataset)
        for seed, precision in enumerate((0.25, 0.375)):
            for method in ("baseline", "abdnet", "pfsa"):
                make = made if place is study else partial(fabricate, place)
                make(method, precision, seed=seed)
    for notebook in ("20_ablation_abdnet", "91_published_tables"):
        shown(notebook)
    for name, (published, score, ours) in PUBLISHED.items():
        lines = (study.tables / f"{name}.tex").read_text(encoding="utf-8").splitlines()
        assert any(line.startswith(f"{published} &") and score in line for line in lines), name
        assert any(line.startswith(f"{ours} &") and "31.2 ± 8.8 (2 seeds)" in line for line in lines), name
        assert (study.tables / f"{name}.csv").is_file() and (study.tables / f"{name}.md").is_file()


@pytest.mark.parametrize(("notebook", "reference", "method", "table"), TABLES)
def test_notebooks_name_and_leave_out_what_does_not_belong(
    shown, made, study, notebook, reference, method, table
):
    """Runs on other images have another number of queries: comparing them would fail."""
    made(reference)
    made(method, [0.9] * 8, trained_on=OTHER, scored_on=OTHER)
    made(method, 0.9, seed=1, settings={"epochs": 3})
    outputs = shown(notebook)
    told = "\n".join(pages(outputs))
    assert f"`{method}-seed0` is left out, made with other images." in told
    assert f"`{method}-seed1` is left out, made with epochs = 3 in place of 8." in told
    assert "90.0" not in (study.tables / f"{table}.csv").read_text()
    with pytest.raises(StaleRunError, match=f"{reference}-seed0 does not fit"):
        shown(notebook, overrides={"epochs": 3})


@pytest.mark.parametrize(("notebook", "reference", "method", "table"), TABLES)
def test_points_of_other_images_are_not_drawn_beside_the_runs(
    shown, made, study, notebook, reference, method, table
):
    """01_data was run last with another data root."""
    made(reference)

    def drawn():
        outputs = shown(notebook)
        (figure,) = (output for output in outputs if isinstance(output, plt.Figure))
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        return "colour histogram" in labels, any("without learning are left out" in a for a in pages(outputs))

    assert drawn() == (True, False)
    file = study.tables / "reference_points.json"
    file.write_text(file.read_text().replace('"data": "', '"data": "0'))
    assert drawn() == (False, True)
    file.write_text("{}")
    assert drawn() == (False, True)


def test_released_weights_are_scored_in_float32_unless_asked_otherwise(shown, tmp_path):
    """The demo takes "auto" for its own runs, which is bfloat16 on some machines."""

    def precision(**parameters):
        outputs = shown("10_train", until="settings", **parameters)
        table = outputs[-1].data.set_index("setting")["here"]
        return table.get("embedding_precision", "float32")  # the default is not in the table

    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    assert precision() == "auto"
    assert precision(checkpoint=str(weights)) == "float32"
    assert precision(checkpoint=str(weights), overrides={"embedding_precision": "auto"}) == "auto"


def test_released_weights_have_float32_under_every_profile():
    for profile in PROFILES:
        for method in ("abdnet", "pfsa"):
            assert experiment_for_file(method, profile=profile).embedding_precision == "float32"
            asked = experiment_for_file(method, profile=profile, embedding_precision="bfloat16")
            assert asked.embedding_precision == "bfloat16"


@pytest.fixture
def references(monkeypatch):
    """Sets the reference studies of a test: title → runs."""

    def given(**runs):
        studies = [
            SimpleNamespace(title=title, caveats=["Not ours."], runs=own) for title, own in runs.items()
        ]
        monkeypatch.setattr(reference, "reference_studies", lambda: studies)

    given()
    return given


def test_the_findings_page_without_runs_says_so(shown, study, references):
    outputs = shown("05_findings")
    told = "\n".join(pages(outputs))
    assert "this study (demo):** nothing was run." in told and "python run_all.py --profile demo" in told
    (figure,) = (output for output in outputs if isinstance(output, plt.Figure))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no claim has runs to compare"]
    verdicts = pd.read_csv(study.tables / "findings.csv")["verdict"]
    assert len(verdicts) > 20 and set(verdicts) == {"not run"}


def test_the_findings_page_has_own_runs_beside_the_reference_runs(shown, made, study, references, tmp_path):
    elsewhere = Study("demo", "folder", tmp_path / "elsewhere" / "demo-folder")
    rng = np.random.default_rng(0)
    kept = [
        fabricate(elsewhere, method, precision + rng.normal(0, 0.002, 20), seed=seed)
        for method, precision in (("baseline", 0.4), ("baseline+pam+cam", 0.3))
        for seed in range(3)
    ]
    references(Photographs=kept)
    made("baseline", 0.25)
    made("baseline+pam+cam", 0.375)
    made("gap", 0.9, settings={"epochs": 3})  # with other settings than this call's
    outputs = shown("05_findings")
    told = "\n".join(pages(outputs))
    assert "**Photographs:** 0 of 2 claims hold; 1 opposite (attention)" in told, told[:1500]
    assert "this study (demo):** no verdict yet; 2 with one seed" in told
    assert "- Not ours." in told and "`gap-seed0` is left out" in told
    found = pd.read_csv(study.tables / "findings.csv").set_index(["name", "data_set"])
    effects = found.xs("attention", level="name")["difference"]
    assert effects.tolist() == pytest.approx([-0.1, 0.125], abs=0.002)


def test_the_page_on_diversity_shows_reference_runs_without_their_weights(shown, tmp_path):
    runs = {(method, 0): 0.25 for method in ("baseline", "baseline+pam+cam", "pfsa")}
    kept = fabricate_reference(tmp_path / "kept", "pku-reid", runs)
    outputs = shown("33_diversity", reference=str(kept))
    told = pages(outputs)
    assert told.count(NOT_KEPT) == 3, "squares, definitions and spectra need the networks"
    assert "Attention moves S(Corr) by +0.000" in told[-1] and "Diversity cannot be told" in told[-1]
    assert any("The reference runs have no sweep" in text for text in told)
    assert (
        sum(isinstance(output, plt.Figure) for output in outputs)
        == 2
        == len([name for name in run_all.REFERENCE_PAGES["33_diversity"][1] if name.endswith(".png")])
    )
    measured = pd.read_csv(next(tmp_path.rglob("reference-pku-reid/tables/diversity.csv")))
    assert measured["method"].tolist() == ["Baseline (XE)", "Baseline (XE) + PAM + CAM"], "ABD-Net's rows"


SINGLE_RUNS = [
    ("22_paper_vs_code", ("abdnet", "pfsa")),
    ("30_attention_maps", ("baseline", "baseline+pam+cam", "abdnet-xe")),
    ("31_class_activation_maps", ("gap", "gap+sa1")),
    ("32_ranking_gallery", ("abdnet-xe", "baseline+pam+cam", "baseline")),
]


@pytest.mark.parametrize(("notebook", "methods"), SINGLE_RUNS)
def test_notebooks_of_single_runs_stop_at_one_that_does_not_belong(shown, made, study, notebook, methods):
    settings = {"epochs": 3}
    for method in methods:
        made(method, settings=settings)
    assert pages(shown(notebook, until="open", overrides=settings)) == []
    with pytest.raises(StaleRunError, match="made with epochs = 3 in place of 8"):
        shown(notebook, until="open")
    study.run(methods[-1], 0).rename(study.root / "elsewhere")
    made(methods[-1], settings=settings, trained_on=OTHER)
    with pytest.raises(StaleRunError, match="made with other images"):
        shown(notebook, until="open", overrides=settings)


@pytest.fixture
def embedded(made, dataset):
    """A finished run with random embeddings, its scores those of the embeddings."""

    def given(method, **options):
        rng = np.random.default_rng(0)
        found = {part: rng.normal(size=(len(dataset.splits[part]), 8)) for part in ("query", "gallery")}
        scores = rank(found["query"], found["gallery"], dataset)
        embeddings = {part: values.astype(np.float32) for part, values in found.items()}
        ranks, precisions = scores.first_match_rank, scores.average_precision
        return made(method, precisions, ranks=ranks, embeddings=embeddings, **options)

    return given


def test_the_page_of_failures_shows_what_is_known_of_photographs(shown, embedded, study):
    embedded("baseline")
    embedded("gap", seed=3, settings={"epochs": 3})  # with other settings than this call's
    outputs = shown("34_failures", people=3, worst=2)
    told = "\n".join(pages(outputs))
    assert "`gap-seed3` is left out" in told
    assert "only the camera pairs are shown" in told and "Fewer than two pairs of cameras" in told
    drawn = [output for output in outputs if isinstance(output, plt.Figure)]
    step = next(
        step for step in run_all.steps(Request(study, ("baseline",))) if step.notebook == "34_failures"
    )
    assert len(drawn) == sum(name.endswith(".png") for name in step.produces) == 4, "none of attributes"
    worst = pd.read_csv(study.tables / "worst_queries.csv")
    assert len(worst) == 2 and "occluder" not in worst


def test_the_page_of_failures_names_the_run_that_is_missing(shown, made):
    made("gap")
    with pytest.raises(MissingRunError, match="--methods abdnet"):
        shown("34_failures", until="open", method="abdnet")


def test_the_ranking_gallery_shows_the_queries_asked_for(shown, embedded):
    for method in ("abdnet-xe", "baseline+pam+cam", "baseline"):
        embedded(method)
    for chosen, sentence in selection.CHOSEN.items():
        outputs = shown("32_ranking_gallery", until="figure", queries=2, top=3, chosen=chosen)
        assert sentence in pages(outputs)
        (gallery,) = (output for output in outputs if isinstance(output, plt.Figure))
        headings = [text.get_text() for text in gallery.axes[0].texts if text.get_text().startswith("Query")]
        assert len({*headings}) == 2, "two people"
        assert len(gallery.axes[0].images) == 2 * (1 + 3 * 3)
