"""Dropout and noise by row: what the other rows of a batch and the padding must not change, and their distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mtlcli.data.batches import Batch
from mtlcli.model.row_noise import RowDropout, keyed, normal_of_rows, use_row_dropout


def batch(rows: list[int], length: int = 5, noise: int = 2**40 + 17) -> Batch:
    numbers = np.array(rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    return Batch(0, 1, numbers, numbers, tokens, None, None, None, None, 0.0, noise=noise)


def dropped(given: Batch, width: int = 16, number: int = 1, p: float = 0.4) -> torch.Tensor:
    module = RowDropout(p, number).train()
    with keyed(given):
        return module(torch.ones(*given.tokens.shape, width))


def test_a_row_keeps_its_mask_among_other_rows_and_with_more_padding():
    alone, among = dropped(batch([7])), dropped(batch([3, 7, 1]))
    assert torch.equal(alone[0], among[1])
    padded = dropped(batch([7], length=9))
    assert torch.equal(padded[0, :5], alone[0])
    assert not torch.equal(among[0], among[1])


def test_masks_differ_between_steps_modules_and_calls():
    first = dropped(batch([7, 8]))
    assert not torch.equal(first, dropped(batch([7, 8], noise=2**40 + 18)))
    assert not torch.equal(first, dropped(batch([7, 8], noise=2**41 + 17)))
    assert not torch.equal(first, dropped(batch([7, 8]), number=2))
    module, given = RowDropout(0.4, 1).train(), torch.ones(2, 5, 16)
    with keyed(batch([7, 8])):
        calls = module(given), module(given)
    assert torch.equal(calls[0], first) and not torch.equal(*calls)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept_and_the_mean(p):
    kept = dropped(batch(list(range(64)), length=40), width=64, p=p)
    n = kept.numel()
    share = float((kept != 0).float().mean())
    assert share == pytest.approx(1 - p, abs=4 * (p * (1 - p) / n) ** 0.5)
    assert float(kept.max()) == pytest.approx(1 / (1 - p))
    # Neighbors, and rows, agree as often as independent draws do.
    agree = p * p + (1 - p) ** 2
    zero = kept == 0
    for one, other in ((zero[:, :, 1:], zero[:, :, :-1]), (zero[:, 1:], zero[:, :-1]), (zero[1:], zero[:-1])):
        assert float((one == other).float().mean()) == pytest.approx(agree, abs=0.01)


def test_attention_weights_keep_their_mask_with_more_padding():
    module = RowDropout(0.4, 1).train()
    with keyed(batch([4, 9])):
        short = module(torch.ones(2, 3, 5, 5))
    with keyed(batch([4, 9], length=8)):
        long = module(torch.ones(2, 3, 8, 8))
    assert torch.equal(long[:, :, :5, :5], short)


def test_evaluation_and_unknown_rows():
    module, given = RowDropout(0.5, 1), torch.ones(3, 4)
    with keyed(batch([1, 2, 3])):
        assert torch.equal(module.eval()(given), given)
    torch.manual_seed(0)
    found = module.train()(given)
    torch.manual_seed(0)
    assert torch.equal(found, nn.functional.dropout(given, 0.5))


def test_the_gradient_is_that_of_the_mask():
    module, given = RowDropout(0.25, 1).train(), torch.ones(2, 5, 16, requires_grad=True)
    with keyed(batch([1, 2])):
        kept = module(given)
    kept.sum().backward()
    assert torch.equal(given.grad, kept.detach())


def test_modules_are_replaced_once_each_and_keep_names_and_mode():
    shared = nn.Dropout(0.3)
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(shared, nn.Dropout(0.1).eval()))
    names = list(model.state_dict())
    use_row_dropout(model)
    assert list(model.state_dict()) == names
    assert isinstance(model[1], RowDropout) and model[1] is model[2][0] and model[1].p == 0.3
    assert not model[2][1].training and model[2][1].number != model[1].number


def test_noise_is_normal_and_of_the_row():
    given = batch(list(range(40)), length=30)
    noise = normal_of_rows(given, torch.zeros(40, 30, 50), purpose=5)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02) and float(noise.std()) == pytest.approx(1, abs=0.02)
    one = normal_of_rows(replace(batch([3])), torch.zeros(1, 5, 50), purpose=5)
    assert torch.equal(one[0], noise[3, :5])
    assert not torch.equal(noise, normal_of_rows(given, torch.zeros(40, 30, 50), purpose=6))
