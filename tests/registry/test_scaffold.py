"""`mtl plugins new` writes distributions that work."""

import os
import subprocess
import sys
import tomllib

import pytest

from mtlcli import registry
from mtlcli.errors import MtlError
from mtlcli.registry.scaffold import make_distribution


@pytest.mark.slow
def test_the_plugin_of_every_family_passes_its_own_tests(tmp_path):
    places = {family: tmp_path / family for family in registry.FAMILIES}
    for family, place in places.items():
        make_distribution(f"new-{family.replace('_', '-')}", family, place)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places.values()))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", tmp_path, *places.values()],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(places)} passed" in done.stdout


def test_the_distribution_is_named_after_the_plugin(tmp_path):
    make_distribution("my-method", "balancers", tmp_path / "here")
    found = sorted(
        str(path.relative_to(tmp_path / "here")) for path in (tmp_path / "here").rglob("*") if path.is_file()
    )
    assert found == ["README.md", "mtlcli_my_method/__init__.py", "pyproject.toml", "tests/test_my_method.py"]
    project = tomllib.loads((tmp_path / "here" / "pyproject.toml").read_text())
    assert project["project"]["name"] == "mtlcli-my-method"
    assert project["project"]["entry-points"] == {"mtlcli.balancers": {"my-method": "mtlcli_my_method:MyMethod"}}
    source = (tmp_path / "here" / "mtlcli_my_method" / "__init__.py").read_text()
    assert "class MyMethod(Balancer):" in source
    assert "Example" not in source


@pytest.mark.parametrize("name", ["", "My-Method", "my_method", "2much", "-a", "a--b", "a b", "ä"])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(MtlError, match="expected lower-case letters, digits and single hyphens"):
        make_distribution(name, "balancers", tmp_path)


@pytest.mark.parametrize("name", ["equal", "pcgrad"])
def test_a_name_that_is_taken_is_refused(tmp_path, name):
    with pytest.raises(MtlError, match=f'"{name}" is already one of the '):
        make_distribution(name, "balancers", tmp_path)


@pytest.mark.parametrize("name", ["balancer", "none", "tensor"])
def test_a_class_never_takes_a_name_that_its_module_uses(tmp_path, name):
    make_distribution(name, "balancers", tmp_path)
    compiled = compile((tmp_path / f"mtlcli_{name}" / "__init__.py").read_text(), name, "exec")
    assert f"{name.capitalize()}Plugin" in compiled.co_names
