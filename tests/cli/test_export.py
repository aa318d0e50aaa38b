"""`mtl export`: plain encoders from runs whose architecture changes the encoder."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import mtlcli
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.training.setup import set_up
from small import small_values, write_files

TEXTS = ["the pie is superb", "a dreary ferry"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of three steps on two tasks."""
    place = tmp_path_factory.mktemp("export")
    values = small_values(write_files(place / "files"))
    for name, architecture in {"lora": {"name": "lora", "lr": 0.1}, "adapters": {"name": "adapters"}}.items():
        mtlcli.train(
            tasks={task: values["tasks"][task] for task in ("tone", "near")}, encoder=values["encoder"],
            architecture=architecture, training={"steps": 3, "device": "cpu"}, output=place / name,
        )  # fmt: skip
    return place


def test_the_encoder_of_a_task_has_the_features_of_the_run(runs, tmp_path, mtl):
    assert mtl("export", runs / "lora", "--task", "tone", "--output", tmp_path / "tone").code == 0
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "tone"), AutoModel.from_pretrained(tmp_path / "tone")
    run = mtlcli.load(runs / "lora")
    for index, text in enumerate(TEXTS):
        states = model(**tokenizer([text], return_tensors="pt")).last_hidden_state
        features = run.encode(TEXTS, task="tone")[index]
        np.testing.assert_allclose(states.mean(1).detach().numpy()[0], features, atol=1e-5)
    assert np.abs(run.encode(TEXTS, task="tone") - run.encode(TEXTS, task="near")).max() > 1e-3
    new = ["--sample", "--task", "sst", "--device", "cpu", "--encoder", tmp_path / "tone", "--max-length", "32"]
    assert mtl("check", *new).code == 0


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("lora", [], "the architecture lora has modules for each task; export one task"),
        ("adapters", ["--task", "tone"], "the architecture adapters has modules outside the encoder, which no plain encoder can hold"),
        ("lora", ["--task", "nera"], 'no task "nera"; did you mean "near"?'),
    ],
)  # fmt: skip
def test_what_no_encoder_can_hold_is_one_sentence(runs, tmp_path, mtl, name, flags, sentence):
    code, _, error = mtl("export", runs / name, *flags, "--output", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert sentence in " ".join(error.split())


def test_nothing_is_replaced_unasked(runs, tmp_path, mtl):
    export = ["export", runs / "lora", "--task", "tone", "--output", tmp_path / "out"]
    assert mtl(*export).code == 0
    assert "add --overwrite to replace it" in mtl(*export).err
    assert mtl(*export, "--overwrite").code == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "holds other files too (notes.txt)" in mtl(*export, "--overwrite").err
    (tmp_path / "out" / "modules.json").unlink()
    assert "holds something else than an encoder" in mtl(*export, "--overwrite").err
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_the_run_folder_says_that_its_encoder_alone_is_not_the_run(runs):
    readme = (runs / "lora" / "encoder" / "README.md").read_text()
    assert 'encode(texts, task="tone")' in readme and "mtl export RUN --task tone" in readme
    readme = (runs / "adapters" / "encoder" / "README.md").read_text()
    assert "which no plain encoder can hold" in readme and "mtl export" not in readme


def test_encodings_need_a_task_where_each_has_its_own(runs):
    with pytest.raises(mtlcli.MtlError, match="gives each task its own features; name one of the tasks tone, near"):
        mtlcli.load(runs / "lora").encode(TEXTS)


def test_an_adapter_of_peft_is_written_and_read_again(runs, tmp_path, mtl):
    assert mtl("export", runs / "lora", "-t", "tone", "--format", "peft", "-o", tmp_path / "peft").code == 0
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["use_dora"]) == ("LORA", 8, 16.0, False)
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    key = "encoder.layer.1.attention.self.value"
    weights = load_file(runs / "lora" / "heads.safetensors")
    module = "architecture.tasks.for_tone.value.1"
    assert torch.equal(stored[f"base_model.model.{key}.lora_A.weight"], weights[f"{module}.a"])
    assert torch.equal(stored[f"base_model.model.{key}.lora_B.weight"], weights[f"{module}.b"])

    def started(**options) -> torch.nn.Module:
        values = small_values(runs / "files")
        lora = {"name": "lora", "peft": {"tone": str(tmp_path / "peft")}, **options}
        return set_up(resolve([Layer({**values, "architecture": lora})])).model.architecture

    tone = started().tasks["for_tone"]["value"][1]
    assert torch.equal(tone.a, weights[f"{module}.a"]) and torch.equal(tone.b, weights[f"{module}.b"])
    # alpha 8 in place of 16 halves the scale, so B is twice as large
    assert torch.equal(started(alpha=8).tasks["for_tone"]["value"][1].b, 2 * weights[f"{module}.b"])
    assert not started().tasks["for_near"]["value"][1].b.any()
    for options, sentence in [
        ({"rank": 4}, "has rank 8 and 16 inputs; expected rank 4 (architecture.rank)"),
        ({"on": ["all"]}, "has no change of encoder.layer.0.attention.output.dense"),
        ({"on": ["query"]}, "changes encoder.layer.0.attention.self.value, which architecture.on leaves out"),
        ({"dora": True}, "is no DoRA; set architecture.dora as it was"),
        ({"peft": {"tune": "x"}}, "architecture.peft: found tune; expected one of tone, same, near"),
        ({"peft": {"tone": "x"}}, "x/adapter_config.json: cannot be read"),
    ]:
        with pytest.raises(mtlcli.MtlError, match=re.escape(sentence)):
            started(**options)


@pytest.mark.slow
def test_a_graph_of_onnx_is_written_into_the_run(runs, mtl):
    pytest.importorskip("onnxruntime")
    code, out, err = mtl("export", runs / "lora", "--format", "onnx", "--task", "tone")
    assert (code, err.strip()) == (0, "tone: exporting, which takes 10 s to a minute")
    assert "tone: 20 rows of dev, largest difference from PyTorch" in out
    assert (runs / "lora" / "onnx" / "tone.onnx").is_file()


def test_what_peft_cannot_hold_is_one_sentence(runs, tmp_path, mtl):
    out = ["--output", tmp_path / "out"]
    assert "the architecture adapters is no LoRA" in " ".join(
        mtl("export", runs / "adapters", "--format", "peft", *out).err.split()
    )
    assert "export one task" in mtl("export", runs / "lora", "--format", "peft", *out).err
    assert 'found "gguf"; expected encoder, peft, onnx' in mtl("export", runs / "lora", "--format", "gguf", *out).err
    assert "--joint: is for --format onnx; remove it" in mtl("export", runs / "lora", "--joint", *out).err
    assert "exports one task" in mtl("export", runs / "lora", "-t", "tone", "-t", "near", *out).err
    assert "--output: name a folder" in mtl("export", runs / "lora", "-t", "tone").err
    assert not (tmp_path / "out").exists()
