"""Writes a network as one file for other programs: ONNX (.onnx) or torch.export (.pt2).

    python -m reidlib.export results/<study>/runs/<run> --to person.onnx --with-preprocessing
    python -m reidlib.export checkpoint.pth.tar --method abdnet --to abdnet.pt2

The file gives the embeddings that the study scores: the network in evaluation mode, without classifiers. It
includes the mean over image and mirror image where the run was scored so (the setting `flip_evaluation`);
`--no-flip` leaves that out, which halves the time and changes the scores. Any number of images goes through
at once. Its metadata say what it takes and where it comes from.

With preprocessing inside, it takes RGB bytes of any size, and needs neither torch nor this package:

    import numpy as np, onnxruntime
    from PIL import Image

    network = onnxruntime.InferenceSession("person.onnx")
    def embedding(path):
        return network.run(None, {"images": np.asarray(Image.open(path).convert("RGB"))[None]})[0][0]
    distance = ((embedding("a.jpg") - embedding("b.jpg")) ** 2).sum()  # smaller is more alike

Every file is compared with PyTorch on made-up images before it gets its name. The model card of an exported
run is written beside it (`person.onnx.md`). Precisions:

- float32: as trained. (A run that was scored in bfloat16, `embedding_precision`, has other last digits.)
- float16: weights take half the space on disk. They are computed with in float32, so only they are rounded.
- int8: onnxruntime's dynamic quantisation rounds weights and the input of each layer to 256 levels. The file
  takes a quarter of the space; convolutions are not faster for it on every processor, and scores change:
  `benchmarks/bench_export.py` measures both.
"""

import argparse
import json
import logging
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.files import absolute_path, read_json, replacing, write_atomically
from reidlib.image_embedder import load_embedder
from reidlib.images.normalisation import IMAGENET_MEAN, IMAGENET_STD
from reidlib.models.backbone import ReidNetwork
from reidlib.provenance import commit
from reidlib.run import RunFiles, read_run
from reidlib.settings import choose
from reidlib.show.model_card import model_card
from reidlib.torch_files import state_digest

# Precision → the largest difference from PyTorch that a file may have, relative to the largest value.
LIMITS = {"float32": 1e-4, "float16": 1e-2, "int8": 0.25}
FORMATS = (".onnx", ".pt2")
INPUT, OUTPUT = "images", "embeddings"
FACTS = "facts.json"  # in a .pt2 file, what the metadata are in an ONNX file


class ExportError(ReidError):
    """A network that cannot be exported as asked, or a file that differs from its network."""


class EmbeddingNetwork(nn.Module):
    """A network's test embedding alone, in evaluation mode: what is exported.

    Resizing is PIL's bilinear filter without its rounding to whole levels: pixels differ by at most one of
    255 levels from those that the study scores.

    Args:
        network: is moved to the CPU.
        with_preprocessing: resize and normalise inside.
        flip: average the embeddings of image and mirror image; None: as the experiment is scored.
    """

    def __init__(
        self,
        network: ReidNetwork,
        experiment: Experiment,
        *,
        with_preprocessing: bool = False,
        flip: bool | None = None,
    ):
        super().__init__()
        self.network = network
        self.size = (experiment.height, experiment.width)
        self.with_preprocessing = with_preprocessing
        self.flip = experiment.flip_evaluation if flip is None else flip
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.cpu().eval()

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, height, width) float32, or with preprocessing (N, H, W, 3) bytes → (N, D) float32."""
        if self.with_preprocessing:
            images = images.permute(0, 3, 1, 2).float()
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
            images = (images / 255 - self.mean) / self.std
        if not self.flip:
            return self.network(images).embedding
        both = torch.cat([images, images.flip(3)])  # one pass: images do not affect each other
        return self.network(both).embedding.unflatten(0, (2, -1)).mean(0)

    @property
    def free_axes(self) -> tuple[str, ...]:
        """The names of the input's first axes, as many as have no fixed size."""
        return ("batch", "height", "width") if self.with_preprocessing else ("batch",)

    def made_up_images(self, count: int, *, seed: int = 0) -> np.ndarray:
        """Noise as `forward` takes it; with preprocessing, larger than the network's input or smaller."""
        rng = np.random.default_rng(seed)
        if not self.with_preprocessing:
            return rng.standard_normal((count, 3, *self.size), dtype=np.float32)
        height, width = (2 * side + 3 if seed % 2 else side // 2 + 3 for side in self.size)
        return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def export(
    embedding: EmbeddingNetwork,
    to: str | Path,
    *,
    precision: str = "float32",
    facts: Mapping[str, object] | None = None,
) -> float:
    """Writes an ONNX or torch.export file, and compares what it computes with PyTorch.

    Args:
        to: the file, .onnx or .pt2. An older one is replaced.
        precision: a key of `LIMITS`. Only ONNX files have others than float32.
        facts: metadata of the file. Input, size, flip, precision, distances and commit are added.

    Returns:
        The largest difference from PyTorch, relative to the largest value.

    Raises:
        ExportError: the call is wrong, or the file differs by more than its precision allows. It is not kept.
        FileError: it cannot be written.
    """
    to = absolute_path(to, "The file to export to")
    choose("precision", precision, LIMITS)
    if to.suffix not in FORMATS:
        raise ExportError(f"{to} ends in {to.suffix!r}: name a file that ends in {' or '.join(FORMATS)}.")
    if to.suffix == ".pt2" and precision != "float32":
        raise ExportError(f"{precision} is for ONNX files, and {to} is none: name a file that ends in .onnx.")
    metadata = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in {**(facts or {}), **_facts(embedding, precision)}.items()
    }
    with replacing(to) as unfinished:
        program = _program(embedding)
        if to.suffix == ".pt2":
            with unfinished.open("wb") as file:
                torch.export.save(program, file, extra_files={FACTS: json.dumps(metadata)})
        else:
            model = _onnx_model(program)
            _name_axes(model.graph, embedding.free_axes)
            if precision == "float16":
                _halve_weights(model.graph)
            elif precision == "int8":
                model = _quantised(model, unfinished)
            onnx.helper.set_model_props(model, metadata)
            onnx.save(model, unfinished)
        difference = difference_from_pytorch(unfinished, embedding)
        if difference > LIMITS[precision]:
            raise ExportError(
                f"{to} is not written: its embeddings would differ from PyTorch's by {difference:.2g} of the "
                f"largest value, and {precision} allows {LIMITS[precision]:g}. "
                + ("Please report this." if precision == "float32" else "Take float32.")
            )
    return difference


def difference_from_pytorch(file: Path, embedding: EmbeddingNetwork) -> float:
    """The largest difference between a file's embeddings and its network's, on made-up images.

    It is relative to the largest value; infinity where shapes differ or a value is NaN. Batches of one and of
    three images are compared; with preprocessing they are smaller and larger than the network's.
    """
    call, differences = opened(file), []
    for count, seed in ((1, 0), (3, 1)):
        images = embedding.made_up_images(count, seed=seed)
        with torch.inference_mode():
            expected = embedding(torch.from_numpy(images)).numpy()
        found = call(images)
        if found.shape != expected.shape:
            return float("inf")
        differences.append(np.abs(found - expected).max() / np.abs(expected).max())
    return float(np.nan_to_num(differences, nan=np.inf).max())


def opened(file: Path, *, threads: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """The function of an exported file: images as its network takes them → (N, D) float32.

    Args:
        threads: of an ONNX file, on the CPU; 0: onnxruntime's choice.
    """
    if zipfile.is_zipfile(file):
        with file.open("rb") as content:
            module = torch.export.load(content).module()
        return lambda images: module(torch.from_numpy(images)).detach().numpy()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


# ------------------------------------------------------------------------------------------------ the formats


def _program(embedding: EmbeddingNetwork) -> torch.export.ExportedProgram:
    """The network as a graph for any number of images (and, with preprocessing, of any size)."""
    # Not Dim(name): the networks' guards hold for every batch, but torch cannot prove it.
    dynamic = dict.fromkeys(range(len(embedding.free_axes)), torch.export.Dim.DYNAMIC)
    example = torch.from_numpy(embedding.made_up_images(2))
    return torch.export.export(embedding, (example,), dynamic_shapes=(dynamic,))


def _onnx_model(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    # The exporter cannot split a batch whose size is not known. The networks split evenly.
    program = program.run_decompositions({torch.ops.aten.split.Tensor: _split_evenly})
    made = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    return made.model_proto


def _split_evenly(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    return [x.narrow(dim, part * size, size) for part in range(x.shape[dim] // size)]


def _name_axes(graph: onnx.GraphProto, names: tuple[str, ...]) -> None:
    """Names the axes without a fixed size, in place of the exporter's s34."""
    del graph.value_info[:]  # shapes of inner values, which use the old names and can be inferred
    for axis, name in enumerate(names):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = names[0]


def _halve_weights(graph: onnx.GraphProto) -> None:
    """Stores kernels and matrices in float16. A cast makes them float32 again, so nothing else is rounded."""
    for weight in graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) > 1:
            name = weight.name
            values = onnx.numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}.float16"))
            cast = onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT)
            graph.node.insert(0, cast)


def _quantised(model: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # onnxruntime's advice to prepare the graph, which was done already
    try:
        quantize_dynamic(model, file, weight_type=QuantType.QUInt8)
    finally:
        logging.disable(before)
    return onnx.load(file)


def _facts(embedding: EmbeddingNetwork, precision: str) -> dict[str, object]:
    height, width = embedding.size
    inside = embedding.with_preprocessing
    return {
        "input": "(N, H, W, 3) uint8, RGB, any H and W"
        if inside
        else f"(N, 3, {height}, {width}) float32, RGB: value / 255, minus mean, divided by std",
        "height": height,
        "width": width,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "preprocessing_inside": inside,
        "flip": embedding.flip,
        "precision": precision,
        "distance": "squared Euclidean between embeddings as they are; smaller is more alike",
        "weights": state_digest(embedding.network),
        "commit": commit(),
    }


# ----------------------------------------------------------------------------------------------- command line


def read_source(path: str | Path, method: str = "") -> tuple[ReidNetwork, Experiment, dict[str, object]]:
    """The network to export, its experiment and facts about it.

    Args:
        path: a finished run's folder, or a file of released weights.
        method: the method of released weights, at the papers' size. For other settings, score the file
            (run_all.py --checkpoint --set) and export that run.

    Raises:
        ReidError: there is neither, it is damaged or does not fit, or `method` is missing or one too many.
    """
    path = absolute_path(path, "The network")
    embedder = load_embedder(path, method)
    facts = {"method": embedder.experiment.method}
    if path.is_dir():
        made_by = read_json(RunFiles(path).metrics).get("made_by") or {}
        facts |= {"run": embedder.name, "dataset": embedder.experiment.dataset}
        facts |= {"trained_by_commit": made_by.get("commit", "unknown")}
    else:
        facts |= {"file": embedder.name}
    return embedder.model, embedder.experiment, facts


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 wrong call or a file that differs (nothing is written)."""
    parser = argparse.ArgumentParser(prog="python -m reidlib.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("network", help="a finished run's folder, or a file of released weights (.pth.tar)")
    add("--to", required=True, metavar="FILE", help="the file to write, .onnx or .pt2")
    add("--method", default="", help="the method of released weights")
    add("--precision", default="float32", help=f"{', '.join(LIMITS)} (default: float32)")
    add("--with-preprocessing", action="store_true", help="take RGB bytes of any size (N, H, W, 3)")
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="average over image and mirror image (default: as the run was scored)",
    )
    options = parser.parse_args(arguments)
    try:
        network, experiment, facts = read_source(options.network, options.method)
        embedding = EmbeddingNetwork(
            network, experiment, with_preprocessing=options.with_preprocessing, flip=options.flip
        )
        difference = export(embedding, options.to, precision=options.precision, facts=facts)
        said = {**facts, **_facts(embedding, options.precision)}
        card = _write_card(options.network, Path(options.to).expanduser(), said)
    except ReidError as error:
        print(f"reidlib.export: {error}", file=sys.stderr)
        return 2
    size = Path(options.to).expanduser().stat().st_size
    print(
        f"{options.to}: {size / 1e6:.1f} MB, {options.precision}; embeddings differ from PyTorch's by "
        f"{difference:.1g} of the largest value" + (f"; its model card is {card}" if card else "")
    )
    return 0


def _write_card(network: str, file: Path, facts: Mapping[str, object]) -> Path | None:
    """Writes the model card of an exported run beside the file. Released weights have none."""
    folder = absolute_path(network, "The network")
    if not folder.is_dir():
        return None
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    parts = [model_card(read_run(folder)).rstrip(), f"## {file.name}", "This file holds the network."]
    card = "\n\n".join([*parts, "\n".join(lines)]) + "\n"
    return write_atomically(file.with_name(f"{file.name}.md"), card)


if __name__ == "__main__":
    sys.exit(main())
