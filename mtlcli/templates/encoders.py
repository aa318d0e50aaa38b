"""Characters: an example to change. Say here where the encoder is from: authors, venue, year, arXiv id."""

import string
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mtlcli.encoders.base import EncoderFacts, EncoderSource
from mtlcli.facts import seed_for

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Example(EncoderSource):
    """Create a small BERT with random weights that reads characters; it needs no download."""

    recommended = {"optimizer": {"lr": 1e-3, "head_lr": 1e-3}}

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(ge=4, multiple_of=4, description="width of the hidden states")] = 64,
        layers: Annotated[int, Field(ge=1, description="number of transformer layers")] = 2,
    ) -> None:
        self.dim, self.layers = dim, layers

    def folder(self, facts: EncoderFacts) -> Path:
        """Draw the weights with the run's seed and save them with the tokenizer."""
        import torch
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        place = facts.scratch / "encoder"
        vocabulary = {token: number for number, token in enumerate([*SPECIAL, *string.printable])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(
            tokenizer_object=backend, model_max_length=facts.max_length, unk_token="[UNK]", pad_token="[PAD]",
            cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        ).save_pretrained(place)  # fmt: skip
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=self.dim, num_hidden_layers=self.layers, num_attention_heads=4,
            intermediate_size=4 * self.dim, max_position_embeddings=facts.max_length, pad_token_id=0,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(facts.seed, "encoder"))
            BertModel(config).save_pretrained(place)
        return place
