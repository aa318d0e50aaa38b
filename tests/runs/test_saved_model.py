"""The run folder: what is in it, that it loads as it was, and what is said of a damaged one."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from mtlcli.errors import MtlError
from mtlcli.inference.encode import encode
from mtlcli.model.build import join_state, split_state
from mtlcli.runs.record import read_record
from mtlcli.runs.saved_model import load_run
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from sealed import edit as edit_sealed
from small import small_config, write_files
from trained import copy_of, trained


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy that may be damaged."""
    return copy_of(trained(), tmp_path)


def edit(run: Path, change) -> None:
    """Changes run.json as its writer would."""
    edit_sealed(run / "run.json", change)


def flip(path: Path) -> None:
    """Changes one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def error(run: Path) -> str:
    with pytest.raises(MtlError) as caught:
        load_run(run)
    assert len(caught.value.lines) == 1
    return caught.value.lines[0]


# What is in it


def test_the_encoder_is_a_folder_that_transformers_loads(run):
    model, tokenizer = AutoModel.from_pretrained(run / "encoder"), AutoTokenizer.from_pretrained(run / "encoder")
    with torch.inference_mode():
        assert model(**tokenizer("the pie", return_tensors="pt")).last_hidden_state.shape[-1] == 32


def test_who_may_read_the_folder_may_read_every_file_in_it(run):
    readable = run.stat().st_mode & 0o444
    closed = [path.name for path in run.rglob("*") if path.is_file() and path.stat().st_mode & 0o444 != readable]
    assert len(list(run.glob("checkpoints/*/*.safetensors"))) >= 3
    assert closed == []


def test_sentence_transformers_finds_the_pooling_of_the_run(run):
    modules = json.loads((run / "encoder" / "modules.json").read_text())
    assert [one["type"].rpartition(".")[2] for one in modules] == ["Transformer", "Pooling"]
    pooling = json.loads((run / "encoder" / modules[1]["path"] / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 32
    assert [name for name, chosen in pooling.items() if chosen is True] == ["pooling_mode_mean_tokens"]


@pytest.mark.parametrize("layer", [-1, -2])
def test_the_record_and_a_readme_say_where_the_encoder_alone_gives_other_features(tmp_path, layer):
    prepared = set_up(small_config(write_files(tmp_path), encoder={"layer": layer}, training={"steps": 1}))
    list(train(prepared, tmp_path / "run"))
    run, _ = load_run(tmp_path / "run")
    texts, readme = ["the small cat sees", "a dog"], tmp_path / "run" / "encoder" / "README.md"
    # What sentence-transformers computes: the mean of the last layer over the tokens of each text.
    tokens = run.encoder.tokenizer(texts, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"][..., None]
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(tmp_path / "run" / "encoder")(
            **tokens, output_hidden_states=True
        ).hidden_states
    last, read = ((states * mask).sum(1) / mask.sum(1) for states in (hidden[-1], hidden[layer]))
    features = torch.from_numpy(encode(run, texts, device=torch.device("cpu"), autocast=nullcontext()))
    assert torch.allclose(features, read, atol=1e-5)
    same = torch.allclose(features, last, atol=1e-3)
    assert same == (run.record["encoder_alone"] is None) == (not readme.exists()) == (layer == -1)
    if layer == -2:
        assert "layer -2" in run.record["encoder_alone"] and "hidden_states[-2]" in readme.read_text()


def test_the_encoder_is_stored_once_and_heads_under_the_names_of_their_tasks(run):
    keys = load_file(run / "heads.safetensors")
    assert {"tone", "stars", "same"} <= {key.partition(".")[0] for key in keys} <= {"tone", "stars", "same", "near"}
    assert not [key for key in keys if "encoder" in key]


def test_states_split_and_join_to_the_same(run):
    model = load_run(run)[0].model
    encoder, rest = split_state(model)
    joined = join_state(model, rest) | {f"architecture.encoder.{key}": value for key, value in encoder.items()}
    assert joined.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in joined.items())


def test_two_loads_are_equal_and_share_one_encoder(run):
    first, second = load_run(run)[0].model, load_run(run)[0].model
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert first.shared_parameters()[0] is next(first.architecture.encoder.parameters())


def test_a_run_loads_without_the_files_it_was_trained_on(run):
    edit(run, lambda record: record["config"]["tasks"]["tone"].update(train="/nowhere/train.tsv"))
    assert load_run(run)[1] == []


# What is wrong with it


@pytest.mark.parametrize(
    "name", ["heads.safetensors", "encoder/model.safetensors", "encoder/tokenizer.json", "encoder/config.json"]
)
def test_a_changed_or_missing_file_is_named_with_the_cure(run, name):
    flip(run / name)
    cure = f"; write it again from the checkpoint: mtl train --resume --output {run}"
    assert error(run) == f"{run / name}: is not as it was written (sha256 differs){cure}"
    (run / name).unlink()
    assert error(run) == f"{run / name}: is missing{cure}"


def test_files_that_others_put_beside_ours_do_not_matter(run):
    (run / "encoder" / "README.md").write_text("mine")
    assert load_run(run)[1] == []


def test_a_folder_without_run_json_is_told_apart_from_a_run_that_has_not_finished(run, tmp_path):
    (run / "run.json").unlink()
    assert error(run) == f"{run}: this run has saved no model yet; resume it with: mtl train --resume --output {run}"
    (tmp_path / "empty").mkdir()
    assert "not a run folder (no run.json)" in error(tmp_path / "empty")
    (tmp_path / "empty" / "ensemble.json").touch()
    assert "is an ensemble; expected a run" in error(tmp_path / "empty")


def test_a_run_that_is_not_there_is_guessed(run):
    assert error(run.with_name("rum")) == f'{run.with_name("rum")}: there is no such run folder; did you mean "run"?'
    assert "is a file; expected a run folder" in error(run / "run.json")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(path.read_text()[:500]),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text('{"format": 2}'),
        lambda path: path.write_text(path.read_text().replace('"pooling": "mean"', '"pooling": "meen"')),
        lambda path: path.write_text(path.read_text().replace('"learned"', '"leraned"')),
        lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()),
    ],
)
def test_a_damaged_run_json_is_one_line(run, damage):
    damage(run / "run.json")
    found = error(run)
    assert found.startswith(f"{run}/run.json: damaged (")
    assert found.endswith(f"write it again from the checkpoint: mtl train --resume --output {run}")
    assert "\n" not in found


def test_another_format_names_the_version_that_wrote_it(run):
    edit(run, lambda record: record.update(format=99, mtlcli="9.0"))
    assert "format 99 was written by mtlcli 9.0; this is mtlcli " in error(run)


def test_keys_of_a_newer_version_are_no_damage(run):
    edit(run, lambda record: record.update(mtlcli="9.0") or record["config"]["training"].update(new_key=1))
    assert f"{run}/run.json: was written by mtlcli 9.0 and cannot be read by this mtlcli" in error(run)
    assert "training.new_key" in error(run)


@pytest.mark.parametrize(
    ("key", "what"), [("distribution", 'task "tone"'), ("head_distribution", 'the head of task "tone"')]
)
def test_a_plugin_that_is_gone_is_named_with_its_distribution(run, key, what):
    edit(run, lambda record: record["tasks"]["tone"].update({key: "mtlcli-gone"}))
    version = read_record(run)["tasks"]["tone"]["version"]
    expected = f"{what} comes from mtlcli-gone {version}, which is not installed; pip install mtlcli-gone=={version}"
    assert error(run) == expected


def test_an_architecture_that_is_gone_is_named_with_its_distribution(run):
    assert read_record(run)["architecture"]["distribution"] == "mtlcli"
    edit(run, lambda record: record["architecture"].update(name="towers", distribution="mtlcli-towers", version="0.3"))
    assert error(run) == (
        'the architecture "towers" comes from mtlcli-towers 0.3, which is not installed; pip install mtlcli-towers==0.3'
    )


def test_another_version_of_a_plugin_is_a_warning(run):
    edit(run, lambda record: record["tasks"]["tone"].update(distribution="numpy", version="0.0.1"))
    (warning,) = load_run(run)[1]
    assert warning.startswith('task "tone" was trained with numpy 0.0.1; ')


def test_heads_of_another_shape_are_told(run):
    edit(run, lambda record: record["config"]["tasks"]["near"].update(head={"name": "linear"}))
    assert "heads.safetensors" in error(run)


def test_an_unknown_task_of_a_run_names_those_there_are(run):
    with pytest.raises(MtlError, match='no task "tome"; did you mean "tone"'):
        load_run(run)[0].task("tome")
