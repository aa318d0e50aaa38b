"""SMART: the term worked by hand on a linear model, and what must be zero on a BERT with dropout."""

import math
from dataclasses import replace

import pytest
import torch

from forwards import RUN, added, batch, bert, plain, term
from mtlcli.regularizers.base import Forward
from mtlcli.regularizers.smart import SMART
from mtlcli.tasks.targets import Classes

symmetric_kl = Classes.named("no", "yes").divergence
TOKENS = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
LENGTHS = [4, 2, 3]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("dropout", ["same", "off"])
def test_without_noise_the_term_is_exactly_zero_though_the_model_has_dropout(task, dropout):
    model = bert(dropout=0.1)
    one = batch(task, TOKENS, LENGTHS)
    assert not torch.equal(model(task, one), model(task, one)), "dropout is on"
    for norm in ("inf", "l2"):
        smart = SMART(RUN, epsilon=0.0, sigma=0.0, norm=norm, dropout=dropout)
        assert added(model, smart, one) == 0.0


@pytest.mark.parametrize("dropout", ["same", "off"])
def test_with_noise_it_is_not_and_the_model_is_left_as_it_was(dropout):
    model = bert(dropout=0.1)
    before = torch.get_rng_state()
    smart = SMART(RUN, epsilon=0.1, step_size=1.0, dropout=dropout)
    assert added(model, smart, batch(1, TOKENS, LENGTHS)) > 1e-4
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    torch.set_rng_state(before)
    model(1, batch(1, TOKENS, LENGTHS))
    after_one_pass = torch.get_rng_state()
    torch.set_rng_state(before)
    term(model, SMART(RUN, dropout=dropout), batch(1, TOKENS, LENGTHS))
    assert torch.equal(torch.get_rng_state(), after_one_pass), "the next batch draws the masks it would have drawn"


def test_the_worst_noise_of_a_linear_score_is_the_corner_of_the_box():
    # f = w . mean of the words, w = (2, -1). The gradient on every word is along w; divided by its largest entry and with
    # step 1 it is +-(1, -.5), cut at epsilon = .1 to +-(.1, -.1). So |f(x + noise) - f(x)| = 2 * .1 + 1 * .1 = .3; weight 5.
    model = plain([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], [2.0, -1.0])
    smart = SMART(RUN, weight=5.0, epsilon=0.1, step_size=1.0)
    for tokens, lengths in (([[1, 2]], None), ([[1, 2], [2, 0]], [2, 1])):
        assert added(model, smart, batch(0, tokens, lengths)) == pytest.approx(5 * 0.3**2, rel=1e-5)


def test_a_short_step_stays_inside_the_box():
    # gradient / its largest entry = +-(1, -.5); step .01: the scores differ by 2 * .01 + 1 * .005 = .025
    model = plain([[0.0, 0.0], [1.0, 2.0]], [2.0, -1.0])
    smart = SMART(RUN, weight=1.0, epsilon=0.1, step_size=0.01, sigma=1e-7)
    assert added(model, smart, batch(0, [[1]])) == pytest.approx(0.025**2, rel=1e-3)


def test_three_short_steps_go_three_times_as_far():
    model = plain([[0.0, 0.0], [1.0, 2.0]], [2.0, -1.0])
    smart = SMART(RUN, weight=1.0, steps=3, epsilon=0.1, step_size=0.01, sigma=1e-7)
    assert added(model, smart, batch(0, [[1]])) == pytest.approx(0.075**2, rel=1e-3)


def test_the_euclidean_ball_is_around_the_whole_text():
    # w = (3, 4), two words: the gradient is along (3, 4, 3, 4), whose norm is sqrt(50); at the ball's edge every word's noise is
    # epsilon (3, 4) / sqrt(50), the score differs by epsilon * 25 / sqrt(50) = epsilon * 5 / sqrt(2)
    model = plain([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], [3.0, 4.0])
    smart = SMART(RUN, weight=1.0, epsilon=0.1, step_size=1.0, norm="l2")
    assert added(model, smart, batch(0, [[1, 2]])) == pytest.approx((0.1 * 5 / math.sqrt(2)) ** 2, rel=1e-5)


def test_the_released_code_does_not_project_so_its_noise_has_length_one():
    # n = noise + eta g points along w = (2, -1) when eta is large; divided by its largest entry: +-(1, -.5) for every word.
    # The scores differ by 2 * 1 + 1 * .5 = 2.5, whatever epsilon is.
    model = plain([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]], [2.0, -1.0])
    for epsilon in (1e-6, 1e-5):
        smart = SMART(RUN, weight=1.0, form="mtdnn", step_size=1e6, epsilon=epsilon)
        assert added(model, smart, batch(0, [[1, 2]])) == pytest.approx(2.5**2, rel=1e-4)


def test_classes_are_compared_by_symmetric_kl():
    # logits 0 and w . x with w = (2, -1), x = (0, 0): from (0, 0) to (0, +-.3); p = sigmoid(.3): KL both ways is .3 (2 p - 1) / 2
    model = plain([[0.0, 0.0]], [2.0, -1.0])
    difference = 0.3 * (1 / (1 + math.exp(-0.3)) - 0.5)
    smart = SMART(RUN, weight=1.0, epsilon=0.1, step_size=1.0)
    assert added(model, smart, batch(1, [[0]])) == pytest.approx(difference, rel=1e-5)


def test_the_inner_gradient_of_the_released_code_by_hand():
    # sum 2 p (logit p - logit q) with that factor detached. Two classes, logits (0, z): p1 = sigmoid(z), logit p1 = z, logit p0 = -z.
    # From q at z = 0: d/dz = 2 (p1' z + p0' (-z)) = 4 z p1 p0.
    model = plain([[0.0], [math.log(3)]], [1.0])
    smart = SMART(RUN, form="mtdnn")
    forward = Forward(model, 1, batch(1, [[1]]), *[None] * 5, lambda output: output)  # type: ignore[arg-type]
    outputs = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    smart._inner(forward, outputs, torch.zeros(1, 2)).backward()
    assert outputs.grad[0, 1].item() == pytest.approx(4 * math.log(3) * 0.75 * 0.25, rel=1e-5)


def test_the_outer_halves_of_the_released_code_have_the_value_of_the_whole_and_their_own_gradient():
    # p = (1/4, 3/4) and q = (1/2, 1/2). Each half is a cross-entropy against a fixed target, so its gradient is a plain
    # difference of probabilities: on p's logits p - q = (-1/4, 1/4), on q's logits q - p
    def given(outputs: torch.Tensor, clean: torch.Tensor) -> Forward:
        def lookup() -> torch.Tensor:
            return torch.zeros(1, 1, 1)

        return Forward(
            plain([[0.0]], [1.0]),
            1,
            batch(1, [[0]]),
            clean,
            lookup,
            lambda *_: outputs + 0 * _[0].sum(),
            lookup,
            symmetric_kl,
            lambda output: output,
        )

    perturbed = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    clean = torch.zeros(1, 2, requires_grad=True)
    whole = SMART(RUN, form="mtdnn", weight=1.0)(given(perturbed, clean))
    assert whole.item() == pytest.approx(symmetric_kl(perturbed, clean).item(), rel=1e-5)
    whole.backward()
    torch.testing.assert_close(perturbed.grad, torch.tensor([[-0.25, 0.25]]))
    torch.testing.assert_close(clean.grad, torch.tensor([[0.25, -0.25]]))


@pytest.mark.parametrize("form", [{"epsilon": 0.1, "step_size": 1.0}, {"form": "mtdnn", "step_size": 1e6}])
def test_both_passes_get_the_outer_gradient(form):
    # the word vectors reach the term through the clean output too: of a linear score the two cancel, d/dx of (f(x + n) - f(x))^2
    model = plain([[0.5, 0.5], [1.0, 2.0]], [2.0, -1.0])
    term(model, SMART(RUN, **form), batch(0, [[1]])).backward()
    assert model.architecture.encoder.words.weight.grad.abs().max() < 1e-5
    assert model.heads[0].out.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("form", ["paper", "mtdnn"])
def test_padding_gets_no_noise(form):
    seen = []
    model = bert(dropout=0.0)
    inputs = model.inputs

    def spy(task, one, embeddings=None):
        if embeddings is not None:
            seen.append(embeddings.detach())
        return inputs(task, one, embeddings)

    model.inputs = spy  # type: ignore[method-assign]
    one = batch(1, TOKENS, LENGTHS)
    term(model, SMART(RUN, form=form, epsilon=0.1, step_size=1.0, sigma=0.1), one)
    words = model.word_embeddings(1, one.tokens).detach()
    assert len(seen) == 2
    for embeddings in seen:
        moved = (embeddings - words).abs().sum(-1) > 0
        assert torch.equal(moved, one.mask)


def test_the_projected_noise_of_the_paper_is_gentle_and_that_of_the_released_code_is_not():
    model = bert(dropout=0.0)
    one = batch(1, TOKENS, LENGTHS)
    paper, code = (added(model, SMART(RUN, form=form), one) for form in ("paper", "mtdnn"))
    assert 0 < paper < 1e-4 * code


def test_the_gradient_is_divided_by_its_norm_over_the_text_and_not_over_each_token():
    gradient = torch.tensor([[[1.0, 0.0], [4.0, 2.0]], [[0.0, 0.5], [0.25, 0.0]]])
    smart = SMART(RUN, epsilon=1.0, step_size=0.1)
    expected = 0.1 * torch.stack([gradient[0] / 4, gradient[1] / 0.5])
    torch.testing.assert_close(smart._moved(torch.zeros_like(gradient), gradient), expected)
    euclidean = SMART(RUN, epsilon=1.0, step_size=0.1, norm="l2")
    expected = 0.1 * torch.stack([gradient[0] / 21**0.5, gradient[1] / 0.3125**0.5])
    torch.testing.assert_close(euclidean._moved(torch.zeros_like(gradient), gradient), expected)


@pytest.mark.parametrize("form", [{"epsilon": 0.1, "step_size": 1.0}, {"form": "mtdnn", "step_size": 1e6}])
@pytest.mark.parametrize("seed", range(4))
def test_the_noise_grows_in_the_direction_in_which_it_starts(form, seed):
    # The divergence of a linear score is least at no noise, so its gradient leads away from there, on the side of the start.
    model = plain([[0.5, 0.5], [1.0, 2.0]], [2.0, -1.0])
    scores = []
    run = model.inputs

    def spy(task, one, embeddings=None):
        if embeddings is not None:
            scores.append(float(embeddings.detach() @ torch.tensor([2.0, -1.0])))
        return run(task, one, embeddings)

    model.inputs = spy  # type: ignore[method-assign]
    smart = SMART(replace(RUN, seed=seed), sigma=0.01, **form)
    term(model, smart, batch(0, [[1]]))
    start, end = scores  # of the inner step and of the term; the clean score is 0
    assert start * end > 0
    assert abs(end) > abs(start) > 0
