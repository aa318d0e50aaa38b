"""Comparing the encodings of a pair layer by layer."""

import pytest
import torch

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.pair_compare import PairCompare
from mtlcli.tasks.targets import Classes, Score
from mtlcli.training.setup import set_up
from small import small_values, write_files

CLASSES = TaskFacts("c", 10, 1, Classes.named("no", "yes"))
SCORES = TaskFacts("s", 10, 1, Score(0.0, 5.0, 2.0, 1.5))


def encoding(*layers: list[list[float]]) -> EncoderOutput:
    """One row whose tokens are the vectors of each layer; the last token is padding."""
    states = tuple(torch.tensor([layer]) for layer in layers)
    mask = torch.ones(states[0].shape[:2], dtype=torch.bool)
    mask[:, -1] = False
    return EncoderOutput(states[-1], mask, states[-1][:, 0], states)


def test_the_features_by_hand():
    head = PairCompare(HeadFacts(SCORES, 2, 2), layers=(-1,), hidden=()).eval()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0, 1e4, 1e5]]))
        head.out.bias.zero_()
    # means (3, 4) and (1, 0), to length sqrt(2): (.6, .8) sqrt 2 and (1, 0) sqrt 2; padding counts for nothing
    a, b = encoding([[2.0, 4.0], [4.0, 4.0], [9.0, 9.0]]), encoding([[1.0, 0.0], [1.0, 0.0], [5.0, -7.0]])
    root = 2**0.5
    # a * b = (1.2, 0); |a - b| = (.4, .8) sqrt 2; a + b = (1.6, .8) sqrt 2
    expected = 1.2 + root * (40 + 800 + 16_000 + 80_000)
    assert head((a, b)).tolist() == pytest.approx([expected], rel=1e-5)
    assert head((b, a)).tolist() == pytest.approx([expected], rel=1e-5)


def test_each_layer_named_is_read_and_no_other():
    head = PairCompare(HeadFacts(CLASSES, 2, 2), layers=(-1, 0), hidden=(4,)).eval()
    assert head.hidden[1].in_features == 12
    layers = [[[1.0, 2.0], [0.0, 0.0]], [[3.0, -1.0], [0.0, 0.0]], [[-2.0, 1.0], [0.0, 0.0]]]
    other = encoding([[0.5, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    output = head((encoding(*layers), other))
    for changed, same in ((0, False), (1, True), (2, False)):
        moved = [*layers]
        moved[changed] = [[7.0, -5.0], [0.0, 0.0]]
        assert torch.equal(head((encoding(*moved), other)), output) == same


def test_a_layer_that_the_encoder_lacks_is_refused_before_step_1(tmp_path):
    values = small_values(write_files(tmp_path / "files"))
    values["tasks"]["same"] |= {"encoding": "bi", "head": {"name": "pair-compare", "layers": [-1, 5]}}
    config = resolve([Layer(values)])
    with pytest.raises(MtlError, match=r"^tasks.same.head: same reads layer 5; this encoder has 0 \(embeddings\) to 2"):
        set_up(config)
