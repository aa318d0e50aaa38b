"""Heads of choices, relations and answers by numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from mtlcli.errors import MtlError
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.choice_linear import ChoiceLinear
from mtlcli.heads.relation_linear import RelationLinear, RelationMLP
from mtlcli.heads.segments import log_softmax
from mtlcli.heads.span_linear import SpanLinear
from mtlcli.tasks.items import Items
from mtlcli.tasks.targets import Ragged
from mtlcli.testing import CHOICES, GRADES, QUESTIONS


def rows(*lengths: int) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def test_a_softmax_within_groups_of_different_sizes():
    values = torch.tensor([0.0, math.log(3.0), 5.0, 1.0, 1.0, 1.0])
    probabilities = log_softmax(values, rows(2, 1, 3)).exp()
    torch.testing.assert_close(probabilities, torch.tensor([0.25, 0.75, 1.0, 1 / 3, 1 / 3, 1 / 3]))
    low = log_softmax(values.bfloat16(), rows(2, 1, 3))
    assert low.dtype == torch.float32


def test_the_loss_of_choices_is_the_cross_entropy_of_each_row():
    head = ChoiceLinear(HeadFacts(CHOICES, 4, 1)).eval()
    gold = Ragged({"chosen": torch.tensor([0, 1, -1, -1, 0, 0, 1])}, rows(2, 2, 3))
    output = torch.tensor([0.0, math.log(3.0), 9.0, 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(head.loss(output, gold), torch.tensor([-math.log(0.75), 0.0, math.log(3.0)]))


def test_a_choice_is_scored_by_the_encoding_of_its_own_sequence():
    head = ChoiceLinear(HeadFacts(CHOICES, 2, 1)).eval()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[1.0, 10.0]]))
    pooled = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    place = torch.zeros(3, dtype=torch.int64)
    items = Items(rows(1, 2), torch.tensor([2, 0, 1]), place, place, rows(1, 2))
    encoding = EncoderOutput(torch.zeros(3, 1, 2), torch.ones(3, 1, dtype=torch.bool), pooled, (), items)
    assert head((encoding,)).tolist() == [2.0, 1.0, 10.0]
    decoded = head.decode(head((encoding,)), items)
    assert decoded["chosen"].tolist() == [1, 0, 1]


def test_a_relation_reads_the_first_tokens_of_head_and_tail():
    head = RelationLinear(HeadFacts(GRADES, 2, 1)).eval()
    tokens = torch.arange(12.0).view(1, 6, 2)
    items = Items(rows(2), torch.tensor([0, 0]), torch.tensor([1, 4]), torch.tensor([2, 5]), rows(1))
    encoding = EncoderOutput(tokens, torch.ones(1, 6, dtype=torch.bool), tokens[:, 0], (), items)
    expected = head.out(torch.tensor([[2.0, 3.0, 8.0, 9.0]]))
    torch.testing.assert_close(head((encoding,)), expected)
    mlp = RelationMLP(HeadFacts(GRADES, 2, 1), hidden=5).eval()
    h, t = torch.tensor([3.0, 4.0]), torch.tensor([9.0, 10.0])  # means over two tokens
    both = torch.cat([h, t, h * t, (h - t).abs()])[None]
    torch.testing.assert_close(mlp((encoding,)), mlp.out(mlp.hidden(both)))


# Answers


def windows(*tokens: int) -> Items:
    """Windows of these numbers of tokens in one row, each with the place for no answer first; token t covers character t."""
    spans, sequence = [], []
    for number, count in enumerate(tokens):
        spans += [(-1, -1), *((10 * number + token, 10 * number + token + 1) for token in range(count))]
        sequence += [number] * (count + 1)
    place = torch.arange(len(spans))
    return Items(rows(len(spans)), torch.tensor(sequence), place, place, rows(len(tokens)), torch.tensor(spans))


def head_of(**options) -> SpanLinear:
    return SpanLinear(HeadFacts(QUESTIONS, 4, 1), **options).eval()


def test_the_loss_of_an_answer_is_the_mean_over_windows_of_half_the_sum_of_both_cross_entropies():
    output = torch.tensor([[0.0, 0.0], [math.log(2.0), 0.0], [0.0, 0.0], [0.0, math.log(3.0)], [0.0, 0.0]])
    gold = Ragged(
        {
            "start": torch.tensor([0, 1, 0, 1, 0]),
            "end": torch.tensor([0, 0, 1, 1, 0]),
            "window": torch.tensor([0, 0, 0, 1, 1]),
        },
        rows(5),
    )
    first = (-math.log(2 / 4) - math.log(1 / 3)) / 2
    second = (-math.log(1 / 2) - math.log(3 / 4)) / 2
    torch.testing.assert_close(head_of().loss(output, gold), torch.tensor([(first + second) / 2]))


def best_by_search(output: np.ndarray, items: Items, longest: int) -> tuple[float, int, int]:
    """Search all spans of all windows: the highest log-odds, then the shortest span, then the first."""
    found = []
    spans, sequence = items.spans.numpy(), items.sequence.numpy()
    for window in np.unique(sequence):
        places = np.flatnonzero(sequence == window)
        none = output[places[0]].sum()
        for i, j in itertools.combinations_with_replacement(places[1:], 2):
            if j - i < longest:
                score = output[i, 0] + output[j, 1] - none
                found.append((-score, window, j - i, i, spans[i, 0], spans[j, 1]))
    best = min(found)
    return -best[0], int(best[4]), int(best[5])


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_predicted_span_is_the_best_of_all(longest):
    random = np.random.default_rng(3)
    items = windows(4, 7, 1)
    for _ in range(50):
        output = random.integers(-3, 4, size=(len(items.spans), 2)).astype(np.float64)
        decoded = head_of(longest=longest).decode(torch.from_numpy(output), items)
        score, start, end = best_by_search(output, items, longest)
        assert (decoded["score"].item(), decoded["start"].item(), decoded["end"].item()) == (score, start, end)


def test_a_context_without_tokens_has_no_answer():
    decoded = head_of().decode(torch.zeros(1, 2), windows(0))
    assert (decoded["start"].item(), decoded["end"].item()) == (0, 0)
    assert decoded["score"].item() < -1e8


def test_heads_of_items_decline_other_targets():
    for head, task in ((ChoiceLinear, GRADES), (SpanLinear, CHOICES), (RelationLinear, QUESTIONS)):
        with pytest.raises(MtlError, match="use another head"):
            head(HeadFacts(task, 4, 1))
