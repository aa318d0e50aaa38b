"""`--format sentence-transformers`: the vectors that a head compares, in the package's own folder."""

import json
import shutil

import numpy as np
import pytest
import torch

import mtlcli
from mtlcli.errors import MtlError
from mtlcli.export.sentence_transformers import export_sentence_transformers
from mtlcli.runs.folder import remove_run
from mtlcli.runs.saved_model import load_run
from small import small_values, write_files

TEXTS = ["the big cook", "a cat finds the small green house quickly", ""]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of two steps: `near` compares by cosine, `same` through hidden layers, `tone` not at all."""
    place = tmp_path_factory.mktemp("vectors")
    values = small_values(write_files(place / "files")) | {"training": {"steps": 2, "device": "cpu"}}
    values["tasks"]["near"] |= {"encoding": "bi", "head": "cosine"}
    head = {"name": "pair-mix", "hidden": [12, 6], "activation": "tanh", "alpha": 0.0}
    values["tasks"]["same"] |= {"encoding": "bi", "head": head}
    mtlcli.train(values, output=place / "run")
    return load_run(place / "run")[0]


def vectors(saved, task: str) -> np.ndarray:
    """What the head of a task compares."""
    pooled = torch.from_numpy(mtlcli.load(saved.folder).encode(TEXTS, task=task))
    with torch.no_grad():
        return saved.model.head(saved.task(task)).compared_by_cosine()(pooled).numpy()


@pytest.mark.parametrize("task", ["near", "same"])
def test_the_package_gives_the_vectors_of_the_run(saved, tmp_path, task):
    package = pytest.importorskip("sentence_transformers")
    export_sentence_transformers(saved, saved.task(task), tmp_path / "out")
    model = package.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.max_seq_length == 32 and model.similarity_fn_name == "cosine"
    np.testing.assert_allclose(model.encode(TEXTS), vectors(saved, task), atol=1e-6)


def test_hidden_layers_become_dense_modules_under_their_old_names(saved, tmp_path):
    export_sentence_transformers(saved, saved.task("same"), tmp_path / "out")
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense", "3_Dense"]
    assert {module["type"].rpartition(".")[0] for module in modules} == {"sentence_transformers.models"}
    assert json.loads((tmp_path / "out" / "3_Dense" / "config.json").read_text()) == {
        "in_features": 12, "out_features": 6, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh",
    }  # fmt: skip


def test_the_page_says_what_a_cosine_means(saved, tmp_path):
    export_sentence_transformers(saved, saved.task("near"), tmp_path / "out")
    low, high = saved.facts[saved.task("near")].target.range
    assert (
        f"takes a cosine of 0 for the score {low:g} and a cosine of 1 for {high:g}"
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_an_export_in_a_run_goes_with_the_run(saved, tmp_path):
    run = shutil.copytree(saved.folder, tmp_path / "run")
    export_sentence_transformers(load_run(run)[0], saved.task("near"), run / "sentence-transformers")
    (run / "onnx").mkdir()
    (run / "onnx" / "mine.txt").write_text("not an export")
    assert remove_run(run) == ["onnx"]
    assert (run / "onnx" / "mine.txt").is_file()


def test_other_heads_are_refused_in_a_sentence(saved, tmp_path):
    with pytest.raises(MtlError, match="its head linear does not compare texts by their cosine; use --format onnx"):
        export_sentence_transformers(saved, saved.task("tone"), tmp_path / "out")
    with pytest.raises(MtlError, match="name one of them with --task: same, near"):
        export_sentence_transformers(saved, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
