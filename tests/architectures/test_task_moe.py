"""Routed experts by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.routing import balance, top_weights
from mtlcli.architectures.task_moe import AdapterExperts, TaskMoE
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> TaskMoE:
    return TaskMoE(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


def test_the_largest_weights_are_rescaled_but_a_single_one():
    p = torch.tensor([0.5, 0.3, 0.2])
    assert top_weights(p, 2).tolist() == pytest.approx([0.625, 0.375, 0.0])
    assert top_weights(p, 1).tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert torch.equal(top_weights(p, 3), p)


def test_balance_by_hand():
    # Three of four choose expert 0: f = (.75, .25); P = (.65, .35): 2 (.75 * .65 + .25 * .35) = 1.15
    p = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]])
    assert float(balance(p, 1)) == pytest.approx(1.15)
    # used alike: 1 for one choice each, 2 for two
    even = torch.eye(4) * 0.04 + 0.24
    assert float(balance(even, 1)) == pytest.approx(1.0)
    assert float(balance(torch.full((3, 4), 0.25), 2)) == pytest.approx(2.0)


def test_the_experts_in_two_products_are_the_weighed_sum_of_each():
    torch.manual_seed(1)
    experts, h = AdapterExperts(4, 3, 2), torch.randn(2, 5, 4)
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    weights = torch.rand(2, 5, 2)
    expected = sum(
        weights[..., e : e + 1]
        * (
            nn.functional.gelu(h @ experts.down.weight[3 * e : 3 * e + 3].T + experts.down.bias[3 * e : 3 * e + 3])
            @ experts.up.weight[:, 3 * e : 3 * e + 3].T
            + experts.biases[e]
        )
        for e in range(2)
    )
    torch.testing.assert_close(experts(h, weights), expected)


@pytest.mark.parametrize("by", ["task", "token", "both"])
@pytest.mark.parametrize("name", TRACED)
def test_before_step_1_every_hidden_state_is_the_encoder_s_and_then_none(name, by):
    architecture = made(name, by=by)
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    for experts in architecture.shared["experts"]:
        nn.init.normal_(experts.up.weight, std=0.5)
    assert not torch.allclose(architecture(0, TOKENS).layers[1], plain.layers[1], atol=1e-4)


def test_the_change_joins_the_output_of_the_feed_forward_network():
    architecture = made(by="token", top=1)
    experts, router = architecture.shared["experts"][0], architecture.shared["routers"][0]
    nn.init.normal_(experts.up.weight)
    layer, seen = architecture.encoder.encoder.layer[0], []
    handle = layer.intermediate.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    states = architecture(0, TOKENS).layers
    handle.remove()
    h = seen[0]
    dense = layer.output.dense(layer.intermediate(h)) + experts(h, top_weights(router(h).softmax(-1), 1))
    torch.testing.assert_close(states[1], layer.output.LayerNorm(dense + h))


def test_tasks_share_experts_and_own_their_vector():
    architecture = made()
    assert {name: part.tasks for name, part in architecture.parts().items() if part.tasks} == {
        "tasks.for_grades": (0,), "tasks.for_scores": (1,)
    }  # fmt: skip
    assert architecture.pass_of(0) != architecture.pass_of(1)
    assert made(by="token").pass_of(0) == made(by="token").pass_of(1)


def test_padding_does_not_count_in_the_balance():
    architecture = made(by="token").train()
    architecture.encoder.eval()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    extras = []
    for filler in (13, 7):
        tokens = TOKENS.tokens.clone()
        tokens[1, 3:] = filler
        extras.append(architecture(0, Inputs(tokens, mask, None)).extra)
    assert torch.equal(*extras) and extras[0].shape == (2,)


def test_the_balance_of_tasks_moves_only_the_batch_s_own_vector():
    architecture = made().train()
    architecture(0, TOKENS).extra.sum().backward()
    gradients = [architecture.tasks.of(task).vector.grad for task in (0, 1)]
    assert gradients[0].any() and gradients[1] is None


def test_the_balance_is_left_out_in_evaluation_and_at_weight_0():
    assert made()(0, TOKENS).extra is None and made(balance=0.0).train()(0, TOKENS).extra is None


@pytest.mark.parametrize(
    ("options", "count"),
    # d = 16, m = 1: E (2 d m + m + d) = 4 * 49 a layer, and the router's E d_z, E d, E (d + d_z)
    [
        ({}, 2 * (4 * 49 + 4 * 64)),
        ({"by": "token"}, 2 * (4 * 49 + 4 * 16)),
        ({"by": "both", "embedding": 3}, 2 * (4 * 49 + 4 * 19)),
    ],
)
def test_the_parameters_are_those_of_the_formula(options, count):
    assert sum(p.numel() for p in made(**options).shared.parameters()) == count


def test_more_choices_than_experts_are_refused():
    with pytest.raises(MtlError, match=r"architecture\.top: found 3; expected at most the 2 experts"):
        made(experts=2, top=3)


@pytest.mark.parametrize("options", [{}, {"by": "both", "top": 1}])
def test_identity_holds_for_every_task(options):
    check_architecture(TaskMoE, identity=True, **options)
