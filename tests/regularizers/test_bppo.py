"""BPPO: the teacher's weights and the divergence from it, by hand."""

import pytest
import torch

from forwards import RUN, added, batch, bert, plain, term
from mtlcli.regularizers.bppo import BPPO
from mtlcli.testing.common import start_of


def begun(model, **options) -> BPPO:
    """A regularizer at the start of a run of 12 steps."""
    made = BPPO(RUN, **options)
    made.setup(start_of(model, RUN.tasks))
    return made


def move(model, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("task", [0, 1])
def test_before_the_first_update_the_term_is_exactly_zero_though_the_model_has_dropout(task):
    model = bert(dropout=0.1)
    one = batch(task, [[1, 2, 3], [4, 5, 6]], [3, 2])
    assert not torch.equal(model(task, one), model(task, one)), "dropout is on"
    assert added(model, begun(model), one) == 0.0


def test_the_teacher_follows_slowly_and_more_slowly_after_the_switch():
    # 25 % of 12 updates, 3, with .5, then .75; the weight moves to 1: teacher .5, .75, .875, then .75 * .875 + .25 = .90625
    model = plain([[0.0]], [0.0])
    bppo = begun(model, beta=0.75, early_beta=0.5, switch=0.25)
    with torch.no_grad():
        model.heads[0].out.weight.fill_(1.0)
    found = []
    for _ in range(4):
        bppo.after_step(model)
        found.append(bppo.teacher.tensors()["heads.0.out.weight"].item())
    assert found == [0.5, 0.75, 0.875, 0.90625]


def test_without_a_switch_beta_holds_from_the_start():
    model = plain([[0.0]], [0.0])
    bppo = begun(model, beta=0.75, switch=0.0)
    with torch.no_grad():
        model.heads[0].out.weight.fill_(1.0)
    bppo.after_step(model)
    assert bppo.teacher.tensors()["heads.0.out.weight"].item() == 0.25


def test_ten_percent_of_the_planned_steps_are_early():
    assert begun(plain([[0.0]], [0.0])).early_updates == 1  # of 12


def test_the_term_is_mu_times_the_mean_squared_difference_of_scores():
    # the teacher's score is 2 x, the model's 3 x; x = 1 and 2: (1 + 4) / 2, times mu 3
    model = plain([[1.0], [2.0]], [2.0])
    bppo = begun(model, mu=3.0)
    with torch.no_grad():
        model.heads[0].out.weight.fill_(3.0)
    found = term(model, bppo, batch(0, [[0], [1]]))
    assert found.item() == 7.5
    found.backward()
    # d/dw of 3 * mean((w - 2)^2 x^2) = 3 * 2 * (1 * 1 + 1 * 4) / 2; the teacher has no gradient
    assert model.heads[0].out.weight.grad.item() == 15.0
    assert not any(one.requires_grad for one in bppo.teacher.tensors().values())


def test_the_teacher_is_the_whole_model():
    model = bert(dropout=0.1)
    bppo = begun(model)
    assert bppo.teacher.tensors().keys() == dict(model.named_parameters()).keys()
    for part in ("architecture", "heads.1"):
        changed = bert(dropout=0.1)
        changed.load_state_dict(model.state_dict())
        move(changed.get_submodule(part), 0.05)
        assert added(changed, bppo, batch(1, [[1, 2, 3]])) > 1e-6, part


def test_the_model_keeps_its_own_weights_and_masks():
    model = bert(dropout=0.1)
    bppo = begun(model)
    move(model, 0.05)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model(1, batch(1, [[1, 2, 3]]))
    after_one_pass = torch.get_rng_state()
    torch.set_rng_state(state)
    added(model, bppo, batch(1, [[1, 2, 3]]))
    assert torch.equal(torch.get_rng_state(), after_one_pass)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
