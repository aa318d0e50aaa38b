"""Pipelines of signals by hand."""

import pytest
import torch

from families import FAMILIES, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.signal_pipeline import SignalPipeline, weighted
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.pooling import pool
from mtlcli.tasks.tags import Tags
from mtlcli.testing import RUN, check_architecture

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
TAGS = TaskFacts("tags", rows=10, batches=1, target=Tags(("O", "B-A", "I-A"), "bio"))


def made(tasks=RUN.tasks, **options) -> SignalPipeline:
    return SignalPipeline(ArchitectureFacts(build("BertModel", **FAMILIES["BertModel"]), tasks, 1), **options).eval()


def test_mean_pooling_of_weighted_states_is_the_weighted_mean():
    # p = (1, 0, 1), h = 1, 5, 3: (1 + 3) / 2 = 2; the last token is padding
    p, h = torch.tensor([[[1.0], [0.0], [1.0], [1.0]]]), torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(pool(weighted(h, p, mask), mask, "mean"), torch.tensor([[2.0]]), rtol=0, atol=1e-5)
    for value in (0.3, 0.0):  # a constant, and nothing at all: the plain mean
        constant = torch.full_like(p, value)
        torch.testing.assert_close(pool(weighted(h, constant, mask), mask, "mean"), torch.tensor([[3.0]]))


def test_the_probability_mixes_two_views():
    # p = 0.75, A_1 = 4, A_2 = 0: 3
    architecture = made()
    hidden = run_encoder(architecture.encoder, Inputs(TOKENS, None, None))
    for module, value in zip(architecture.views.of(1), (4.0, 0.0), strict=True):
        module.forward = lambda states, value=value: value - states
    p = torch.tensor([[0.1, 0.75, 0.15]] * 2)
    given = Inputs(TOKENS, None, None, read=lambda task, states: p)
    torch.testing.assert_close(architecture.features(1, hidden, given).last, torch.full_like(hidden.last, 3.0))
    floored = made(floor=0.2)
    for module, value in zip(floored.views.of(1), (1.0, 0.0), strict=True):
        module.forward = lambda states, value=value: value - states
    assert floored.features(1, hidden, given).last[0, 0, 0].item() == pytest.approx(0.2 + 0.8 * 0.75)


def test_the_label_is_found_by_its_name_and_tags_weigh_tokens():
    architecture = made((TAGS, *RUN.tasks), form="weights", label="I-A")
    assert (architecture.source, architecture.label) == (0, 2)
    tags = torch.rand(2, 5, 3)
    given = Inputs(TOKENS, None, None, read=lambda task, states: tags)
    hidden = run_encoder(architecture.encoder, given)
    expected = hidden.last * (tags[..., 2:] / tags[..., 2:].mean(1, keepdim=True))
    torch.testing.assert_close(architecture(1, given).last, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(architecture(0, given).last, hidden.last)  # the source reads the encoder


@pytest.mark.parametrize("options", [{}, {"source": "pairs", "label": "different", "floor": 0.1}, {"detach": True}])
def test_identity_and_ownership(options):
    check_architecture(SignalPipeline, identity=True, **options)


def test_the_parameters_are_those_of_the_formula():
    architecture = made(width=3)
    # 2 (2 d m + m + d) with d = 16, m = 3
    assert [sum(p.numel() for p in architecture.views.of(t).parameters()) for t in range(3)] == [0, 230, 230]
    assert [architecture.reads(t) for t in range(3)] == [(), (0,), (0,)]
    assert made(readers=["pairs"]).lower == ((), (), (0,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "film"}, r'architecture\.source: no task "film"'),
        ({"source": "scores"}, r"architecture\.source: scores gives no probabilities"),
        ({"label": "superb"}, r'architecture\.label: grades has no label "superb"; there are: bad, fair, good'),
        ({"readers": ["grades"], "source": "grades"}, r"architecture\.readers: grades is the source"),
        ({"form": "weights"}, "weights need a source that tags words"),
        ({"form": "weights", "source": "grades"}, "weights need a source that tags words"),
    ],
)
def test_what_the_options_cannot_mean_is_refused(options, message):
    with pytest.raises(MtlError, match=message):
        made(**options)
