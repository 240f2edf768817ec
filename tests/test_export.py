"""Exported networks beside PyTorch: both families, both formats, all precisions, and wrong calls.

Two rows stand for all: `abdnet` has every layer of its family, `pfsa+sa1` those of the other one.
"""

import json
import re
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import onnx
import pytest
import torch
from made_up_runs import fabricate
from PIL import Image
from torch import nn

from reidlib import export
from reidlib.config import experiment_for, experiment_for_file
from reidlib.evaluation.embedding import embed
from reidlib.export import EmbeddingNetwork, ExportError, difference_from_pytorch, opened, read_source
from reidlib.images.decoding import decode
from reidlib.images.normalisation import normalise
from reidlib.models import ReidNetwork, ReidOutput, model_from_experiment
from reidlib.study.results import Study

HEIGHT, WIDTH = 96, 48
TINY = {
    "backbone": "resnet18", "pretrained": False, "height": HEIGHT, "width": WIDTH,
    "reduced_dim": 16, "embedding_dim": 16, "head_dim": 16, "feature_dim": 16,
}  # fmt: skip


class Pixels(ReidNetwork):
    """Its embedding is the image that reaches it."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return ReidOutput((images * self.one).flatten(1), [], [], {})


class Small(ReidNetwork):
    """Two layers, which are exported fast."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 32, 8, stride=8), nn.Linear(32, 256)

    def forward(self, images):
        return ReidOutput(self.linear(self.conv(images).relu().mean((2, 3))), [], [], {})


class OtherWhenExported(Small):
    def forward(self, images):
        output = super().forward(images)
        return (
            output._replace(embedding=output.embedding * 1.001) if torch.compiler.is_exporting() else output
        )


def tiny(method="baseline"):
    return experiment_for(method, dataset="folder", **TINY)


def made(method):
    """A network with attention that does something, and its experiment."""
    experiment = tiny(method)
    network = model_from_experiment(experiment, 6).eval()
    for name, value in network.named_parameters():
        if name.endswith("gamma"):  # 0 before training
            nn.init.constant_(value, 0.5)
    return network, experiment


def assert_close(found, expected):
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ABD-Net, scored with the mean over image and mirror image."""
    network, _ = made("abdnet")
    study = Study("demo", "folder", tmp_path_factory.mktemp("results"))
    found = fabricate(study, "abdnet", settings=TINY)
    torch.save(network.state_dict(), found.files.model)
    return found


@pytest.fixture(scope="module")
def person(run, tmp_path_factory):
    """The run's ONNX file, with preprocessing inside."""
    file = tmp_path_factory.mktemp("exported") / "person.onnx"
    assert export.main([str(run.folder), "--to", str(file), "--with-preprocessing"]) == 0
    return file


# ----------------------------------------------------------------------------------------- equal to PyTorch


@pytest.mark.parametrize("count", [1, 5])
def test_a_runs_file_gives_the_embeddings_that_the_study_scores(run, person, count):
    images = np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert_close(opened(person)(images), embed(run.model(), images, flip=True))


def test_metadata_say_what_the_file_is(run, person):
    said = {entry.key: entry.value for entry in onnx.load(person).metadata_props}
    assert (said["method"], said["run"], said["trained_by_commit"]) == ("abdnet", run.name, "abc")
    assert (said["height"], said["width"], said["flip"]) == (str(HEIGHT), str(WIDTH), "true")
    assert json.loads(said["mean"]) == [0.485, 0.456, 0.406] and "std" in said
    assert "squared Euclidean" in said["distance"] and "uint8" in said["input"]
    assert said["precision"] == "float32" and said["commit"]


def test_the_documented_example_runs_without_torch(run, person, tmp_path):
    example = export.__doc__[export.__doc__.index("    import numpy") : export.__doc__.index("Every file")]
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg"):
        size = (HEIGHT, WIDTH, 3)  # as decoded for the study, which rounds after resizing
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "person.onnx").write_bytes(person.read_bytes())
    without = "import sys\nsys.modules['torch'] = sys.modules['reidlib'] = None\n"
    code = f"{without}{textwrap.dedent(example)}\nprint(float(distance))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    images = np.stack([decode(tmp_path / name, HEIGHT, WIDTH) for name in ("a.jpg", "b.jpg")])
    one, other = embed(run.model(), images, flip=True)
    assert float(done.stdout) == pytest.approx(((one - other) ** 2).sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("method", "suffix", "flip"), [("pfsa+sa1", ".onnx", False), ("abdnet", ".pt2", True)]
)
def test_networks_without_preprocessing(method, suffix, flip, tmp_path):
    network, experiment = made(method)
    file = tmp_path / f"network{suffix}"
    assert export.export(EmbeddingNetwork(network, experiment), file) <= 1e-4
    for count in (1, 4):
        images = np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
        found = opened(file)(normalise(torch.from_numpy(images)).numpy())
        assert_close(found, embed(network, images, flip=flip))


def test_an_exported_run_has_a_model_card(person):
    card = person.with_name("person.onnx.md").read_text()
    assert card.startswith("---\n") and "lawful" in card
    said = {entry.key: entry.value for entry in onnx.load(person).metadata_props}
    assert f"- weights: {said['weights']}\n" in card and "- preprocessing_inside: True\n" in card


def test_pt2_files_have_metadata_too(tmp_path):
    export.export(EmbeddingNetwork(Small(), tiny()), tmp_path / "a.pt2", facts={"method": "small"})
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(export.FACTS))
        assert json.loads(archive.read(name))["method"] == "small"


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_preprocessing_inside_is_preprocessing_outside(suffix, tmp_path):
    """At the network's size exactly; at other sizes pixels may differ by one of 255 levels."""
    file = tmp_path / f"pixels{suffix}"
    embedding = EmbeddingNetwork(Pixels(), tiny(), with_preprocessing=True, flip=False)
    export.export(embedding, file)
    call, rng = opened(file), np.random.default_rng(0)
    for height, width, level in ((HEIGHT, WIDTH, 0), (250, 101, 1), (61, 23, 1), (40, 200, 1)):
        images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        resized = [
            np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
            for image in images
        ]
        outside = normalise(torch.from_numpy(np.stack(resized))).numpy()
        difference = np.abs(call(images).reshape(outside.shape) - outside) * 0.229 * 255  # in levels
        assert difference.max() <= level + 0.01
        assert (difference.mean() > 0) == (level > 0)


def test_flip_is_the_mean_with_the_mirror_image(tmp_path):
    images = np.random.default_rng(0).standard_normal((2, 3, HEIGHT, WIDTH), dtype=np.float32)
    for flip, expected in ((False, images), (True, (images + images[..., ::-1]) / 2)):
        export.export(EmbeddingNetwork(Pixels(), tiny(), flip=flip), tmp_path / "pixels.onnx")
        np.testing.assert_allclose(
            opened(tmp_path / "pixels.onnx")(images), expected.reshape(2, -1), atol=1e-6
        )


# ------------------------------------------------------------------------------------------------ precisions


def test_float16_rounds_the_weights_and_nothing_else(tmp_path):
    network, file = Small(), tmp_path / "small.onnx"
    embedding = EmbeddingNetwork(network, tiny())
    export.export(embedding, file)
    whole = file.stat().st_size
    assert 0 < export.export(embedding, file, precision="float16") < 1e-3
    assert file.stat().st_size < 0.6 * whole
    for layer in (network.conv, network.linear):
        layer.weight.data = layer.weight.data.half().float()
    assert difference_from_pytorch(file, embedding) < 1e-6


def test_int8_is_small_and_near(tmp_path, caplog):
    embedding = EmbeddingNetwork(Small(), tiny())
    export.export(embedding, tmp_path / "whole.onnx")
    assert 1e-4 < export.export(embedding, tmp_path / "small.onnx", precision="int8") < 0.1
    assert (tmp_path / "small.onnx").stat().st_size < 0.4 * (tmp_path / "whole.onnx").stat().st_size
    said = [record for record in caplog.records if record.name == "root"]
    assert not said, "onnxruntime's advice is left out"


# ------------------------------------------------------------------------------------- what is not written


def test_a_file_that_differs_is_not_written(tmp_path):
    file = tmp_path / "a.onnx"
    file.write_text("older")
    with pytest.raises(ExportError, match=r"a\.onnx is not written: .* differ from PyTorch's by 0\.001 "):
        export.export(EmbeddingNetwork(OtherWhenExported(), tiny()), file)
    assert file.read_text() == "older" and list(tmp_path.iterdir()) == [file]


def test_a_changed_weight_and_a_broken_one_are_seen(tmp_path):
    network, file = Small(), tmp_path / "a.onnx"
    embedding = EmbeddingNetwork(network, tiny())
    assert export.export(embedding, file) < 1e-5
    with torch.no_grad():
        network.linear.bias[7] += 1
    assert difference_from_pytorch(file, embedding) > export.LIMITS["float32"]
    with torch.no_grad():
        network.linear.bias[7] = float("nan")
    assert difference_from_pytorch(file, embedding) == float("inf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--to", "a.tflite"], r"ends in '\.tflite': name a file that ends in \.onnx or \.pt2"),
        (["RUN", "--to", "a.pt2", "--precision", "int8"], "int8 is for ONNX files"),
        (["RUN", "--to", "a.onnx", "--precision", "float8"], "Unknown precision 'float8'. Did you mean"),
        (["RUN", "--to", "a.onnx", "--method", "abdnet"], "is a run, which has its own method"),
        (["nowhere", "--to", "a.onnx"], "nowhere"),
        ([".", "--to", "a.onnx"], "is no finished run"),
        (["weights.pth", "--to", "a.onnx"], "weights.pth is a file of weights, which does not say"),
        (["weights.pth", "--to", "a.onnx", "--method", "abd"], "Unknown method 'abd'"),
        (["weights.pth", "--to", "a.onnx", "--method", "gap"], "classifiers of one size"),
    ],
)
def test_wrong_calls_give_one_line(run, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1)}, "weights.pth")
    assert export.main([str(run.folder) if word == "RUN" else word for word in arguments]) == 2
    output, error = capsys.readouterr()
    assert not output and error.count("\n") == 1
    assert re.search(message, error)
    assert re.search(message, error)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_released_weights_are_read_at_the_papers_size(tmp_path):
    network = model_from_experiment(experiment_for_file("gap", pretrained=False), 4)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "released.pth.tar")
    found, experiment, facts = read_source(tmp_path / "released.pth.tar", "gap")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in network.state_dict().items())
    assert (experiment.height, experiment.width, experiment.flip_evaluation) == (384, 128, False)
    assert facts == {"method": "gap", "file": "released.pth.tar"}
