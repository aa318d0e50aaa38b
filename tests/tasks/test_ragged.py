"""Rows of items in flat arrays: gathered, joined and moved."""

import numpy as np
import pytest
import torch

from mtlcli.tasks.targets import Ragged, concat

# rows (10), (), (11, 12), (13)
WORDS = Ragged(
    {"tag": np.array([10, 11, 12, 13]), "head": np.array([[0, 1], [2, 3], [4, 5], [6, 7]])}, np.array([0, 1, 1, 3, 4])
)
SCORES = Ragged({"value": np.array([0.5, 1.5, 2.5])})


def test_rows_are_counted_by_their_starts_or_are_their_items():
    assert (len(WORDS), len(SCORES)) == (4, 3)
    assert "tag" in WORDS and "value" not in WORDS


@pytest.mark.parametrize("form", ["arrays", "tensors"])
def test_rows_are_taken_with_all_their_items_in_any_order_and_twice(form):
    words = WORDS if form == "arrays" else WORDS.tensors()
    some = words.take([2, 1, 0, 2])
    assert some["tag"].tolist() == [11, 12, 10, 11, 12]
    assert some["head"].tolist() == [[2, 3], [4, 5], [0, 1], [2, 3], [4, 5]]
    assert some.starts.tolist() == [0, 2, 2, 3, 5]


def test_a_mask_and_a_slice_take_rows_too():
    mask = np.array([False, True, True, False])
    for words in (WORDS.take(mask), WORDS.take(slice(1, 3))):
        assert words["tag"].tolist() == [11, 12] and words.starts.tolist() == [0, 0, 2]
    assert SCORES.take(np.array([True, False, True]))["value"].tolist() == [0.5, 2.5]


def test_no_rows_are_rows():
    empty = WORDS.take(np.zeros(0, dtype=np.int64))
    assert (len(empty), empty["tag"].tolist(), empty.starts.tolist()) == (0, [], [0])
    assert len(SCORES.take(slice(0))) == 0


@pytest.mark.parametrize("form", ["arrays", "tensors"])
def test_parts_are_joined_and_their_starts_go_on(form):
    parts = [WORDS.take([2]), WORDS.take([0, 1]), WORDS.take([3])]
    joined = concat(parts if form == "arrays" else [part.tensors() for part in parts])
    assert joined["tag"].tolist() == [11, 12, 10, 13]
    assert joined.starts.tolist() == [0, 2, 3, 3, 4]
    assert concat([SCORES, SCORES])["value"].tolist() == [0.5, 1.5, 2.5, 0.5, 1.5, 2.5]


def test_parts_with_other_fields_cannot_be_joined():
    with pytest.raises(ValueError, match="all with the same fields"):
        concat([SCORES, WORDS])
    with pytest.raises(ValueError, match="one part or more"):
        concat([])


def test_arrays_become_tensors_and_come_back_with_their_types():
    back = WORDS.tensors().to(torch.device("cpu")).numpy()
    assert back["tag"].dtype == np.int64 and back["tag"].tolist() == [10, 11, 12, 13]
    assert back.starts.tolist() == [0, 1, 1, 3, 4]
    half = Ragged({"p": torch.tensor([0.5, 0.25], dtype=torch.bfloat16)}).numpy()
    assert half["p"].dtype == np.float32 and half["p"].tolist() == [0.5, 0.25]


def test_scores_move_to_a_device_without_float64_as_float32():
    moved = Ragged({"value": torch.tensor([0.5], dtype=torch.float64), "index": torch.tensor([1])}).to(
        torch.device("meta")
    )
    assert (moved["value"].dtype, moved["index"].dtype) == (torch.float32, torch.int64)
    assert moved["value"].device.type == "meta"


def test_bytes_depend_on_every_array_and_on_where_rows_begin():
    other = Ragged(WORDS.fields, np.array([0, 1, 2, 3, 4]))
    assert WORDS.tobytes() == WORDS.take(slice(None)).tobytes() != other.tobytes()
    assert SCORES.tobytes() == np.array([0.5, 1.5, 2.5]).tobytes()
