"""run_all.py --images: what it refuses, what makes it run again, and the page and files that it makes."""

import os

import numpy as np
import polars
import pytest
from bs4 import BeautifulSoup
from own_images import NAMES, odd_names, run_with_weights, write_noise

import reidlib
import run_all
from reidlib.study.results import open_study


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_with_weights(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def place(tmp_path):
    """Two people before two cameras, and images with odd names, in a folder whose name is odd, too."""
    gallery = tmp_path / "my <b>crops &amp;"
    for number, name in enumerate(("anna/cam1/1.png", "anna/cam2/1.png", "bob/cam1/1.png", "bob/cam2/1.png")):
        write_noise(gallery / name, number)
    odd_names(gallery / os.fsdecode(b"carl\xff") / "cam1")
    write_noise(tmp_path / "queries" / "anna" / "cam3" / "new.png", 0)
    return tmp_path


def call(place, capsys, *arguments):
    try:
        status = run_all.main(["--results", str(place / "results"), *map(str, arguments)])
    except SystemExit as stop:  # from argparse
        status = stop.code
    return status, *capsys.readouterr()


def usual(place, run, *more):
    gallery = place / "my <b>crops &amp;"
    return ("--images", gallery, "--queries", place / "queries", "--run", run.folder, "--workers", 1, *more)


def test_wrong_calls_are_refused_in_one_line_and_write_nothing(place, run, capsys):
    images, queries, of = ("--images", place), ("--queries", place / "queries"), ("--run", run.folder)
    weights = ("--run", run.files.model)
    for arguments, says in (
        ((*images, *of), "--images needs --queries"),
        ((*images, *queries), "--images needs --run"),
        (queries, "--queries needs --images"),
        (("--skip-unreadable",), "--skip-unreadable needs --images"),
        ((*images, *queries, *of, "--dataset", "folder"), "--dataset does not go with --images"),
        ((*images, *queries, *of, "--seeds", 1), "--seeds does not go with --images"),
        ((*images, *queries, *of, "--methods", "gap"), "--methods is for a file of weights"),
        ((*images, *queries, *of, "--set", "height=8"), "--set is for a file of weights"),
        ((*images, *queries, *weights), "needs --methods with the one method"),
        ((*images, *queries, *weights, "--methods", "gapp"), "Did you mean 'gap'?"),
        (
            (*images, *queries, *weights, "--methods", "gap", "--set", "epochs=3"),
            "--set epochs is about training",
        ),
        ((*images, *queries, "--run", place / "gone"), "is no file"),
        ((*images, *queries, "--run", place), "was made by another version of the study"),
        ((*images, *queries, *of, "--labels", "folder"), "--labels"),
        ((*images, "--queries", place / "gone.png", *of), "gone.png does not exist"),
        (("--images", place / "gone", *queries, *of), "gone does not exist: name a folder"),
        ((*images, *queries, *of, "--reference"), "--images cannot change them"),
    ):
        status, out, err = call(place, capsys, *arguments)
        assert status == 2 and says in err and not out, (says, err)
        assert len(err.strip().splitlines()) == 1
        assert not (place / "results").exists()


def test_other_images_queries_weights_or_labels_are_searched_anew(place, run, capsys):
    gallery = place / "my <b>crops &amp;"
    (step,) = run_all.steps(request_of(place, run))
    assert step.parameters["data_options"] == {"labels": "auto", "skip_unreadable": False}
    first = step.images["your"]
    write_noise(gallery / "anna" / "cam1" / "1.png", 99)
    assert request_of(place, run).images["your"] != first
    assert str(run.files.model) in step.reads
    table = place / "labels.csv"
    table.write_text("file,identity\nanna/cam3/new.png,a\n")
    status, _, err = call(place, capsys, *usual(place, run, "--labels", table, "--dry-run"))
    assert status == 2 and "have no row in" in err


def request_of(place, run):
    from reidlib.study.command_line import own_images_request, parse

    return own_images_request(parse([*map(str, usual(place, run)), "--results", str(place / "results")]))


def test_an_unreadable_image_is_named_and_left_out_when_asked(place, run, capsys):
    (place / "my <b>crops &amp;" / "bob" / "gone.png").symlink_to(place / "nowhere")
    status, _, err = call(place, capsys, *usual(place, run, "--dry-run"))
    assert status == 2 and "gone.png (No such file" in err and "--skip-unreadable" in err
    status, _, err = call(place, capsys, *usual(place, run, "--dry-run", "--skip-unreadable"))
    assert status == 0 and "run: not finished before" in err


def test_the_page_and_the_files(place, run, capsys, monkeypatch):
    """One call through papermill: folders as labels, odd names, a damaged image that is left out."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gallery = place / "my <b>crops &amp;"
    (gallery / "bob" / "cam2" / "damaged.png").write_bytes(b"no image")
    arguments = usual(place, run, "--skip-unreadable", "--threads", 1)
    status, out, err = call(place, capsys, *arguments)
    assert status == 0, err
    assert "identity and camera from the folders (chosen because" in err
    study = open_study("smoke", "folder", place / "results", own_images=True, data_root=str(gallery))
    assert f"Report: {study.report / 'index.html'}" in out

    table = polars.read_parquet(study.embeddings / "gallery.parquet")
    assert table.columns == ["file", "identity", "camera", "name", "embedding"]
    names = [bytes(name) for name in table["name"].to_list()]
    assert {b"carl\xff/cam1/" + name for name in NAMES} < set(names) and len(names) == 8
    assert table["identity"].to_list().count("carl\\xff") == 4
    vectors = np.array(table["embedding"].to_list(), np.float32)
    np.testing.assert_array_equal(vectors, np.load(study.embeddings / "gallery.npy"))
    paths = [gallery / os.fsdecode(name) for name in names]
    np.testing.assert_allclose(vectors, reidlib.embedder(run.folder)(paths), rtol=1e-3, atol=1e-3)
    assert (study.embeddings / "gallery.csv").read_text().splitlines()[1] == "anna/cam1/1.png,anna,cam1"
    assert polars.read_parquet(study.embeddings / "queries.parquet")["identity"].to_list() == ["anna"]

    page = BeautifulSoup((study.report / "40_your_images.html").read_text(encoding="utf-8"), "html.parser")
    row = page.select_one(".ranks")
    assert len(row.find_all("img")) == 1 + 8 and "right" in row.find_all("figure")[1]["class"], (
        "the same image"
    )
    text = page.get_text()
    assert "Left out, because it cannot be read: damaged.png (it is none of" in text
    assert "Rank-1 is 100.0 %" in text and "1 queries were searched in 8 images" in text
    assert str(place) not in str(page), "no path of this machine"
    index = BeautifulSoup((study.report / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert index.h1.get_text() == "Your images: my <b>crops &amp;" and not index.select("#paper-map, h1 b")

    assert "All 1 steps are up to date." in call(place, capsys, *arguments)[2]
    assert "everything is as it was written" in call(place, capsys, *arguments, "--verify")[1]
