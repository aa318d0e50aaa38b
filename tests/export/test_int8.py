"""Graphs of 8 bits: what counts as the same decision, and what is refused."""

import numpy as np
import pytest

import mtlcli
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.export.graph import PairGraph, SingleGraph
from mtlcli.export.int8 import Int8, agreement, must_agree
from mtlcli.export.onnx import OnnxSettings, export_onnx
from mtlcli.tasks.targets import Ragged
from mtlcli.training.setup import set_up
from small import small_values, write_files


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two classes (task 0) and of a score from 0.01 to 4.91 (task 2)."""
    return set_up(resolve([Layer(small_values(write_files(tmp_path_factory.mktemp("files"))))])).model


def test_classes_agree_where_the_decision_is_the_same(model):
    graph = SingleGraph(model, [0], decoded=True, with_types=False, has_types=True)
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], dtype=np.float32)
    expected = Ragged({"index": np.array([0, 1, 1, 1]), "probabilities": probabilities})
    found = Ragged({"index": np.array([0, 0, 1, 1]), "probabilities": probabilities})
    assert agreement(graph, 0, expected, found) == 0.75


def test_scores_agree_within_a_twentieth_of_their_range(model):
    graph = PairGraph(model, [2], decoded=True, with_types=False, has_types=True)
    low, high = model.head(2).facts.task.target.range
    width = high - low
    expected = Ragged({"value": np.array([low, low, low, high])})
    found = Ragged({"value": np.array([low + 0.049 * width, low + 0.051 * width, low, high])})
    assert agreement(graph, 2, expected, found) == 0.75


def test_too_little_agreement_is_refused_unless_forced():
    result = Int8(1000, 200, 0.875, {}, {})
    with pytest.raises(
        MtlError, match=r"tone: with 8 bits only 87.5 % of 200 rows .* try --reduce-range, or add --force"
    ):
        must_agree("tone", result, force=False)
    must_agree("tone", result, force=True)
    must_agree("tone", Int8(1000, 200, 0.9, {}, {}), force=False)


def test_8_bits_need_decisions(tmp_path):
    with pytest.raises(MtlError, match="--int8: is measured by decisions"):
        export_onnx(tmp_path, tmp_path / "out", OnnxSettings(int8=True, decoding=False))


@pytest.mark.slow
def test_a_graph_of_8_bits_is_smaller_and_described(tmp_path):
    pytest.importorskip("onnxruntime")
    values = small_values(write_files(tmp_path / "files")) | {"training": {"steps": 2, "device": "cpu"}}
    values["encoder"] |= {"dim": 64, "intermediate": 256, "layers": 1}
    values["tasks"] = {"tone": values["tasks"]["tone"]}
    mtlcli.train(values, output=tmp_path / "run")
    (graph,) = export_onnx(tmp_path / "run", tmp_path / "out", OnnxSettings(int8=True, force=True))
    result = graph.int8["tone"]
    assert result.size == (tmp_path / "out" / "tone.int8.onnx").stat().st_size < graph.size / 2
    assert 0 <= result.agreement <= 1 and result.rows == 20
    assert result.float_metrics["accuracy"].value == mtlcli.evaluate(tmp_path / "run")["tone"]["dev"]["accuracy"].value
