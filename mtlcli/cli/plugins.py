"""`mtl plugins`: list, show and combine plugins, and start a new one."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mtlcli.cli.combinations import combinations
from mtlcli.cli.console import out, say
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.registry.listing import PluginSummary

app = typer.Typer(
    help="List, show and write plugins: tasks, heads, schedulers, balancers and more.\n\nExample: mtl plugins list balancers",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None,
)  # fmt: skip


@app.command("list")
def list_plugins(
    family: Annotated[
        str | None,
        typer.Argument(metavar="[FAMILY]", help="List only this family: tasks, heads, schedulers, balancers, ..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with one object per plugin.")] = False,
) -> None:
    """List every plugin with its summary, native scale, needs, cost and paper.

    A plugin that cannot be used is listed with its error. In a pipe, each plugin is one line with tabs between the columns:
    family, name, summary or error, scale, needs, cost, paper, distribution.

    Example: mtl plugins list balancers
    """
    from mtlcli import registry
    from mtlcli.registry.listing import list_plugins

    families = list(registry.FAMILIES) if family is None else [registry.family_named(family)]
    plugins = list_plugins(families)
    if as_json:
        print(json.dumps([asdict(plugin) for plugin in plugins], indent=1))
    elif out.is_terminal:
        for number, name in enumerate(families):
            if number:
                say("")
            say(name)
            _show_family([plugin for plugin in plugins if plugin.family == name])
    else:
        for plugin in plugins:
            print("\t".join(_columns(plugin)))  # `say` would turn tabs into spaces


PER_STEP = {
    "one": "one task per step",
    "draws": "micro_batches draws per step",
    "several": "some tasks per step",
    "all": "all tasks per step",
}


def _columns(plugin: "PluginSummary") -> tuple[str, ...]:
    """Return the columns of a plugin for a program; `-` for an empty one."""
    text = plugin.summary if plugin.status == "ok" else plugin.status
    origin = f"{plugin.distribution} {plugin.version}"
    columns = (text, plugin.native_scale, ", ".join(_needs(plugin)), plugin.cost, plugin.paper, origin)
    return plugin.family, plugin.name, *(" ".join((column or "").split()) or "-" for column in columns)


def _needs(plugin: "PluginSummary") -> list[str]:
    """Return the tasks per step of a scheduler, and what a plugin needs of the step, the engine or the architecture."""
    needs = [PER_STEP.get(plugin.tasks_per_step, plugin.tasks_per_step)] if plugin.tasks_per_step else []
    return needs + list(plugin.needs or ()) + (["gradient rows"] if plugin.reads_rows else [])


def _show_family(plugins: "list[PluginSummary]") -> None:
    """Print the plugins of one family for people: name and summary, and below them declarations and paper."""
    width = max((len(plugin.name) for plugin in plugins), default=0)
    for plugin in plugins:
        origin = "" if plugin.distribution == "mtlcli" else f" [{plugin.distribution} {plugin.version}]"
        _row(f"  {plugin.name:{width}}  ", (plugin.summary if plugin.status == "ok" else plugin.status) + origin)
        facts = [f"scale {plugin.native_scale}"] if plugin.native_scale else []
        if needs := _needs(plugin):
            facts.append(f"{'' if plugin.tasks_per_step else 'needs '}{', '.join(needs)}")
        facts += [f"cost {plugin.cost}"] if plugin.cost else []
        for line in ("; ".join(facts), plugin.paper):
            if line and plugin.status == "ok":
                _row(" " * (width + 4), line, "dim")
    if not plugins:
        say("  none installed")


def _row(start: str, text: str, style: str = "") -> None:
    """Print a term and its text: wrapped after the term on a terminal, on one line in a pipe."""
    if not out.is_terminal:
        say((start + text).rstrip())
        return
    wrapped = textwrap.fill(
        # At least 20 columns for the text, on however narrow a terminal.
        text, max(out.width, len(start) + 20), initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    out.print(Text(wrapped or start.rstrip(), style=style), soft_wrap=True)


@app.command("show")
def show(
    family: Annotated[str, typer.Argument(help="tasks, heads, schedulers, balancers, ...")],
    name: Annotated[str, typer.Argument(help="The plugin's name.")],
) -> None:
    """Show one plugin: its documentation, its options with defaults and bounds, its declarations, and its source file.

    Example: mtl plugins show balancers uncertainty
    """
    from mtlcli import registry
    from mtlcli.registry.details import describe

    plugin = describe(registry.family_named(family), name)
    _row("", f"{plugin.name} ({plugin.family}, {plugin.distribution} {plugin.version}".rstrip() + ")")
    say(plugin.source)
    for paragraph in (plugin.module, *plugin.text.split("\n\n")):
        say("")
        # A terminal wraps whole paragraphs; a pipe keeps the lines of the docstring.
        for line in [" ".join(paragraph.split())] if out.is_terminal else paragraph.splitlines():
            _row("", line)
    if plugin.declares:
        say("")
        width = max(len(attribute) for attribute, _ in plugin.declares)
        for attribute, value in plugin.declares:
            _row(f"{attribute:{width}}  ", value)
    say("")
    say("options" if plugin.options else "no options")
    for option, kind, default, bounds, description in plugin.options:
        default = default if default == "required" else f"default {default}"
        _row(f"  {option}  ", ", ".join(part for part in (kind, bounds, default) if part))
        if description:
            _row("      ", description)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the new plugin, such as my-balancer.")],
    family: Annotated[str, typer.Option(help="Family of the plugin.")] = "balancers",
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the distribution. [default: mtlcli-NAME]")
    ] = None,
) -> None:
    """Write a distribution with one working plugin and its test, or add a plugin to a distribution in --output.

    Example: mtl plugins new my-balancer --output /tmp/mtlcli-my-balancer
    """
    from mtlcli import registry
    from mtlcli.registry.scaffold import add_plugin, make_distribution

    target = folder or Path(f"mtlcli-{name}")
    if target.is_file():
        raise MtlError(f"--output: {target} is a file; expected a folder")
    if target.is_dir() and any(target.iterdir()):
        # pip reads entry points when it installs, also in an editable installation.
        module = add_plugin(name, registry.family_named(family), target)
        say(
            f"added {module}; install the distribution again to register it: pip install -e {target} && python -m pytest {target}"
        )
        return
    make_distribution(name, registry.family_named(family), target)
    say(f"wrote {target}; next: pip install -e {target} && python -m pytest {target}")


app.command("combinations")(combinations)
