"""Records of weights and scores: how much is trained and scored again after each kind of change."""

import shutil
from pathlib import Path

import pytest
from conftest import make_noise_images, one_thread_on_the_cpu
from run_helpers import assert_same_run, tiny

from reidlib.code_digest import COMPUTES_NOTHING, Code, digest_of_code
from reidlib.datasets import load_dataset
from reidlib.files import REPOSITORY, FileError
from reidlib.run import Run
from reidlib.training import fit, fitting, loop, records

pytestmark = pytest.mark.usefixtures("steady")

EPOCHS = 2


@pytest.fixture(scope="module")
def finished(dataset, cache, tmp_path_factory):
    """A finished run. Tests copy it."""
    with one_thread_on_the_cpu():
        return fit(tiny(), dataset, tmp_path_factory.mktemp("finished") / "baseline-seed0", cache=cache)


@pytest.fixture
def again(finished, cache, tmp_path, monkeypatch):
    """Calls `fit` on a copy of the finished run → (run, epochs trained, networks embedded, scorings).

    `call.measured` counts how often networks were measured.
    """
    folder = tmp_path / finished.name
    shutil.copytree(finished.folder, folder)

    def call(experiment, data):
        done = {"epochs": 0, "embedded": 0, "scored": 0, "measured": 0}

        def counting(name, real):
            def counted(*arguments, **keywords):
                done[name] += 1
                return real(*arguments, **keywords)

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_epoch", counting("epochs", loop.train_epoch))
            patch.setattr(fitting, "embed_test_set", counting("embedded", fitting.embed_test_set))
            patch.setattr(fitting, "score", counting("scored", fitting.score))
            patch.setattr(fitting, "measure_run", counting("measured", fitting.measure_run))
            run = fit(experiment, data, folder, cache=cache)
        call.measured = done["measured"]
        return run, done["epochs"], done["embedded"], done["scored"]

    return call


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Takes digests of a copy of the code. Returns change(file, old, new), which edits the copy."""
    root = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "reidlib", root / "reidlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(records, "digest_of_code", lambda *modules: digest_of_code(*modules, repository=root))

    def change(file: str, old: str, new: str) -> None:
        path = root / "reidlib" / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} has changed: choose another place to edit in this test"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


# --------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "epochs", "embedded", "scored"),
    [
        ({}, 0, 0, 0),
        ({"keep_every": 1, "tensorboard": False}, 0, 0, 0),
        ({"rerank": True}, 0, 0, 1),
        ({"rerank": True, "rerank_merge_threshold": 0.5}, 0, 0, 1),
        ({"bootstrap_resamples": 100}, 0, 0, 1),
        ({"single_shot": True}, 0, 0, 1),
        ({"flip_evaluation": False}, 0, 1, 1),
        ({"embedding_precision": "bfloat16"}, 0, 1, 1),
        ({"learning_rate": 2e-3}, EPOCHS, 1, 1),
        ({"seed": 1}, EPOCHS, 1, 1),
        ({"score_test_every": 1}, EPOCHS, 1, 1),
    ],
)
def test_a_changed_setting_repeats_what_depends_on_it(
    again, finished, dataset, settings, epochs, embedded, scored
):
    experiment = tiny(**{"seed": 0, **settings})
    run, *done = again(experiment, dataset)
    assert done == [epochs, embedded, scored]
    assert run.experiment == experiment
    assert (run.folder.with_name(f"{run.name}.superseded")).exists() == (epochs > 0)
    same_weights = (run.folder / "model.pt").read_bytes() == (finished.folder / "model.pt").read_bytes()
    assert same_weights == (epochs == 0 or "score_test_every" in settings)
    if settings.get("rerank"):
        assert run.metrics["reranked"]["map"] > 0 and run.metrics["map"] == finished.metrics["map"]
    assert (run.metrics["single_shot"] is None) == ("single_shot" not in settings)
    if embedded and not epochs:
        assert not (run.embeddings["query"] == finished.embeddings["query"]).all()
    assert again(experiment, dataset)[1:] == (0, 0, 0), "and then it is finished"


def test_back_and_forth_between_two_ways_of_scoring(again, finished, dataset):
    """Stored embeddings are never used for other settings."""
    assert again(tiny(flip_evaluation=False), dataset)[1:] == (0, 1, 1)
    run, *done = again(tiny(), dataset)
    assert done == [0, 1, 1]
    assert (run.embeddings["query"] == finished.embeddings["query"]).all()
    assert run.metrics["map"] == finished.metrics["map"]


@pytest.mark.parametrize("lost", ["embeddings.npz", "queries.csv", "metrics.json", "scores.json"])
def test_a_lost_file_of_the_scores_is_made_again_from_the_weights(again, finished, dataset, tmp_path, lost):
    (tmp_path / finished.name / lost).unlink()
    run, epochs, _, scored = again(tiny(), dataset)
    assert (epochs, scored) == (0, 1)
    assert (run.folder / lost).is_file() and run.metrics["map"] == finished.metrics["map"]


@pytest.mark.parametrize("damaged", [b"", b"PK\x03\x04 cut short"])
def test_damaged_embeddings_are_made_again(again, finished, dataset, tmp_path, damaged):
    (tmp_path / finished.name / "embeddings.npz").write_bytes(damaged)
    run, *done = again(tiny(rerank=True), dataset)
    assert done == [0, 1, 1]
    assert (run.embeddings["query"] == finished.embeddings["query"]).all()


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("model.pt", EPOCHS), ("embeddings.npz", 0), ("queries.csv", 0), ("metrics.json", 0), ("curves.csv", 0)],
)
@pytest.mark.parametrize("damage", ["one bit", "cut short", "another run's"])
def test_a_file_that_is_not_what_was_written_is_made_again(
    again, finished, dataset, tmp_path, name, epochs, damage, capsys
):
    """Also one that can be read: a changed score, or the weights of another run."""
    path = tmp_path / finished.name / name
    content = bytearray((finished.folder / name).read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut short" else content)
    if damage == "another run's":
        path.write_bytes(
            {"curves.csv": b"epoch,loss\n1,0.5\n", "metrics.json": b'{"map": 1.0}'}.get(name, b"x")
        )
    damaged = Run(path.parent, finished.experiment, finished.metrics)
    read = {"model.pt": damaged.model, "embeddings.npz": lambda: damaged.embeddings}
    read |= {"queries.csv": lambda: damaged.queries, "curves.csv": lambda: damaged.curves}
    if name in read:
        with pytest.raises(FileError, match=rf"{name} is damaged or was changed.*Run its step again"):
            read[name]()
    run, trained, *_ = again(tiny(), dataset)
    assert trained == epochs
    assert f"{name} is not what was written" in capsys.readouterr().out
    assert_same_run(run.folder, finished.folder)
    assert again(tiny(), dataset)[1:] == (0, 0, 0)


def test_a_run_of_an_older_version_has_no_digests_and_counts_as_it_is(again, dataset, tmp_path, finished):
    for content in (None, "", "[]", "{"):
        digests = tmp_path / finished.name / "digests.json"
        digests.unlink(missing_ok=True)
        if content is not None:
            digests.write_text(content)
        assert again(tiny(), dataset)[1:] == (0, 0, 0)


@pytest.mark.parametrize("lost", ["model.pt", "training.json"])
@pytest.mark.parametrize("also", [None, "metrics.json"])
def test_weights_that_are_trained_again_get_scores_of_their_own(
    again, finished, dataset, tmp_path, lost, also
):
    """The new weights may differ in the last digits, so nothing of the old scores may stay beside them."""
    folder = tmp_path / finished.name
    (folder / lost).unlink()
    if also:
        (folder / also).unlink()
    assert again(tiny(), dataset)[1:] == (EPOCHS, 1, 1)


def test_weights_that_do_not_say_how_they_were_made_are_set_aside(again, finished, dataset, tmp_path):
    for name in ("weights.json", "metrics.json"):
        (tmp_path / finished.name / name).unlink()
    run, epochs, _, _ = again(tiny(learning_rate=2e-3), dataset)
    assert epochs == EPOCHS
    old = run.folder.with_name(f"{run.name}.superseded")
    assert (old / "model.pt").read_bytes() == (finished.folder / "model.pt").read_bytes()


def test_the_best_score_between_epochs_is_not_shown_beside_other_scores(dataset, cache, tmp_path):
    settings = {"score_test_every": 1, "epochs": 1}
    first = fit(tiny(**settings), dataset, tmp_path / "run", cache=cache)
    assert first.metrics["best_on_test"]["map"] == first.metrics["map"]
    other = fit(tiny(flip_evaluation=False, **settings), dataset, tmp_path / "run", cache=cache)
    assert other.metrics["best_on_test"] is None and other.metrics["map"] != first.metrics["map"]
    assert fit(tiny(**settings), dataset, tmp_path / "run", cache=cache).metrics["best_on_test"]


@pytest.mark.parametrize("last", ["embeddings.npz", "queries.csv", "scores.json"])
def test_interrupted_scoring_is_repeated_completely(again, finished, dataset, monkeypatch, last):
    """Interrupted after each of its files. Files of two scorings are never mixed."""
    real = Path.replace

    def replace(self, target):
        result = real(self, target)
        if Path(target).name == last:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", replace)
        again(tiny(flip_evaluation=False), dataset)
    run, epochs, embedded, scored = again(tiny(), dataset)
    assert (epochs, embedded, scored) == (0, 1, 1)
    assert (run.embeddings["gallery"] == finished.embeddings["gallery"]).all()
    assert run.metrics["map_interval"] == finished.metrics["map_interval"]


# ---------------------------------------------------------------------------------------------------- images


def test_other_test_images_repeat_scoring_and_other_training_images_training(again, root, tmp_path):
    copy = tmp_path / "images"
    shutil.copytree(root, copy)
    made = make_noise_images(tmp_path / "other", seed=1, width=50)
    shutil.copy(
        made / "bounding_box_test" / "0012_c2s1_000001_00.png",
        copy / "bounding_box_test" / "0012_c2s1_000009_00.png",
    )
    assert again(tiny(), load_dataset("folder", copy))[1:] == (0, 1, 1), "one more gallery image"
    shutil.copy(
        made / "bounding_box_train" / "0003_c1s1_000000_00.png",
        copy / "bounding_box_train" / "0003_c1s1_000009_00.png",
    )
    assert again(tiny(), load_dataset("folder", copy))[1:] == (EPOCHS, 1, 1), "one more training image"


# ---------------------------------------------------------------------------------------------------- code


@pytest.mark.parametrize(
    ("file", "old", "new", "epochs", "embedded", "scored"),
    [
        # text: messages and docstrings; code that computes nothing
        ("datasets/market1501.py", "lacks", "has no", 0, 0, 0),
        ("training/epoch.py", "Lower learning_rate, or set", "Set a lower learning_rate, or", 0, 0, 0),
        ("losses.py", "Training losses:", "Losses of training:", 0, 0, 0),
        ("evaluation/distance_blocks.py", "give at least one", "there must be an", 0, 0, 0),
        ("progress.py", "WRITE_EVERY = 0.25", "WRITE_EVERY = 0.5", 0, 0, 0),
        # code that shows and runs
        ("show/figures.py", 'RIGHT, WRONG, QUERY = "#1a9641"', 'RIGHT, WRONG, QUERY = "#1a9642"', 0, 0, 0),
        ("study/pipeline.py", "POLL = 0.25", "POLL = 0.5", 0, 0, 0),
        ("config.py", 'LABELS = ("method",', 'LABELS = ("method", "methods",', 0, 0, 0),
        # the renderer of synthetic images, which are not used here: the colour of trousers
        ("synthetic/views.py", "_LOWER_COLOURS = ((36, 37, 42)", "_LOWER_COLOURS = ((36, 37, 43)", 0, 0, 0),
        # code for scores
        ("statistics.py", "2**22", "2**21", 0, 0, 1),
        ("reranking.py", "half = round(k1 / 2)", "half = k1 // 2", 0, 0, 1),
        ("evaluation/metrics.py", "SORT_ABOVE = 64", "SORT_ABOVE = 65", 0, 0, 1),
        ("evaluation/diversity.py", "ZERO = 1e-10", "ZERO = 1e-9", 0, 0, 1),
        ("evaluation/measures.py", "MOST_QUERIES = 2000", "MOST_QUERIES = 1000", 0, 0, 1),
        ("evaluation/embedding.py", "batch_size: int = 128", "batch_size: int = 64", 0, 1, 1),
        ("evaluation/embedding.py", "flip=experiment.flip_evaluation", "flip=False", 0, 1, 1),
        # code for weights
        ("losses.py", "REFERENCE_BATCH = 32", "REFERENCE_BATCH = 64", EPOCHS, 1, 1),
        ("models/attention.py", "nn.Dropout2d(0.1)", "nn.Dropout2d(0.2)", EPOCHS, 1, 1),
        ("training/schedule.py", "0.1 + 0.9", "0.2 + 0.8", EPOCHS, 1, 1),
        ("images/samplers.py", "rng.permutation(len(labels))", "np.arange(len(labels))", EPOCHS, 1, 1),
    ],
)
def test_changed_code_repeats_what_depends_on_it(
    again, dataset, cache, checkout, file, old, new, epochs, embedded, scored
):
    checkout(file, old, new)
    assert again(tiny(), dataset)[1:] == (epochs, embedded, scored)
    measured = file in ("evaluation/diversity.py", "evaluation/measures.py")
    assert again.measured == (epochs > 0 or measured), "code of other scores keeps the measures"


@pytest.mark.parametrize("settings", [{"rerank": True}, {"flip_evaluation": False}])
def test_measures_are_kept_for_other_ways_of_scoring(again, finished, dataset, settings):
    run, *_ = again(tiny(**settings), dataset)
    assert again.measured == 0
    columns = list(run.queries)[-4:]
    assert columns == ["channel_correlation", "effective_area", "effective_rank", "condition_number"]
    assert run.queries[columns].equals(finished.queries[columns])
    names = [*columns, "queries_measured", "weight_spectra"]
    assert [run.metrics[name] for name in names] == [finished.metrics[name] for name in names]


@pytest.mark.parametrize("damage", ["metrics.json", "queries.csv", "a row", "a column"])
def test_measures_that_are_not_whole_are_made_again(again, finished, dataset, tmp_path, damage):
    path = tmp_path / finished.name / "queries.csv"
    lines = path.read_text().splitlines(keepends=True)
    if damage == "a row":
        path.write_text("".join(lines[:-1]))
    elif damage == "a column":
        path.write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    else:
        path.with_name(damage).write_bytes(b"")
    run, *done = again(tiny(rerank=True), dataset)
    assert (done, again.measured) == ([0, 0, 1], 1)
    assert run.queries[list(finished.queries)].equals(finished.queries)
    assert run.metrics["weight_spectra"] == finished.metrics["weight_spectra"]


def test_the_record_of_weights_covers_scores_that_choose_them(dataset, checkout):
    """If the best epoch is reported, scores decide which weights are the run's; otherwise they only show."""
    runs = [
        tiny(score_test_every=1),
        tiny(validation_identities=2, validate_every=1),
        tiny(report_epoch="best_on_test", score_test_every=1),
        tiny(report_epoch="best_on_validation", validation_identities=2, validate_every=1),
    ]
    before = [records.weights_record(one, dataset) for one in runs]
    assert [sorted(one.get("chosen_by", {})) for one in before] == [
        [], [], ["code", "data", "embedding_precision", "flip_evaluation"],
        ["code", "embedding_precision", "flip_evaluation"],
    ]  # fmt: skip
    chosen = ["another choice of the best epoch"]
    for file, old, new, differs in (
        ("reranking.py", "half = round(k1 / 2)", "half = k1 // 2", []),
        ("evaluation/metrics.py", "SORT_ABOVE = 64", "SORT_ABOVE = 65", chosen),
    ):
        checkout(file, old, new)
        after = [records.weights_record(one, dataset) for one in runs]
        found = [records.what_differs(*pair) for pair in zip(before, after, strict=True)]
        assert found == [[], [], differs, differs], file


def test_the_choice_of_the_best_epoch_is_among_the_code_of_the_weights(dataset, checkout):
    before = records.weights_record(tiny(), dataset)
    checkout("training/loop.py", '"test": "test_rank1"', '"test": "test_map"')
    assert records.what_differs(before, records.weights_record(tiny(), dataset)) == ["other code"]


def test_how_a_network_is_built_is_among_the_code_of_released_weights(tmp_path, checkout):
    (tmp_path / "x.pth").write_bytes(b"weights")
    before = records.checkpoint_record(tiny(), tmp_path / "x.pth")
    checkout("models/networks.py", '"before_head"', '"before_heads"')
    assert records.what_differs(before, records.checkpoint_record(tiny(), tmp_path / "x.pth")) == [
        "other code"
    ]


# ------------------------------------------------------------------------------------------------- which code


def modules_behind(record: str) -> list[str]:
    return [module for module in Code().used([(record, "")]) if module not in COMPUTES_NOTHING]


def packages(modules) -> set[str]:
    return {module.removeprefix("reidlib.").partition(".")[0] for module in modules}


def test_each_record_covers_its_own_folders_and_a_short_list():
    weights, scores = modules_behind(records.WEIGHTS_CODE), modules_behind(records.SCORES_CODE)
    makes_weights = {"models", "losses", "checkpoints", "images", "datasets", "training"}
    assert packages(weights) == makes_weights | {"devices", "torch_files"}
    assert {module for module in weights if "datasets" in module} == {
        "reidlib.datasets.held_out", "reidlib.datasets.types",
    }, "readers make a fingerprint, no weights"  # fmt: skip
    assert packages(scores) == {
        "evaluation",
        "reranking",
        "statistics",
        "images",
        "datasets",
        "devices",
        "torch_files",
    }
    assert {module for module in scores if "images" in module} == {
        "reidlib.images.contents", "reidlib.images.decoding", "reidlib.images.normalisation",
    }  # fmt: skip
    assert set(modules_behind(records.EMBEDDING_CODE)) < set(scores)


def test_all_code_that_is_run_to_make_weights_is_covered():
    """Exceptions read data sets, write files, or start or judge the run; the classification's is one, too."""
    kept_apart = {
        "reidlib.datasets.checks", "reidlib.datasets.known", "reidlib.datasets.joined",
        "reidlib.datasets.market1501", "reidlib.datasets.msmt17", "reidlib.datasets.own_images",
        "reidlib.models.cifar_resnet",  # of the classification
        "reidlib.training.fitting", "reidlib.training.learning", "reidlib.training.records",
        "reidlib.training.run_folder", "reidlib.training.tensorboard",
    }  # fmt: skip
    folders = ("models", "images", "datasets", "training")
    every = {
        f"reidlib.{folder}.{path.stem}"
        for folder in folders
        for path in (REPOSITORY / "reidlib" / folder).glob("*.py")
        if path.stem != "__init__"
    }
    assert every - set(modules_behind(records.WEIGHTS_CODE)) == kept_apart
