"""Small random models of many families of encoders."""

import pytest
import torch
import transformers
from transformers import PreTrainedModel

BERT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
ROBERTA = BERT | {"max_position_embeddings": 33, "type_vocab_size": 1}
EMBEDDING = {"embedding_size": 8}

FAMILIES = {
    "BertModel": BERT,
    "RobertaModel": ROBERTA,
    "XLMRobertaModel": ROBERTA,
    "DebertaV2Model": BERT
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
    "ModernBertModel": BERT | {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "DistilBertModel": {"vocab_size": 30, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16,
                        "max_position_embeddings": 32, "pad_token_id": 0},
    "AlbertModel": BERT | EMBEDDING,
    "MPNetModel": BERT | {"max_position_embeddings": 34},
    "ElectraModel": BERT | EMBEDDING,
    "MobileBertModel": BERT | EMBEDDING | {"intra_bottleneck_size": 8, "true_hidden_size": 8},
    "GPT2Model": {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 2,
                  "eos_token_id": 3},
    "Qwen2Model": BERT | {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3},
    "XLNetModel": {"vocab_size": 30, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16, "pad_token_id": 0,
                   "initializer_range": 0.5},
    "T5EncoderModel": {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
}  # fmt: skip
SEGMENTS = {"BertModel", "AlbertModel", "ElectraModel", "MobileBertModel", "XLNetModel"}


def build(name: str, **options) -> PreTrainedModel:
    torch.manual_seed(5)
    model = getattr(transformers, name)
    return model(model.config_class(**options)).eval()


QUICK = ("BertModel", "DebertaV2Model", "ModernBertModel", "AlbertModel", "GPT2Model")
TRACED = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
    if name not in ("MobileBertModel", "XLNetModel")
]
"""The families whose layers can be traced, for tests of one architecture on all of them; most run by `make test-all`."""
