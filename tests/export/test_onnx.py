"""`mtl export --format onnx`: refusals before anything is exported, and graphs that run without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mtlcli
from mtlcli.errors import MtlError
from mtlcli.export import onnx
from mtlcli.export.onnx import OnnxSettings, chosen_tasks, export_onnx, tokenizer_file
from mtlcli.runs.saved_model import load_run
from small import small_values, write_files

ROOT = Path(__file__).parent.parent.parent
TEXTS = ["the big cook", "a cat finds the small green house quickly"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two steps: three tasks on one encoder, and one whose architecture cannot be traced."""
    place = tmp_path_factory.mktemp("onnx")
    values = small_values(write_files(place / "files")) | {"training": {"steps": 2, "device": "cpu"}}
    values["encoder"]["layers"] = 1
    values["tasks"]["same"]["encoding"] = "cross"
    mtlcli.train(values, output=place / "run")
    mtlcli.train(values, architecture="mixlora", output=place / "mixlora")
    return place


@pytest.fixture
def installed(monkeypatch):
    """Take the packages of the extra for installed."""
    monkeypatch.setattr(onnx, "PACKAGES", ())


def test_what_no_graph_can_hold_is_refused_in_a_sentence(runs, installed):
    with pytest.raises(
        MtlError, match="the architecture mixlora sends each token through the experts that its values choose"
    ):
        export_onnx(runs / "mixlora", runs / "mixlora" / "onnx", OnnxSettings())
    for settings, sentence in [
        (OnnxSettings(("same",), joint=True), "same cannot be in a joint graph, which reads one text a row"),
        (OnnxSettings(("tune",)), 'no task "tune"; did you mean "tone"'),
    ]:
        with pytest.raises(MtlError, match=sentence):
            export_onnx(runs / "run", runs / "out", settings)
    assert not (runs / "out").exists()


def test_only_tasks_that_are_not_named_are_left_out(runs):
    saved, _ = load_run(runs / "run")
    lines: list[str] = []
    assert chosen_tasks(saved, OnnxSettings(joint=True), lines.append) == [0]
    assert [line.split(": ")[2].split()[0] for line in lines] == ["same", "near"]


def test_a_missing_package_is_one_line(runs, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("no_such_package",))
    with pytest.raises(MtlError, match=r"^--format onnx needs no_such_package: pip install 'mtlcli\[onnx\]'$"):
        export_onnx(runs / "run", runs / "out", OnnxSettings())


def test_the_tokenizer_file_cuts_and_pads_as_the_run_does(runs):
    saved, _ = load_run(runs / "run")
    tokenizer = tokenizer_file(saved)
    assert (tokenizer.truncation["max_length"], tokenizer.padding["length"]) == (32, None)
    rows = tokenizer.encode_batch([*TEXTS, "the " * 50])
    assert {len(row.ids) for row in rows} == {32}
    assert sum(rows[0].attention_mask) < sum(rows[1].attention_mask) < sum(rows[2].attention_mask) == 32


@pytest.mark.slow
def test_a_graph_is_checked_written_and_used_without_pytorch(runs):
    pytest.importorskip("onnxruntime")
    folder = runs / "run" / "onnx"
    tone, near = export_onnx(runs / "run", folder, OnnxSettings(("tone", "near")))
    assert (tone.checked["tone"].rows, tone.checked["tone"].split, near.name) == (20, "dev", "near")
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json", "near.json", "near.onnx", "tokenizer.json", "tone.json", "tone.onnx",
    ]  # fmt: skip
    facts = json.loads((folder / "tone.json").read_text())
    assert (facts["labels"], facts["max_length"], facts["files"]) == (["bad", "good"], 32, ["tone.onnx"])
    assert facts["checked"]["tone"]["largest_difference"] < 1e-5
    # The encoder of a pair reads both texts, and its weights are stored once, as they are multiplied.
    graph = pytest.importorskip("onnx").load(folder / "near.onnx").graph
    stored = {tensor.name for tensor in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in stored]
    assert (folder / "near.onnx").stat().st_size < 1.5 * (folder / "tone.onnx").stat().st_size
    # No path of this machine is in a graph.
    assert not any(
        str(part).encode() in path.read_bytes() for path in folder.iterdir() for part in (ROOT, sys.prefix, runs)
    )
    program = [sys.executable, "-c", NO_TORCH, str(ROOT / "examples" / "onnx_predict.py"), folder, "tone", *TEXTS]
    printed = subprocess.run([*map(str, program)], capture_output=True, text=True, check=True).stdout
    predicted = mtlcli.load(runs / "run").predict(TEXTS, task="tone")
    assert printed.strip() == str([prediction.label for prediction in predicted])
    with pytest.raises(MtlError, match="add --overwrite to replace it"):
        export_onnx(runs / "run", folder, OnnxSettings(("tone",)))


NO_TORCH = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


@pytest.mark.slow
def test_a_graph_of_other_weights_is_not_written(runs, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    export = onnx.export_graph

    def corrupted(graph, *arguments):
        export(graph, *arguments)
        with torch.no_grad():
            graph.model.heads[0].out.bias += torch.tensor([0.01, 0.0])

    monkeypatch.setattr(onnx, "export_graph", corrupted)
    with pytest.raises(MtlError, match="tone: the exported graph differs from PyTorch"):
        export_onnx(runs / "run", tmp_path / "out", OnnxSettings(("tone",)))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_one_graph_has_the_outputs_of_all_tasks_of_one_text(tmp_path):
    pytest.importorskip("onnxruntime")
    values = small_values(write_files(tmp_path / "files")) | {"training": {"steps": 2, "device": "cpu"}}
    tone = values["tasks"]["tone"]
    values["tasks"] = {"tone": tone, "mood": {**tone, "head": "mlp"}}
    mtlcli.train(values, architecture="lora", output=tmp_path / "run")
    (graph,) = export_onnx(tmp_path / "run", tmp_path / "out", OnnxSettings(joint=True))
    assert graph.tasks == ("tone", "mood") and {*graph.checked} == {"tone", "mood"}
    run = onnx.session(tmp_path / "out" / "joint.onnx")
    ids = np.ones((1, 1), dtype=np.int64)
    tone_probabilities, mood = run(
        ["tone.probabilities", "mood.probabilities"], {"input_ids": ids, "attention_mask": ids}
    )
    assert tone_probabilities.shape == mood.shape == (1, 2)
