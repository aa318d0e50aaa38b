"""`mtl plugins`: what there is, what it takes, and how to write one."""

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
    help="What can be plugged in: tasks, heads, schedulers, balancers and more.\n\nExample: mtl plugins list balancers",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None,
)  # fmt: skip


@app.command("list")
def list_plugins(
    family: Annotated[
        str | None,
        typer.Argument(metavar="[FAMILY]", help="Only this family: tasks, heads, schedulers, balancers, ..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects, one for each plugin.")] = False,
) -> None:
    """List every plugin: what it does, its native scale, what it needs and costs, and its paper.

    A broken one is shown with its error. In a pipe one line each, with tabs between the columns: family, name, what it does
    or its error, scale, needs, cost, paper, distribution.

    Example: mtl plugins list balancers
    """
    from mtlcli import registry
    from mtlcli.registry.listing import list_plugins

    families = list(registry.FAMILIES) if family is None else [registry.family_named(family)]
    found = list_plugins(families)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    elif out.is_terminal:
        for number, name in enumerate(families):
            if number:
                say("")
            say(name)
            _listed([one for one in found if one.family == name])
    else:
        for one in found:
            print("\t".join(_columns(one)))  # not `say`, which would make spaces of tabs


PER_STEP = {
    "one": "one task a step",
    "draws": "micro_batches draws a step",
    "several": "some tasks a step",
    "all": "all tasks a step",
}


def _columns(one: "PluginSummary") -> tuple[str, ...]:
    """What a program reads of a plugin; `-` for what it does not say, or has not."""
    text = one.summary if one.status == "ok" else one.status
    origin = f"{one.distribution} {one.version}"
    columns = (text, one.native_scale, ", ".join(_asks(one)), one.cost, one.paper, origin)
    return one.family, one.name, *(" ".join((column or "").split()) or "-" for column in columns)


def _asks(one: "PluginSummary") -> list[str]:
    """What a plugin makes of a step, and needs of the step, the engine or the architecture."""
    asks = [PER_STEP.get(one.tasks_per_step, one.tasks_per_step)] if one.tasks_per_step else []
    return asks + list(one.needs or ()) + (["gradient rows"] if one.reads_rows else [])


def _listed(rows: "list[PluginSummary]") -> None:
    """The plugins of one family for people: the name, what it does, and below it what it declares and where it is from."""
    width = max((len(one.name) for one in rows), default=0)
    for one in rows:
        origin = "" if one.distribution == "mtlcli" else f" [{one.distribution} {one.version}]"
        _row(f"  {one.name:{width}}  ", (one.summary if one.status == "ok" else one.status) + origin)
        facts = [f"scale {one.native_scale}"] if one.native_scale else []
        facts += [f"{'' if one.tasks_per_step else 'needs '}{', '.join(asks)}"] if (asks := _asks(one)) else []
        facts += [f"cost {one.cost}"] if one.cost else []
        for line in ("; ".join(facts), one.paper):
            if line and one.status == "ok":
                _row(" " * (width + 4), line, "dim")
    if not rows:
        say("  none installed")


def _row(start: str, text: str, style: str = "") -> None:
    """A term and its text: wrapped behind the term on a terminal, one line where a program reads."""
    if not out.is_terminal:
        say((start + text).rstrip())
        return
    wrapped = textwrap.fill(
        text, max(out.width, len(start) + 20), initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    out.print(Text(wrapped or start.rstrip(), style=style), soft_wrap=True)


@app.command("show")
def show(
    family: Annotated[str, typer.Argument(help="tasks, heads, schedulers, balancers, ...")],
    name: Annotated[str, typer.Argument(help="The plugin's name.")],
) -> None:
    """Show one plugin: what it does, its options with defaults and bounds, what it needs, and its source file.

    Example: mtl plugins show balancers uncertainty
    """
    from mtlcli import registry
    from mtlcli.registry.details import describe

    found = describe(registry.family_named(family), name)
    _row("", f"{found.name} ({found.family}, {found.distribution} {found.version}".rstrip() + ")")
    say(found.source)
    for paragraph in (found.module, *found.text.split("\n\n")):
        say("")
        for line in [" ".join(paragraph.split())] if out.is_terminal else paragraph.splitlines():
            _row("", line)
    if found.declares:
        say("")
        width = max(len(attribute) for attribute, _ in found.declares)
        for attribute, value in found.declares:
            _row(f"{attribute:{width}}  ", value)
    say("")
    say("options" if found.options else "no options")
    for option, kind, default, bounds, description in found.options:
        default = default if default == "required" else f"default {default}"
        _row(f"  {option}  ", ", ".join(part for part in (kind, bounds, default) if part))
        if description:
            _row("      ", description)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the plugin, such as my-balancer.")],
    family: Annotated[str, typer.Option(help="Family of the plugin.")] = "balancers",
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make. [default: mtlcli-NAME]")
    ] = None,
) -> None:
    """Make a distribution with one plugin in it, which installs and passes its own test.

    Example: mtl plugins new my-balancer --output /tmp/mtlcli-my-balancer
    """
    from mtlcli import registry
    from mtlcli.registry.scaffold import make_distribution

    place = folder or Path(f"mtlcli-{name}")
    if place.exists() and (place.is_file() or any(place.iterdir())):
        raise MtlError(f"--output: {place} is not empty; choose another folder")
    make_distribution(name, registry.family_named(family), place)
    say(f"made {place}; try it: pip install -e {place} && python -m pytest {place}")


app.command("combinations")(combinations)
