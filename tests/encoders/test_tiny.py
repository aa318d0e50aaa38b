"""The encoder that needs no download: the same bytes from the same rows and seed, on any day and in any process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtlcli import registry
from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import load_encoder
from mtlcli.encoders.tiny import SPECIAL, Tiny
from mtlcli.errors import MtlError

WORDS = "walk walks walked walking talk talks talked talking the a cook cooks cooked green house houses Straße über naïve , . !".split()
SMALL = {"dim": 8, "layers": 1, "attention_heads": 2, "intermediate": 8, "vocabulary": 100}


def texts():
    return (" ".join(WORDS[(7 * row + 3 * column) % len(WORDS)] for column in range(8)) for row in range(60))


def digests(place: Path, *, seed: int = 1, rows=texts, **options) -> dict[str, str]:
    """sha256 of every file of the folder."""
    place.mkdir(exist_ok=True)
    folder = Tiny(**{**SMALL, **options}).folder(EncoderFacts(rows, place, seed, 32))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_rows_and_seed_give_the_same_bytes(tmp_path):
    torch.manual_seed(1)
    first = digests(tmp_path / "a")
    torch.manual_seed(2)
    assert digests(tmp_path / "b") == first
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(first)


def test_another_seed_gives_other_weights_and_the_same_vocabulary(tmp_path):
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b", seed=2)
    assert [name for name in first if first[name] != second[name]] == ["model.safetensors"]


@pytest.mark.slow
def test_the_bytes_are_the_same_in_every_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_tiny;"
        "print(test_tiny.digests(Path(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "there")],
        env={**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(digests(tmp_path / "here"))


def test_making_it_leaves_the_random_numbers_of_the_run_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    digests(tmp_path / "a")
    assert torch.equal(torch.rand(2), expected)


def test_the_vocabulary_is_that_of_the_rows(tmp_path):
    digests(tmp_path / "a")
    tokenizer = load_encoder(tmp_path / "a" / "tiny").tokenizer
    known = tokenizer.get_vocab()
    assert [known[token] for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert len(known) <= 100
    letters = {letter for piece in known if piece not in SPECIAL for letter in piece.removeprefix("##")}
    assert letters <= set("".join(texts()).lower()) | set("uai")  # accents are taken off
    assert tokenizer.tokenize("WALKED the häuser") == [*tokenizer.tokenize("walked"), *tokenizer.tokenize("the hauser")]
    assert tokenizer.tokenize("数") == ["[UNK]"]


def test_it_is_a_model_that_transformers_runs(tmp_path):
    digests(tmp_path / "a", layers=2)
    loaded = load_encoder(tmp_path / "a" / "tiny")
    inputs = loaded.tokenizer(["the cook walks", "a house"], padding=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert loaded.model(**inputs).last_hidden_state.shape == (2, inputs["input_ids"].shape[1], 8)
    assert loaded.model.config.max_position_embeddings == 32
    assert loaded.tokenizer.decode(inputs["input_ids"][1], skip_special_tokens=True) == "a house"


def test_no_text_at_all_gives_the_special_tokens(tmp_path):
    digests(tmp_path / "a", rows=lambda: iter(()))
    assert (tmp_path / "a" / "tiny" / "tokenizer.json").is_file()


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(MtlError, match=r"encoder\.dim: found 10; expected a multiple of attention_heads \(4\)"):
        Tiny(dim=10)


def test_its_options_are_those_of_the_configuration():
    options, errors = registry.check_options(Tiny, "tiny", {"dim": "8", "attention_heads": 2})
    assert (options["dim"], options["layers"], errors) == (8, 2, [])
