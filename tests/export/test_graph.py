"""Graphs of every kind of task give what the model gives, in batches of any size; where they do not, the comparison fails."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.export.check import check_graph, some_rows
from mtlcli.export.graph import GRAPHS, Graph, graph_of
from mtlcli.tasks.ranks import Ranks
from mtlcli.tasks.targets import Ragged
from mtlcli.training.setup import TrainingRun, set_up
from small import small_values, write_files

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ("reading", "tagging", "ratings", "multi-label")
"""Recipes that together have every kind of task."""


def example(name: str, **sections: object) -> TrainingRun:
    values = Layer({"training": {"device": "cpu"}, **sections})
    run = set_up(resolve([read_recipe(ROOT / "examples" / f"{name}.yaml"), values]))
    run.model.eval()
    return run


def graph_for(run: TrainingRun, task: int, *, decoded: bool = True) -> Graph:
    section = run.config.tasks[run.model.names[task]]
    kind = graph_of(section.encoding or "single")
    types = section.encoding in ("cross", "choices", "spans")
    return kind(run.model, [task], decoded=decoded, with_types=types, has_types=True)


def eager(graph: Graph):
    """Run a graph in PyTorch, as onnxruntime would."""

    def run(names, feed):
        with torch.no_grad():
            outputs = graph(*(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in graph.inputs))
        by_name = dict(zip(graph.outputs, outputs, strict=True))
        return [by_name[name].numpy() for name in names]

    return run


def compared(run: TrainingRun, task: int, graph: Graph, changed=lambda name, array: array) -> float:
    split = some_rows(run.tasks[task].splits["dev"], 20)
    from mtlcli.data.tokenizer import Tokenizer
    from mtlcli.data.tokens import tokenize_split

    tokens = tokenize_split(split, Tokenizer(run.encoder.tokenizer, run.config.encoder.max_length), None)
    outputs = eager(graph)
    return check_graph(
        graph,
        lambda names, feed: [changed(name, array) for name, array in zip(names, outputs(names, feed), strict=True)],
        task,
        split,
        tokens,
    ).difference


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_of_task_has_the_predictions_of_the_run(name, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")
    run = example(name)
    for task in range(len(run.tasks)):
        decoded = not run.model.head(task).why_no_graph()
        assert compared(run, task, graph_for(run, task, decoded=decoded)) < 1e-5
        assert compared(run, task, graph_for(run, task, decoded=False)) < 1e-5


@pytest.mark.parametrize("word", ["first", "mean", "last"])
def test_tags_that_need_no_search_are_decoded(word, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")
    head = {"name": "tag-linear", "word": word, "decode": "argmax"}
    run = example("tagging", tasks={"names": {"head": head}})
    graph = graph_for(run, 0)
    assert graph.outputs == ("tag", "probabilities", "logits")
    assert compared(run, 0, graph) < 1e-5


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> TrainingRun:
    values = small_values(write_files(tmp_path_factory.mktemp("files")))
    values["tasks"]["same"]["encoding"] = "cross"
    run = set_up(resolve([Layer(values)]))
    run.model.eval()
    return run


def test_pairs_are_read_joined_or_apart(small):
    joined, apart = graph_for(small, 1), graph_for(small, 2)
    assert [*joined.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [*apart.inputs] == ["a_ids", "a_mask", "b_ids", "b_mask"]
    assert apart.outputs == ("score",)
    assert max(compared(small, 1, joined), compared(small, 2, apart)) < 1e-5


def test_a_difference_is_named_with_its_row(small):
    graph = graph_for(small, 0)

    def wrong(name, array):
        return array + np.float32(2e-4) if name == "probabilities" else array

    with pytest.raises(
        MtlError, match=r"tone: the exported graph differs from PyTorch at .*tone-dev.tsv:2 in batches of 1"
    ):
        compared(small, 0, graph, wrong)
    with pytest.raises(MtlError, match="index is"):
        compared(small, 0, graph, lambda name, array: 1 - array if name == "index" else array)
    with pytest.raises(MtlError, match="score is"):
        compared(small, 2, graph_for(small, 2), lambda name, array: array * np.float32(1.01))
    with pytest.raises(MtlError, match="probabilities is"):
        compared(small, 0, graph, lambda name, array: array * np.nan if name == "probabilities" else array)


def test_a_decision_may_differ_where_it_is_close():
    target = Ranks.named("low", "middle", "high")
    near = Ragged({"probabilities": np.array([[0.49995, 0.30005, 0.2], [0.2, 0.6, 0.2]])})
    assert target.is_close(near, 1e-4).tolist() == [True, False]
    middle = Ragged({"probabilities": np.array([[0.40002, 0.39998, 0.20004], [0.7, 0.2, 0.1]])})
    assert Ranks(target.values, decode="argmax").is_close(middle, 1e-4).tolist() == [True, False]


def test_a_choice_that_is_missing_has_no_probability(monkeypatch):
    monkeypatch.chdir(ROOT / "examples")
    graph = graph_for(example("reading"), 0)
    tokens, mask, types = graph.example()
    mask = mask.clone()
    mask[0, 2] = 0
    with torch.no_grad():
        named = dict(zip(graph.outputs, graph(tokens, mask, types), strict=True))
    assert named["probabilities"][0, 2] == 0
    assert named["probabilities"].sum(1).tolist() == pytest.approx([1, 1])


def test_every_encoding_has_a_graph():
    from mtlcli.data.encodings import ENCODINGS

    assert {name for graph in GRAPHS for name in graph.encodings} == set(ENCODINGS)
