"""A new distribution with one plugin in it, for `mtl plugins new`: copied from mtlcli/templates with the names changed."""

import keyword
import re
from importlib import resources
from pathlib import Path

from mtlcli import registry
from mtlcli.errors import MtlError

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mtlcli-{name}"
version = "0.1.0"
description = "{name}: one of the {family} of mtlcli"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["mtlcli"]

[project.entry-points."mtlcli.{family}"]
{name} = "{module}:{plugin}"

[tool.hatch.build.targets.wheel]
packages = ["{module}"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
filterwarnings = ["error"]
"""

README = """\
# mtlcli-{name}

Adds `{name}` to the {family} of [mtlcli](https://github.com/mtlcli/mtlcli). The plugin is one class in
`{module}/__init__.py`; it works as it is, and is there to be changed.

    pip install -e .
    python -m pytest
    mtl plugins show {family} {name}
    {use}

- The first line of the module says where the method is from, the docstring of the class what it does to training.
- An option is a keyword-only parameter of the constructor with its type, bounds, default and description.
- `mtlcli.testing` holds what every plugin of the family has to promise; the test calls it, and checks one number by hand.
"""

USES = {
    "tasks": "mtl train --task {name} --sample --output runs/{name}",
    "heads": "mtl train --task sst --sample --set tasks.sst.head={name} --output runs/{name}",
    "schedulers": "mtl train --task sst --task sts --sample --scheduler {name} --output runs/{name}",
    "balancers": "mtl train --task sst --task sts --sample --balancer {name} --output runs/{name}",
    "gradient_regularizers": "mtl train --task sst --task sts --sample --balancer {name} --output runs/{name}",
    "regularizers": "mtl train --task sst --sample --set 'regularizers=[{name}]' --output runs/{name}",
    "encoders": "mtl train --task sst --sample --encoder {name} --output runs/{name}",
    "architectures": "mtl train --task sst --task sts --sample --set architecture={name} --output runs/{name}",
    "metrics": "mtl plugins list metrics  # a task plugin names it in its attribute `metrics`",
}
"""How a plugin of each family is used, for its README."""


def make_distribution(name: str, family: str, place: Path) -> None:
    """Writes the distribution `mtlcli-NAME` into a folder: pyproject.toml, README.md, a plugin that works, and its test.

    Raises MtlError for a name that is no plugin name, and for one that another plugin has.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise MtlError(
            f'NAME: found "{name}": expected lower-case letters, digits and single hyphens, such as my-method'
        )
    for entry in (one for other in _one_namespace(family) for one in registry.entries(other)):
        if entry.name == name and entry.distribution != f"mtlcli-{name}":
            raise MtlError(
                f'NAME: "{name}" is already one of the {entry.family} ({entry.distribution} {entry.version}); choose another'
            )
    plugin_source = _template(f"{family}.py")
    module, plugin = f"mtlcli_{name.replace('-', '_')}", _class_name(name, plugin_source)
    names = {"name": name, "family": family, "module": module, "plugin": plugin}
    texts = {
        "pyproject.toml": PYPROJECT.format(**names),
        "README.md": README.format(**names, use=USES[family].format(**names)),
        f"{module}/__init__.py": plugin_source,
        f"tests/test_{module.removeprefix('mtlcli_')}.py": _template(f"test_{family}.py"),
    }
    for path, text in texts.items():
        if path.endswith(".py"):
            text = text.replace(f"mtlcli.templates.{family}", module).replace("example-", f"{name}-")
            text = re.sub(r"\bExample\b", plugin, text)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text, encoding="utf-8")


def _one_namespace(family: str) -> tuple[str, ...]:
    """The families that share their names with this one: `--balancer` takes both kinds."""
    both = ("balancers", "gradient_regularizers")
    return both if family in both else (family,)


def _template(file: str) -> str:
    return (resources.files("mtlcli") / "templates" / file).read_text(encoding="utf-8")


def _class_name(name: str, source: str) -> str:
    """`my-method` -> MyMethod; another word behind it where Python or the template already uses that name."""
    found = "".join(part.capitalize() for part in name.split("-"))
    taken = keyword.iskeyword(found) or re.search(rf"\b{found}\b", source)
    return f"{found}Plugin" if taken else found
