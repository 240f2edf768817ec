"""A whole run on a GPU. Without one, these tests are skipped."""

import dataclasses

import numpy as np
import pytest
import torch
from run_helpers import tiny

from reidlib.evaluation.embedding import embed
from reidlib.images.decoding import load_images
from reidlib.models.networks import model_from_experiment
from reidlib.torch_files import read_torch_file
from reidlib.training import fit, loop


@pytest.mark.parametrize("method", ["abdnet", "pfsa"])
def test_a_run_says_where_it_was_made_and_its_weights_embed_on_a_cpu_alike(
    gpu, dataset, cache, tmp_path, method
):
    experiment = tiny(method, warmup_epochs=1, flip_evaluation=False)
    run = fit(experiment, dataset, tmp_path / "run", cache=cache)
    assert run.metrics["made_by"]["device"] == torch.cuda.get_device_name()
    model = model_from_experiment(dataclasses.replace(experiment, pretrained=False), run.metrics["classes"])
    model.load_state_dict(read_torch_file(run.files.model))
    images = load_images(dataset.query.paths, experiment.height, experiment.width, cache=cache)
    on_cpu, on_gpu = (
        embed(model, images, flip=False, precision="float32", device=device)
        for device in (torch.device("cpu"), gpu)
    )
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-4 * np.abs(on_cpu).max())


def test_an_interrupted_run_goes_on(gpu, dataset, cache, tmp_path, monkeypatch):
    real, experiment = loop.train_epoch, tiny("abdnet", epochs=2)

    def stops(learner, dataset, images, number):
        if number == 1:
            raise KeyboardInterrupt
        return real(learner, dataset, images, number)

    monkeypatch.setattr(loop, "train_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, dataset, tmp_path / "run", cache=cache)
    monkeypatch.setattr(loop, "train_epoch", real)
    run = fit(experiment, dataset, tmp_path / "run", cache=cache)
    assert run.curves["epoch"].tolist() == [1, 2]
