"""The multilayer perceptron, and hidden layers that heads share."""

import pytest
import torch
from torch import nn

from mtlcli.config.schema import HeadChoice
from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.heads.layers import SharedModules
from mtlcli.heads.mlp import MLP
from mtlcli.tasks.targets import Classes, Score

CLASSES = TaskFacts("c", 10, 1, Classes.named("no", "yes"))
SCORES = TaskFacts("s", 10, 1, Score(0.0, 5.0, 2.0, 1.5))


def test_a_hidden_layer_by_hand():
    head = MLP(HeadFacts(SCORES, 2, 1), hidden=(2,)).eval()
    first, out = head.hidden[1], head.out
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        first.bias.copy_(torch.tensor([0.5, 0.0]))
        out.weight.copy_(torch.tensor([[2.0, 7.0]]))
        out.bias.fill_(1.0)
    tokens = torch.tensor([[[1.0, 3.0]]])
    output = head((EncoderOutput(tokens, torch.ones(1, 1, dtype=torch.bool), tokens[:, 0]),))
    assert output.tolist() == [16.0]  # relu(1 + 6 + .5, -1) = (7.5, 0); 2 * 7.5 + 1


def test_widths_follow_each_other_and_none_at_all_is_a_linear_head():
    deep = MLP(HeadFacts(CLASSES, 10, 1), hidden=(6, 4), activation="tanh")
    assert [(part.in_features, part.out_features) for part in deep.modules() if isinstance(part, nn.Linear)] == [
        (10, 6), (6, 4), (4, 2),
    ]  # fmt: skip
    assert sum(isinstance(part, nn.Tanh) for part in deep.modules()) == 2
    assert [tuple(p.shape) for p in MLP(HeadFacts(CLASSES, 10, 1), hidden=()).parameters()] == [(2, 10), (2,)]


def shared(modules: SharedModules, task: TaskFacts, **options) -> MLP:
    return MLP(HeadFacts(task, 6, 1, modules.asked_by(task.name)), **{"hidden": (4,), "shared": "common", **options})


def test_heads_of_one_name_hold_one_module_and_each_its_own_output():
    modules = SharedModules(1)
    first, second = shared(modules, CLASSES), shared(modules, SCORES)
    assert first.hidden is second.hidden
    assert first.out is not second.out
    assert shared(modules, CLASSES, shared="other").hidden is not first.hidden


def test_shared_layers_start_from_the_same_weights_whoever_asks_first_and_change_nobody_elses():
    def weights(order: list[TaskFacts]) -> dict[str, torch.Tensor]:
        modules, found = SharedModules(1), {}
        for task in order:
            torch.manual_seed(task.rows + len(task.name) + (task is SCORES))
            head = shared(modules, task)
            found["common"], found[task.name] = head.hidden[1].weight, head.out.weight
        return found

    one, other = weights([CLASSES, SCORES]), weights([SCORES, CLASSES])
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert not torch.equal(one["common"], shared(SharedModules(2), CLASSES).hidden[1].weight)


@pytest.mark.parametrize("change", [{"hidden": (5,)}, {"activation": "gelu"}, {"dropout": 0.5}])
def test_shared_layers_of_another_build_are_refused_in_one_line(change):
    modules = SharedModules(1)
    shared(modules, CLASSES)
    with pytest.raises(MtlError) as caught:
        shared(modules, SCORES, **change)
    (line,) = caught.value.lines
    assert line.startswith('tasks.s.head.shared: "common" is Dropout(p=0.1, inplace=False), Linear(in_features=6, out')
    assert " in tasks.c.head and " in line and "\n" not in line


def test_a_name_without_layers_is_refused():
    with pytest.raises(MtlError, match=r'^tasks\.c\.head\.hidden: no layers to share as "common"'):
        MLP(HeadFacts(CLASSES, 6, 1), hidden=(), shared="common")


def test_a_hidden_layer_without_a_unit_is_refused():
    head = HeadChoice.model_validate({"name": "mlp", "hidden": [4, 0]})
    ((option, message),) = head.check("tasks.c.head")
    assert option == "hidden.1"
    assert "0" in message
