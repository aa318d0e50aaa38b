"""Prompts by hand, and on encoders of many families."""

import pytest
import torch
from torch import nn

from families import FAMILIES, TRACED, build
from mtlcli.architectures.base import ArchitectureFacts, Inputs, run_encoder
from mtlcli.architectures.prompt import Attention, PromptTuning
from mtlcli.errors import MtlError
from mtlcli.testing import RUN
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files

TOKENS = Inputs(torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]), None, None, all_layers=True)
FIRST = {
    **dict.fromkeys(("DebertaV2Model", "ModernBertModel", "Qwen2Model", "T5EncoderModel", "XLNetModel"), None),
    **dict.fromkeys(("BertModel", "DistilBertModel", "AlbertModel", "ElectraModel", "GPT2Model", "MobileBertModel"), 0),
    **dict.fromkeys(("RobertaModel", "XLMRobertaModel"), 1),
    "MPNetModel": 2,
}
"""The position of the first word, by encoder: one more than the index of padding in RoBERTa's kin, here 0, and 1 in MPNet."""
NAMES = TRACED


def made(name: str = "BertModel", **options) -> PromptTuning:
    options = {"length": 3, **options}
    return PromptTuning(ArchitectureFacts(build(name, **FAMILIES[name]), RUN.tasks[:2], 1), **options).eval()


@pytest.mark.parametrize("name", NAMES)
def test_words_keep_their_positions_behind_a_prompt(name):
    architecture = made(name)
    assert architecture.first_position == FIRST[name]
    plain = run_encoder(architecture.encoder, TOKENS)
    prompt = architecture._prompt(0, TOKENS)
    masked = architecture._run(prompt, TOKENS, architecture.first_position, visible=False)
    for ours, theirs in zip(masked.layers, plain.layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    seen = architecture(0, TOKENS)
    assert seen.last.shape == plain.last.shape
    assert not torch.allclose(seen.last, plain.last, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_alone_is_the_text_in_a_padded_batch(name):
    architecture = made(name, form="attempt")
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    padded = architecture(0, Inputs(TOKENS.tokens, mask, None)).last[1, :3]
    alone = architecture(0, Inputs(TOKENS.tokens[1:, :3], None, None)).last[0]
    torch.testing.assert_close(padded, alone, rtol=0, atol=2e-6)


def test_a_prompt_and_a_text_may_be_longer_than_the_encoder_s_positions():
    architecture = made(length=30)  # and 5 words, with 32 positions
    assert architecture(0, TOKENS).last.shape == (2, 5, 16)


def test_prompts_start_as_words_and_are_the_task_s_own():
    architecture = made()
    words = architecture.encoder.get_input_embeddings().weight
    for task in (0, 1):
        for vector in architecture.tasks.of(task).prompt:
            assert (words == vector).all(1).any()
    assert architecture.parts()["tasks.for_grades"].decay is False
    assert sum(p.numel() for p in architecture.tasks.of(0).parameters()) == 3 * 16


def test_mpt_scales_the_shared_prompt_by_an_outer_product():
    # P = ((1, 2), (3, 4)), u = (1, 2), v = (1, .5): ((1, 1), (6, 4))
    architecture = made(form="mpt", length=2)
    assert torch.equal(architecture._prompt(1, TOKENS)[0], architecture.shared.prompt)
    factors = architecture.tasks.of(0)
    with torch.no_grad():
        architecture.shared.prompt.zero_()[:, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        factors.u.copy_(torch.tensor([1.0, 2.0]))
        factors.v[:2] = torch.tensor([1.0, 0.5])
    assert architecture._prompt(0, TOKENS)[0, :, :2].tolist() == [[1.0, 1.0], [6.0, 4.0]]
    assert sum(p.numel() for p in factors.parameters()) == 2 + 16


def test_both_prompts_are_added():
    architecture = made(per="both")
    expected = architecture.shared.prompt + architecture.tasks.of(0).prompt
    assert torch.equal(architecture._prompt(0, TOKENS)[0], expected)


def test_attempt_without_sources_doubles_the_prompt_and_a_high_temperature_takes_the_mean():
    architecture = made(form="attempt")
    own = architecture.tasks.of(0).prompt
    torch.testing.assert_close(architecture._prompt(0, TOKENS), 2 * own.expand(2, 3, 16))
    architecture.read = torch.randn(2, 3, 16)
    architecture.shared.temperature = 1e9
    mean = torch.cat((architecture.read, own.unsqueeze(0))).mean(0)
    torch.testing.assert_close(architecture._prompt(0, TOKENS)[1], own + mean)


def test_the_attention_reads_the_largest_word_and_the_largest_vector():
    attention = Attention(2, 2, 1.0)
    attention.norm = nn.Identity()
    with torch.no_grad():
        attention.down.weight.copy_(torch.eye(2))
        attention.up.weight.copy_(torch.eye(2))
    words = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    # silu (1, 2) = (.731059, 1.761594); prompts' maxima (1, 0) and (0, 1)
    prompts = torch.tensor([[[1.0, -1.0], [0.0, 0.0]], [[0.0, 1.0], [-2.0, 0.0]]])
    expected = torch.tensor([[0.731059, 1.761594]]).softmax(-1)
    torch.testing.assert_close(attention(words, mask, prompts), expected, rtol=0, atol=1e-5)


def test_attempt_reads_the_prompts_of_other_runs(tmp_path):
    files = write_files(tmp_path / "files")
    plain = {"name": "prompt", "length": 3}
    list(train(set_up(small_config(files, architecture=plain, training={"steps": 2})), tmp_path / "first"))

    def read(sources, **options):
        architecture = {**plain, "form": "attempt", "sources": sources, **options}
        return set_up(small_config(files, architecture=architecture)).model.architecture

    first = str(tmp_path / "first")
    architecture = read({"tone": first, "near": first})
    from mtlcli.files import load_tensors

    stored = load_tensors(tmp_path / "first" / "heads.safetensors")
    assert torch.equal(architecture.read[1], stored["architecture.tasks.for_near.prompt"])
    with pytest.raises(MtlError, match="has no prompt of mood; expected a run of the architecture prompt"):
        read({"mood": first})
    with pytest.raises(MtlError, match=r"is \(3, 16\); expected \(4, 16\)"):
        read({"tone": first}, length=4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sources": {"a": "b"}}, "plain reads no other prompts"),
        ({"form": "mpt", "per": "both"}, "mpt has shared parts of its own"),
    ],
)
def test_what_the_options_cannot_mean_is_refused(options, sentence):
    with pytest.raises(MtlError, match=sentence):
        made(**options)
