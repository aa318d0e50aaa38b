"""Balanced sampling: shares of classes and rows, and an order that is a function of seed, task and pass."""

import subprocess
import sys

import numpy as np
import pytest

from labels import rows
from mtlcli.data.balanced import balanced_pass, rows_with_class
from mtlcli.data.batches import TaskBatches, batches_per_pass
from mtlcli.data.tokenizer import TokenSequences
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.tasks.targets import Classes

SIZES = [(90, 9, 1), (5, 3), (1, 1, 1, 200), (2,) * 30 + (100,), (7,), (40, 0, 4)]


def classes(sizes: tuple[int, ...]) -> np.ndarray:
    """Rows of classes of these sizes, in a random order."""
    return np.random.Generator(np.random.PCG64(3)).permutation(np.repeat(np.arange(len(sizes)), sizes))


def drawn(strata: np.ndarray, number: int, batch_size: int = 8, **more) -> np.ndarray:
    return np.concatenate(balanced_pass(np.ones(len(strata)), strata, batch_size, 1, "t", number, **more))


@pytest.mark.parametrize("sizes", SIZES)
def test_every_class_has_the_mean_size_in_a_pass_and_equal_parts_of_all_passes(sizes):
    strata = classes(sizes)
    mean, total = sum(sizes) / np.count_nonzero(sizes), np.zeros(len(sizes), dtype=int)
    for number in range(6):
        counts = np.bincount(strata[drawn(strata, number)], minlength=len(sizes))
        assert counts.sum() == sum(sizes)
        assert (np.abs(counts - mean) < 1).all() or (counts == 0).any()
        total += counts
        present = total[np.array(sizes) > 0]
        assert present.max() - present.min() <= 1
        assert not total[np.array(sizes) == 0].any()


@pytest.mark.parametrize("sizes", SIZES)
def test_the_rows_of_a_class_take_turns_across_passes(sizes):
    strata = classes(sizes)
    times = np.zeros(len(strata), dtype=int)
    for number in range(6):
        np.add.at(times, drawn(strata, number), 1)
        for label in range(len(sizes)):
            of_class = times[strata == label]
            assert not len(of_class) or of_class.max() - of_class.min() <= 1


def test_a_batch_is_an_even_sample_of_the_classes_in_the_mean():
    strata = classes((900, 90, 10))
    shares = np.mean([np.bincount(strata[batch], minlength=3) / len(batch) for batch in batches_of(strata, 3)], axis=0)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.01)


def batches_of(strata: np.ndarray, passes: int) -> list[np.ndarray]:
    lengths = np.random.Generator(np.random.PCG64(5)).integers(3, 60, len(strata))
    return [batch for number in range(passes) for batch in balanced_pass(lengths, strata, 16, 1, "t", number)]


def test_copies_of_a_row_rarely_meet_in_a_batch():
    """Sorted by length among all rows of a pass, the 33 copies of a row would fill two batches of their own."""
    batches = batches_of(classes((900, 90, 10)), 3)
    assert max(np.bincount(batch).max() for batch in batches) <= 2


def test_rows_of_similar_length_share_a_batch_where_no_class_is_rare():
    lengths = np.random.Generator(np.random.PCG64(5)).integers(3, 60, 4000)
    batches = balanced_pass(lengths, classes((2500, 1500)), 16, 1, "t", 0)
    assert (
        sum(int(lengths[batch].sum()) for batch in batches)
        / sum(int(lengths[batch].max()) * len(batch) for batch in batches)
        > 0.95
    )


def test_rows_without_a_class_are_never_drawn():
    strata = np.where(np.arange(20) % 4 == 3, -1, np.arange(20) % 2)
    assert rows_with_class(strata) == 15
    for number in range(4):
        assert len(drawn(strata, number)) == 15 and (strata[drawn(strata, number)] >= 0).all()


def test_a_pass_depends_on_seed_task_and_pass_alone():
    strata, lengths = classes((50, 20, 3)), np.arange(73) % 7

    def order(seed: int = 1, task: str = "t", number: int = 3) -> list[list[int]]:
        return [batch.tolist() for batch in balanced_pass(lengths, strata, 8, seed, task, number)]

    first = order()
    np.random.default_rng().random(5)
    assert order() == first
    assert order(seed=2) != first and order(task="u") != first and order(number=4) != first
    code = (
        "import numpy as np; from mtlcli.data.balanced import balanced_pass;"
        f"print([b.tolist() for b in balanced_pass(np.arange(73) % 7, np.array({strata.tolist()}), 8, 1, 't', 3)])"
    )
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip() == str(first)


def task_batches(balanced: bool = True, batch_size: int = 8, task: int = 0) -> TaskBatches:
    lengths, strata = np.arange(33) % 5 + 3, classes((20, 8, 5))
    tokens = np.repeat(np.arange(33) + 10, lengths).astype(np.uint16)
    sequences = TokenSequences(tokens, np.concatenate([[0], np.cumsum(lengths)]), None, 0)
    split = TokenizedSplit((sequences,), 7, Classes.named(*"abc"), rows(strata), weights=np.linspace(0, 2, 33))
    return TaskBatches(split, task=task, name="t", batch_size=batch_size, seed=1, balanced=balanced)


def test_a_position_is_the_cursor_alone_and_a_pass_has_as_many_batches_as_without():
    whole, resumed, beside = task_batches(), task_batches(), task_batches(task=3)
    assert whole.per_pass == batches_per_pass(33, 8) == task_batches(balanced=False).per_pass
    order = [whole.next().rows.tolist() for _ in range(23)]
    resumed.cursor = 13
    assert [resumed.next().rows.tolist() for _ in range(10)] == order[13:]
    assert [beside.next().rows.tolist() for _ in range(23)] == order
    assert whole.longest().count == 8


def test_a_batch_carries_the_weights_of_its_rows():
    batch = task_batches().next()
    assert batch.weights.tolist() == pytest.approx((np.linspace(0, 2, 33)[batch.rows]).tolist())


def test_rows_without_classes_cannot_be_balanced():
    split = task_batches().tokenized
    with pytest.raises(ValueError, match="need rows with a class"):
        TaskBatches(TokenizedSplit(split.sides, 7), task=0, name="t", batch_size=8, seed=1, balanced=True)
