"""Create a distribution with a plugin, or add a plugin to one, for `mtl plugins new`, from a template."""

import keyword
import re
import tomllib
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
`{module}/__init__.py`. It is a working example to replace with your own method.

    pip install -e .
    python -m pytest
    mtl plugins show {family} {name}
    {use}

- The first line of the module cites the method; the docstring of the class describes what it does.
- An option is a keyword-only parameter of the constructor with its type, bounds, default and description.
- The test runs the contract of the family (`mtlcli.testing`) and checks one value worked out by hand.
- `mtl plugins new NAME --family FAMILY --output .` adds another plugin to this distribution.
"""

FURTHER = """\

`{module}/{file}.py` adds `{name}` to the {family}: `mtl plugins show {family} {name}`, and `{use}`.
"""


def make_distribution(name: str, family: str, folder: Path) -> None:
    """Write the distribution `mtlcli-NAME` into a folder: pyproject.toml, README.md, a working plugin, and its test.

    Raises:
        MtlError: the name is malformed or in use.
    """
    _check_name(name, family, f"mtlcli-{name}")
    module = f"mtlcli_{name.replace('-', '_')}"
    source = _template(f"{family}.py")
    plugin = _class_name(name, source)
    names = {"name": name, "family": family, "module": module, "plugin": plugin}
    use = registry.FAMILIES[family].example.format(name=name)
    test = f"tests/test_{module.removeprefix('mtlcli_')}.py"
    _write(folder / "pyproject.toml", PYPROJECT.format(**names))
    _write(folder / "README.md", README.format(**names, use=use))
    _write(folder / module / "__init__.py", _renamed(source, name, family, module, plugin))
    _write(folder / test, _renamed(_template(f"test_{family}.py"), name, family, module, plugin))


def add_plugin(name: str, family: str, folder: Path) -> Path:
    """Add a plugin to a distribution: a module, its test, an entry point in pyproject.toml and a line in README.md.

    Returns:
        The new module.

    Raises:
        MtlError: the folder contains no distribution with plugins of mtlcli, it already has a module of this name, or the
            name is malformed or in use.
    """
    path = folder / "pyproject.toml"
    text, distribution, package = _read_project(path)
    _check_name(name, family, distribution)
    file = name.replace("-", "_")
    module, test = folder / package / f"{file}.py", folder / "tests" / f"test_{file}.py"
    # A package of the name would be imported in place of the module.
    for existing in (module, module.with_suffix(""), test):
        if existing.exists():
            raise MtlError(f"NAME: {existing} already exists; choose another name")
    source = _template(f"{family}.py")
    plugin, dotted = _class_name(name, source), f"{package}.{file}"
    # First, because it raises if the file cannot be extended, and then nothing has been written.
    _write(path, _with_entry_point(text, family, f'{name} = "{dotted}:{plugin}"', path))
    _write(module, _renamed(source, name, family, dotted, plugin))
    _write(test, _renamed(_template(f"test_{family}.py"), name, family, dotted, plugin))
    use = registry.FAMILIES[family].example.format(name=name)
    with (folder / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(FURTHER.format(name=name, family=family, module=package, file=file, use=use))
    return module


def _check_name(name: str, family: str, distribution: str) -> None:
    # The name becomes a distribution, a module, a class and an entry point.
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise MtlError(
            f'NAME: found "{name}"; expected lower-case letters, digits and single hyphens, such as my-method'
        )
    row = registry.FAMILIES[family]
    sharing = registry.families_of_flag(row.flag) if row.flag else (row,)
    for entry in (entry for member in sharing for entry in registry.entries(member.name)):
        # The distribution may already be installed when its plugin is generated again.
        if entry.name == name and entry.distribution != distribution:
            raise MtlError(f'NAME: "{name}" is already one of the {entry.family} ({entry.origin}); choose another name')


def _read_project(path: Path) -> tuple[str, str, str]:
    """Return the text of a pyproject.toml, the name of its distribution, and its package."""
    try:
        text = path.read_text(encoding="utf-8")
        project = tomllib.loads(text)
        points = project["project"]["entry-points"]
        targets = [
            target for group, plugins in points.items() if group.startswith("mtlcli.") for target in plugins.values()
        ]
        return text, project["project"]["name"], re.split(r"[.:]", targets[0])[0]
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        raise MtlError(
            f"--output: {path.parent} is not empty, and its pyproject.toml has no entry point of an mtlcli plugin; choose another "
            "folder"
        ) from None


def _with_entry_point(text: str, family: str, line: str, path: Path) -> str:
    """Insert an entry point into the text of a pyproject.toml, in the table of its family or in a new one."""
    header = f'[project.entry-points."mtlcli.{family}"]'
    lines = text.splitlines()
    tables = [number for number, content in enumerate(lines) if content.strip() == header]
    if tables:
        lines.insert(tables[0] + 1, line)
    else:
        first = next((n for n, content in enumerate(lines) if content.startswith("[project.entry-points.")), len(lines))
        lines[first:first] = [header, line, ""]
    # Edited as text to keep comments and layout, then parsed to verify that only the entry point is new.
    changed = "\n".join(lines) + "\n"
    name, _, target = line.partition(" = ")
    expected = tomllib.loads(text)
    expected["project"]["entry-points"].setdefault(f"mtlcli.{family}", {})[name] = target.strip('"')
    try:
        is_added = tomllib.loads(changed) == expected
    except tomllib.TOMLDecodeError:
        is_added = False
    if not is_added:  # the entry points have a form that this function cannot extend, such as an inline table
        raise MtlError(f"{path}: cannot add the entry point; add it to {header} yourself: {line}")
    return changed


def _renamed(text: str, name: str, family: str, module: str, plugin: str) -> str:
    """Return a template with the plugin's own module, class and file names."""
    text = text.replace(f"mtlcli.templates.{family}", module).replace("example-", f"{name}-")
    return re.sub(r"\bExample\b", plugin, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _template(file: str) -> str:
    return (resources.files("mtlcli") / "templates" / file).read_text(encoding="utf-8")


def _class_name(name: str, source: str) -> str:
    """Return MyMethod for `my-method`, with a suffix if Python or the template already uses that name."""
    camel = "".join(part.capitalize() for part in name.split("-"))
    in_use = keyword.iskeyword(camel) or re.search(rf"\b{camel}\b", source)
    return f"{camel}Plugin" if in_use else camel
