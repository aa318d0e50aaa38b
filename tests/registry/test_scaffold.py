"""`mtl plugins new` writes distributions that work."""

import os
import subprocess
import sys
import tomllib

import pytest

from mtlcli import registry
from mtlcli.errors import MtlError
from mtlcli.registry.scaffold import add_plugin, make_distribution


@pytest.mark.slow
def test_the_plugin_of_every_family_passes_its_own_tests(tmp_path):
    places = {family: tmp_path / family for family in registry.FAMILIES}
    for family, place in places.items():
        make_distribution(f"new-{family.replace('_', '-')}", family, place)
    paths = [*map(str, places.values()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
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


@pytest.mark.slow
def test_plugins_of_every_family_fit_into_one_distribution_and_pass_their_tests(tmp_path):
    place = tmp_path / "one"
    make_distribution("my-first", "balancers", place)
    families = [*registry.FAMILIES, "balancers"]
    for number, family in enumerate(families):
        add_plugin(f"my-{family.replace('_', '-')}-{number}", family, place)
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {group.removeprefix("mtlcli.") for group in project["entry-points"]} == set(registry.FAMILIES)
    balancers = project["entry-points"]["mtlcli.balancers"]
    assert balancers["my-first"] == "mtlcli_my_first:MyFirst"
    last = len(families) - 1
    assert balancers[f"my-balancers-{last}"] == f"mtlcli_my_first.my_balancers_{last}:MyBalancers{last}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", place, place],
        env=environment, capture_output=True, text=True, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * (len(families) + 1)} passed" in done.stdout
    assert "mtl plugins show heads my-heads-1" in (place / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_plugins_of_ours_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MtlError, match="has no entry point of an mtlcli plugin"):
        add_plugin("my-head", "heads", tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n", encoding="utf-8")
    with pytest.raises(MtlError, match="has no entry point of an mtlcli plugin"):
        add_plugin("my-head", "heads", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "pyproject.toml"]


def test_a_module_that_is_there_is_never_written_over(tmp_path):
    make_distribution("my-method", "balancers", tmp_path)
    add_plugin("my-head", "heads", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MtlError, match=r"my_head\.py already exists; choose another name"):
        add_plugin("my-head", "heads", tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_entry_points_that_are_written_otherwise_are_left_to_the_author(tmp_path):
    make_distribution("my-method", "balancers", tmp_path)
    path = tmp_path / "pyproject.toml"
    text = path.read_text(encoding="utf-8").replace(
        '[project.entry-points."mtlcli.balancers"]\nmy-method =',
        '[project]\nentry-points."mtlcli.balancers".my-method =',
    )
    text = text.replace("[project]\nentry-points", "entry-points")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        MtlError, match=r'add it to \[project\.entry-points\."mtlcli\.balancers"\] yourself: my-other = "'
    ):
        add_plugin("my-other", "balancers", tmp_path)
    assert path.read_text(encoding="utf-8") == text
    assert not (tmp_path / "mtlcli_my_method" / "my_other.py").exists()
