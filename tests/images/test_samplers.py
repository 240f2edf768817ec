"""Samplers: cases by hand, and properties that always hold."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlib.errors import ReidError
from reidlib.images.samplers import epoch_batches, identity_batches, shuffled_batches

RNG = np.random.default_rng(0)


def test_shuffled_batches_drop_the_incomplete_last():
    labels = np.zeros(11, np.int64)
    found = list(shuffled_batches(labels, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in found] == [4, 4]
    rows = np.concatenate(found)
    assert len(set(rows.tolist())) == 8 and set(rows.tolist()) <= set(range(11))
    assert rows.tolist() != sorted(rows.tolist())
    assert len(list(shuffled_batches(np.zeros(8), 4, np.random.default_rng(0)))) == 2
    assert list(shuffled_batches(np.zeros(3), 4, np.random.default_rng(0))) == []


def test_identity_batches_drop_each_persons_remaining_images():
    """Two people with 9 images each, K = 4, P = 2: each has two groups and one image left, so two batches."""
    labels = np.repeat([0, 1], 9)
    found = list(identity_batches(labels, 8, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in found] == [8, 8]
    for batch in found:
        assert Counter(labels[batch].tolist()) == {0: 4, 1: 4}
        assert len(set(labels[batch[:4]].tolist())) == 1, "a person's K images lie together"
    rows = np.concatenate(found)
    assert len(set(rows.tolist())) == 16, "no image twice: all groups are full"


def test_a_person_with_fewer_than_k_images_is_drawn_with_replacement():
    labels = np.array([0, 0, 0, 0, 1])  # person 1 has one image
    (batch,) = identity_batches(labels, 8, 4, np.random.default_rng(0))
    assert Counter(labels[batch].tolist()) == {0: 4, 1: 4}
    assert Counter(batch.tolist()) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 4}
    # over many draws of three images: repeats occur, and all three are used
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    found = [next(identity_batches(labels, 8, 4, np.random.default_rng(seed))) for seed in range(30)]
    drawn = [batch[labels[batch] == 1] for batch in found]
    assert all(len(rows) == 4 and len(set(rows.tolist())) <= 3 for rows in drawn)
    assert set(np.concatenate(drawn).tolist()) == {4, 5, 6}


def test_the_pass_ends_when_too_few_people_have_a_group_left():
    """Three people have 3, 1 and 1 groups, and P = 2.

    There are two batches if person 0 is in the first one. If the first has persons 1 and 2, only person 0 is
    left, so the pass ends after one batch.
    """
    labels = np.repeat([0, 1, 2], [12, 4, 4])
    lengths = Counter()
    for seed in range(40):
        found = list(identity_batches(labels, 8, 4, np.random.default_rng(seed)))
        lengths[len(found)] += 1
        pairs = [tuple(sorted(set(labels[batch].tolist()))) for batch in found]
        assert pairs in ([(0, 1), (0, 2)], [(0, 2), (0, 1)], [(1, 2)])
    assert set(lengths) == {1, 2}


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    people=st.integers(1, 4),
    k=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_properties_of_identity_batches(sizes, people, k, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    found = list(identity_batches(labels, people * k, k, np.random.default_rng(seed)))
    groups = Counter({person * 3: max(size // k, 1) for person, size in enumerate(sizes)})
    used = Counter()
    for batch in found:
        count = Counter(labels[batch].tolist())
        assert len(count) == people and set(count.values()) == {k}
        used.update(count.keys())
    assert all(used[person] <= groups[person] for person in groups)
    assert sum(used[person] < groups[person] for person in groups) < people, (
        "ended though P people had a group left"
    )
    rows = Counter(np.concatenate(found).tolist()) if found else {}
    assert all(times == 1 or sizes[labels[row] // 3] < k for row, times in rows.items()), (
        "repeated though images were left"
    )


def test_epoch_batches_depend_on_seed_and_epoch_only():
    labels = np.repeat(np.arange(6), 5)

    def drawn(seed, epoch, k=0, steps=0):
        np.random.seed(RNG.integers(1 << 30))  # noqa: NPY002 - the global state must not matter
        return [batch.tolist() for batch in epoch_batches(labels, 8, k, steps, seed, epoch)]

    for k in (0, 4):
        assert drawn(1, 2, k) == drawn(1, 2, k)
        assert drawn(1, 2, k) != drawn(1, 3, k)
        assert drawn(1, 2, k) != drawn(2, 2, k)
        assert drawn(1, 2, k) != drawn(2, 1, k)


def test_the_number_of_steps_cuts_a_pass_or_joins_passes():
    labels = np.repeat(np.arange(6), 5)  # 30 images: 3 batches of 8 per pass
    whole = epoch_batches(labels, 8, 0, 0, 0, 0)
    assert len(whole) == 3
    for steps in (1, 2, 3, 7):
        found = epoch_batches(labels, 8, 0, steps, 0, 0)
        assert len(found) == steps
        for one, other in zip(found, whole, strict=False):
            np.testing.assert_array_equal(one, other)
    second = found[3:6]
    assert len(set(np.concatenate(second).tolist())) == 24, "a joined pass is a pass: no image twice in it"
    assert not all(np.array_equal(one, other) for one, other in zip(second, whole, strict=True))
    assert len(epoch_batches(labels, 8, 4, 20, 0, 0)) == 20


@pytest.mark.parametrize(
    ("k", "words"), [(0, "30 training images of 6 people"), (4, "4 images of each person")]
)
def test_too_few_images_for_one_batch_are_refused(k, words):
    with pytest.raises(ReidError, match="Set a smaller batch_size") as error:
        epoch_batches(np.repeat(np.arange(6), 5), 32, k, 3, 0, 0)
    assert words in str(error.value)
