"""HyperGrid by hand, and on encoders of many families."""

import math

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.hypergrid import Grid, HyperGrid, _divisor
from mtlcli.architectures.lora import weight_of
from mtlcli.errors import MtlError
from mtlcli.testing import RUN, check_architecture

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)


def made(name: str = "BertModel", **options) -> HyperGrid:
    return HyperGrid(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


def move(architecture: HyperGrid) -> None:
    torch.manual_seed(2)
    for parameter in architecture.shared.parameters():
        nn.init.normal_(parameter)


def test_a_grid_is_twice_the_sigmoid_of_the_outer_product():
    # r = (0, ln 3), c = (1, 2): sigmoid ((.5, .5), (.75, .9))
    grid = Grid(1, 2, 2, "global")
    with torch.no_grad():
        grid.row.copy_(torch.tensor([0.0, math.log(3)]))
        grid.column.copy_(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(grid(torch.zeros(1)), torch.tensor([[1.0, 1.0], [1.5, 1.8]]))


def test_rows_or_columns_come_from_the_input():
    x = torch.tensor([2.0])
    for kind, (rows, columns) in {
        "local-global": (2.0, 1.0),
        "global-local": (1.0, 2.0),
        "local": (2.0, 2.0),
        "global": (1.0, 1.0),
    }.items():
        grid = Grid(1, 1, 1, kind)
        nn.init.ones_(grid.row)
        nn.init.ones_(grid.column)
        assert grid(x).item() == pytest.approx(2 / (1 + math.exp(-rows * columns)))


@pytest.mark.parametrize("by", ["task", "text"])
@pytest.mark.parametrize("name", TRACED)
def test_grids_of_ones_change_nothing_and_others_scale_blocks_of_the_matrix(name, by):
    architecture = made(name, by=by)
    plain, same = run_encoder(architecture.encoder, TOKENS), architecture(0, TOKENS)
    assert all(torch.equal(a, b) for a, b in zip(plain.layers, same.layers, strict=True))
    move(architecture)
    features = architecture(0, TOKENS)
    assert not torch.allclose(features.layers[1], plain.layers[1], atol=1e-4)
    if by == "text" or name == "AlbertModel":
        with pytest.raises(MtlError, match="by the text" if by == "text" else "one block for several depths"):
            architecture.merged(0)
        return
    torch.testing.assert_close(run_encoder(architecture.merged(0), TOKENS).last, features.last, rtol=0, atol=2e-5)
    with pytest.raises(MtlError, match="export one task"):
        architecture.merged(None)


@pytest.mark.parametrize("by", ["task", "text"])
def test_every_block_of_weights_has_its_factor(by):
    architecture = made(by=by, rows=2, columns=4)
    move(architecture)
    layer, seen = architecture.encoder.encoder.layer[0], {}

    def keep(name):
        return lambda _, given, output: seen.update({name: given[0]})

    handles = [
        layer.output.dense.register_forward_hook(keep("hidden")),
        layer.intermediate.register_forward_hook(keep("h")),
    ]
    states = architecture(0, TOKENS).layers
    for handle in handles:
        handle.remove()
    grids, weight = architecture.shared[0], weight_of(layer.output.dense)
    for row in range(2):
        grid = grids(architecture.tasks.of(0).vector) if by == "task" else grids(seen["h"][row, 0])
        factors = torch.tensor([[grid[i // 8, j // 4].item() for j in range(16)] for i in range(16)])
        dense = seen["hidden"][row] @ (weight * factors).T + layer.output.dense.bias
        torch.testing.assert_close(states[1][row], layer.output.LayerNorm(dense + seen["h"][row]), rtol=0, atol=1e-5)


def test_the_first_token_of_a_text_decides_wherever_padding_stands():
    architecture = made("GPT2Model", by="text")
    move(architecture)
    left = Inputs(
        torch.tensor([[0, 0, 5, 6, 7]]),
        torch.tensor([[False, False, True, True, True]]),
        None,
        positions=torch.tensor([[0, 0, 0, 1, 2]]),
    )
    alone = architecture(0, Inputs(torch.tensor([[5, 6, 7]]), None, None)).last
    torch.testing.assert_close(architecture(0, left).last[:, 2:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "count"),
    # d = F = 16: grids of 16 x 16; by task 64 * 16 + 16 a layer, by text 16 * 16 + 16; rows: 2 and columns: 3 become 2 and 2
    [({}, 2 * (64 * 16 + 16)), ({"by": "text"}, 2 * 272), ({"rows": 2, "columns": 3, "kind": "local"}, 2 * 64 * 4)],
)
def test_the_parameters_are_those_of_the_formula(options, count):
    assert sum(p.numel() for p in made(**options).shared.parameters()) == count


def test_rows_and_columns_divide_the_matrix():
    assert [_divisor(384, 16), _divisor(1536, 16), _divisor(312, 16), _divisor(7, 4)] == [16, 16, 13, 1]


@pytest.mark.parametrize("options", [{}, {"by": "text", "kind": "local"}])
def test_identity_holds_for_every_task(options):
    check_architecture(HyperGrid, identity=True, **options)
