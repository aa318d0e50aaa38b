from pathlib import Path

from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import load_encoder
from mtlcli.templates.encoders import Example
from mtlcli.testing import check_encoder


def test_contract() -> None:
    check_encoder(Example, dim=16, layers=1)


def test_three_letters_are_five_tokens(tmp_path: Path) -> None:
    facts = EncoderFacts(lambda: iter(()), tmp_path, seed=1, max_length=16)
    tokenizer = load_encoder(Example(dim=16, layers=1).folder(facts)).tokenizer
    assert tokenizer.tokenize("Sea") == ["s", "e", "a"]
    assert len(tokenizer("Sea")["input_ids"]) == 5
