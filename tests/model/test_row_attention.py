"""Dropout of attention weights by row: what padding and the other rows of a batch must not change, in encoders and decoders."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, DebertaV2Config, Qwen2Config

from mtlcli.data.batches import Batch
from mtlcli.model.row_attention import IMPLEMENTATION, attend_by_row, use_row_attention
from mtlcli.model.row_noise import dropped_by_row, keyed, use_row_dropout

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "num_attention_heads": 4}
CONFIGS = {
    "bert": lambda: BertConfig(**SIZES, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.4),
    "qwen2": lambda: Qwen2Config(**SIZES, num_key_value_heads=2, attention_dropout=0.4),
}


def batch(rows: list[int], length: int) -> Batch:
    numbers = np.array(rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    return Batch(0, 1, numbers, numbers, tokens, None, None, None, None, 0.0, noise=2**40 + 17)


def states(encoder, rows: list[int], texts: list[list[int]]) -> torch.Tensor:
    """The states of the first text, in training."""
    length = max(map(len, texts))
    tokens = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    with keyed(batch(rows, length)):
        return encoder(input_ids=tokens, attention_mask=mask).last_hidden_state[0, : len(texts[0])]


@pytest.fixture(params=CONFIGS)
def encoder(request):
    torch.manual_seed(3)
    model = AutoModel.from_config(CONFIGS[request.param]()).train()
    use_row_dropout(model)
    return model


def test_a_row_has_the_same_states_among_others_and_with_more_padding(encoder):
    text, long = [5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]
    fused = states(encoder, [7], [text]), states(encoder, [7, 2], [text, long])
    assert not torch.allclose(*fused, atol=1e-5)  # the kernel draws its own numbers
    assert use_row_attention(encoder)
    alone = states(encoder, [7], [text])
    torch.testing.assert_close(states(encoder, [7, 2], [text, long]), alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(states(encoder, [7], [text]), alone, atol=0, rtol=0)
    assert not torch.allclose(states(encoder, [2], [text]), alone, atol=1e-3)


def test_in_evaluation_it_is_the_attention_of_transformers(encoder):
    encoder.eval()
    texts = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]]
    before = states(encoder, [7, 2], texts)
    use_row_attention(encoder)
    assert encoder.config._attn_implementation == IMPLEMENTATION
    torch.testing.assert_close(states(encoder, [7, 2], texts), before, atol=1e-6, rtol=1e-5)


def test_the_weights_are_those_of_the_equation():
    torch.manual_seed(0)
    module = torch.nn.Linear(1, 1)
    query, key, value = torch.randn(3, 2, 2, 5, 4).unbind(0)
    mask = torch.zeros(2, 1, 5, 5).masked_fill(torch.arange(5) > 3, -1e9)
    with keyed(batch([3, 8], 5)):
        found, weights = attend_by_row(module, query, key, value, mask, dropout=0.25, scaling=0.5)
    with keyed(batch([3, 8], 5)):
        dropped = dropped_by_row(module, 0.25, (2, 2, 5, 5))
    assert weights is None and 0 < int(dropped.sum()) < dropped.numel()
    kept = torch.softmax(query @ key.mT * 0.5 + mask, dim=-1) * ~dropped / 0.75
    torch.testing.assert_close(found, (kept @ value).transpose(1, 2))


def test_modules_and_calls_draw_different_numbers(encoder):
    first, second = (layer for name, layer in encoder.named_modules() if name.endswith(("self", "self_attn")))
    with keyed(batch([3, 8], 5)):
        draws = [dropped_by_row(module, 0.5, (2, 2, 5, 5)) for module in (first, second, first)]
    assert not any(torch.equal(draws[a], draws[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert dropped_by_row(first, 0.5, (2, 2, 5, 5)) is None


# Early releases of transformers 5 script DeBERTa with torch.jit, which warns in later PyTorch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_encoder_with_attention_of_its_own_keeps_it_and_drops_by_row_all_the_same():
    torch.manual_seed(3)
    config = DebertaV2Config(
        **SIZES,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.4,
        relative_attention=True,
        pos_att_type=["p2c"],
    )
    model = AutoModel.from_config(config).train()
    use_row_dropout(model)
    assert not use_row_attention(model)
    alone = states(model, [7], [[5, 6, 7, 8]])
    among = states(model, [7, 2], [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15]])
    torch.testing.assert_close(among, alone, atol=1e-6, rtol=1e-5)


def test_copies_of_an_encoder_and_of_its_layers_draw_by_row_too():
    """As towers have them: a copied layer has a copy of the configuration."""
    encoder = AutoModel.from_config(BertConfig(**SIZES, attention_probs_dropout_prob=0.4))
    copies = torch.nn.ModuleList([encoder, copy.deepcopy(encoder), copy.deepcopy(encoder.encoder.layer[0])])
    assert use_row_attention(copies)
    found = {module.config._attn_implementation for module in copies.modules() if hasattr(module, "config")}
    assert found == {IMPLEMENTATION}


def test_no_two_heads_of_many_have_the_same_mask():
    module = torch.nn.Module()
    with keyed(batch([7], 9)):
        dropped = dropped_by_row(module, 0.3, (1, 40, 9, 9))
    masks = {tuple(head.flatten().tolist()) for head in dropped[0]}
    assert len(masks) == 40
    # 3,240 weights: three standard deviations are .024.
    assert abs(float(dropped.float().mean()) - 0.3) < 0.024
