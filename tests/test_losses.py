"""Losses: the released code's values and gradients, hand-computed cases, and dense reference forms."""

import math

import pytest
import torch
from conftest import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reidlib.errors import ReidError
from reidlib.losses import (
    batch_hard_triplet,
    cross_entropy,
    orthogonality_features,
    orthogonality_targets,
    orthogonality_weights,
    spectral_spread,
)
from reidlib.models import ABDNet, PFSANet

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CLOSE_TINY = {"rtol": 1e-4, "atol": 0.0}  # penalties are tiny


def close_gradient(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The tolerance is relative to the largest entry, because single entries may cancel to nearly 0."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# ---- cross-entropy and triplet


def test_cross_entropy_golden():
    values = golden("losses")
    logits = values["logits"].requires_grad_()
    loss = cross_entropy([logits], values["pids"], label_smoothing=0.1)
    loss.backward()
    torch.testing.assert_close(loss.detach(), values["xent"], **CLOSE)
    torch.testing.assert_close(logits.grad, values["xent_grad"], **CLOSE)


def test_triplet_golden():
    values = golden("losses")
    embedding = values["emb"].requires_grad_()
    loss = batch_hard_triplet(embedding, values["pids"], margin=1.2)
    loss.backward()
    torch.testing.assert_close(loss.detach(), values["triplet"], **CLOSE)
    torch.testing.assert_close(embedding.grad, values["triplet_grad"], **CLOSE)


def test_total_golden():
    """Cross-entropy and 0.1 × triplet, each averaged over two heads."""
    values = golden("losses")
    triplets = [batch_hard_triplet(values[name], values["pids"], 1.2) for name in ("emb", "emb2")]
    logits = [values["logits"], values["logits2"]]
    total = cross_entropy(logits, values["pids"], label_smoothing=0.1) + 0.1 * sum(triplets) / 2
    torch.testing.assert_close(total, values["total_xent1_htri01"], **CLOSE)


def test_cross_entropy_by_hand():
    """Probabilities 3/4 and 1/4, the first class is right: −log 3/4.

    With smoothing 0.2: 0.9 times this, plus 0.1 times −log 1/4.
    """
    sure, even = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    label = torch.tensor([0])
    assert cross_entropy([sure], label).item() == pytest.approx(-math.log(0.75))
    smoothed = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert cross_entropy([sure], label, label_smoothing=0.2).item() == pytest.approx(smoothed)
    both = -math.log(0.75) + math.log(2)
    assert cross_entropy([sure, even], label, reduction="sum").item() == pytest.approx(both)
    assert cross_entropy([sure, even], label, reduction="mean").item() == pytest.approx(both / 2)


def test_triplet_by_hand():
    """Two people on a line, at 0, 1 and at 3, 7; margin 1: 1+1−3, 1+1−2, 1+4−2 and 1+4−6.

    Negative values become 0. The mean of 0, 0, 3 and 0 is 3/4.
    """
    embedding = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    labels = torch.tensor([5, 5, 2, 2])
    assert batch_hard_triplet(embedding, labels, 1.0).item() == pytest.approx(0.75, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(2, 4), st.integers(2, 4), st.floats(0.0, 2.0))
def test_triplet_equals_search(seed, people, images, margin):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(people).repeat_interleave(images)
    x = torch.randn(len(labels), 5, generator=generator)
    terms = []
    for i, anchor in enumerate(x):
        distance = [(anchor - other).norm().item() for other in x]
        positive = max(d for j, d in enumerate(distance) if labels[j] == labels[i])
        negative = min(d for j, d in enumerate(distance) if labels[j] != labels[i])
        terms.append(max(0.0, margin + positive - negative))
    assert batch_hard_triplet(x, labels, margin).item() == pytest.approx(sum(terms) / len(terms), abs=1e-4)


# ---- orthogonality


def test_feature_penalty_golden():
    values = golden("of_penalty")
    x = values["feature_map"].requires_grad_()
    penalty = orthogonality_features(
        {"after": [x]}, starts={"after": [(values["start_largest"], values["start_smallest"])]}
    )
    penalty.backward()
    torch.testing.assert_close(penalty.detach(), values["penalty"], **CLOSE_TINY)
    close_gradient(x.grad, values["grad"])
    starts = (values["int_start_largest"], values["int_start_smallest"])
    intermediate = orthogonality_features({"intermediate": [x.detach()]}, starts={"intermediate": [starts]})
    torch.testing.assert_close(intermediate, values["penalty_intermediate"], **CLOSE_TINY)


@pytest.mark.parametrize("index", range(5))
def test_weight_penalty_golden(index):
    values = golden("ow_penalty")
    weight = values[f"weight_{index}"].requires_grad_()
    starts = (values[f"start_largest_{index}"], values[f"start_smallest_{index}"])
    penalty = orthogonality_weights([weight], starts=[starts])
    penalty.backward()
    torch.testing.assert_close(penalty.detach(), values[f"penalty_{index}"], **CLOSE_TINY)
    close_gradient(weight.grad, values[f"grad_{index}"])


def dense_spread(f, starts, estimator, iterations):
    """`spectral_spread` with an explicit F Fᵀ, one eigenvalue after the other, and the papers' signs."""
    x = f @ f.mT
    found = []
    for which, start in enumerate(starts):
        shifted = x - found[0] * torch.eye(f.shape[1]) if which else x
        if estimator == "rayleigh":
            p = start
            for _ in range(iterations):
                p = shifted @ p / (shifted @ p).norm(dim=1, keepdim=True)
            value = (p.mT @ shifted @ p) / (p.mT @ p)
            found.append(found[0] + value if which else value)
        else:
            q = start
            for _ in range(iterations):
                p = shifted @ q / (shifted @ q).norm(dim=1, keepdim=True)
                q = shifted @ p
            value = q.norm(dim=1, keepdim=True) / p.norm(dim=1, keepdim=True)
            found.append(found[0] - value if which else value)
    return (found[0] - found[1]).flatten()


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**31),
    st.integers(2, 9),
    st.integers(1, 12),
    st.sampled_from(["rayleigh", "norm_ratio"]),
    st.integers(1, 4),
)
def test_matrix_free_equals_dense(seed, channels, positions, estimator, iterations):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(2, channels, positions, generator=generator).requires_grad_()
    starts = tuple(torch.randn(2, channels, 1, generator=generator) for _ in range(2))
    spread = spectral_spread(f, starts, estimator=estimator, iterations=iterations)
    expected = dense_spread(f, starts, estimator, iterations)
    torch.testing.assert_close(spread, expected, rtol=1e-3, atol=1e-3)
    weights = torch.randn(2, generator=generator)
    gradient, expected_gradient = (torch.autograd.grad((s * weights).sum(), f)[0] for s in (spread, expected))
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-2, atol=1e-2 * scale + 1e-3)


@pytest.mark.parametrize("estimator", ["rayleigh", "norm_ratio"])
def test_many_iterations_find_the_spread(estimator):
    """Singular values 3, 2, 1: F Fᵀ has the eigenvalues 9, 4, 1 and the spread 8, in any basis."""
    left, right = (torch.linalg.qr(torch.randn(n, n)).Q for n in (3, 5))
    f = (left @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ right[:3])[None]
    starts = (torch.randn(1, 3, 1), torch.randn(1, 3, 1))
    torch.testing.assert_close(
        spectral_spread(f, starts, estimator=estimator, iterations=60), torch.tensor([8.0])
    )


def test_one_step_by_hand():
    """F = diag(2, 1), starts (1, 1): p = (4, 1), λ₁ = 65/17.

    Then p = (3/17, −48/17) ∝ (1, −16), λ₂ = 260/257.
    """
    f = torch.diag(torch.tensor([2.0, 1.0]))[None]
    ones = torch.ones(1, 2, 1)
    assert spectral_spread(f, (ones, ones)).item() == pytest.approx(65 / 17 - 260 / 257, rel=1e-5)


def layouts(f):
    """f (B, C, N) with the memory layout of contiguous maps, and with that of channels_last maps."""
    return f, f.mT.contiguous().mT


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 20), st.integers(1, 20), st.booleans())
def test_own_gradient_equals_autograd(seed, batch, channels, positions, by_columns):
    """The analytic gradient of the one-step estimate against autograd through an explicit F Fᵀ and λ₁."""
    generator = torch.Generator().manual_seed(seed)
    f = layouts(torch.randn(batch, channels, positions, generator=generator, dtype=torch.float64))[
        by_columns
    ].requires_grad_()
    starts = tuple(
        torch.randn(batch, channels, 1, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    spread, expected = spectral_spread(f, starts), dense_spread(f, starts, "rayleigh", 1)
    torch.testing.assert_close(spread, expected, rtol=1e-6, atol=1e-8)
    weights = torch.randn(batch, generator=generator, dtype=torch.float64)
    gradient, expected = (torch.autograd.grad((s * weights).sum(), f)[0] for s in (spread, expected))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 7, 3), (1, 5, 5), (3, 2, 1)])
@pytest.mark.parametrize("by_columns", [False, True])
def test_own_gradient_equals_finite_differences(shape, by_columns):
    f = layouts(torch.randn(shape, dtype=torch.float64))[by_columns].requires_grad_()
    starts = tuple(torch.randn(*shape[:2], 1, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda f: spectral_spread(f, starts).square(), f)


@pytest.mark.parametrize("estimator", ["rayleigh", "norm_ratio"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_one_channel_has_no_spread(estimator, iterations):
    f = torch.randn(4, 1, 9).requires_grad_()
    starts = tuple(torch.randn(4, 1, 1) for _ in range(2))
    spread = spectral_spread(f, starts, estimator=estimator, iterations=iterations)
    spread.sum().backward()
    assert not spread.any() and not f.grad.any()


class LargestMade(TorchDispatchMode):
    """Counts the elements of the largest tensor made inside, except views of the inputs."""

    def __init__(self, *inputs):
        super().__init__()
        self.storages, self.elements = {x.untyped_storage().data_ptr() for x in inputs}, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.storages:
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_no_gram_matrix_and_no_copy_is_made(memory_format):
    """No tensor has the size of F (C × N) or of its Gram matrix (C × C).

    The largest tensors are the gradient's factors, 6 × N.
    """
    # matrices of 64 × 96 and 64 × 108
    stripe = torch.randn(1, 64, 24, 8).to(memory_format=memory_format).chunk(2, 2)[0].requires_grad_()
    weights = [torch.randn(64, 12, 3, 3).to(memory_format=memory_format).requires_grad_() for _ in range(2)]
    if memory_format == torch.channels_last:  # half of a contiguous map has to be copied
        with LargestMade(stripe) as made:
            orthogonality_features({"after": [stripe]})
        assert made.elements == 6 * 96
    with LargestMade(*weights) as made:
        orthogonality_weights(weights)
    assert made.elements == 6 * 108


def test_memory_format_changes_nothing():
    """Penalty and gradient are the same for contiguous and channels_last maps and weights.

    The gradient has the memory layout of the input.
    """
    base, pair = torch.randn(2, 16, 6, 4), (torch.randn(2, 16, 1), torch.randn(2, 16, 1))
    kernels = [torch.randn(8, 16, 3, 3), torch.randn(8, 16, 3, 3), torch.randn(12, 16, 1, 1)]
    starts = [(torch.rand(len(k), 1), torch.rand(len(k), 1)) for k in kernels]
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        inputs = [x.clone(memory_format=memory_format).requires_grad_() for x in (base, *kernels)]
        penalties = (
            orthogonality_features({"after": inputs[:1]}, starts={"after": [pair]}),
            orthogonality_weights(inputs[1:], starts=starts),
        )
        gradients = torch.autograd.grad(sum(penalties), inputs)
        assert all(g.is_contiguous(memory_format=memory_format) for g in gradients)
        results.append((*penalties, *gradients))
    for contiguous, channels_last in zip(*results, strict=True):
        torch.testing.assert_close(
            channels_last, contiguous, rtol=1e-4, atol=1e-5 * contiguous.abs().max().item()
        )


def test_together_equals_one_by_one():
    """Matrices in one batch (as on a GPU) give the same as one by one (as on a CPU)."""
    f, starts = torch.randn(5, 12, 30), (torch.rand(5, 12, 1), torch.rand(5, 12, 1))
    alone = [spectral_spread(f[i : i + 1], tuple(s[i : i + 1] for s in starts)) for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), spectral_spread(f, starts), rtol=1e-5, atol=0)


def test_gpu_equals_cpu(gpu):
    """With the same start vectors, the batches of a GPU give the numbers of the CPU's loop."""
    weights = [torch.randn(shape) for shape in ((8, 4, 3, 3), (6, 8, 1, 1), (8, 4, 3, 3))]
    values = []
    for device in (torch.device("cpu"), gpu):
        moved = [w.to(device).requires_grad_() for w in weights]
        penalty = orthogonality_weights(moved, generator=torch.Generator().manual_seed(3))
        values.append([x.cpu() for x in (penalty.detach(), *torch.autograd.grad(penalty, moved))])
    for on_cpu, on_gpu in zip(*values, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4 * on_cpu.abs().max().item())


def test_smaller_side_by_hand():
    """F is diag(2, 1) above a row of zeros: FᵀF = diag(4, 1), with the numbers of `test_one_step_by_hand`.

    Start vectors have N entries.
    """
    f = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])[None, :, :, None]  # (1, 3, 2, 1)
    starts = {"after": [(torch.ones(1, 2, 1), torch.ones(1, 2, 1))]}
    penalty = orthogonality_features({"after": [f]}, weight=1 / 32, starts=starts, smaller_side=True)
    assert penalty.item() == pytest.approx(65 / 17 - 260 / 257, rel=1e-5)
    wide = f.mT.reshape(1, 2, 3, 1)  # C ≤ N: the switch has no effect
    values = [
        orthogonality_features({"after": [wide]}, starts=starts, smaller_side=smaller).item()
        for smaller in (False, True)
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("estimator", ["rayleigh", "norm_ratio"])
def test_smaller_side_finds_the_smallest_eigenvalue_that_is_not_always_zero(estimator):
    """A 9 × 3 map with singular values 3, 2, 1: spread 9 − 1 on the smaller side, 9 − 0 as released."""
    left, right = (torch.linalg.qr(torch.randn(n, n)).Q for n in (9, 3))
    f = left[:, :3] @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ right
    for smaller_side, gram in ((True, f.mT @ f), (False, f @ f.mT)):
        eigenvalues = torch.linalg.eigvalsh(gram)
        penalty = orthogonality_features(
            {"after": [f[None, :, :, None]]},
            weight=1 / 32,
            estimator=estimator,
            iterations=80,
            smaller_side=smaller_side,
        )
        torch.testing.assert_close(penalty, eigenvalues[-1] - eigenvalues[0], rtol=1e-4, atol=0)


def test_penalties_under_compile():
    """Both penalties compile to one graph without a break, with the same values and gradients.

    The backend aot_eager needs no C++ compiler.
    """
    weights = [torch.randn(s).requires_grad_() for s in ((8, 4, 3, 3), (6, 8, 1, 1), (8, 4, 3, 3))]
    maps = [torch.randn(2, 8, 6, 4).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2)]
    weight_starts = [(torch.rand(len(w), 1), torch.rand(len(w), 1)) for w in weights]
    map_starts = [(torch.randn(2, 8, 1), torch.randn(2, 8, 1)) for _ in maps]

    def penalties(weights, maps):
        return orthogonality_weights(weights, starts=weight_starts), orthogonality_features(
            {"cam": maps}, weight=1.0, starts={"cam": map_starts}
        )

    def with_gradients(function):
        values = function(weights, maps)
        return *values, *torch.autograd.grad(sum(values), weights + maps)

    compiled = torch.compile(penalties, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(with_gradients(compiled), with_gradients(penalties), strict=True):
        torch.testing.assert_close(actual, expected)


def test_feature_penalty_adds_up():
    """Stripes are averaged, positions summed (`intermediate` × 0.01), the batch is scaled to 32 images."""
    a, b, c = (torch.randn(2, 4, 3, 2) for _ in range(3))
    draw = [(torch.randn(2, 4, 1), torch.randn(2, 4, 1)) for _ in range(3)]
    spreads = [spectral_spread(m.flatten(2), s) for m, s in zip((a, b, c), draw, strict=True)]
    maps, starts = (
        {"cam": [a, b], "intermediate": [c], "other": [a]},
        {"cam": draw[:2], "intermediate": draw[2:]},
    )
    total = (spreads[0].sum() + spreads[1].sum()) / 2 + 0.01 * spreads[2].sum()
    torch.testing.assert_close(
        orthogonality_features(maps, weight=0.5, starts=starts), 0.5 * total / (2 / 32)
    )
    squares = (spreads[0].square().sum() + spreads[1].square().sum()) / 2 + 0.01 * spreads[2].square().sum()
    squared = orthogonality_features(maps, weight=0.5, starts=starts, squared=True)
    torch.testing.assert_close(squared, 0.5 * squares / (2 / 32))


def test_weight_penalty_adds_up():
    """Weights of equal shape are batched. The sum is the same as one by one."""
    shapes = [(4, 2, 3, 3), (5, 4, 1, 1), (4, 2, 3, 3)]
    weights = [torch.randn(shape) for shape in shapes]
    starts = [(torch.rand(w.shape[0], 1), torch.rand(w.shape[0], 1)) for w in weights]
    each = [orthogonality_weights([w], starts=[s]) for w, s in zip(weights, starts, strict=True)]
    torch.testing.assert_close(orthogonality_weights(weights, starts=starts), sum(each))
    paper = orthogonality_weights(
        weights, weight=2.0, factor=1.0, estimator="norm_ratio", iterations=5, starts=starts
    )
    spreads = [
        spectral_spread(w.flatten(1)[None], (s[0][None], s[1][None]), estimator="norm_ratio", iterations=5)
        for w, s in zip(weights, starts, strict=True)
    ]
    torch.testing.assert_close(paper, 2 * sum(s.square() for s in spreads)[0])


def test_starts_are_drawn_from_the_named_distributions():
    def generator():
        return torch.Generator().manual_seed(7)

    x, drawn = torch.randn(2, 6, 4, 3), generator()
    normal = tuple(torch.randn(2, 6, 1, generator=drawn) for _ in range(2))
    same = orthogonality_features({"after": [x]}, generator=generator())
    torch.testing.assert_close(same, orthogonality_features({"after": [x]}, starts={"after": [normal]}))
    weight, drawn = torch.randn(6, 4, 1, 1), generator()
    uniform = tuple(torch.rand(1, 6, 1, generator=drawn)[0] for _ in range(2))
    same = orthogonality_weights([weight], generator=generator())
    torch.testing.assert_close(same, orthogonality_weights([weight], starts=[uniform]))
    # without a generator, from the global state
    assert orthogonality_weights([weight]) != orthogonality_weights([weight])

    # weights of equal shape are drawn together, by order of appearance
    mixed, drawn = [torch.randn(s, 4, 1, 1) for s in (6, 5, 6)], generator()
    sixes, fives = (
        [torch.rand(count, size, 1, generator=drawn) for _ in range(2)] for count, size in ((2, 6), (1, 5))
    )
    starts = [tuple(s[index] for s in pair) for pair, index in ((sixes, 0), (fives, 0), (sixes, 1))]
    same = orthogonality_weights(mixed, generator=generator())
    torch.testing.assert_close(same, orthogonality_weights(mixed, starts=starts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_penalties_run_in_float32_under_autocast(dtype):
    """Forward and backward run in float32 for any type of maps. The gradient has the type of the maps."""
    x = torch.randn(2, 16, 6, 4).to(dtype).requires_grad_()
    weight = torch.randn(16, 8, 3, 3).requires_grad_()
    pairs = [(torch.randn(2, 16, 1), torch.randn(2, 16, 1)), (torch.rand(16, 1), torch.rand(16, 1))]

    def penalty(feature_map):
        features = orthogonality_features({"after": [feature_map]}, starts={"after": pairs[:1]})
        return features + orthogonality_weights([weight], starts=pairs[1:])

    wide = x.detach().float().requires_grad_()
    expected = penalty(wide)
    expected_gradients = torch.autograd.grad(expected, (wide, weight))
    with torch.autocast("cpu", torch.bfloat16):
        actual = penalty(x)
        gradients = torch.autograd.grad(actual, (x, weight))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    assert [g.dtype for g in gradients] == [dtype, torch.float32]
    torch.testing.assert_close(gradients[0], expected_gradients[0].to(dtype))
    torch.testing.assert_close(gradients[1], expected_gradients[1])


@pytest.mark.parametrize("estimator", ["rayleigh", "norm_ratio"])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6])
def test_extreme_maps_have_finite_penalties(scale, iterations, estimator):
    x = (scale * torch.rand(1, 8, 4, 4)).requires_grad_()
    penalty = orthogonality_features({"after": [x]}, estimator=estimator, iterations=iterations)
    penalty.backward()
    assert penalty.isfinite()
    assert x.grad.isfinite().all()


# ---- which weights


def test_targets_of_abdnet():
    """The backbone has 63 of the 77 convolutions; the released code reaches only the stem."""
    network = ABDNet(5)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == 77
    targets = orthogonality_targets(network, reach="backbone")
    assert len(targets) == len({id(t) for t in targets}) == 63
    assert {id(t) for t in targets} <= {id(p) for p in network.trunk_parameters()}
    assert [tuple(t.shape) for t in orthogonality_targets(network, reach="stem")] == [(64, 3, 7, 7)]


def test_targets_of_pfsa():
    network = PFSANet(5, backbone="resnet18")
    assert len(orthogonality_targets(network, reach="backbone")) == 20  # 1 + 16 in blocks + 3 on shortcuts
    assert len(orthogonality_targets(network, reach="stem")) == 1


# ---- bad input


def test_bad_input_is_refused():
    x, pair = torch.randn(1, 4, 3), (torch.randn(1, 4, 1), torch.randn(1, 4, 1))
    with pytest.raises(ReidError, match="no logits"):
        cross_entropy([], torch.zeros(1, dtype=torch.long))
    with pytest.raises(ReidError, match="reduction"):
        cross_entropy([torch.zeros(1, 2)], torch.zeros(1, dtype=torch.long), reduction="none")
    with pytest.raises(ReidError, match="estimator"):
        spectral_spread(x, pair, estimator="power")
    with pytest.raises(ReidError, match="at least 1 step"):
        spectral_spread(x, pair, iterations=0)
    with pytest.raises(ReidError, match="layer1"):
        orthogonality_features({"layer1": [torch.zeros(1, 2, 3, 3)]})
    with pytest.raises(ReidError, match="no weights"):
        orthogonality_weights([])
    with pytest.raises(ReidError, match="reach"):
        orthogonality_targets(PFSANet(5, backbone="resnet18"), reach="all")
