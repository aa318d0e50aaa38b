"""Reversed gradients, their schedule and discriminators by hand, and adversarial runs."""

import json

import pytest
import torch

from families import FAMILIES, build
from mtlcli.architectures.adversarial import AdversarialSharedPrivate
from mtlcli.architectures.adversary import reverse, rising, similarity
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs
from mtlcli.architectures.domain_adversarial import DomainAdversarial
from mtlcli.architectures.modules import mean_over_tokens
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture
from mtlcli.training.compatibility import check_combination
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files

S, P = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])


def facts(tasks: int = 3) -> ArchitectureFacts:
    return ArchitectureFacts(build("BertModel", **FAMILIES["BertModel"]), RUN.tasks[:tasks], 1)


def states() -> HiddenStates:
    torch.manual_seed(3)
    return HiddenStates(torch.randn(2, 5, 16, requires_grad=True))


INPUTS = Inputs(torch.ones(2, 5, dtype=torch.int64), torch.tensor([[True] * 5, [True] * 3 + [False] * 2]), None)


def test_a_reversed_gradient_is_minus_lambda_times_the_plain_one():
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    assert torch.equal(reverse(values, 0.5), values)
    (3 * reverse(values, 0.5)).sum().backward()
    assert values.grad.tolist() == [-1.5, -1.5]
    half = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    assert reverse(half, 0.5).dtype == torch.bfloat16


@pytest.mark.parametrize(("share", "expected"), [(0, 0.0), (0.1, 0.462117), (0.5, 0.986614), (1, 0.999909)])
def test_lambda_rises_over_the_run(share, expected):
    assert rising(share) == pytest.approx(expected, abs=1e-6)


def test_the_similarity_of_shared_and_private_features():
    # S^T P = ((1, 1), (2, 0)): 1 + 1 + 4 = 6; of centered rows of length 1: ((0, .894427), (0, -1.788854)), mean square 1
    assert similarity(S, P, "sum").item() == pytest.approx(6.0)
    assert similarity(S, P, "normalized").item() == pytest.approx(1.0)
    assert similarity(S[:1], P[:1], "normalized").item() == 0.0


def test_padding_does_not_enter_the_discriminator():
    mask = torch.tensor([[True, True, False]])
    assert mean_over_tokens(torch.tensor([[[1.0], [3.0], [100.0]]]), mask).tolist() == [[2.0]]


@pytest.mark.parametrize(("gate", "factor"), [(0.9, -1.0), (1.1, 0.0)])
def test_a_gate_is_open_while_the_discriminator_is_confused(gate, factor):
    # A discriminator of zeros has the loss of a guess, ln 3.
    architecture = DomainAdversarial(facts(), gate=gate, hidden=0, schedule="constant").train()
    assert architecture.coupling == "batch"
    layer = architecture.discriminator[0]
    torch.nn.init.zeros_(layer.bias)
    torch.nn.init.constant_(layer.weight, 1.0)  # each class has the same logit, and the loss still has gradients
    layer.weight.data[1] += 1e-4
    hidden = states()
    extra = architecture.features(1, hidden, INPUTS).extra
    gradients = torch.autograd.grad(extra.sum(), [hidden.last, layer.weight])
    plain = torch.nn.functional.cross_entropy(
        layer(mean_over_tokens(hidden.last, INPUTS.mask)), torch.tensor([1, 1]), reduction="sum"
    )
    expected = torch.autograd.grad(plain, [hidden.last, layer.weight])
    torch.testing.assert_close(gradients[0], factor * expected[0])
    torch.testing.assert_close(gradients[1], expected[1])
    assert expected[0].abs().max() > 0


@pytest.mark.parametrize("weight_on", ["features", "both"])
def test_the_discriminator_descends_and_the_encoder_ascends(weight_on):
    architecture = AdversarialSharedPrivate(
        facts(), adversarial=0.25, difference=0, schedule="constant", weight_on=weight_on
    ).train()
    hidden = states()
    weight = architecture.discriminator[0].weight
    torch.nn.init.normal_(weight)
    features = architecture.features(1, hidden, INPUTS)
    assert torch.equal(features.last, hidden.last) and features.extra.shape == (2,)
    gradients = torch.autograd.grad(features.extra.sum(), [hidden.last, weight])
    logits = architecture.discriminator(mean_over_tokens(hidden.last, INPUTS.mask))
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 1]), reduction="sum")
    expected = torch.autograd.grad(plain, [hidden.last, weight])
    torch.testing.assert_close(gradients[0], -0.25 * expected[0])
    torch.testing.assert_close(gradients[1], expected[1] * (0.25 if weight_on == "both" else 1))


def test_before_the_first_step_and_in_evaluation_nothing_reaches_the_encoder():
    architecture, hidden = AdversarialSharedPrivate(facts(), difference=0).train(), states()
    torch.nn.init.normal_(architecture.discriminator[0].weight)
    (gradient,) = torch.autograd.grad(architecture.features(0, hidden, INPUTS).extra.sum(), hidden.last)
    assert not gradient.any()  # lambda is 0
    architecture.set_progress(0.1)
    (gradient,) = torch.autograd.grad(architecture.features(0, hidden, INPUTS).extra.sum(), hidden.last)
    assert gradient.any()
    assert architecture.eval().features(0, hidden, INPUTS).extra is None


def test_one_task_alone_cannot_be_told_from_others():
    architecture = AdversarialSharedPrivate(facts(1), difference=0).train()
    assert architecture.features(0, states(), INPUTS).extra.tolist() == [0.0, 0.0]


def test_measures_are_those_of_the_last_step():
    architecture = DomainAdversarial(facts(), hidden=0, schedule="constant").train()
    with torch.no_grad():
        architecture.discriminator[0].weight.zero_()
        architecture.discriminator[0].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    architecture.set_progress(0.5)
    for task in (0, 1):
        architecture.features(task, states(), INPUTS)
    assert architecture.measures() == {"lambda": 1.0, "discriminator_accuracy": 0.5}
    architecture.set_progress(0.6)
    assert architecture.measures() == {"lambda": 1.0}


@pytest.mark.parametrize(
    "options", [{}, {"combine": "gate"}, {"hidden": 5, "similarity_form": "sum", "weight_on": "both"}]
)
def test_adversarial_starts_with_the_states_of_the_encoder(options):
    check_architecture(AdversarialSharedPrivate, identity=True, **options)


@pytest.mark.parametrize("options", [{}, {"hidden": 0, "domains": {"films": ["grades"], "shops": ["pairs"]}}])
def test_domain_adversarial_changes_no_state(options):
    check_architecture(DomainAdversarial, identity=True, **options)


def test_the_parameters_are_those_of_the_formulas():
    architecture = AdversarialSharedPrivate(facts(), width=5)
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in architecture.named_children()}
    assert count["discriminator"] == 3 * 17
    assert count["private"] == 3 * (2 * 16 * 5 + 5 + 16) and count["join"] == 3 * (2 * 16 * 16 + 16)
    domains = DomainAdversarial(facts(), domains={"a": ["grades", "scores"], "b": ["pairs"]})
    assert domains.classes == (0, 0, 1)
    assert sum(p.numel() for p in domains.discriminator.parameters()) == 100 * 17 + 2 * 101


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"a": ["film"], "b": ["grades"]}, r'architecture\.domains: no task "film"'),
        ({"a": ["grades"], "b": ["grades"]}, '"grades" is listed twice'),
        ({"a": ["grades"]}, "expected two or more domains"),
    ],
)
def test_domains_that_are_none_are_refused(domains, message):
    with pytest.raises(MtlError, match=message):
        DomainAdversarial(facts(), domains=domains)


@pytest.mark.parametrize("name", ["adversarial", "domain-adversarial"])
def test_what_cannot_work_is_refused_before_data_is_read(tmp_path, name):
    with pytest.raises(
        MtlError, match=r"pcgrad removes conflicts .* this architecture reverses gradients to create them"
    ):
        check_combination(small_config(tmp_path, architecture=name, gradient_regularizer="pcgrad"))
    with pytest.raises(MtlError, match=r"worst-task visits one task per step, from which the discriminator"):
        check_combination(small_config(tmp_path, architecture=name, scheduler="worst-task"))
    with pytest.raises(MtlError, match=r"proportional visits one task per step, .* or --micro-batches 2 or more"):
        check_combination(small_config(tmp_path, architecture=name, scheduler="proportional"))
    check_combination(small_config(tmp_path, architecture=name, balancer="gradnorm"))
    check_combination(
        small_config(tmp_path, architecture=name, scheduler="proportional", training={"micro_batches": 2})
    )


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adversarial")
    architecture = {"name": "domain-adversarial", "hidden": 0, "lr": 0.05}
    prepared = set_up(small_config(write_files(folder / "files"), architecture=architecture, training={"steps": 6}))
    list(train(prepared, folder / "run"))
    written = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, written) if line["kind"] == "step"]


def test_metrics_hold_lambda_accuracy_and_what_is_added(lines):
    assert [line["architecture/lambda"] for line in lines] == pytest.approx([rising(step / 6) for step in range(6)])
    assert all(0 <= line["architecture/discriminator_accuracy"] <= 1 for line in lines)
    added = lines[0]["train/tone/added"]
    assert 0.9 < added < 1.3  # near log 3
