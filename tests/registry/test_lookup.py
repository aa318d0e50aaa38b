"""Plugins by family and name."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

import mtlcli
import mtlcli.testing
from mtlcli import registry
from mtlcli.balancers.equal import Equal
from mtlcli.balancers.static import Static
from mtlcli.balancers.uncertainty import Uncertainty
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.registry import lookup
from mtlcli.schedulers.stages import Stages

ENCODER = """
from mtlcli.encoders.base import EncoderSource

class {name}(EncoderSource):
    def folder(self, facts):
        return facts.scratch
"""


@pytest.fixture
def distributions(tmp_path, monkeypatch):
    """install(name, points, **modules) makes an installed distribution `name` 1.2 with entry points in mtlcli.encoders."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, points, **modules):
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{point} = {target}\n" for point, target in points.items())
        (info / "entry_points.txt").write_text(f"[mtlcli.encoders]\n{lines}")
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(source)

    lookup._installed.cache_clear()
    yield install
    lookup._installed.cache_clear()


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_built_in_name_leads_to_a_class_of_its_family(family):
    for name in registry.FAMILIES[family].built_in:
        assert issubclass(registry.load(family, name, "test"), registry.base_of(family))


@pytest.mark.parametrize("text", ["balancers", "balancer", "Balancers"])
def test_a_family_goes_by_its_singular_too(text):
    assert registry.family_named(text) == "balancers"
    assert registry.family_named("gradient-regularizer") == "gradient_regularizers"


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(MtlError, match='unknown plugin family "balancer5"; did you mean "balancers"'):
        registry.family_named("balancer5")


def test_an_unknown_name_is_answered_with_the_nearest_or_all():
    with pytest.raises(MtlError, match=r'^balancer: unknown balancer "uncertainy"; did you mean "uncertainty"\?$'):
        registry.load("balancers", "uncertainy", "balancer")
    with pytest.raises(MtlError, match=r"there are: .*hard-sharing"):
        registry.load("architectures", "xyz", "architecture")


def test_a_name_of_another_family_is_answered_with_that_family():
    with pytest.raises(MtlError, match=r'unknown balancer "pcgrad"; it is one of the gradient regularizers$'):
        registry.load("balancers", "pcgrad", "balancer")


def test_a_third_party_plugin_goes_by_its_name(distributions):
    distributions("mtlcli-fine", {"fine": "fine_r:Fine"}, fine_r=ENCODER.format(name="Fine"))
    entry = registry.find("encoders", "fine", "encoder")
    assert (entry.target, entry.distribution, entry.version) == ("fine_r:Fine", "mtlcli-fine", "1.2")
    assert registry.names("encoders")[0] == "tiny"
    assert registry.load("encoders", "fine", "encoder").__name__ == "Fine"


def test_no_third_party_plugin_is_seen_where_they_are_switched_off(distributions, monkeypatch):
    distributions("mtlcli-fine", {"fine": "fine_r:Fine"})
    monkeypatch.setenv("MTL_NO_PLUGINS", "1")
    assert registry.names("encoders") == ["tiny"]


def test_a_name_that_two_distributions_claim_names_both(distributions):
    distributions("mtlcli-shadow", {"tiny": "shadow_r:Tiny"})
    with pytest.raises(MtlError) as error:
        registry.load("encoders", "tiny", "encoder")
    assert "mtlcli-shadow 1.2 (shadow_r:Tiny)" in str(error.value)
    assert "uninstall one, or name the class itself: shadow_r:Tiny" in str(error.value)


def test_a_claim_does_not_stop_the_other_names(distributions):
    distributions(
        "mtlcli-shadow", {"tiny": "shadow_r:Tiny", "fine": "fine2_r:Fine"}, fine2_r=ENCODER.format(name="Fine")
    )
    assert registry.load("encoders", "fine", "encoder").__name__ == "Fine"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, 'there is no module "bad_r"'),
        ("import no_such_module\n", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(1)\n", "cannot be imported: SystemExit: 1; fix or uninstall it"),
        ("x = 1\n", 'module "bad_r" has no "Bad"'),
        ("class Bad: pass\n", "which is not a mtlcli.encoders.base.EncoderSource"),
    ],
)
def test_a_broken_third_party_plugin_is_an_error_with_its_distribution(distributions, monkeypatch, source, message):
    import sys

    monkeypatch.delitem(sys.modules, "bad_r", raising=False)
    distributions("mtlcli-bad", {"bad": "bad_r:Bad"}, **({} if source is None else {"bad_r": source}))
    with pytest.raises(MtlError) as error:
        registry.load("encoders", "bad", "encoder")
    assert message in str(error.value)
    assert '"bad"' in str(error.value)


def test_a_class_of_ones_own_goes_by_module_and_class():
    assert registry.load("balancers", "mtlcli.balancers.equal:Equal", "balancer") is Equal
    assert registry.find("balancers", "a.b:C", "balancer").distribution == "(local)"
    assert (
        registry.family_of(("balancers", "gradient_regularizers"), "mtlcli.balancers.equal:Equal", "x") == "balancers"
    )
    with pytest.raises(MtlError, match=r'there is no module "mtlcli\.balancers\.eqal"'):
        registry.load("balancers", "mtlcli.balancers.eqal:Equal", "balancer")


class Options:
    def __init__(
        self,
        run: object,
        *,
        rate: Annotated[float, Field(gt=0, description="how fast")] = 1.0,
        kind: Literal["a", "b"] = "a",
        count: int,
    ) -> None:
        pass


def test_keyword_only_parameters_become_a_model_with_bounds_and_descriptions():
    model = registry.options_model(Options)
    assert issubclass(model, BaseModel)
    assert list(model.model_fields) == ["rate", "kind", "count"]
    assert model.model_fields["rate"].description == "how fast"
    assert model.model_fields["count"].is_required()
    assert model(count="3").model_dump() == {"rate": 1.0, "kind": "a", "count": 3}
    assert registry.options_model(Options) is model


def test_options_are_filled_in_and_checked():
    options, errors = registry.check_options(Uncertainty, "uncertainty", {"initial_log_variance": "1"})
    assert (options, errors) == ({"initial_log_variance": 1.0, "form": "by-task"}, [])
    _, errors = registry.check_options(Uncertainty, "uncertainty", {"initial_log_varience": 1})
    assert errors == [("initial_log_varience", 'unknown option of "uncertainty"; did you mean "initial_log_variance"?')]
    _, errors = registry.check_options(Uncertainty, "uncertainty", {"initial_log_variance": 11})
    assert errors == [("initial_log_variance", "found 11: input should be less than or equal to 10")]
    _, errors = registry.check_options(Static, "static", {})
    assert [option for option, _ in errors] == ["weights"]
    assert errors[0][1].startswith('"static" needs this option: ')
    _, errors = registry.check_options(Static, "static", {"weights": "sst"})
    assert errors == [("weights", "found 'sst': expected a mapping of keys to values")]


def test_an_option_of_a_part_is_answered_with_those_of_the_part():
    stages = [{"steps": 1}, {"steps": 1, "schedular": "annealed"}]
    _, errors = registry.check_options(Stages, "stages", {"stages": stages})
    assert errors == [("stages.1.schedular", 'unknown option of "stages"; did you mean "scheduler"?')]


def test_every_family_with_a_key_has_that_key_in_the_configuration_with_its_default():
    for family in registry.FAMILIES.values():
        if not family.key:
            continue
        value = getattr(Config(), family.key)
        defaults = value if family.many else [] if value is None else [value]
        assert [choice.name for choice in defaults] == ([family.default] if family.default else [])
        assert {choice.family for choice in defaults} <= {family.name}


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_family_has_a_contract_and_a_template_with_its_test(family):
    templates = Path(mtlcli.__file__).parent / "templates"
    assert (templates / f"{family}.py").is_file()
    assert (templates / f"test_{family}.py").is_file()
    assert callable(getattr(mtlcli.testing, f"check_{family.removesuffix('s')}"))
    base = registry.base_of(family)
    assert all(hasattr(base, name) or name in base.__annotations__ for name in registry.FAMILIES[family].declares)


def test_a_class_in_the_current_folder_is_found_by_module_and_class_and_installed_modules_come_first(tmp_path):
    (tmp_path / "own_here.py").write_text(
        "from mtlcli.balancers.equal import Equal\n\nclass Mine(Equal):\n    'Weighs.'\n", encoding="utf-8"
    )
    (tmp_path / "yaml.py").write_text("raise RuntimeError('hidden')\n", encoding="utf-8")
    code = "from mtlcli import registry; print(registry.load('balancers', 'own_here:Mine', 'balancer').__doc__); import yaml"
    done = subprocess.run(  # -P: the folder is not on the path by itself
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert (done.stdout, done.stderr) == ("Weighs.\n", "")


def test_a_class_in_no_folder_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MtlError) as error:
        registry.load("balancers", "no_such_module_here:Mine", "--balancer")
    assert f'there is no module "no_such_module_here" (looked in the installed packages and in {tmp_path})' in str(
        error.value
    )


@pytest.mark.parametrize("target", [":X", "x:", ".:X", "a..b:X"])
def test_a_target_that_names_no_module_is_refused_in_one_line(target):
    with pytest.raises(MtlError, match=r"is not of the form package\.module:Class"):
        registry.load("balancers", target, "--balancer")
