"""What `mtl plugins` says of plugins, broken ones included."""

import inspect
import json
import os
import subprocess
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field

from mtlcli import registry
from mtlcli.balancers.tchebycheff import Tchebycheff
from mtlcli.errors import MtlError
from mtlcli.registry import listing, lookup
from mtlcli.registry.details import describe, type_name
from mtlcli.registry.listing import PluginSummary, first_sentence, list_plugins

ENCODER = '''
from mtlcli.encoders.base import EncoderSource

class {name}(EncoderSource):
    """Finds a model. And then
    returns it."""

    def folder(self, facts):
        return facts.scratch
'''


@pytest.fixture
def distributions(tmp_path, monkeypatch):
    """install(name, points, **modules) makes an installed distribution `name` 1.2 with entry points in mtlcli.encoders."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, points, group="mtlcli.encoders", **modules):
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{point} = {target}\n" for point, target in points.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        for module, source in modules.items():
            path = tmp_path / f"{module.replace('__in__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)

    lookup._installed.cache_clear()
    yield install
    lookup._installed.cache_clear()


def summaries(distribution, family="encoders"):
    return {plugin.name: plugin for plugin in list_plugins([family]) if plugin.distribution == distribution}


def test_listing_imports_neither_plugins_nor_torch():
    code = (
        "import sys; from mtlcli import registry; from mtlcli.registry.listing import list_plugins; "
        "assert len(list_plugins(list(registry.FAMILIES))) > 20; "
        "print([name for name in sys.modules if name in ('torch', 'numpy', 'transformers', 'mtlcli.plugin')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MTL_NO_PLUGINS": "1"}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_built_in_plugin_is_ok_and_has_a_summary(monkeypatch):
    monkeypatch.setattr(lookup, "_installed", lambda family: ())
    for one in list_plugins(list(registry.FAMILIES)):
        assert (one.status, one.distribution) == ("ok", "mtlcli")
        assert 10 < len(one.summary) < 140, one
        assert not one.summary.endswith(".")


def test_a_third_party_plugin_that_works_is_ok(distributions):
    distributions("mtlcli-fine", {"fine": "fine_x:Fine"}, fine_x=ENCODER.format(name="Fine"))
    assert summaries("mtlcli-fine") == {
        "fine": PluginSummary("encoders", "fine", "mtlcli-fine", "1.2", "ok", "Finds a model")
    }
    assert "fine_x" not in sys.modules


SAID = '''
"""A trick: Doe and Roe, ICML 2031, arXiv:3101.00001, equation 3.

And more.
"""

from mtlcli.balancers.base import Balancer

class Literal(Balancer):
    """Does it."""

    native_scale = "mean"
    needs: frozenset = frozenset({"several-tasks", "gram"})
    cost = (
        "one more "
        "pass"
    )

class Computed(Balancer):
    """Works it out."""

    native_scale = "me" + "an".strip()
    needs = frozenset({name for name in ("gram",)})
    cost = 3

class Silent(Balancer):
    """Says nothing."""
'''


def test_what_a_class_says_outright_wins_over_its_base_and_what_it_computes_is_left_open(distributions):
    points = {name.lower(): f"said_x:{name}" for name in ("Literal", "Computed", "Silent")}
    distributions("mtlcli-said", points, "mtlcli.balancers", said_x=SAID)
    found = summaries("mtlcli-said", "balancers")
    assert {name: (one.status, one.native_scale, one.needs, one.cost) for name, one in found.items()} == {
        "literal": ("ok", "mean", ("gram", "several-tasks"), "one more pass"),
        "computed": ("ok", None, None, None),
        "silent": ("ok", "sum", (), "none"),  # Balancer's own, and for the cost that of Plugin
    }
    assert {one.paper for one in found.values()} == {"Doe and Roe, ICML 2031, arXiv:3101.00001, equation 3"}


def test_a_class_whose_base_cannot_be_followed_has_the_defaults_of_its_family(distributions):
    source = "import mtlcli.schedulers.base as b\nclass Own(b.Scheduler):\n    tasks_per_step = 'several'\n"
    source += "    def visits(self, position): return []\n    def steps_per_epoch(self): return 1\n"
    distributions("mtlcli-own", {"own": "own_x:Own"}, "mtlcli.schedulers", own_x=source)
    found = summaries("mtlcli-own", "schedulers")["own"]
    assert (found.status, found.tasks_per_step, found.cost, found.paper) == ("ok", "several", "none", "")


def test_a_class_that_is_its_own_base_is_read_all_the_same(distributions):
    distributions("mtlcli-ring", {"ring": "ring_x:Ring"}, "mtlcli.metrics", ring_x="class Ring(Ring):\n    'Turns.'\n")
    assert summaries("mtlcli-ring", "metrics")["ring"].summary == "Turns"


@pytest.mark.parametrize("family", ["schedulers", "balancers", "gradient_regularizers", "regularizers"])
def test_every_built_in_method_says_its_cost_and_its_paper(monkeypatch, family):
    monkeypatch.setattr(lookup, "_installed", lambda family: ())
    for one in list_plugins([family]):
        assert one.cost, one
        assert one.paper, one
        assert (one.native_scale is not None) == (family in ("balancers", "gradient_regularizers")), one
        assert (one.tasks_per_step is not None) == (family == "schedulers"), one


def test_a_class_imported_from_a_module_of_the_package_is_found(distributions):
    distributions(
        "mtlcli-deep", {"deep": "deep_x:Deep"},
        deep_x__in____init__="from .inner import Inner as Deep\n", deep_x__in__inner=ENCODER.format(name="Inner"),
    )  # fmt: skip
    assert summaries("mtlcli-deep")["deep"].summary == "Finds a model"


def test_each_kind_of_broken_plugin_is_one_line_of_its_own(distributions):
    sources = {
        "imports": "import there_is_no_such_module\n" + ENCODER.format(name="Plugin"),
        "syntax": "class Plugin(:\n",
        "leaves": "import os\nos._exit(3)\n",
        "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        "quits": "raise SystemExit('not today')\n",
        "lines": "raise ValueError('one\\ntwo')\n",
        "other": "class Plugin: pass\n",
        "abstract": "from mtlcli.encoders.base import EncoderSource\nclass Plugin(EncoderSource): pass\n",
        "missing": "x = 1\n",
        "prints": "print('[]', flush=True)\n" + ENCODER.format(name="Plugin"),
    }
    distributions(
        "mtlcli-broken",
        {name: f"broken_{name}:Plugin" for name in sources} | {"absent": "broken_absent:Plugin"},
        **{f"broken_{name}": source for name, source in sources.items()},
    )
    ending = " (reinstall or uninstall mtlcli-broken)"
    assert {name: one.status.removesuffix(ending) for name, one in summaries("mtlcli-broken").items()} == {
        "imports": "error: ModuleNotFoundError: No module named 'there_is_no_such_module'",
        "syntax": "error: SyntaxError: invalid syntax (broken_syntax.py, line 1)",
        "leaves": "error: its import ends the process with code 3",
        "crashes": "error: its import ends the process with code -11",
        "quits": "error: SystemExit: not today",
        "lines": "error: ValueError: one",
        "other": "error: broken_other:Plugin is not a mtlcli.encoders.base.EncoderSource",
        "abstract": "error: broken_abstract:Plugin does not define folder",
        "missing": "error: AttributeError: module 'broken_missing' has no attribute 'Plugin'",
        "prints": "ok",
        "absent": "error: ModuleNotFoundError: No module named 'broken_absent'",
    }


def test_a_plugin_whose_import_hangs_is_left_behind(distributions, monkeypatch):
    monkeypatch.setattr(listing, "SECONDS", 1.5)
    distributions(
        "mtlcli-slow", {"a-slow": "slow_x:Slow", "b-fine": "after_x:Fine"},
        slow_x="import time\ntime.sleep(600)\n", after_x=ENCODER.format(name="Fine"),
    )  # fmt: skip
    assert [one.status for one in summaries("mtlcli-slow").values()] == [
        "error: its import takes longer than 1.5 s (reinstall or uninstall mtlcli-slow)",
        "ok",
    ]


def test_two_claims_to_one_name_are_both_shown_as_errors(distributions):
    distributions("mtlcli-one", {"same": "same_x:Same"}, same_x=ENCODER.format(name="Same"))
    distributions("mtlcli-two", {"same": "same_x:Same", "tiny": "same_x:Same"})
    found = {(one.name, one.distribution): one.status for one in list_plugins(["encoders"])}
    assert found["same", "mtlcli-one"] == "error: the name is also claimed by mtlcli-two 1.2"
    assert found["same", "mtlcli-two"] == "error: the name is also claimed by mtlcli-one 1.2"
    assert found["tiny", "mtlcli"] == "error: the name is also claimed by mtlcli-two 1.2"


def test_the_command_line_shows_a_broken_plugin_and_succeeds(distributions, tmp_path):
    distributions("mtlcli-broken", {"gone": "gone_x:Gone"})
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "mtlcli", "plugins", "list", "encoders"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    line = next(line for line in done.stdout.splitlines() if line.split("\t")[1] == "gone")
    expected = "error: ModuleNotFoundError: No module named 'gone_x' (reinstall or uninstall mtlcli-broken)"
    assert line.split("\t") == ["encoders", "gone", expected, "-", "-", "-", "-", "mtlcli-broken 1.2"]
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    found = next(one for one in json.loads(done.stdout) if one["name"] == "gone")
    said = ["native_scale", "needs", "tasks_per_step", "reads_rows", "cost", "paper"]
    assert list(found) == ["family", "name", "distribution", "version", "status", "summary", *said]


def test_a_summary_is_the_first_sentence_on_one_line():
    assert first_sentence("Does this\n    and that. Then more.\n\nAnd more.") == "Does this and that"
    assert first_sentence("As in Xin et al. (2022): a sum. More.") == "As in Xin et al. (2022): a sum"
    assert first_sentence("With p = 0.5 or 1.0 as the share") == "With p = 0.5 or 1.0 as the share"
    assert first_sentence("") == ""


def test_a_balancer_is_described_with_its_source_and_options():
    found = describe("balancers", "tchebycheff")
    assert found.source.split(":")[0].endswith("mtlcli/balancers/tchebycheff.py")
    assert found.module.startswith("Tchebycheff loss: Mao et al., ACL 2020")
    assert found.text == inspect.cleandoc(Tchebycheff.__doc__)
    assert dict(found.declares) == {
        "needs": "several-tasks",
        "native_scale": "own",
        "weighs_heads": "false",
        "cost": "gradient rows",
    }
    assert [option[:4] for option in found.options] == [
        ("reference", "choice", "epoch", "epoch | validation"),
        ("smooth", "float | null", "null", "> 0"),
    ]
    assert all(option[4] for option in found.options)


def test_an_option_without_default_is_required():
    assert describe("balancers", "static").options[0][:4] == ("weights", "dict[str, float]", "required", ">= 0")


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_built_in_plugin_can_be_described(family):
    for name in registry.FAMILIES[family].built_in:
        found = describe(family, name)
        assert found.module, name
        assert found.text, name
        assert all(":" not in attribute and value for attribute, value in found.declares), name


def test_the_target_of_a_task_is_said_in_words():
    targets = {name: dict(describe("tasks", name).declares)["target"] for name in ("quora", "sts", "regression")}
    assert targets == {
        "quora": "one of different, duplicate",
        "sts": "a score from 0 to 5",
        "regression": "a score in the range of the training rows",
    }


def test_describing_what_cannot_be_used_is_an_error_of_the_users(distributions):
    distributions("mtlcli-broken", {"gone": "gone_x:Gone"})
    with pytest.raises(MtlError, match=r'encoders: "gone" from mtlcli-broken 1\.2: there is no module "gone_x"'):
        describe("encoders", "gone")
    with pytest.raises(MtlError, match='did you mean "uncertainty"'):
        describe("balancers", "uncertainy")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (float, "float"),
        (float | None, "float | null"),
        (list[str], "list[str]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (dict[str, Annotated[float, Field(ge=0)]], "dict[str, float]"),
        (Literal["a", "b"] | int, "choice | int"),
    ],
)
def test_types_read_as_in_the_documentation(annotation, text):
    assert type_name(annotation) == text
