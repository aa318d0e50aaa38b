"""The configuration: later layers win, everything wrong is said at once and where, and what is dumped resolves to itself."""

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from mtlcli.balancers.uncertainty import Uncertainty
from mtlcli.config.changes import check_unchanged
from mtlcli.config.layers import Layer, dump, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.config.shorthand import absolute_paths
from mtlcli.encoders.tiny import Tiny
from mtlcli.errors import MtlError
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.tasks.targets import Classes

OWN = "kind: classification, train: a.tsv"


@pytest.fixture
def config(tmp_path):
    """Writes a recipe and resolves it, as `--config` does."""

    def _config(text: str) -> Config:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return resolve([absolute_paths(read_recipe(path), tmp_path)])

    return _config


def errors(call, *arguments) -> list[str]:
    """The lines of an error, without the folder of the recipe."""
    with pytest.raises(MtlError) as caught:
        call(*arguments)
    return [re.sub(r"^\S*(?=recipe\.yaml:)", "", line) for line in caught.value.lines]


LONG = "a" * 5000


@pytest.mark.parametrize(
    "text",
    [
        f"data: {LONG}",
        f"init: runs/{LONG}",
        f"encoder: {LONG}",
        f"encoder: {{name: ./{LONG}}}",
        f"tasks: {{t: {{kind: classification, train: {LONG}}}}}",
        f"balancer: {{name: distill-anneal, teachers: {{t: {LONG}}}}}",
        f"data: {'a/' * 3000}",
    ],
)
def test_a_path_that_no_file_can_have_is_one_short_line(config, text):
    (line,) = errors(config, text)
    assert re.match(r"recipe\.yaml:1: [a-z.]+: found a path of \d+ bytes, '", line), line
    assert line.endswith("expected at most 4095, and 255 in each name")
    assert len(line) < 250


def test_a_null_byte_in_a_path_of_a_flag_is_one_line(tmp_path):
    layer = Layer()
    layer.put(("data",), "a\0b", "--data")
    assert errors(absolute_paths, layer, tmp_path) == ["--data: 'a\\x00b' contains a NUL byte; remove it"]


# Choices


def test_a_resolved_choice_carries_its_class_and_builds_its_plugin(config, monkeypatch):
    resolved = config("{tasks: [sst], sample: true, balancer: {name: uncertainty, form: by-task}, regularizers: smart}")
    monkeypatch.setattr("mtlcli.registry.load", None)  # nothing is looked up a second time
    facts = RunFacts((TaskFacts("sst", 10, 1, Classes.named("a", "b")),))
    made = resolved.balancer.make(facts)
    assert type(made) is resolved.balancer.plugin is Uncertainty
    assert resolved.regularizers[0].plugin.__name__ == "SMART"
    assert resolved.tasks["sst"].head.plugin.__name__ == "Linear"
    assert resolved.tasks["sst"].plugin.__name__ == "SST"


def test_a_stored_configuration_finds_its_classes_when_it_needs_them_and_equals_the_resolved_one(config):
    resolved = config("{tasks: [sst], sample: true, balancer: uncertainty}")
    stored = Config.model_validate(resolved.plain())
    assert stored == resolved
    assert stored.balancer.plugin is resolved.balancer.plugin
    assert "plugin" not in str(resolved.plain())
    stored.tasks["sst"].head.name = "gone"
    stored.tasks["sst"].head._plugin = None
    with pytest.raises(MtlError, match=r'^tasks\.sst\.head: unknown head "gone"'):
        _ = stored.tasks["sst"].head.plugin


def test_every_key_of_the_configuration_has_a_description():
    def undescribed(model: type, path: str = "") -> list[str]:
        missing = []
        for key, field in model.model_fields.items():
            if not field.description:
                missing.append(path + key)
            for part in (field.annotation, *get_args(field.annotation)):
                if inspect.isclass(part) and issubclass(part, BaseModel) and part is not model:
                    missing += undescribed(part, f"{path}{key}.")
        return missing

    assert undescribed(Config) == []


# Tasks


@pytest.mark.parametrize("tasks", ["[sst, quora]", "{sst: , quora: {}}", "sst, quora", "\n  sst:\n  quora:\n"])
def test_tasks_may_be_named_alone(config, tasks):
    found = config(f"tasks: {tasks}").tasks
    assert [(name, task.name, task.encoding, task.head.name) for name, task in found.items()] == [
        ("sst", "sst", "single", "linear"),
        ("quora", "quora", "cross", "linear"),
    ]


@pytest.mark.parametrize(
    "name", ["keys", "items", "name", "kind", "int", "train", "1", "1e-5", "true", "naïve", "a-b_c+d", "数"]
)
def test_a_task_may_be_called_nearly_anything(config, name):
    assert list(config(f"tasks: {{{name}: {{{OWN}}}}}").tasks) == [name]


@pytest.mark.parametrize("name", ["a b", "a.b", "a/b", "a,b", "a=b", "a\\tb", "a:b", "", "x" * 101])
def test_a_name_that_no_file_can_have_is_refused(config, name):
    assert "a task's name is part of file names" in errors(config, f'tasks: {{"{name}": {{{OWN}}}}}')[0]


def test_a_bare_string_says_what_kind_a_task_is(config):
    assert config("tasks: {mine: sst, yours: {name: quora}}").plain()["tasks"]["mine"]["kind"] == "sst"


def test_two_tasks_of_one_kind_are_two_tasks(config):
    found = config("tasks: {a: {kind: sst, max_rows: 5}, b: {kind: sst}}").tasks
    assert [(name, task.name, task.max_rows) for name, task in found.items()] == [("a", "sst", 5), ("b", "sst", None)]


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ("[sst, sst]", 'recipe.yaml:1: tasks: the task "sst" is listed twice; keep one'),
        ("[{sst: {}}]", "recipe.yaml:1: tasks: expected names, such as [sst, quora], or a mapping"),
        ("[1]", "recipe.yaml:1: tasks: expected names"),
        ("5", "recipe.yaml:1: tasks: found 5: expected a mapping of keys to values"),
        ("{sst: 5}", "recipe.yaml:1: tasks.sst: found 5: expected a mapping of keys to values"),
        ("{}", "no task: name at least one"),
        ("", "no task: name at least one"),
        ("{ssst: }", 'recipe.yaml:1: tasks.ssst: "ssst" is not a known task; did you mean "sst"?'),
        ("{sst: {ecoding: bi}}", 'recipe.yaml:1: tasks.sst.ecoding: unknown option of "sst"; did you mean "encoding"?'),
        ("{sst: {kin: sst}}", 'recipe.yaml:1: tasks.sst.kin: unknown option of "sst"; did you mean "kind"?'),
        ("{sst: {encoding: bi}}", 'recipe.yaml:1: tasks.sst.encoding: found "bi"; "sst" can be encoded as single'),
        (
            "{sst: {head: cosine}}",
            'recipe.yaml:1: tasks.sst.head: "cosine" reads two texts, each encoded alone; choose another head',
        ),
        ("{quora: {head: pair-concat}}", "set tasks.quora.encoding to bi"),
        ("{quora: {encoding: bi, head: linear}}", "set tasks.quora.encoding to cross"),
        ("{sst: {head: liner}}", 'unknown head "liner"; did you mean "linear"?'),
        ("{sst: {max_rows: 0}}", "recipe.yaml:1: tasks.sst.max_rows: found 0"),
        ("{p: {kind: regression, train: a, range: [5, 0]}}", "expected [lowest, highest]"),
    ],
)
def test_a_wrong_task_is_one_line(config, tasks, line):
    found = errors(config, f"tasks: {tasks}")
    assert len(found) == 1
    assert line in found[0]


# Errors of everything else


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("taks: {}", 'recipe.yaml:2: taks: unknown key; did you mean "tasks"?'),
        ("lr: 1e-4", 'recipe.yaml:2: lr: unknown key; did you mean "optimizer.lr"?'),
        ("epoch: 3", 'recipe.yaml:2: epoch: unknown key; did you mean "training.epochs"?'),
        ("training: {lr: 1e-4}", 'recipe.yaml:2: training.lr: unknown key; did you mean "optimizer.lr"?'),
        ("training:\n  epoch: 3", 'recipe.yaml:3: training.epoch: unknown key; did you mean "epochs"?'),
        ("training: {epochs: many}", "recipe.yaml:2: training.epochs: found 'many'"),
        ("training: {epochs: 0}", "recipe.yaml:2: training.epochs: found 0"),
        ("training: {epochs: 1, steps: 2}", "recipe.yaml:2: training.steps: steps and epochs exclude each other; set only one"),
        ("optimizer: 3", "recipe.yaml:2: optimizer: found 3: expected a mapping of keys to values"),
        ("optimizer: {lr: .inf}", "recipe.yaml:2: optimizer.lr: found inf"),
        ("optimizer: {lr: .nan}", "recipe.yaml:2: optimizer.lr: found nan"),
        ("balancer: pcgrd", 'recipe.yaml:2: balancer: unknown balancer "pcgrd"; did you mean "pcgrad"?'),
        ("balancer: equal+uncertainty", '"equal" and "uncertainty" are both of the kind balancer; choose one'),
        ("balancer:\n  name: uncertainty\n  initial_log_varience: 0", "recipe.yaml:4: balancer.initial_log_varience: unknown option"),
        ("balancer: {name: uncertainty, initial_log_varience: 0}", 'of "uncertainty"; did you mean "initial_log_variance"?'),
        ("balancer: {name: uncertainty, initial_log_variance: 11}", "recipe.yaml:2: balancer.initial_log_variance: found 11"),
        ("encoder: {name: tiny, layrs: 3}", 'recipe.yaml:2: encoder.layrs: unknown option of "tiny"; did you mean "layers"?'),
        ("encoder: {name: ./model, dim: 3}", "recipe.yaml:2: encoder.dim: unknown key"),
        ("regularizers: [nope]", 'recipe.yaml:2: regularizers.0: unknown regularizer "nope"'),
        ("sample: true\ndata: x", "recipe.yaml:3: data: data and sample exclude each other; set only one"),
        ("scheduler: nope", 'recipe.yaml:2: scheduler: unknown scheduler "nope"'),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_has_its_line_and_the_nearest_name(config, text, line):
    assert any(line in found for found in errors(config, f"tasks: [sst]\n{text}\n"))


def test_all_errors_come_at_once(config):
    found = errors(
        config, "tasks: {sst: {ecoding: bi}, sts: {head: nope}}\nscheduler: nope\nbalancer: {name: equal, a: 1}"
    )
    assert [line.split(": ")[1] for line in found] == ["scheduler", "balancer.a", "tasks.sst.ecoding", "tasks.sts.head"]


# Values


def test_saying_nothing_of_a_section_is_leaving_it_out(config):
    sections = "training:\nencoder:\noptimizer:\nbalancer:\nscheduler:\narchitecture:\nregularizers:\ngradient_regularizer:\ndata:\n"
    assert config(f"tasks: [sst]\n{sections}") == config("tasks: [sst]")


def test_what_is_left_open_is_what_suits_the_encoder(config):
    tiny, model = config("tasks: [sst]"), config("tasks: [sst]\nencoder: ./model")
    assert (tiny.optimizer.lr, tiny.training.batch_size) == (
        Tiny.recommended["optimizer"]["lr"], Tiny.recommended["training"]["batch_size"],
    )  # fmt: skip
    assert (model.optimizer.lr, model.optimizer.head_lr, model.training.epochs, model.training.batch_size) == (
        5e-5,
        5e-4,
        3,
        16,
    )


def test_a_recommendation_gives_way_to_what_the_recipe_says(config):
    found = config("tasks: [sst]\nencoder: {name: tiny, layers: 1}\ntraining: {steps: 7}\noptimizer: {lr: 0.5}")
    assert (found.optimizer.lr, found.training.steps, found.training.epochs) == (0.5, 7, None)
    assert found.training.batch_size == Tiny.recommended["training"]["batch_size"]


def test_one_run_leaves_the_defaults_of_the_next_alone(config):
    first = config("tasks: [sst]")
    config("tasks: [sst]\noptimizer: {lr: 3}\ntraining: {steps: 7}")
    assert config("tasks: [sst]") == first


@pytest.mark.parametrize(
    "text",
    [
        "balancer: uncertainty+pcgrad",
        "balancer: pcgrad + uncertainty",
        "balancer: {name: uncertainty+pcgrad}",
        "balancer: uncertainty\ngradient_regularizer: pcgrad",
        "balancer: uncertainty+pcgrad\ngradient_regularizer: pcgrad",
    ],
)
def test_both_families_are_named_by_one_key_or_two(config, text):
    found = config(f"tasks: [sst]\n{text}")
    assert (found.balancer.name, found.gradient_regularizer.name) == ("uncertainty", "pcgrad")


def test_options_of_a_joined_name_are_those_of_the_balancer(config):
    found = config(
        "tasks: [sst]\nbalancer: {name: uncertainty+pcgrad, initial_log_variance: 1}\ngradient_regularizer: {scale: mean}"
    )
    assert (found.balancer.options, found.gradient_regularizer.options) == (
        {"initial_log_variance": 1.0, "form": "by-task"},
        {"scale": "mean"},
    )


def test_a_gradient_regularizer_alone_goes_with_equal_weights(config):
    found = config("tasks: [sst]\nbalancer: {name: pcgrad, scale: mean}")
    assert (found.balancer.name, found.gradient_regularizer.options) == ("equal", {"scale": "mean"})


def test_two_gradient_regularizers_are_refused(config):
    assert "choose one" in errors(config, "tasks: [sst]\nbalancer: pcgrad\ngradient_regularizer: other")[0]


def test_paths_are_relative_to_the_recipe(config, tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    found = config(
        f"tasks: {{p: {{{OWN}, dev: ../b.tsv, test: /c.tsv}}}}\ndata: folder\nencoder: {{name: models/mine, layer: 0}}"
    )
    task = found.tasks["p"]
    assert [Path(name).resolve() for name in (task.train, task.dev, task.test, found.data)] == [
        tmp_path / "a.tsv", tmp_path.parent / "b.tsv", Path("/c.tsv"), tmp_path / "folder",
    ]  # fmt: skip
    assert found.encoder.name == str(tmp_path / "models" / "mine")


def test_a_path_loses_its_dots_unless_a_link_makes_that_another_place(config, tmp_path):
    (tmp_path / "far" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "below")
    assert config("tasks: [sst]\ndata: far/../other").data == str(tmp_path / "other")
    assert config("tasks: [sst]\ndata: link/../other").data == str(tmp_path / "link" / ".." / "other")


def test_a_home_folder_is_found_and_a_hub_id_is_left_alone(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert config("tasks: [sst]\ndata: ~/data").data == "/home/me/data"
    assert config("tasks: [sst]\ndata: ~no-such-user/data").data.endswith("/~no-such-user/data")
    assert config("tasks: [sst]\nencoder: owner/model").encoder.name == "owner/model"


def test_a_later_layer_takes_back_what_it_excludes():
    base = {"tasks": ["sst"], "data": "/x", "training": {"epochs": 3}}
    found = resolve([Layer(base), Layer({"sample": True, "training": {"steps": 9}})])
    assert (found.data, found.sample, found.training.epochs, found.training.steps) == (None, True, None, 9)


@pytest.mark.parametrize(
    "text",
    [
        "tasks: [sst, quora, sts]\nbalancer: uncertainty+pcgrad",
        "tasks: {keys: {kind: classification, train: a, text: 0, label: 1, header: false, labels: [true, 007, 1e5, no, ü]}}",
        "tasks: {p: {kind: pair-regression, train: a, text: [x, '1e-5'], range: [0, 5], head: {name: linear}, encoding: cross}}",
        "tasks: {sst: {max_rows: 5}}\nscheduler: temperature\nsample: true\nencoder: {name: tiny, dim: 16, pooling: cls, layer: -2}",
        "tasks: [sst]\ntraining: {steps: 5, eval_every: 2, patience: 3, select_by: sst.macro-f1}\noptimizer: {lr: 1e-5, clip: null}",
        "tasks: [sst, sts]\nbalancer: {name: static, weights: {sst: 1, sts: 2.5}}\narchitecture: hard-sharing",
    ],
)  # fmt: skip
def test_what_is_dumped_resolves_to_itself(config, tmp_path, text):
    first = config(text)
    (tmp_path / "config.yaml").write_text(dump(first.plain()))
    second = resolve([absolute_paths(read_recipe(tmp_path / "config.yaml"), tmp_path / "elsewhere")])
    assert second == first
    assert second.plain() == first.plain()
    assert Config.model_validate(first.plain()) == first
    assert check_unchanged(first, second) == []


# Resuming


def test_what_changes_nothing_learned_may_change(config):
    was = config(f"tasks: {{p: {{{OWN}}}}}\ntraining: {{epochs: 3}}")
    now = config(f"tasks: {{p: {{{OWN.replace('a.tsv', 'b.tsv')}}}}}\ntraining: {{epochs: 5}}")
    assert [line.split(":")[1].strip() for line in check_unchanged(was, now)] == ["tasks.p.train", "training.epochs"]


@pytest.mark.parametrize(
    "now",
    [
        "tasks: [quora, sst]",
        "tasks: [sst]",
        "tasks: [sst, quora]\nbalancer: pcgrad",
        "tasks: [sst, quora]\ntraining: {seed: 1}",
    ],
)
def test_what_was_learned_with_cannot_change(config, now):
    assert all(
        line.startswith("--resume: ") for line in errors(check_unchanged, config("tasks: [sst, quora]"), config(now))
    )


# Evaluation sets and filters


def test_sets_have_absolute_files_and_values_as_text(config, tmp_path):
    text = """
tasks:
  t:
    kind: classification
    train: a.tsv
    dev: {matched: b.tsv, de: {file: c.tsv, where: {language: no, year: [2019, 007], gold: true}}}
    test: {old: ../d.tsv}
    where: {language: [de, fr]}
    select_dev: de
    group: 3
"""
    task = config(text).tasks["t"]
    assert {name: part.file for name, part in task.sets_of("dev").items()} == {
        "matched": str(tmp_path / "b.tsv"),
        "de": str(tmp_path / "c.tsv"),
    }
    assert task.sets_of("test")["old"].file == str(tmp_path.parent / "d.tsv")
    assert task.sets_of("dev")["de"].where == {"language": ["no"], "year": ["2019", "007"], "gold": ["true"]}
    assert task.where_of("dev.de") == {"language": ["no"], "year": ["2019", "007"], "gold": ["true"]}
    assert task.where_of("train") == task.where_of("dev.matched") == {"language": ["de", "fr"]}
    assert task.splits_of("dev") == ("dev.matched", "dev.de") and task.splits_of("train") == ("train",)
    assert (task.selecting_splits(), task.group, task.dev_share) == (("dev.de",), "3", None)
    assert resolve([Layer(config(text).plain())]) == config(text)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("dev: {}", "tasks.t.dev: found {}: expected sets by name"),
        (
            "dev: {file: a.tsv, where: {x: y}}",
            "expected sets by name, such as {de: {file: dev.tsv, where: {language: de}}}",
        ),
        (
            "dev: {a: 10%}",
            "tasks.t.dev.a.file: found '10%': expected a file; a share of the training rows cannot be one of",
        ),
        ("dev: {a: {fil: x}}", 'tasks.t.dev.a.fil: unknown key; did you mean "file"?'),
        ("dev: {train: a.tsv, b: b.tsv}", 'tasks.t.dev.train: "train" cannot be the name of a set'),
        ("dev: {mean: a.tsv}", 'tasks.t.dev.mean: "mean" cannot be the name of a set'),
        ("test: {a/b: a.tsv}", "tasks.t.test.a/b: a set's name is part of file names: expected 1 to 100 letters"),
        ("test: {a.b: a.tsv}", "a set's name is part of file names"),
        ("dev: {a: a.tsv}, select_dev: b", 'tasks.t.select_dev: no dev set "b"; there are: a'),
        ("dev: a.tsv, select_dev: b", 'tasks.t.select_dev: no dev set "b"; there are none'),
        ("dev: {a: [b]}", "tasks.t.dev.a: found ['b']: expected a mapping"),
        ("where: de", "tasks.t.where: found 'de': expected a mapping"),
        ("where: {language: []}", "tasks.t.where.language: found []: list should have at least 1 item"),
        ("where: {language: {a: b}}", "tasks.t.where.language.0: found {'a': 'b'}: input should be a valid string"),
    ],
)
def test_a_wrong_set_or_filter_is_one_line(config, keys, problem):
    (line,) = errors(config, f"tasks: {{t: {{kind: classification, train: a.tsv, {keys}}}}}")
    assert line.startswith("recipe.yaml:1: ") and problem in line


def test_a_set_is_chosen_by_a_key_of_its_task(config):
    recipe = f"tasks: {{t: {{{OWN}, dev: {{a: a.tsv, b: b.tsv}}}}}}\ntraining: {{select_by: t.a.accuracy}}"
    assert errors(config, recipe) == [
        'recipe.yaml:2: training.select_by: found "t.a.accuracy": expected t.accuracy; to select by the set a alone, add '
        "tasks.t.select_dev=a"
    ]


def test_a_set_of_the_recipe_can_be_replaced_or_removed(config):
    recipe = f"tasks: {{t: {{{OWN}, dev: {{a: a.tsv, b: b.tsv}}}}}}"
    above = Layer()
    above.put(("tasks", "t", "dev", "a"), None, "--set")
    above.put(("tasks", "t", "dev", "c"), {"file": "c.tsv"}, "--set")
    merged = resolve([Layer(config(recipe).plain()), above])
    assert list(merged.tasks["t"].sets_of("dev")) == ["b", "c"]


def test_files_of_sets_may_move_before_resuming_and_filters_may_not(config):
    stored = config(f"tasks: {{t: {{{OWN}, dev: {{a: {{file: a.tsv, where: {{x: y}}}}}}}}}}")
    moved = config(f"tasks: {{t: {{{OWN}, dev: {{a: {{file: b.tsv, where: {{x: y}}}}}}}}}}")
    (note,) = check_unchanged(stored, moved)
    assert note.startswith("changed on resuming: tasks.t.dev.a.file: was ")
    other = config(f"tasks: {{t: {{{OWN}, dev: {{a: {{file: a.tsv, where: {{x: z}}}}}}}}}}")
    with pytest.raises(MtlError, match=r"--resume: tasks.t.dev.a.where.x: was \['y'\], now \['z'\]"):
        check_unchanged(stored, other)


def test_projections_of_lora_may_be_one_word(config):
    resolved = config("tasks: [sst]\narchitecture: {name: lora, on: all}")
    assert resolved.architecture.options["on"] == ["all"]
