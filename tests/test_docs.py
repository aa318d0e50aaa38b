"""The documentation: generated files are up to date, links lead somewhere, the README is short, and pictures are small."""

import contextlib
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mtlcli import registry
from mtlcli.config.layers import read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.config.shorthand import absolute_paths
from mtlcli.registry import lookup

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
README_LINES, PICTURE_BYTES = 120, 200_000


@contextlib.contextmanager
def generator(docs: Path, monkeypatch) -> Iterator[dict[str, Any]]:
    """The script docs/generate.py in this process, which has imported PyTorch and transformers already."""
    monkeypatch.setenv("MTL_NO_PLUGINS", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    lookup._installed.cache_clear()
    try:
        yield runpy.run_path(str(docs / "generate.py"))
    finally:
        lookup._installed.cache_clear()


def test_every_generated_file_is_up_to_date(monkeypatch):
    with generator(DOCS, monkeypatch) as generate:
        made = {name: make() for name, make in generate["GENERATED"].items()}
    stale = [name for name, text in made.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not stale, "run `make docs`"


@pytest.mark.slow
def test_a_stale_generated_file_is_named(tmp_path, monkeypatch, capsys):
    for folder in ("docs", "mtlcli", "examples", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    page = tmp_path / "docs" / "recipes.md"
    page.write_text(page.read_text(encoding="utf-8") + "changed by hand\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit) as ended, generator(tmp_path / "docs", monkeypatch) as generate:
        generate["main"]()
    assert ended.value.code == 1
    assert capsys.readouterr().out == "docs/recipes.md is stale: run `make docs`\n"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_names_every_page():
    linked = {Path(link).name for link in LINK.findall((DOCS / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= linked


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_built_in_method_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    methods = readme[readme.index("## Methods") : readme.index("## Plugins")]
    for family in ("schedulers", "balancers", "gradient_regularizers", "regularizers"):
        built_in = [entry.name for entry in registry.entries(family) if entry.distribution == "mtlcli"]
        assert built_in
        assert not [name for name in built_in if f"`{name}`" not in methods]


@pytest.mark.parametrize("path", sorted((DOCS / "images").glob("*")), ids=lambda path: path.name)
def test_a_picture_is_small_and_well_formed(path):
    assert path.stat().st_size < PICTURE_BYTES
    if path.suffix == ".svg":
        ElementTree.parse(path)


def test_the_picture_of_the_packages_shows_each_of_them_once():
    texts = ElementTree.parse(DOCS / "packages.svg").iter("{http://www.w3.org/2000/svg}text")
    lines = (DOCS / "packages.txt").read_text(encoding="utf-8").splitlines()
    packages = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert sorted(text.text for text in texts) == sorted(packages)


@pytest.mark.parametrize(
    "text", re.findall(r"```yaml\n(tasks:.*?)```", (DOCS / "evaluation.md").read_text(encoding="utf-8"), re.DOTALL)
)
def test_the_recipes_of_the_evaluation_page_resolve(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert resolve([absolute_paths(read_recipe(tmp_path / "recipe.yaml"), tmp_path)]).tasks
