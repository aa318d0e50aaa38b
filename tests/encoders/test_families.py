"""Small random models of many families: each loads, takes pairs, and gives a text the same states alone and in a batch."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from families import BERT, FAMILIES, ROBERTA, SEGMENTS, build
from mtlcli.architectures.base import Inputs, run_encoder
from mtlcli.data.batches import collate
from mtlcli.data.tokenizer import Tokenizer
from mtlcli.data.tokens import TokenizedSplit
from mtlcli.encoders.load import LoadedEncoder, check_length, check_padding, load_encoder
from mtlcli.errors import MtlError
from words import word_tokenizer

WORDS = "the cook sees a dog and the waiter finds it in house".split()


def save(folder: Path, model: PreTrainedModel, **tokenizer_options) -> Path:
    """A model folder with a tokenizer of whole words that announces segment ids, whether or not the model has segments."""
    model.save_pretrained(folder)
    word_tokenizer(WORDS, **tokenizer_options).save_pretrained(folder)
    return folder


def tokenized(encoder: LoadedEncoder, texts: list[tuple[str, ...]]) -> TokenizedSplit:
    tokenizer = Tokenizer(encoder.tokenizer, 32)
    return TokenizedSplit((tokenizer.sequences(texts),), tokenizer.pad)


def states(encoder: LoadedEncoder, split: TokenizedSplit, rows: list[int]) -> torch.Tensor:
    batch = collate(split, 0, torch.tensor(rows).numpy())
    with torch.no_grad():
        hidden = run_encoder(encoder.model, Inputs(batch.tokens, batch.mask, batch.types, all_layers=True))
    assert torch.equal(hidden.layers[-1], hidden.last)
    return hidden.last


PAIRS = [
    ("the cook sees", "a dog"),
    ("the waiter finds it", "the dog sees the cook and the waiter in a house"),
    ("it", "a"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pair_has_the_same_states_alone_and_in_a_padded_batch(name, tmp_path):
    save(tmp_path, build(name, **FAMILIES[name]))
    encoder = load_encoder(tmp_path)
    check_length(encoder, 32)
    check_padding(encoder)
    split = tokenized(encoder, PAIRS)
    assert (split.sides[0].types is not None) == (name in SEGMENTS)
    together = states(encoder, split, [0, 1, 2])
    for row, length in enumerate(split.lengths().tolist()):
        alone = states(encoder, split, [row])
        assert alone.shape == (1, length, 16)
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SEGMENTS))
def test_segments_matter_where_a_model_has_them(name, tmp_path):
    save(tmp_path, build(name, **FAMILIES[name]))
    encoder = load_encoder(tmp_path)
    batch = collate(tokenized(encoder, PAIRS), 0, torch.arange(1).numpy())
    assert batch.types is not None and batch.types.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    with torch.no_grad():
        first, second = (
            run_encoder(encoder.model, Inputs(batch.tokens, None, types)).last
            for types in (batch.types, torch.zeros_like(batch.types))
        )
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["GPT2Model", "Qwen2Model", "XLNetModel"])
def test_a_decoder_keeps_no_keys_and_values(name, tmp_path):
    encoder = load_encoder(save(tmp_path, build(name, **FAMILIES[name])))
    outputs = []
    encoder.model.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    run_encoder(encoder.model, Inputs(torch.tensor([[4, 5, 6]]), None, None))
    assert outputs[0].get("past_key_values") is None and outputs[0].get("mems") is None


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel"])
def test_a_model_of_one_segment_takes_pairs_from_a_tokenizer_that_announces_two(name, tmp_path):
    encoder = load_encoder(save(tmp_path, build(name, **ROBERTA)))
    assert encoder.tokenizer.model_input_names == ["input_ids", "attention_mask"]
    split = tokenized(encoder, PAIRS)
    assert split.sides[0].types is None
    assert states(encoder, split, [0]).isfinite().all()


def test_only_the_encoder_half_of_t5_is_loaded_and_rebuilt(tmp_path):
    save(tmp_path, build("T5EncoderModel", **FAMILIES["T5EncoderModel"]))
    for weights in (True, False):
        encoder = load_encoder(tmp_path, weights=weights)
        assert type(encoder.model).__name__ == "T5EncoderModel"
        assert encoder.dim == 16
    check_length(encoder, 10_000)  # relative positions have no limit


def test_xlnet_has_no_limit_of_positions(tmp_path):
    check_length(load_encoder(save(tmp_path, build("XLNetModel", **FAMILIES["XLNetModel"]))), 10_000)


@pytest.mark.parametrize(
    ("name", "options", "family"),
    [
        ("FNetModel", BERT | {"type_vocab_size": 4}, "fnet"),
        ("FunnelModel", {"vocab_size": 30, "block_sizes": [1, 1], "block_repeats": [1, 1], "num_decoder_layers": 1,
                         "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "pad_token_id": 0}, "funnel"),
    ],
)  # fmt: skip
def test_a_model_that_mixes_padding_into_the_text_is_refused(name, options, family, tmp_path):
    options.pop("num_attention_heads", None)
    encoder = load_encoder(save(tmp_path, build(name, **options)))
    with pytest.raises(MtlError) as caught:
        check_padding(encoder)
    assert str(caught.value) == (
        f"encoder: {family} mixes padding into a text's hidden states, so results would depend on the batch; use an encoder "
        "that masks padding, such as BERT"
    )


def test_ids_beyond_the_word_table_are_refused_in_one_sentence(tmp_path):
    save(tmp_path, build("BertModel", **BERT), shift=20)  # so the last word has id 35
    with pytest.raises(MtlError) as caught:
        load_encoder(tmp_path)
    assert str(caught.value) == (
        f"encoder: the tokenizer in {tmp_path} has ids up to 35, but the model has embeddings for 0 to 29; use the tokenizer "
        "that belongs to the model"
    )


def test_segment_ids_beyond_the_segment_table_are_refused_in_one_sentence(tmp_path):
    from tokenizers import processors

    build("BertModel", **BERT).save_pretrained(tmp_path)
    tokenizer = word_tokenizer(WORDS)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:2 [SEP]:2", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        MtlError, match="has segment ids up to 2, but the model has embeddings for 0 to 1; use the token"
    ):
        load_encoder(tmp_path)


def test_an_encoder_keeps_its_mode_when_it_is_checked(tmp_path):
    encoder = load_encoder(save(tmp_path, build("BertModel", **BERT)))
    for mode in (True, False):
        encoder.model.train(mode)
        check_padding(encoder)
        assert encoder.model.training == mode
