"""Heads on the texts of other tasks: tags for sentences, sentences for tags, one pass of the encoder for all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlcli.architectures.base import HiddenStates
from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.data.batches import collate
from mtlcli.inference.predictor import open_run
from mtlcli.model.frozen import layers_read
from mtlcli.model.predict import predict_rows
from mtlcli.tasks.items import Items
from mtlcli.testing import GRADES, SCORES, TOPICS
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_features_are_probabilities_and_scores_in_standard_deviations():
    logits = torch.tensor([[0.0, 0.0, 0.693147]])
    torch.testing.assert_close(GRADES.target.as_features(logits), torch.tensor([[0.25, 0.25, 0.5]]))
    torch.testing.assert_close(TOPICS.target.as_features(logits), torch.tensor([[0.5, 0.5, 2 / 3]]))
    assert SCORES.target.as_features(torch.tensor([-1.5])).tolist() == [[-1.5]]


def test_every_token_of_a_mask_is_an_item():
    items = Items.of_tokens(torch.tensor([[True, True, False], [True, False, False]]))
    assert items.starts.tolist() == [0, 2, 3] and items.sequence.tolist() == [0, 0, 1]
    assert items.first.tolist() == items.last.tolist() == [0, 1, 0]
    tokens = torch.arange(6.0).reshape(2, 3, 1)
    assert items.gather(tokens, "mean").flatten().tolist() == [0.0, 1.0, 3.0]


def prepared(monkeypatch, recipe: str = "tagging", **sections):
    monkeypatch.chdir(EXAMPLES)
    small = {"training": {"steps": 2, "device": "cpu"}, "encoder": {"dim": 16, "attention_heads": 2}}
    return set_up(resolve([read_recipe(EXAMPLES / f"{recipe}.yaml"), Layer(small | sections)]))


def padded(run, task: int):
    """A batch of the shortest and the longest text of a task."""
    tokenized = run.train[task].tokenized
    return collate(tokenized, task, np.argsort(tokenized.lengths())[[0, -1]])


@pytest.mark.parametrize("order", [["names", "topic"], ["topic", "names"]])
def test_tags_feed_sentences_and_sentences_tags(monkeypatch, order):
    run = prepared(monkeypatch, architecture={"name": "feature-pipeline", "order": order})
    names = run.model.names
    low, high = names.index(order[0]), names.index(order[1])
    assert run.model.architecture.lower[high] == (low,)
    model, batch = run.model.eval(), padded(run, high)
    with torch.no_grad():
        hidden = model.hidden(high, model.inputs(high, batch))
        numbers = model.read(low, batch, hidden)
    classes = model.head(low).facts.task.target.feature_size
    if order[0] == "names":
        assert numbers.shape == (*batch.tokens.shape, classes)
        torch.testing.assert_close(numbers.sum(-1), batch.mask.float())  # 0 at padding
    else:
        assert numbers.shape == (len(batch.tokens), classes)
    assert run.model.tasks_of_parameters()[id(next(run.model.head(low).parameters()))] == {low, high}


def test_tags_of_the_same_words_are_those_of_the_task_itself(monkeypatch):
    run = prepared(monkeypatch, architecture={"name": "feature-pipeline", "order": ["names", "topic"]})
    model, names = run.model.eval(), run.model.names.index("names")
    batch = run.train[names].next()
    with torch.no_grad():
        hidden = model.hidden(names, model.inputs(names, batch))
        numbers = model.read(names, batch, hidden)
        own = model.head(names).facts.task.target.as_features(model.output(names, batch, hidden))
    torch.testing.assert_close(batch.items.gather(numbers), own)


def test_a_row_is_predicted_alone_as_it_is_in_a_batch(monkeypatch):
    run = prepared(monkeypatch, architecture={"name": "interactive", "rounds": 2})
    model = run.model.eval()
    torch.nn.init.normal_(model.architecture.update.weight, std=0.1)
    topic = model.names.index("topic")
    batch = padded(run, topic)
    row = int(batch.mask.sum(1).argmin())
    length = int(batch.mask[row].sum())
    types = None if batch.types is None else batch.types[row : row + 1, :length]
    alone = replace(batch, tokens=batch.tokens[row : row + 1, :length], mask=None, types=types)
    with torch.no_grad():
        torch.testing.assert_close(model(topic, alone)[0], model(topic, batch)[row], rtol=0, atol=2e-6)


def test_the_layers_that_a_lower_head_reads_are_there(monkeypatch):
    run = prepared(
        monkeypatch, architecture={"name": "feature-pipeline", "order": ["topic", "names"], "form": "cascade"},
        tasks={"topic": {"layer": 0}},
    )  # fmt: skip
    model = run.model
    names, topic = model.names.index("names"), model.names.index("topic")
    assert model.wants_all_layers([names]) and set(layers_read(model, names)) == {0}
    hidden = HiddenStates(torch.zeros(2, 3, 16), (torch.ones(2, 3, 16), torch.zeros(2, 3, 16)))
    batch = replace(run.train[names].next(), tokens=torch.ones(2, 3, dtype=torch.int64), mask=None)
    model.eval()
    changed = replace(hidden, layers=(torch.full((2, 3, 16), 2.0), hidden.layers[1]))
    with torch.no_grad():
        assert not torch.equal(model.read(topic, batch, hidden), model.read(topic, batch, changed))


@pytest.mark.parametrize("name", ["feature-pipeline", "signal-pipeline", "interactive", "cyclic"])
def test_one_pass_of_the_encoder_predicts_all_tasks(monkeypatch, tmp_path, name):
    run = prepared(monkeypatch, "several-columns", architecture=name)
    assert len(run.model.pass_groups(range(len(run.model.names)))) == 1
    list(train(run, tmp_path / "run"))
    predictor, _ = open_run(tmp_path / "run").load(torch.device("cpu"))
    model = predictor.members[0][0].run.model
    passes = []
    model.architecture.encoder.register_forward_hook(lambda *_: passes.append(1))
    rows = run.dev[run.model.names[0]]["dev"]
    rows = replace(rows, target=None, gold=None)
    predict_rows(model, dict.fromkeys(range(len(model.names)), rows), torch.device("cpu"), run.autocast)
    together = len(passes)
    predict_rows(model, {0: rows}, torch.device("cpu"), run.autocast)
    assert together == len(passes) - together
