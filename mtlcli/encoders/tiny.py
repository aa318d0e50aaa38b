"""Small BERT with random weights and a WordPiece vocabulary of the run's training texts, which needs no download."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mtlcli.encoders.base import EncoderFacts, EncoderSource
from mtlcli.encoders.wordpiece import learn_vocabulary
from mtlcli.errors import MtlError
from mtlcli.facts import seed_for

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Tiny(EncoderSource):
    """Train from random weights, for demonstrations, tests and a lower bound; real tasks need a pre-trained encoder.

    The recommended learning rates and the initial standard deviation were tuned on the made-up corpus: with BERT's 0.02 the
    paraphrase task, which depends on word order, stays at chance for a thousand steps.
    """

    recommended = {
        "optimizer": {"lr": 1.75e-3, "head_lr": 1.75e-3, "beta2": 0.98, "warmup": 0.1},
        "training": {"batch_size": 32, "epochs": 3},
    }

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(ge=4, description="width of the hidden states; a multiple of attention_heads")] = 128,
        layers: Annotated[int, Field(ge=1, description="transformer layers")] = 2,
        attention_heads: Annotated[int, Field(ge=1, description="attention heads of each layer")] = 4,
        intermediate: Annotated[int, Field(ge=4, description="width of the feed-forward layers")] = 256,
        vocabulary: Annotated[int, Field(ge=100, description="maximum number of word pieces")] = 2000,
        dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of hidden states and attention")] = 0.0,
        initial_std: Annotated[float, Field(gt=0, description="standard deviation of the initial weights")] = 0.06,
    ) -> None:
        if dim % attention_heads:
            raise MtlError(f"encoder.dim: found {dim}; expected a multiple of attention_heads ({attention_heads})")
        self.dim, self.layers, self.attention_heads = dim, layers, attention_heads
        self.intermediate, self.vocabulary, self.dropout = intermediate, vocabulary, dropout
        self.initial_std = initial_std

    def folder(self, facts: EncoderFacts) -> Path:
        """Train the vocabulary, draw the weights with the run's seed, and save both."""
        import torch
        from transformers import BertConfig, BertModel

        folder = facts.scratch / "tiny"
        tokenizer = self._tokenizer(facts)
        tokenizer.save_pretrained(folder)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.dim,
            num_hidden_layers=self.layers,
            num_attention_heads=self.attention_heads,
            intermediate_size=self.intermediate,
            max_position_embeddings=max(facts.max_length, 16),
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            initializer_range=self.initial_std,
            pad_token_id=tokenizer.pad_token_id,
        )
        # The weights depend on the run's seed alone, and drawing them does not shift the run's random state.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(facts.seed, "tiny"))
            BertModel(config).save_pretrained(folder)
        return folder

    def _tokenizer(self, facts: EncoderFacts):  # type: ignore[no-untyped-def]
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        words: Counter[str] = Counter()
        # Split as the tokenizer will split, so that pieces are counted on the words that it will read.
        for text in facts.texts():
            words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))
        vocabulary = learn_vocabulary(words, self.vocabulary, SPECIAL)
        # The special tokens come first, so that their ids are their places in SPECIAL.
        numbers = {piece: number for number, piece in enumerate(vocabulary)}
        backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
        backend.decoder = decoders.WordPiece()
        cls, sep = (SPECIAL.index(token) for token in ("[CLS]", "[SEP]"))
        backend.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
            model_max_length=facts.max_length,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )  # fmt: skip
