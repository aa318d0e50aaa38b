"""Interactive and cyclic architectures by hand: rounds of predictions, and rounds of features."""

import pytest
import torch
from torch import nn

from families import FAMILIES, build
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.architectures.cyclic import Cyclic
from mtlcli.architectures.interactive import Interactive
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def facts(tasks: int = 3, readable=None) -> ArchitectureFacts:
    return ArchitectureFacts(build("BertModel", **FAMILIES["BertModel"]), RUN.tasks[:tasks], 1, readable)


def test_the_predictions_of_a_round_change_the_states_of_the_next():
    # d = 1, y = sigmoid(h), W = (0, 2): h = 0, 1, 2.462117; y = 0.5, 0.731059
    architecture = Interactive(facts(2), order=["scores"])
    architecture.update = nn.Linear(2, 1)
    with torch.no_grad():
        architecture.update.weight.copy_(torch.tensor([[0.0, 2.0]]))
        architecture.update.bias.zero_()
    given = []

    def read(task, hidden):
        given.append((task, hidden.last.item()))
        return torch.sigmoid(hidden.last[:, 0])

    inputs, start = Inputs(TOKENS[:1, :1], None, None, read=read), HiddenStates(torch.zeros(1, 1, 1))
    last = architecture.features(0, start, inputs).last
    assert last.item() == pytest.approx(2.462117, abs=1e-6)
    assert given == [(1, 0.0), (1, 1.0)]


def test_the_paper_s_form_replaces_the_states():
    architecture = Interactive(facts(2), order=["scores"], rounds=1, form="imn")
    architecture.update = nn.Linear(2, 1)
    with torch.no_grad():
        architecture.update.weight.copy_(torch.tensor([[-1.0, 0.0]]))
        architecture.update.bias.fill_(0.25)
    inputs = Inputs(TOKENS[:1, :2], None, None, read=lambda task, hidden: torch.zeros(1, 1))
    last = architecture.features(0, HiddenStates(torch.tensor([[[1.0], [-1.0]]])), inputs).last
    assert last.flatten().tolist() == [0.0, 1.25]


@pytest.mark.parametrize("options", [{}, {"rounds": 0}, {"order": ["pairs"]}])
def test_interactive_starts_with_the_states_of_the_encoder(options):
    check_architecture(Interactive, identity=True, **options)


def test_interactive_in_the_form_of_the_paper_shares_as_it_says():
    check_architecture(Interactive, form="imn")


def test_every_task_trains_the_heads_that_are_fed_back():
    architecture = Interactive(facts(readable=(True, False, True)))
    assert [architecture.reads(t) for t in range(3)] == [(0, 2)] * 3
    # d (d + sum of classes) + d with d = 16 and 3 + 2 classes
    assert sum(p.numel() for p in architecture.update.parameters()) == 16 * (16 + 5) + 16
    assert Interactive(facts(), rounds=0).reads(0) == ()
    with pytest.raises(MtlError, match=r"order: the head of scores cannot run on .* leave it out"):
        Interactive(facts(readable=(True, False, True)), order=["grades", "scores"])


class Adds(nn.Module):
    """f(h, c) = h + c."""

    def forward(self, values):
        return values.sum(-1, keepdim=True)


@pytest.mark.parametrize(("keep", "expected"), [("last", (3.0, 4.0)), ("sum", (4.0, 6.0))])
def test_the_ring_passes_on_what_was_just_computed(keep, expected):
    # h = 1: round 1 gives 1 and 2, round 2 gives 3 and 4
    architecture = Cyclic(facts(2), keep=keep, width=1)
    architecture.layers = nn.ModuleDict({f"for_{name}": Adds() for name in ("grades", "scores")})
    architecture.layers.of = lambda t: list(architecture.layers.values())[t]
    found = tuple(architecture.ring(task, torch.ones(1, 1, 1)).item() for task in range(2))
    assert found == expected


@pytest.mark.parametrize("options", [{}, {"rounds": 1}, {"keep": "last", "order": ["pairs", "grades"]}])
def test_cyclic_starts_with_the_states_of_the_encoder(options):
    check_architecture(Cyclic, identity=True, **options)


def test_in_one_round_the_ring_is_a_pipeline():
    architecture = Cyclic(facts(), rounds=1, order=["pairs", "grades", "scores"])
    parts = architecture.parts()
    users = [parts[f"layers.for_{name}"].tasks for name in ("pairs", "grades", "scores")]
    assert users == [(0, 1, 2), (0, 1), (1,)]
    assert all(part.tasks == (0, 1, 2) for name, part in Cyclic(facts()).parts().items() if name.startswith("layers"))


def test_the_parameters_of_the_ring_are_those_of_the_formula():
    architecture = Cyclic(facts(), width=5)
    added = sum(p.numel() for p in architecture.parameters()) - sum(
        p.numel() for p in architecture.encoder.parameters()
    )
    # T (f (d + f) + f + d f + d) with T = 3, d = 16, f = 5
    assert added == 3 * (5 * (16 + 5) + 5 + 16 * 5 + 16)


def test_a_task_outside_the_ring_reads_the_encoder():
    architecture = Cyclic(facts(), order=["pairs", "grades"]).eval()
    for parameter in architecture.outputs.parameters():
        nn.init.normal_(parameter)
    inputs = Inputs(TOKENS, None, None)
    plain = run_encoder(architecture.encoder, inputs).last
    assert torch.equal(architecture(1, inputs).last, plain)
    assert not torch.allclose(architecture(0, inputs).last, plain)
