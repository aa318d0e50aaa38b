"""`mtl plugins combinations`: which methods can be in one run, as their classes declare it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli.console import explain, say
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.training.compatibility import Pair


def combinations(
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks the run has.")] = 3,
    built_in: Annotated[bool, typer.Option("--built-in", help="Leave installed packages out.")] = False,
    output: Annotated[str, typer.Option("--format", help="text, markdown or json.")] = "text",
) -> None:
    """Show which schedulers, balancers, gradient regularizers, regularizers and architectures work together.

    Example: mtl plugins combinations --tasks 2
    """
    from mtlcli import registry
    from mtlcli.training.compatibility import FAMILIES, pairs

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


@dataclass(frozen=True)
class Refusal:
    """Methods that object to the same company for the same reason: never to be with some, with others from two micro-batches
    a step on."""

    reason: str
    methods: tuple[str, ...]
    never: tuple[str, ...]
    later: tuple[str, ...]

    def sentence(self) -> str:
        """In words."""
        parts = [f"not with {', '.join(self.never)}"] if self.never else []
        parts += [f"from --micro-batches 2 on with {', '.join(self.later)}"] if self.later else []
        return f"{', '.join(self.methods)}: {'; '.join(parts)}"


def _refusals(one: "Sequence[Pair]", two: "Sequence[Pair]") -> list[Refusal]:
    """What is refused with one micro-batch a step, those of one reason and one company together."""
    able = {(pair.first, pair.second) for pair in two if not pair.problem}
    company: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for pair in one:
        if not pair.problem:
            continue
        method, _, rest = pair.problem.partition(" ")
        other = pair.first if pair.second[1] == method else pair.second
        if pair.first[1] == pair.second[1] == method:  # `soft-sharing` is an architecture and a regularizer
            other = pair.second
        reason = rest.replace(f'the scheduler "{pair.first[1]}"', "the scheduler").split(": choose")[0]
        label = f"{other[1]} ({other[0][:-1]})" if other[0] in ("architectures", "regularizers") else other[1]
        company.setdefault((reason, method), ([], []))[(pair.first, pair.second) in able].append(label)
    grouped: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (reason, method), (never, later) in company.items():
        grouped.setdefault((reason, tuple(never), tuple(later)), []).append(method)
    return [Refusal(reason, tuple(methods), *sets) for (reason, *sets), methods in grouped.items()]


def _text(one: "Sequence[Pair]", two: "Sequence[Pair]", tasks: int) -> None:
    """What is refused; all else works."""
    say(f"{tasks} task{'s' if tasks > 1 else ''}: everything works together, but for these")
    for refusal in _refusals(one, two):
        explain(f"\n{refusal.reason}")
        explain(f"  {refusal.sentence()}")


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
    found = _refusals(one, two)
    lines += [
        "",
        "Everything else goes with everything else. Refused is a method that"
        if found
        else "Everything goes with everything.",
    ]
    lines += [f"- {refusal.reason}: {refusal.sentence()}" for refusal in found]
    return "\n".join(lines)
