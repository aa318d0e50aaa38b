"""A name becomes a model, or an error that says where it was looked for and what to do, within ten seconds."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtlcli.config.schema import EncoderConfig
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.encoders import load as resolving
from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import check_length, encoder_folder, load_encoder
from mtlcli.encoders.tiny import Tiny
from mtlcli.errors import MtlError
from words import word_tokenizer

TEXTS = ["the cook sees the dog", "the dog finds a cook", "a dog sees"] * 4
FACTS = EncoderFacts(lambda: iter(TEXTS), Path("unused"), 1, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole model folder."""
    place = tmp_path_factory.mktemp("made")
    tiny = Tiny(dim=8, layers=1, attention_heads=2, intermediate=8, vocabulary=100)
    return tiny.folder(EncoderFacts(lambda: iter(TEXTS), place, 1, 16))


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "model"))


def error(call, *arguments) -> str:
    with pytest.raises(MtlError) as caught:
        call(*arguments)
    return str(caught.value)


def change(folder: Path, name: str = "config.json", **values) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Folders


def test_a_folder_is_loaded(folder):
    assert encoder_folder(EncoderConfig(name=str(folder)), FACTS) == folder
    loaded = load_encoder(folder)
    assert loaded.dim == 8
    assert loaded.model.dtype == torch.float32


def test_without_weights_the_model_is_made_anew(folder):
    (folder / "model.safetensors").unlink()
    assert load_encoder(folder, weights=False).dim == 8


def test_a_typo_in_a_path_names_the_nearest_folder(folder):
    found = error(encoder_folder, EncoderConfig(name=str(folder.parent / "modle")), FACTS)
    assert found == f'encoder: there is no folder {folder.parent / "modle"}; did you mean "model"?'
    assert "there is no folder" in error(encoder_folder, EncoderConfig(name="./nowhere/at/all"), FACTS)


def test_a_folder_around_the_model_names_the_model(folder):
    found = error(encoder_folder, EncoderConfig(name=str(folder.parent)), FACTS)
    assert "has no config.json" in found
    assert f'did you mean "{folder}"?' in found


def cut(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def gone(folder):
    (folder / "model.safetensors").unlink()


def no_json(folder):
    (folder / "config.json").write_text("{")


def no_type(folder):
    (folder / "config.json").write_text("{}")


def unknown_type(folder):
    change(folder, model_type="nope")


def wider(folder):
    change(folder, hidden_size=16)


def deeper(folder):
    change(folder, num_hidden_layers=2)


def another_kind(folder):
    (folder / "config.json").write_text(
        json.dumps({"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8})
    )


def wrong_value(folder):
    change(folder, hidden_size="8")


def fewer_words(folder):
    state = load_file(folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][:9].clone()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    change(folder, vocab_size=9)


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def half_a_tokenizer(folder):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:300])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, "are damaged"),
        (empty, "are damaged"),
        (gone, "cannot be loaded by transformers: Error no file named model.safetensors"),
        (no_json, "cannot be loaded by transformers"),
        (no_type, "cannot be loaded by transformers: Unrecognized model"),
        (unknown_type, "cannot be loaded by transformers"),
        (wider, "do not have the sizes that its config.json states"),
        (deeper, "16 are missing, such as encoder.layer.1.attention.output.LayerNorm.bias"),
        (another_kind, "the weights in"),
        (wrong_value, "cannot be loaded by transformers: "),
        (fewer_words, "but the model has embeddings for 0 to 8; use the tokenizer that belongs to the model"),
        (no_tokenizer, "has no tokenizer (tokenizer.json)"),
        (half_a_tokenizer, "cannot be loaded by transformers"),
    ],
)
def test_a_damaged_folder_is_named_with_what_is_wrong(folder, damage, expected):
    damage(folder)
    found = error(load_encoder, folder)
    assert str(folder) in found
    assert expected in found
    assert "\n" not in found


def test_a_model_trained_with_another_head_loads_without_its_pooler(folder):
    state = load_file(folder / "model.safetensors")
    kept = {f"bert.{key}": value for key, value in state.items() if "pooler" not in key}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    loaded = load_encoder(folder).model.state_dict()
    assert all(torch.equal(loaded[key.removeprefix("bert.")], value) for key, value in kept.items())


def test_a_model_that_also_writes_text_is_refused(tmp_path):
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    word_tokenizer(["a"]).save_pretrained(tmp_path)
    T5Model(config).save_pretrained(tmp_path)
    assert "is a t5 model; expected a text encoder" in error(load_encoder, tmp_path)


def test_a_tokenizer_without_a_fast_form_is_refused(folder, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace(is_fast=False))
    assert "has no fast tokenizer (tokenizer.json)" in error(load_encoder, folder)


# Length


def test_the_length_is_at_most_the_positions(made):
    encoder = load_encoder(made)
    check_length(encoder, 16)
    assert error(check_length, encoder, 17) == (
        "encoder.max_length: found 17, but this encoder has 16 positions; set it to 16 or less"
    )


def test_positions_counted_from_behind_the_padding_are_fewer(tmp_path):
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                           max_position_embeddings=18, pad_token_id=1)  # fmt: skip
    encoder = resolving.LoadedEncoder(RobertaModel(config).eval(), None, 8)
    check_length(encoder, 16)
    assert "has 16 positions" in error(check_length, encoder, 17)
    assert encoder.model(torch.full((1, 16), 5)).last_hidden_state.shape == (1, 16, 8)


def test_a_model_without_a_table_of_positions_has_no_limit():
    model = SimpleNamespace(config=SimpleNamespace())
    check_length(resolving.LoadedEncoder(model, None, 8), 10_000)


# Plugins and the hub


def test_a_plugin_gets_its_options_and_the_facts(tmp_path):
    config = EncoderConfig(name="tiny", dim=8, layers=1, attention_heads=2, intermediate=8, vocabulary=100, dropout=0.1)
    facts = EncoderFacts(lambda: iter(TEXTS), tmp_path, 1, 16)
    loaded = load_encoder(encoder_folder(config, facts))
    assert loaded.dim == 8
    assert Tokenizer(loaded.tokenizer, 16).sequences([("the dog",)]).truncated == 0


def test_a_class_may_be_named_itself(tmp_path):
    config = EncoderConfig(name="mtlcli.encoders.tiny:Tiny", dim=8, layers=1, attention_heads=2, intermediate=8)
    assert encoder_folder(config, EncoderFacts(lambda: iter(TEXTS), tmp_path, 1, 16)).is_dir()


@pytest.mark.parametrize("name", ["a/b/c", "two words", "a--b", "é"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_said_at_once(name, monkeypatch):
    monkeypatch.setattr(resolving, "hub_answers", lambda: pytest.fail("the hub was asked"))
    assert f'"{name}" is neither a folder nor a Hub id' in error(encoder_folder, EncoderConfig(name=name), FACTS)


def test_a_hub_that_does_not_answer_leaves_three_ways_out(monkeypatch):
    monkeypatch.setattr(resolving, "hub_answers", lambda: False)
    monkeypatch.setattr(resolving, "offline", lambda: False)
    found = error(encoder_folder, EncoderConfig(name="tyny"), FACTS)
    assert (
        'there is no folder "tyny", and it cannot be downloaded from the Hub (the Hub does not answer within 5 s)'
        in found
    )
    for cure in ("--encoder DIR", "an installed encoder (tiny", "HF_ENDPOINT", 'did you mean "tiny"?'):
        assert cure in found


def test_whatever_the_library_of_the_hub_raises_is_one_line(monkeypatch):
    import huggingface_hub

    def download(name, *, allow_patterns, local_files_only=False):
        raise FileNotFoundError("not here") if local_files_only else RuntimeError("\nbroken pipe\nsomewhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(resolving, "hub_answers", lambda: True)
    found = error(encoder_folder, EncoderConfig(name="owner/name"), FACTS)
    assert found.startswith('encoder: "owner/name" could not be downloaded from the Hub (broken pipe): looked in ')


def test_what_is_in_the_cache_needs_no_hub(monkeypatch, folder):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: str(folder))
    monkeypatch.setattr(resolving, "hub_answers", lambda: pytest.fail("the hub was asked"))
    assert encoder_folder(EncoderConfig(name="owner/name"), FACTS) == folder


ASK = """
import sys, time
from pathlib import Path
from mtlcli.config.schema import EncoderConfig
from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import encoder_folder
from mtlcli.errors import MtlError
import transformers
start = time.monotonic()
try:
    encoder_folder(EncoderConfig(name="owner/name"), EncoderFacts(lambda: iter(()), Path("."), 1, 16))
except MtlError as error:
    print(f"{time.monotonic() - start:.2f}", error)
"""


@pytest.mark.parametrize(
    ("offline", "why", "limit"),
    [
        pytest.param("", "the Hub does not answer within 5 s", 10, marks=pytest.mark.slow),
        ("1", "HF_HUB_OFFLINE is set", 3),
    ],
)
def test_a_hub_that_accepts_and_never_answers_ends_within_ten_seconds(tmp_path, offline, why, limit):
    """In a process of its own, because the libraries read their environment when they are imported."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{listening.getsockname()[1]}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    seconds, _, found = done.stdout.partition(" ")
    assert float(seconds) < limit
    assert why in found
    assert f"looked in {tmp_path / 'hub'} first" in found
