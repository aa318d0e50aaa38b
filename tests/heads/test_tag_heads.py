"""Heads for tags: a linear layer and a conditional random field, by hand and by brute force over all sequences."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.tag_crf import TagCRF
from mtlcli.heads.tag_linear import TagLinear, sum_by_row
from mtlcli.tasks.class_loss import ClassLoss
from mtlcli.tasks.items import Items
from mtlcli.tasks.tags import UNKNOWN, Tags
from mtlcli.tasks.targets import Ragged

PLAIN = Tags(("w", "x", "y", "z"), "plain")
SPANS = Tags(("O", "B-A", "I-A"), "bio")
STARTS = torch.tensor([0, 5, 5, 8])


def head(kind, target, dim=3, **options):
    torch.manual_seed(4)
    return kind(HeadFacts(TaskFacts("t", 3, 1, target), dim, 1), **options).eval()


def items(starts=STARTS):
    count = int(starts[-1])
    numbers = torch.arange(count)
    return Items(starts, torch.zeros_like(numbers), numbers, numbers, torch.arange(len(starts)))


def gold(*tags, starts=STARTS):
    return Ragged({"tag": torch.tensor(tags)}, starts)


def randomized(crf):
    with torch.no_grad():
        for parameter in (crf.transitions, crf.begin, crf.end):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return crf


def paths_of(crf, emissions):
    """Score of every sequence of one sentence."""
    follow, begin, end = (scores.detach().double() for scores in crf._scores())
    return {
        path: float(
            begin[path[0]] + end[path[-1]] + sum(follow[a, b] for a, b in pairwise(path))
            + sum(emissions[step, tag].double() for step, tag in enumerate(path))
        )
        for path in product(range(emissions.shape[1]), repeat=len(emissions))
    }  # fmt: skip


def log_sum(values):
    return float(torch.logsumexp(torch.tensor(list(values), dtype=torch.float64), 0))


@pytest.mark.parametrize("target", [PLAIN, SPANS], ids=["plain", "spans"])
def test_the_field_is_the_sum_over_all_sequences(target):
    crf = randomized(head(TagCRF, target))
    emissions = torch.randn(8, crf.facts.outputs, generator=torch.Generator().manual_seed(2))
    tags = [1, 2, 0, 1, 2, 0, 1, 0]
    losses = crf.loss(emissions, gold(*tags)).detach()
    predicted = crf.decode(emissions, items())
    for row, (first, last) in enumerate(((0, 5), (5, 5), (5, 8))):
        if first == last:
            assert losses[row] == 0
            continue
        paths = paths_of(crf, emissions[first:last])
        total = log_sum(paths.values())
        assert float(losses[row]) == pytest.approx(total - paths[tuple(tags[first:last])], abs=1e-4)
        assert tuple(predicted["tag"][first:last].tolist()) == max(paths, key=paths.__getitem__)
        for word in range(last - first):
            for tag in range(crf.facts.outputs):
                marginal = math.exp(log_sum(score for path, score in paths.items() if path[word] == tag) - total)
                assert float(predicted["probabilities"][first + word, tag]) == pytest.approx(marginal, abs=1e-5)


def test_a_word_without_a_tag_is_summed_out():
    crf = randomized(head(TagCRF, PLAIN))
    emissions = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    losses = crf.loss(emissions, gold(1, UNKNOWN, 0, 1, 2, UNKNOWN, UNKNOWN, UNKNOWN)).detach()
    paths = paths_of(crf, emissions[:5])
    agreeing = [score for path, score in paths.items() if (path[0], *path[2:]) == (1, 0, 1, 2)]
    assert float(losses[0]) == pytest.approx(log_sum(paths.values()) - log_sum(agreeing), abs=1e-4)
    assert losses[2] == 0


def test_two_words_by_hand():
    # Sequences 00, 01, 10, 11 score 1.5, 2.5, 0 and 3, so log Z = 3.630978.
    crf = head(TagCRF, Tags(("x", "y"), "plain"))
    with torch.no_grad():
        crf.transitions.copy_(torch.tensor([[0.5, -0.5], [0.0, 1.0]]))
    emissions, starts = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 2])
    assert float(crf.loss(emissions, gold(0, 1, starts=starts)).detach()) == pytest.approx(1.130978, abs=1e-5)
    assert crf.decode(emissions, items(starts))["tag"].tolist() == [1, 1]


def test_a_new_field_costs_what_a_linear_head_costs():
    crf, linear = head(TagCRF, PLAIN), head(TagLinear, PLAIN)
    emissions = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    labels = gold(1, 2, 0, 1, 2, 0, 1, 3)
    assert torch.allclose(crf.loss(emissions, labels), linear.loss(emissions, labels), atol=1e-5)


def test_the_field_is_exact_under_bfloat16_autocast_for_long_sentences():
    crf, starts = randomized(head(TagCRF, PLAIN)), torch.tensor([0, 75])
    emissions = torch.randn(75, 4, generator=torch.Generator().manual_seed(2))
    labels = gold(*[1, 2, 3] * 25, starts=starts)
    with torch.autocast("cpu", torch.bfloat16):
        low = crf.loss(emissions, labels)
    assert torch.equal(low, crf.loss(emissions, labels))


def test_what_the_scheme_forbids_is_never_predicted_and_has_finite_gradients():
    crf, linear = head(TagCRF, SPANS), head(TagLinear, SPANS)
    emissions = torch.tensor([[0.0, 0.0, 9.0]] * 8, requires_grad=True)  # I-A everywhere
    for tagger in (crf, linear):
        assert tagger.decode(emissions.detach(), items())["tag"].tolist() == [1, 2, 2, 2, 2, 1, 2, 2]
    crf.loss(emissions, gold(1, 2, 2, 2, 2, 0, 0, 1)).sum().backward()
    assert emissions.grad.isfinite().all()
    argmax = head(TagLinear, SPANS, decode="argmax")
    assert argmax.decode(emissions.detach(), items())["tag"].tolist() == [2] * 8


def test_the_linear_loss_is_the_sum_over_the_words_with_a_tag_that_training_has():
    linear, output = head(TagLinear, PLAIN), torch.zeros(8, 4)
    losses = linear.loss(output, gold(0, UNKNOWN, 1, 99, 2, 3, 3, UNKNOWN))
    assert losses.tolist() == pytest.approx([3 * math.log(4), 0.0, 2 * math.log(4)])


def test_a_word_is_read_from_its_first_or_last_token_or_their_mean():
    tokens = torch.arange(12.0).reshape(2, 3, 2)  # two sequences of three tokens
    place = Items(
        torch.tensor([0, 2, 3]),
        torch.tensor([0, 0, 1]),
        torch.tensor([0, 1, 0]),
        torch.tensor([0, 2, 2]),
        torch.tensor([0, 1, 2]),
    )
    assert place.gather(tokens, "first").tolist() == [[0, 1], [2, 3], [6, 7]]
    assert place.gather(tokens, "last").tolist() == [[0, 1], [4, 5], [10, 11]]
    assert place.gather(tokens, "mean").tolist() == [[0, 1], [3, 4], [8, 9]]


@pytest.mark.parametrize("kind", [TagLinear, TagCRF])
@pytest.mark.parametrize("word", ["first", "last", "mean"])
def test_every_parameter_and_the_encoder_learn(kind, word):
    tagger = head(kind, PLAIN, word=word)
    tokens = torch.randn(2, 4, 3, requires_grad=True)
    place = Items(
        torch.tensor([0, 2, 4]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 2]), torch.tensor([0, 3, 1, 3]),
        torch.tensor([0, 1, 2]),
    )  # fmt: skip
    encoding = EncoderOutput(tokens, torch.ones(2, 4, dtype=torch.bool), tokens[:, 0], (), place)
    loss = tagger.loss(tagger((encoding,)), gold(0, 1, 2, 3, starts=torch.tensor([0, 2, 4]))).sum()
    gradients = torch.autograd.grad(loss, [tokens, *tagger.parameters()])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_sums_by_row_are_exact_where_a_batch_is_long():
    values = torch.full((30_000,), 0.1)
    starts = torch.tensor([0, 29_999, 30_000])
    assert sum_by_row(values, Ragged({"tag": values}, starts)).tolist() == pytest.approx([2999.9, 0.1], rel=1e-6)


def test_decoding_agrees_between_one_row_and_all_rows():
    crf = randomized(head(TagCRF, PLAIN))
    emissions = torch.randn(8, 4, generator=torch.Generator().manual_seed(9))
    together = crf.decode(emissions, items())
    alone = crf.decode(emissions[5:], items(torch.tensor([0, 3])))
    assert together["tag"][5:].tolist() == alone["tag"].tolist()
    assert np.allclose(together["probabilities"][5:], alone["probabilities"], atol=1e-6)


def test_class_weights_and_smoothing_apply_to_each_word_in_training_alone():
    settings = ClassLoss(weights=(1.0, 3.0, 1.0, 1.0), smoothing=0.1)
    tagger = TagLinear(HeadFacts(TaskFacts("t", 3, 1, PLAIN, class_loss=settings), 3, 1))
    output, labels = torch.tensor([[2.0, 1.0, 0.0, 0.0]] * 8), gold(0, 1, UNKNOWN, UNKNOWN, UNKNOWN, 0, 0, 0)
    plain = -torch.log_softmax(output[0], 0)
    smooth = (0.9 * plain + 0.1 * plain.mean()).tolist()
    plain = plain.tolist()
    assert tagger.loss(output, labels).tolist() == pytest.approx(
        [smooth[0] + 3 * smooth[1], 0.0, 3 * smooth[0]], rel=1e-5
    )
    assert tagger.eval().loss(output, labels).tolist() == pytest.approx(
        [plain[0] + plain[1], 0.0, 3 * plain[0]], rel=1e-5
    )


# Distillation


def taught(shares, starts):
    return Ragged({"tag": shares.argmax(-1), "probabilities": shares}, starts)


@pytest.mark.parametrize("kind", [TagLinear, TagCRF])
def test_a_teacher_that_is_certain_of_one_word_teaches_its_tag(kind):
    """One word a row, where the marginals of a field are its sequences."""
    model = head(kind, PLAIN)
    output, starts, tags = torch.randn(3, 4), torch.arange(4), torch.tensor([2, 0, 3])
    soft = model.loss(output, taught(torch.eye(4)[tags], starts))
    torch.testing.assert_close(soft, model.loss(output, gold(*tags.tolist(), starts=starts)))


def test_a_linear_layer_learns_the_cross_entropy_of_each_word():
    model = head(TagLinear, PLAIN)
    shares = torch.tensor([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1.0]])
    # All logits 0: log 4 for each word, whatever the teacher says. With logits (log 3, 0, 0, 0) the softmax is (1/2, 1/6, 1/6, 1/6).
    output = torch.zeros(3, 4)
    output[2, 0] = math.log(3)
    losses = model.loss(output, taught(shares, torch.tensor([0, 2, 2, 3])))
    assert losses.tolist() == pytest.approx([2 * math.log(4), 0, math.log(6)], abs=1e-6)


def test_a_field_learns_the_cross_entropy_of_its_marginals():
    crf = randomized(head(TagCRF, PLAIN))
    output = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    shares = torch.softmax(torch.randn(8, 4, generator=torch.Generator().manual_seed(4)), -1)
    marginals = crf.decode(output, items())["probabilities"]
    expected = -(shares * marginals.log()).sum(-1)
    losses = crf.loss(output, taught(shares, STARTS))
    assert losses.tolist() == pytest.approx([float(expected[:5].sum()), 0, float(expected[5:].sum())], rel=1e-5)
    # It is smallest where the student has the teacher's marginals, and there it has no gradient.
    output.requires_grad_()
    crf.loss(output, taught(marginals, STARTS)).sum().backward()
    assert float(output.grad.abs().max()) < 1e-6


def test_what_a_teacher_gives_to_tags_that_cannot_stand_there_goes_to_the_others():
    """A teacher without the scheme gives .3 to I-A at the beginning, where a field has it at e^-10000."""
    crf = head(TagCRF, SPANS)
    output = torch.zeros(1, 3, requires_grad=True)
    loss = crf.loss(output, taught(torch.tensor([[0.4, 0.3, 0.3]]), torch.tensor([0, 1])))
    assert loss.tolist() == pytest.approx([math.log(2)], abs=1e-6)
    loss.sum().backward()
    # softmax (1/2, 1/2, 0) minus (4/7, 3/7, 0)
    assert output.grad[0].tolist() == pytest.approx([-1 / 14, 1 / 14, 0], abs=1e-6)


@pytest.mark.parametrize("kind", [TagLinear, TagCRF])
def test_words_without_a_tag_are_not_taught(kind):
    """A row's loss is divided by its words with a tag: one of five here."""
    model, output = head(kind, PLAIN), torch.zeros(5, 4)
    shares, starts = torch.full((5, 4), 0.25), torch.tensor([0, 5])
    labels = Ragged({"tag": np.array([UNKNOWN, UNKNOWN, 2, UNKNOWN, UNKNOWN])}, starts.numpy())
    soft = PLAIN.where_known(taught(shares, starts).numpy(), labels).tensors()
    assert model.loss(output, soft).tolist() == pytest.approx([math.log(4)], abs=1e-6)
