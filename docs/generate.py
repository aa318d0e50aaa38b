"""Write the generated pages and the picture of the packages: `make docs`, or `python docs/generate.py`.

With `--check` nothing is written. A test compares the committed files with what this script makes, so they cannot go stale.
"""

import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]
os.environ["MTL_NO_PLUGINS"] = "1"  # the pages describe mtlcli, not what else is installed on this machine

import typer  # noqa: E402
from draw_architectures import FAMILIES as FAMILIES_DRAWN  # noqa: E402
from draw_architectures import draw as draw_family  # noqa: E402
from draw_packages import draw  # noqa: E402
from typer.models import ArgumentInfo, OptionInfo  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from mtlcli import registry  # noqa: E402
from mtlcli.cli import app  # noqa: E402
from mtlcli.config.schema import Config  # noqa: E402
from mtlcli.registry.details import describe  # noqa: E402
from mtlcli.registry.listing import list_plugins  # noqa: E402

NOTE = "<!-- Written by docs/generate.py; change the source and run `make docs`. -->"

RECIPE_INTRODUCTION = """\
A recipe is a YAML file with the sections below; the top level comes first. Everything has a default except the tasks.
Every key can also be set on the command line, and the later of these wins: defaults, recipe, flags, `--set dotted.key=value`.
An unknown key is an error, with a suggestion.

```yaml
tasks:
  topic: {kind: classification, train: topic.tsv, dev: topic-dev.tsv, text: [title], label: topic}
encoder: {name: tiny, pooling: mean}
balancer: {name: uncertainty}
gradient_regularizer: pcgrad
training: {epochs: 3}
```

Paths are relative to the recipe's folder. A plugin is named by a string (`pcgrad`) or with its options
(`{name: gradvac, beta: 0.02}`); [methods.md](methods.md) lists every plugin and its options. `balancer: uncertainty+pcgrad`
is short for both lines above. `tasks: [sst, quora]` is short for built-in tasks without options."""

METHODS_INTRODUCTION = """\
Every plugin that comes with mtlcli, from its own docstring. `mtl plugins show FAMILY NAME` prints the same for installed plugins
too, and [combinations.md](combinations.md) lists which methods work together. Options go into a recipe
(`gradient_regularizer: {name: pcgrad, scale: mean}`) or on the command line (`--set gradient_regularizer.scale=mean`)."""

CLI_INTRODUCTION = """\
`mtl COMMAND --help` prints the same. Exit codes: 0 success, 1 a bug (with its traceback), 2 an error you can fix (one line each),
128 plus the signal's number when interrupted (130 for Ctrl-C). Results go to standard output, progress and notes to standard error."""

TYPE_NAMES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


# Tables


def cell(text: str) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Return text as code in a cell; nothing for nothing."""
    return f"`{' '.join(text.split())}`".replace("|", "\\|") if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines, ""] if lines else []


# The recipe


def recipe_page() -> str:
    """Return docs/recipes.md from the JSON Schema of a recipe."""
    schema = Config.model_json_schema(by_alias=True)
    lines = ["# Recipe reference", NOTE, "", RECIPE_INTRODUCTION, ""]
    for title, section in sections(schema):
        lines += [f"## {title}", "", section.get("description", ""), ""]
        lines += table(
            ("key", "type", "default", "meaning"),
            (
                (code(key), cell(type_of(value, schema)), code(default_of(value)), cell(value.get("description", "")))
                for key, value in section["properties"].items()
            ),
        )
    return "\n".join(lines)


def sections(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the title and schema of the top level, of each task, and of each section with keys of its own."""
    yield "Top level", schema
    for key, value in schema["properties"].items():
        reference = value.get("$ref") or value.get("additionalProperties", {}).get("$ref")
        if reference:
            section = schema["$defs"][reference.rpartition("/")[2]]
            if set(section["properties"]) - {"name"}:
                title = f"{key}.NAME" if "additionalProperties" in value else key
                yield title, section
                yield from sections_by_name(title, section, schema)


def sections_by_name(
    title: str, section: Mapping[str, Any], schema: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the title and schema of the sections by name below a section, each kind of section once."""
    seen = set()
    for key, value in section["properties"].items():
        forms = [form for part in value.get("anyOf", ()) for form in part.get("oneOf", [part])]
        for form in forms:
            by_name = form.get("additionalProperties")
            reference = by_name.get("$ref") if isinstance(by_name, dict) else None
            if reference and reference not in seen:
                seen.add(reference)
                yield f"{title}.{key}.NAME", schema["$defs"][reference.rpartition("/")[2]]


def type_of(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return a type with its bounds in words: `integer, at least 1`, `cls | mean | max`, `list of strings`."""
    if "$ref" in value:
        section = schema["$defs"][value["$ref"].rpartition("/")[2]]
        return "plugin" if set(section["properties"]) == {"name"} else "section"
    if parts := value.get("anyOf", value.get("oneOf")):
        return " or ".join(dict.fromkeys(type_of(part, schema) for part in parts))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " | ".join(f"`{name}`" for name in value["enum"])
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])} numbers"
    match value.get("type"):
        case "array":
            return f"list of {type_of(value['items'], schema)}s"
        case "object":
            inner = value.get("additionalProperties")
            return f"{type_of(inner, schema)} by name" if isinstance(inner, dict) else "mapping"
        case name:
            return ", ".join([str(name), *bounds_of(value)])


def bounds_of(value: Mapping[str, Any]) -> list[str]:
    """Return the bounds of a number in words."""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return [f"{word} {value[key]:g}" for key, word in words.items() if key in value]


def default_of(value: Mapping[str, Any]) -> str:
    """Return a default as a recipe writes it; the name alone for a plugin, nothing for a section."""
    if "default" not in value:
        return ""
    default = value["default"]
    if isinstance(default, dict):
        return default["name"] if set(default) == {"name"} else ""
    return default if isinstance(default, str) else json.dumps(default)


# The methods


def methods_page() -> str:
    """Return docs/methods.md: every built-in plugin with what it declares and its options."""
    lines = ["# Tasks, methods and their options", NOTE, "", METHODS_INTRODUCTION, ""]
    names = {family: list(registry.names(family)) for family in registry.FAMILIES}
    lines += [f"- [{family.replace('_', ' ')}](#{family.replace('_', '-')})" for family in names]
    for family in names:
        lines += ["", f"## {family.replace('_', ' ').capitalize()}", ""]
        summaries = {plugin.name: plugin for plugin in list_plugins([family])}
        for name in names[family]:
            lines += plugin_section(family, name, summaries[name].paper)
    return "\n".join(lines).rstrip() + "\n"


def plugin_section(family: str, name: str, paper: str) -> list[str]:
    """Return the lines about one plugin."""
    details = describe(family, name)
    lines = [f"### `{name}`", ""]
    folders = (ROOT / "examples" / folder for folder in ("methods", "architectures"))
    recipe = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").is_file()), None)
    # The line of a module that names no year names no paper either.
    sources = [f"Source: {paper}." if any(character.isdigit() for character in paper) else ""]
    sources += [f"Recipe: [{recipe.name}](../{recipe.relative_to(ROOT).as_posix()})." if recipe is not None else ""]
    if any(sources):
        lines += [" ".join(filter(None, sources)), ""]
    lines += [details.text, ""]
    declared = [
        f"{key.replace('_', ' ')}: {value}" for key, value in details.declares if value not in ("none", "null", "")
    ]
    if declared:
        lines += [f"Declares {'; '.join(declared)}.", ""]
    return lines + table(
        ("option", "type", "default", "bounds", "meaning"),
        (
            (code(option), code(kind), code(default), code(bounds), cell(meaning))
            for option, kind, default, bounds, meaning in details.options
        ),
    )


# The command line


def cli_page() -> str:
    """Return docs/cli.md from the signatures and docstrings of the commands."""
    lines = ["# Command reference", NOTE, "", CLI_INTRODUCTION, ""]
    commands = list(commands_of(app, "mtl"))
    lines += [f"- [`{path}`](#{path.replace(' ', '-')}): {summary(callback)}" for path, callback in commands] + [""]
    for path, callback in commands:
        lines += command_section(path, callback)
    return "\n".join(lines)


def commands_of(group: typer.Typer, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the words and the function of every command, those of groups included."""
    for command in group.registered_commands:
        if command.callback is not None and not command.hidden:
            yield f"{path} {command.name or command.callback.__name__.replace('_', '-')}", command.callback
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from commands_of(inner.typer_instance, f"{path} {inner.name}")


def summary(callback: Callable[..., Any]) -> str:
    """Return the first sentence of a command's help."""
    return " ".join(inspect.cleandoc(callback.__doc__ or "").split("\n\n")[0].split())


def command_section(path: str, callback: Callable[..., Any]) -> list[str]:
    """Return the lines about one command."""
    *paragraphs, example = inspect.cleandoc(callback.__doc__ or "").split("\n\n")
    lines = [f"## {path}", "", *("\n".join([paragraph, ""]) for paragraph in paragraphs)]
    lines += ["```", example.removeprefix("Example: "), "```", ""]
    arguments, options = [], []
    for name, parameter in inspect.signature(callback, eval_str=True).parameters.items():
        kind, info = annotation_of(parameter)
        if isinstance(info, ArgumentInfo):
            arguments.append((code(info.metavar or name.upper()), cell(info.help or "")))
        elif isinstance(info, OptionInfo) and not info.hidden:
            options.append((option_names(name, kind, info), cell(info.help or "")))
    lines += table(("argument", "meaning"), arguments) + table(("option", "meaning"), options)
    return lines


def annotation_of(parameter: inspect.Parameter) -> tuple[Any, Any]:
    """Return the type of a parameter and what typer knows about it, from its annotation or its default."""
    if typing.get_origin(parameter.annotation) is typing.Annotated:
        kind, *rest = typing.get_args(parameter.annotation)
        return kind, next((info for info in rest if isinstance(info, ArgumentInfo | OptionInfo)), None)
    return parameter.annotation, parameter.default


def option_names(name: str, kind: Any, info: OptionInfo) -> str:
    """Return an option's names and the kind of its value: `--task`, `-t` `NAME`."""
    flag = name.replace("_", "-")
    # Inside Annotated, typer keeps the first name of an option where its default would be.
    first = [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []
    declared = [*first, *(info.param_decls or ())]
    if not declared:
        declared = [f"--{flag}"] if kind is not bool else [f"--{flag}/--no-{flag}"]
    parts = [part for part in typing.get_args(kind) if part is not type(None)] or [kind]
    value = "" if bool in parts else info.metavar or next(filter(None, map(value_name, parts)), "TEXT")
    return ", ".join(map(code, declared)) + (f" {code(value)}" if value else "")


def value_name(kind: Any) -> str:
    """Return what stands for a value of a type, of a list of values that of one."""
    return TYPE_NAMES.get(kind) or next(filter(None, map(value_name, typing.get_args(kind))), "")


# What else is generated


def packages_picture() -> str:
    """Return docs/packages.svg from docs/packages.txt and the imports of the source."""
    lines = (DOCS / "packages.txt").read_text(encoding="utf-8").splitlines()
    return draw(dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#")))


def output_of(*arguments: str) -> str:
    """Return what `mtl` prints, in this process: the imports of a process of its own take longer than the command."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def combinations_page() -> str:
    """Return docs/combinations.md, which a command prints."""
    return output_of("plugins", "combinations", "--built-in", "--format", "markdown")


def recipe_schema() -> str:
    """Return docs/recipe.schema.json, which a command prints."""
    return output_of("schema", "--built-in")


GENERATED: dict[str, Callable[[], str]] = {
    "recipes.md": recipe_page,
    "methods.md": methods_page,
    "cli.md": cli_page,
    "packages.svg": packages_picture,
    **{f"images/{family}.svg": partial(draw_family, family) for family in FAMILIES_DRAWN},
    "combinations.md": combinations_page,
    "recipe.schema.json": recipe_schema,
}
"""What to write, by the name of the file in docs/."""


def main() -> None:
    """Write every generated file that differs from the committed one, and name it; with `--check`, name it and exit with 1."""
    check = "--check" in sys.argv[1:]
    stale = False
    for name, make in GENERATED.items():
        path, text = DOCS / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if check:
            print(f"docs/{name} is stale: run `make docs`")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    if check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
