"""One vector a text: padding never counts."""

import pytest
import torch

from mtlcli.heads.pooling import pool

TOKENS = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [50.0, 60.0]], [[5.0, 0.0], [70.0, 80.0], [90.0, 99.0]]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("cls", [[1.0, -4.0], [5.0, 0.0]]), ("mean", [[2.0, -3.0], [5.0, 0.0]]), ("max", [[3.0, -2.0], [5.0, 0.0]])],
)
def test_by_hand(kind, expected):
    assert pool(TOKENS, MASK, kind).tolist() == expected


@pytest.mark.parametrize("kind", ["cls", "mean", "max"])
def test_padding_changes_nothing(kind):
    alone = pool(TOKENS[:1, :2], None, kind)
    assert torch.equal(alone, pool(TOKENS[:1, :2], MASK[:1, :2], kind))
    assert torch.equal(alone, pool(TOKENS[:1], MASK[:1], kind))


@pytest.mark.parametrize("kind", ["cls", "mean", "max"])
def test_padding_gets_no_gradient(kind):
    tokens = TOKENS.clone().requires_grad_()
    pool(tokens, MASK, kind).sum().backward()
    assert not tokens.grad[~MASK].any()
    assert tokens.grad[MASK].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["cls", "mean", "max"])
def test_the_kind_of_number_is_kept_and_stays_finite(kind, dtype):
    found = pool((TOKENS * -600).to(dtype), MASK, kind)
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_the_mean_of_many_tokens_is_exact_in_low_precision():
    tokens, mask = torch.full((1, 400, 1), 3.0, dtype=torch.bfloat16), torch.ones(1, 400, dtype=torch.bool)
    assert pool(tokens, mask, "mean").item() == pytest.approx(3.0, rel=0.01)


def test_another_kind_is_a_bug():
    with pytest.raises(ValueError, match="no pooling 'sum'"):
        pool(TOKENS, None, "sum")
