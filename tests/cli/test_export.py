"""`mtl export`: plain encoders from runs whose architecture changes the encoder."""

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

import mtlcli
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
        ("lora", [], "the architecture lora has a change for each task; export one task"),
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
