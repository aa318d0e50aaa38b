"""The contract of encoder plugins."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from mtlcli.config.schema import Config
from mtlcli.encoders.base import EncoderFacts, EncoderSource
from mtlcli.encoders.load import check_length, check_padding, load_encoder, quiet_transformers
from mtlcli.errors import MtlError
from mtlcli.testing.common import checked_options, expect, finite

LENGTH = 32


def check_encoder(plugin: type[EncoderSource], **options: object) -> None:
    """Check the folder that an encoder plugin returns, loading it as a run does.

    - the folder contains config.json, *.safetensors and tokenizer.json, and AutoModel and AutoTokenizer load it;
    - hidden states are finite (n, length, dim), and the model has the requested number of positions;
    - texts can be padded, and two calls with the same facts produce the same weights.
    """
    checked = checked_options(plugin, EncoderSource, 0, options)
    name = plugin.__name__
    try:
        Config.model_validate(dict(plugin.recommended))
    except ValidationError as error:
        raise AssertionError(f"{name}.recommended: expected keys of the configuration: {error}") from error
    quiet_transformers()
    # Repeated, because a plugin can learn its vocabulary from frequent words.
    texts = ("a small house by the sea", "the sea is large and the house is not", "not by the house") * 20
    states = []
    # Twice in fresh folders, to compare the weights.
    for _ in range(2):
        with tempfile.TemporaryDirectory() as scratch:
            folder = plugin(**checked).folder(
                EncoderFacts(lambda: iter(texts), Path(scratch), seed=42, max_length=LENGTH)
            )
            for file in ("config.json", "tokenizer.json"):
                expect((folder / file).is_file(), f"{name}: expected {file} in {folder}")
            expect(list(folder.glob("*.safetensors")), f"{name}: expected *.safetensors in {folder}")
            try:
                loaded = load_encoder(folder)
                check_length(loaded, LENGTH)
                check_padding(loaded)
            except MtlError as error:
                raise AssertionError(f"{name}: {error}") from error
            states.append(_hidden_states(name, loaded.model, loaded.tokenizer, list(texts[:3]), loaded.dim))
    expect(torch.equal(*states), f"{name}: expected the same weights for the same seed and texts")


def _hidden_states(name: str, model: Any, tokenizer: Any, texts: list[str], dim: int) -> Tensor:
    expect(tokenizer.pad_token_id is not None, f"{name}: its tokenizer has no padding token")
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    pair = tokenizer(texts[0], texts[1])["input_ids"]
    both = len(tokenizer(texts[0])["input_ids"]) + len(tokenizer(texts[1], add_special_tokens=False)["input_ids"])
    # Some tokenizers ignore the second text without an error.
    expect(len(pair) >= both, f"{name}: its tokenizer drops a part of a pair of texts")
    model.eval()
    with torch.inference_mode():
        hidden: Tensor = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    expect(
        hidden.shape == (*tokens["input_ids"].shape, dim) and finite(hidden),
        f"{name}: expected finite hidden states {(*tokens['input_ids'].shape, dim)}, found {tuple(hidden.shape)}",
    )
    return hidden
