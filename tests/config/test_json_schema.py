"""The JSON Schema of a recipe: the committed file is current, every example fits it, and it finds what `mtl check` finds."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from json_schema import errors
from mtlcli.cli import app
from mtlcli.config.json_schema import recipe_schema
from mtlcli.config.layers import _read, read_recipe
from mtlcli.config.schema import Config
from mtlcli.registry import FAMILIES, lookup

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "recipe.schema.json"
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if path.stem != "space")
SCHEMA = json.loads(DOCUMENT.read_text(encoding="utf-8"))


def problems(text: str) -> list[str]:
    return list(errors(_read(text, (), "recipe.yaml", {}), SCHEMA, SCHEMA))


def test_the_document_is_what_the_command_prints():
    printed = CliRunner().invoke(app, ["schema", "--built-in"], catch_exceptions=False).stdout
    assert DOCUMENT.read_text(encoding="utf-8") == printed, (
        "write it again: mtl schema --built-in > docs/recipe.schema.json"
    )


def test_every_key_is_in_the_schema_with_its_description():
    assert list(SCHEMA["properties"]) == list(Config.model_fields)
    assert all(section["description"] for section in SCHEMA["properties"].values())


@pytest.mark.parametrize(
    "path", EXAMPLES, ids=lambda path: "-".join(path.relative_to(ROOT / "examples").with_suffix("").parts)
)
def test_every_example_fits_the_schema_to_which_its_second_line_points(path):
    start, _, target = path.read_text(encoding="utf-8").splitlines()[1].partition("$schema=")
    assert start == "# yaml-language-server: "
    assert (path.parent / target).resolve() == DOCUMENT
    assert list(errors(read_recipe(path).values, SCHEMA, SCHEMA)) == []


@pytest.mark.parametrize(
    "text",
    [
        "tasks: sst",
        "tasks: [sst, quora]",
        "tasks: {sst: , quora: {head: cosine, encoding: bi}, mine: {kind: regression, train: a.tsv, text: 0, range: [0, 5]}}",
        "tasks: {mine: {kind: my_module:Mine, anything: 1}}",
        "balancer: uncertainty+pcgrad",
        "balancer: {name: pcgrad, scale: mean}",
        "balancer: my_module:Mine",
        "regularizers: smart",
        "regularizers: [smart, {name: l2-sp, alpha: 0.1}]",
        "encoder: ../models/bert",
        "encoder: {name: google-bert/bert-base-uncased, pooling: cls}",
        "gradient_regularizer: null",
        "tasks: {x: {dev: {a: a.tsv, b: {where: {lang: de, year: [2019, 2020]}}, c: null}, select_dev: a, where: {ok: true}, group: 2}}",
        "training:",
        "scheduler: {name: stages, stages: [{steps: 5, scheduler: annealed}, {scheduler: {name: temperature, temperature: 2}}]}",
    ],
)
def test_what_a_recipe_may_say_shortly_fits(text):
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("taks: sst", ".taks"),
        ("training: {epoch: 3}", ".training.epoch"),
        ("optimizer: {lr: -1}", ".optimizer.lr"),
        ("scheduler: anealed", ".scheduler"),
        ("scheduler: {name: annealed, dekay: 0.5}", ".scheduler.dekay"),
        ("balancer: {name: uncertainty, form: sideways}", ".balancer.form"),
        ("balancer: {name: static}", ".balancer.weights"),
        ("regularizers: [{name: smart, step: 2}]", ".regularizers.0.step"),
        ("tasks: {sst: {kind: sst, ecoding: single}}", ".tasks.sst.ecoding"),
        ("tasks: {sst: {encoding: double}}", ".tasks.sst.encoding"),
        ("tasks: {sst: {dev: {a: {fil: a.tsv}}}}", ".tasks.sst.dev.a.fil"),
        ("tasks: {sst: {where: language}}", ".tasks.sst.where"),
        ("encoder: {dimension: 5}", ".encoder.dimension"),
        ("scheduler: {name: stages, stages: [{step: 5}]}", ".scheduler.stages.0.step"),
    ],
)
def test_a_mistake_is_found_where_it_is(text, path):
    found = problems(text)
    assert found
    assert any(line.startswith(path) for line in found), found


def test_a_third_partys_options_are_in_the_schema_of_its_user(tmp_path, monkeypatch):
    info = tmp_path / "mtlcli_third-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mtlcli-third\nVersion: 1.0\n", encoding="utf-8")
    points = "[mtlcli.balancers]\nthird = third_plugin:Third\nbroken = third_plugin:Missing\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    (tmp_path / "third_plugin.py").write_text(
        "from mtlcli.balancers.base import Balancer\n\n"
        "class Third(Balancer):\n    def __init__(self, run, *, strength: float = 1.0):\n        super().__init__(run)\n",
        encoding="utf-8",
    )
    monkeypatch.delenv("MTL_NO_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    lookup._installed.cache_clear()
    try:
        schema = json.loads(CliRunner().invoke(app, ["schema"], catch_exceptions=False).stdout)
    finally:
        lookup._installed.cache_clear()
    assert not list(errors({"balancer": {"name": "third", "strength": 2}}, schema, schema))
    assert list(errors({"balancer": {"name": "third", "strenght": 2}}, schema, schema))
    assert not list(errors({"balancer": {"name": "broken", "whatever": 2}}, schema, schema))


def test_every_built_in_plugin_is_in_the_schema():
    text = json.dumps(recipe_schema(built_in=True)["definitions"])
    for family in FAMILIES.values():
        if family.name != "metrics":
            assert all(f'"{name}"' in text for name in family.built_in), family.name
