"""`mtl plugins combinations`: which methods can be in one run, as their classes declare it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli.console import say
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.combining import Pair


def combinations(
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks the run has.")] = 3,
    built_in: Annotated[bool, typer.Option("--built-in", help="Leave installed packages out.")] = False,
    output: Annotated[str, typer.Option("--format", help="text, markdown or json.")] = "text",
) -> None:
    """Show which schedulers, balancers, gradient regularizers, regularizers and architectures work together.

    Example: mtl plugins combinations --tasks 2
    """
    from mtlcli import registry
    from mtlcli.combining import FAMILIES, pairs

    if output not in ("text", "markdown", "json"):
        raise MtlError(f'--format: found "{output}"; expected text, markdown or json')
    names: dict[str, list[str]] = {}
    for family in FAMILIES:
        names[family] = []
        for name in registry.FAMILIES[family].built_in if built_in else registry.names(family):
            try:
                registry.load(family, name, family)
            except MtlError:
                continue  # `mtl plugins list` shows what is broken
            names[family].append(name)
    found = {count: pairs(names, tasks=tasks, micro_batches=count) for count in (1, 2)}
    if output == "json":
        print(json.dumps({f"micro_batches={count}": [asdict(one) for one in each] for count, each in found.items()}))
    elif output == "markdown":
        print(_markdown(names, found[1], found[2], tasks))
    else:
        _text(found[1], found[2], tasks)


def _text(one: "Sequence[Pair]", two: "Sequence[Pair]", tasks: int) -> None:
    """What is refused, by the method that refuses; all else works."""
    say(f"{tasks} tasks: everything works together, but for these")
    later = {(pair.first, pair.second) for pair in two if not pair.problem}
    refused = [(pair, _reason(pair)) for pair in one if pair.problem]
    refused.sort(key=lambda each: (each[0].second, each[1]))
    for (second, reason), group in groupby(refused, key=lambda each: (each[0].second, each[1])):
        names = [
            f"{pair.first[1]}{' (from --micro-batches 2 on)' if (pair.first, pair.second) in later else ''}"
            for pair, _ in group
        ]
        say(f"\n{second[1]} ({second[0][:-1].replace('_', ' ')}) {reason}")
        say(f"  not with {', '.join(names)}")


def _reason(pair: "Pair") -> str:
    """The problem without the names in it."""
    text = pair.problem.removeprefix(f"{pair.second[1]} ")
    return text.replace(f'the scheduler "{pair.first[1]}"', "the scheduler").split(": choose")[0]


def _markdown(names: Mapping[str, Sequence[str]], one: "Sequence[Pair]", two: "Sequence[Pair]", tasks: int) -> str:
    """A table of the schedulers against all else, and every other refusal in words."""
    first = {(pair.first, pair.second): pair.problem for pair in one}
    second = {(pair.first, pair.second): pair.problem for pair in two}
    lines = [
        "# What works together",
        "",
        "Generated from what the classes declare: `mtl plugins combinations --built-in --format markdown > docs/combinations.md`.",
        f"For {tasks} tasks; ✓ works, 2 works from `--micro-batches 2` on, · is refused in one sentence before data is read.",
        "Whatever is not named here works: the tests run two steps of every pair that is allowed.",
        "",
        f"| | {' | '.join(names['schedulers'])} |",
        f"|---{'|---' * len(names['schedulers'])}|",
    ]
    for family in ("balancers", "gradient_regularizers", "regularizers", "architectures"):
        lines.append(f"| **{family.replace('_', ' ')}** |{' |' * len(names['schedulers'])}")
        for name in names[family]:
            keys = [(("schedulers", scheduler), (family, name)) for scheduler in names["schedulers"]]
            cells = ["✓" if not first[key] else "2" if not second[key] else "·" for key in keys]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    others = [pair for pair in one if pair.problem and pair.first[0] != "schedulers"]
    lines += ["", "Among the other families everything goes with everything" + (", but for:" if others else ".")]
    lines += [f"- {pair.second[1]} with {pair.first[1]}: {_reason(pair)}" for pair in others]
    return "\n".join(lines)
