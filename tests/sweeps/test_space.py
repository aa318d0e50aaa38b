"""The space of a sweep: its forms, its conditions, its errors, and the combinations that cannot be trained."""

import pytest

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.errors import MtlError
from mtlcli.sweeps.space import impossible, in_words, read_space


@pytest.fixture
def base():
    values = {"tasks": ["sst", "quora"], "sample": True, "training": {"steps": 10}, "optimizer": {"lr": 1e-3}}
    return resolve([Layer(values)])


@pytest.fixture
def space(tmp_path, base):
    def read(text: str):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return read_space(path, base)

    return read


def test_every_form(space):
    found = space(
        "optimizer.lr: {log: [1e-5, 2e-4]}\n"
        "optimizer.warmup: {from: 0.0, to: 0.2, step: 0.05}\n"
        "training.batch_size: {int: [8, 64], log: true}\n"
        "balancer: [equal, uncertainty, {name: gradnorm, alpha: 0.5}]\n"
        "optimizer.schedule: {choices: [linear, cosine]}\n"
    )
    lr, warmup, size, balancer, schedule = found.dimensions
    assert (lr.low, lr.high, lr.log, lr.whole) == (1e-5, 2e-4, True, False)
    assert (warmup.low, warmup.high, warmup.step) == (0.0, 0.2, 0.05)
    assert (size.low, size.high, size.log, size.whole) == (8, 64, True, True)
    assert balancer.labels == ("equal", "uncertainty", '{"name": "gradnorm", "alpha": 0.5}')
    assert balancer.value(balancer.labels[2]) == {"name": "gradnorm", "alpha": 0.5}
    assert schedule.choices == ("linear", "cosine")


def test_values_become_the_recipe(space, base):
    found = space(
        "optimizer.lr: {log: [1e-5, 2e-4]}\nbalancer: [equal, gradnorm]\n"
        "balancer.alpha: {from: 0.5, to: 2, when: {balancer: gradnorm}}\n"
    )
    config = found.config(base, {"optimizer.lr": 3e-5, "balancer": "gradnorm", "balancer.alpha": 0.7}, "trial 3")
    assert config.optimizer.lr == 3e-5
    assert config.balancer.name == "gradnorm" and config.balancer.options["alpha"] == 0.7


def test_a_key_varies_only_where_its_condition_holds(space, base):
    found = space("balancer: [equal, gradnorm]\nbalancer.alpha: {from: 0.5, to: 2, when: {balancer: gradnorm}}\n")
    for name, keys in (("equal", ["balancer"]), ("gradnorm", ["balancer", "balancer.alpha"])):
        values: dict[str, object] = {}
        active = []
        for dimension in found.active(values, base.plain()):
            active.append(dimension.key)
            values[dimension.key] = name if dimension.choices else 1.0
        assert active == keys


def test_conditions_on_keys_of_the_recipe(space, base):
    found = space("optimizer.warmup: {from: 0, to: 0.1, when: {optimizer.schedule: [cosine, constant]}}\n")
    assert base.optimizer.schedule == "linear" and not list(found.active({}, base.plain()))


def test_the_recipe_is_the_first_trial_where_it_lies_in_the_space(space, base):
    assert space("optimizer.lr: {log: [1e-4, 1e-2]}\nbalancer: [pcgrad, equal]\n".replace("pcgrad", "uncertainty")).default(base) == {
        "optimizer.lr": 1e-3, "balancer": "equal",
    }  # fmt: skip
    assert space("optimizer.lr: {log: [1e-5, 1e-4]}\n").default(base) is None
    assert space("balancer: [uncertainty, gradnorm]\n").default(base) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("optimizer.lrr: {log: [1e-5, 1e-4]}\n", r"space.yaml:1 .*optimizer.lrr.*did you mean"),
        ("optimizer.lr: 3\n", r"space.yaml:1: optimizer.lr: found 3: expected \[a, b\]"),
        ("optimizer.lr: {log: [1e-4, 1e-5]}\n", "a low end below the high one"),
        ("optimizer.lr: {log: [0, 1e-5]}\n", "above 0 where `log` is set"),
        ("optimizer.lr: {form: 1, to: 2}\n", "unknown key 'form'; did you mean \"from\""),
        ("training.batch_size: {int: [8.5, 16]}\n", "whole numbers"),
        ("balancer: [equal, equal]\n", "choices that differ"),
        ("balancer: [equal, uncertanty]\n", r'space.yaml:1 .*uncertanty.*did you mean "uncertainty"'),
        ("optimizer.warmup: {from: 0, to: 3}\n", r"space.yaml:1 .*optimizer.warmup"),
        ("optimizer.warmup: {from: 0, to: 0.1, when: {balncer: equal}}\n", "when: no key balncer"),
        ("", "no keys"),
    ],
)
def test_mistakes_are_one_line_that_names_file_and_line(space, text, line):
    with pytest.raises(MtlError, match=line) as caught:
        space(text)
    assert len(caught.value.lines) == 1


def test_combinations_that_cannot_be_trained_are_found_without_data(space, base):
    found = impossible(space("scheduler: [round-robin, shuffled]\nbalancer: [equal, gradnorm]\n"), base)
    assert list(found) == ["scheduler=shuffled balancer=gradnorm"]
    assert "gradnorm" in found["scheduler=shuffled balancer=gradnorm"]


def test_values_in_words():
    assert (
        in_words({"optimizer.lr": 0.00012345, "balancer": {"name": "gradvac", "beta": 0.1}})
        == "lr=0.000123 balancer=gradvac(beta=0.1)"
    )
    assert in_words({"tasks.a.batch_size": 4, "tasks.b.batch_size": 8}) == "tasks.a.batch_size=4 tasks.b.batch_size=8"
