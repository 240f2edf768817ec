"""Rankings, scores and maps of one's own images, on embeddings whose answers are known."""

import numpy as np
import pytest
from bs4 import BeautifulSoup
from own_images import odd_names, run_with_weights, write_noise

import reidlib
from reidlib.datasets.own_images import read_own_images
from reidlib.evaluation import EvaluationError
from reidlib.show import maps, own_images
from reidlib.show.drawing import description_of


def search(tmp_path, gallery, queries):
    """Images at places on a line: name → place."""
    for folder, names in (("g", gallery), ("q", queries)):
        for number, name in enumerate(names):
            write_noise(tmp_path / folder / name, number)
    own = read_own_images(tmp_path / "g", [tmp_path / "q"])
    places = {"query": queries, "gallery": gallery}
    return own, {
        part: np.array(
            [[places[part][own.names[path]]] for path in own.dataset.splits[part].paths], np.float32
        )
        for part in places
    }


MARKET = {"0001_c1.png": 1.0, "0001_c2.png": 5.0, "0002_c1.png": 3.0, "-1_c1.png": 0.0, "0000_c1.png": 4.0}


def test_rankings_follow_markets_rule_and_give_squared_distances(tmp_path):
    own, embeddings = search(tmp_path, MARKET, {"0001_c1s2.png": 0.0, "0002_c2.png": 0.0})
    frame = own_images.ranking_frame(own, embeddings)
    first = frame[frame["query"] == 0]
    assert first["file"].tolist() == ["0002_c1.png", "0000_c1.png", "0001_c2.png"], (
        "neither junk nor camera 1"
    )
    assert first["distance"].tolist() == [9.0, 16.0, 25.0] and first["rank"].tolist() == [1, 2, 3]
    assert first["right"].tolist() == [False, False, True]
    second = frame[frame["query"] == 1]
    assert second["file"].tolist() == ["0001_c1.png", "0002_c1.png", "0000_c1.png", "0001_c2.png"]
    assert own_images.ranking_frame(own, embeddings, top=1)["gallery"].tolist() == [4, 2]


def test_scores_are_those_of_the_rankings_and_name_what_is_missing(tmp_path):
    own, embeddings = search(tmp_path, MARKET, {"0001_c1s2.png": 0.0, "0002_c2.png": 0.0, "nobody.png": 0.0})
    table, sentence = own_images.scores(own, embeddings, resamples=100)
    assert table.loc[0, "rank-5"] == "100.0" and table.loc[0, "rank-1"].startswith("0.0")
    assert table.loc[0, "mAP"].startswith("41.7 ["), "(1/3 + 1/2) / 2"
    assert "2 of 3 queries have a match by another camera" in sentence and "2 people" in sentence
    takeaway = own_images.summary_sentence(own, own_images.ranking_frame(own, embeddings), sentence)
    assert "3 queries were searched in 5 images" in takeaway and "for 0 of 2 queries" in takeaway


def test_without_labels_there_are_neither_marks_nor_scores(tmp_path):
    own, embeddings = search(tmp_path, {"a.png": 1.0, "b.png": 2.0}, {"c.png": 0.0})
    frame = own_images.ranking_frame(own, embeddings)
    assert frame["right"].isna().all() and frame["file"].tolist() == ["a.png", "b.png"]
    assert own_images.first_table(frame)["right"].tolist() == ["–"]
    table, sentence = own_images.scores(own, embeddings)
    assert table is None and "the gallery has no identities and no cameras" in sentence
    page = own_images.ranked_rows(frame, own)
    assert "✓" not in page and "✗" not in page and 'class="wrong"' not in page


def test_queries_of_nobody_in_the_gallery_have_no_scores_and_the_reason(tmp_path):
    own, embeddings = search(tmp_path, {"0001_c1.png": 1.0}, {"0002_c2.png": 0.0})
    table, sentence = own_images.scores(own, embeddings)
    assert table is None and "no query identity occurs among the" in sentence


def test_a_query_that_lies_in_the_gallery_does_not_find_itself(tmp_path):
    for number, name in enumerate(("anna/1.png", "anna/2.png", "bob/1.png")):
        write_noise(tmp_path / name, number)
    own = read_own_images(tmp_path, [tmp_path / "anna" / ".." / "anna" / "1.png"])
    embeddings = {"query": np.float32([[0]]), "gallery": np.float32([[0], [1], [2]])}
    frame = own_images.ranking_frame(own, embeddings, top=2)
    assert frame["file"].tolist() == ["anna/2.png", "bob/1.png"] and frame["rank"].tolist() == [1, 2]


def test_a_folder_that_holds_only_what_is_left_out_is_said(tmp_path):
    own, embeddings = search(tmp_path, {"0001_c1.png": 1.0, "-1_c2.png": 2.0}, {"0001_c1s2.png": 0.0})
    with pytest.raises(EvaluationError, match="nothing to rank.*Add other images"):
        own_images.ranking_frame(own, embeddings)


def test_rows_show_every_picture_with_its_name_whatever_it_is(tmp_path):
    odd_names(tmp_path)
    own = read_own_images(tmp_path, [tmp_path])
    embeddings = dict.fromkeys(("query", "gallery"), np.arange(4, dtype=np.float32)[:, None])
    frame = own_images.ranking_frame(own, embeddings)
    page = own_images.ranked_rows(frame, own, most=2)
    page.encode()  # no half of a character
    soup = BeautifulSoup(page, "html.parser")
    assert len(soup.find_all("img")) == 2 * 4 and "2 more queries" in soup.get_text()
    assert not soup.find("b"), "no name becomes an element"
    texts = " ".join(image["alt"] for image in soup.find_all("img"))
    for name in ("two\\nlines.png", "<b>&amp;.png", "\\xe9.png", "$x$ `y`.png"):
        assert name in texts
    assert {len(name.text) <= 2 * own_images.NAME for name in soup.find_all("small")} == {True}


def test_long_names_are_cut_in_the_middle_below_their_picture(tmp_path):
    own, embeddings = search(tmp_path, {"0001_camera_of_the_gate.png": 1.0}, {"b.png": 0.0})
    soup = BeautifulSoup(
        own_images.ranked_rows(own_images.ranking_frame(own, embeddings), own), "html.parser"
    )
    assert soup.find_all("small")[1].text == "0001_ca…ate.png"


def test_maps_explain_the_pairs_of_a_rank_in_both_directions(tmp_path):
    gallery = {f"{number}.png": float(number) for number in range(3)}
    own, embeddings = search(tmp_path, gallery, {"a.png": 0.0, "b.png": 2.0})
    embed = reidlib.embedder(run_with_weights(tmp_path / "results", "baseline").folder)
    frame = own_images.ranking_frame(own, embeddings)
    figure, heats = own_images.why_matched(embed, own, frame, pairs=1, match_rank=2)
    size = (embed.experiment.height, embed.experiment.width)
    query, match = (
        embed._pixels(path)[None] for path in (own.dataset.query.paths[0], own.dataset.gallery.paths[1])
    )
    np.testing.assert_allclose(heats["query"], maps.ranking_activation(embed.model, query, match), atol=1e-5)
    np.testing.assert_allclose(heats["match"], maps.ranking_activation(embed.model, match, query), atol=1e-5)
    assert heats["query"].shape == (1, *size)
    assert "1 pairs of a query and its gallery image at rank 2" in description_of(figure)
    _, last = own_images.why_matched(embed, own, frame, match_rank=9)
    assert len(last["query"]) == 2, "of a shorter ranking, the last image"


@pytest.mark.parametrize("part", ["query", "gallery"])
def test_the_table_of_images_has_their_names_and_labels_in_order(tmp_path, part):
    own, _ = search(tmp_path, MARKET, {"0001_c1s2.png": 0.0, "nobody.png": 0.0})
    table = own_images.image_table(own, part)
    expected = {
        "query": [["0001_c1s2.png", "1", "1"], ["nobody.png", None, None]],
        "gallery": [["-1_c1.png", "-1", "1"], ["0000_c1.png", "0", "1"], ["0001_c1.png", "1", "1"],
                    ["0001_c2.png", "1", "2"], ["0002_c1.png", "2", "1"]],
    }[part]  # fmt: skip
    assert [list(row) for row in table.itertuples(index=False)] == expected
    assert table.columns.tolist() == ["file", "identity", "camera"]
