"""Implement `mtl plugins combinations`: which methods work together, as their classes declare it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from mtlcli.cli.console import explain, say
from mtlcli.errors import MtlError

if TYPE_CHECKING:
    from mtlcli.training.compatibility import Method, Pair

FORMATS = ("text", "markdown", "json")


def combinations(
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks of the run")] = 3,
    built_in: Annotated[bool, typer.Option("--built-in", help="Leave out plugins of other packages")] = False,
    output: Annotated[str, typer.Option("--format", help="Format: text, markdown or json")] = "text",
) -> None:
    """Show which schedulers, balancers, gradient regularizers, regularizers and architectures work together.

    Example: mtl plugins combinations --tasks 2
    """
    from mtlcli import registry
    from mtlcli.training.compatibility import pairs

    if output not in FORMATS:
        raise MtlError(f'--format: found "{output}"; expected text, markdown or json')
    names: dict[str, list[str]] = {}
    for family in registry.METHODS:
        names[family] = []
        for name in registry.FAMILIES[family].built_in if built_in else registry.names(family):
            try:
                registry.load(family, name, family)
            except MtlError:
                continue  # `mtl plugins list` shows a broken plugin
            names[family].append(name)
    # Two micro-batches let a scheduler that draws visit several tasks in a step; more change nothing further.
    by_count = {count: pairs(names, tasks=tasks, micro_batches=count) for count in (1, 2)}
    if output == "json":
        records = {
            f"micro_batches={count}": [_record(pair) for pair in all_pairs] for count, all_pairs in by_count.items()
        }
        print(json.dumps(records))
    elif output == "markdown":
        print(_markdown(names, by_count[1], by_count[2], tasks))
    else:
        _text(by_count[1], by_count[2], tasks)


def _record(pair: "Pair") -> dict[str, object]:
    """Return a pair as JSON shows it; `problem` is empty if the two work together."""
    fields = asdict(pair)
    del fields["problems"]
    return fields | {"problem": "; ".join(problem.sentence() for problem in pair.problems)}


@dataclass(frozen=True)
class Rejection:
    """Group methods that are rejected with the same other methods for the same reason.

    `always` are rejected with any number of micro-batches, `alone` only with one micro-batch per step.
    """

    reason: str
    methods: tuple[str, ...]
    always: tuple[str, ...]
    alone: tuple[str, ...]

    def sentence(self) -> str:
        """Return which methods are rejected with which, and why."""
        parts = [f"not with {', '.join(self.always)}"] if self.always else []
        parts += [f"only with --micro-batches 2 or more: {', '.join(self.alone)}"] if self.alone else []
        subject = "It" if len(self.methods) == 1 else "Each"
        return f"{', '.join(self.methods)}: {'; '.join(parts)}. {subject} {self.reason}."


def _rejections(single: "Sequence[Pair]", double: "Sequence[Pair]") -> list[Rejection]:
    """Group the pairs that are rejected with one micro-batch per step by reason and by the other methods."""
    works_doubled = {(pair.first, pair.second) for pair in double if pair.works}
    partners: dict[tuple[str, Method], tuple[list[str], list[str]]] = {}
    for pair in single:
        for problem in pair.problems:
            other = pair.first if pair.second == problem.method else pair.second
            # Without the scheduler's name, so that pairs with different schedulers fall into one group.
            reason = problem.reason.replace(f'the scheduler "{pair.first[1]}"', "the scheduler")
            always_and_alone = partners.setdefault((reason, problem.method), ([], []))
            # The index is a bool: partners that are always rejected, and those that work with two micro-batches.
            always_and_alone[(pair.first, pair.second) in works_doubled].append(_label(other, single))
    grouped: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (reason, method), (always, alone) in partners.items():
        grouped.setdefault((reason, tuple(always), tuple(alone)), []).append(_label(method, single))
    return [Rejection(reason, tuple(methods), *sets) for (reason, *sets), methods in grouped.items()]


def _label(method: "Method", pairs: "Sequence[Pair]") -> str:
    """Return the name of a method, with its family if another family has the same name."""
    from mtlcli.registry import FAMILIES

    family, name = method
    families = {other[0] for pair in pairs for other in (pair.first, pair.second) if other[1] == name}
    return name if len(families) == 1 else f"{name} ({FAMILIES[family].kind})"


def _text(single: "Sequence[Pair]", double: "Sequence[Pair]", tasks: int) -> None:
    """Print the rejected combinations; all others work."""
    rejections = _rejections(single, double)
    count = f"{tasks} task{'s' if tasks > 1 else ''}"
    say(f"{count}: all combinations work" + (" except these:" if rejections else ""))
    for rejection in rejections:
        explain(f"\n{rejection.sentence()}")


def _markdown(
    names: Mapping[str, Sequence[str]], single: "Sequence[Pair]", double: "Sequence[Pair]", tasks: int
) -> str:
    """Return a Markdown table of the schedulers against the other families, and all rejections as sentences."""
    from mtlcli.registry import FAMILIES, METHODS

    # The schedulers are the columns.
    columns, *families = METHODS
    by_pair = {(pair.first, pair.second): pair.works for pair in single}
    by_pair_doubled = {(pair.first, pair.second): pair.works for pair in double}
    lines = [
        "# Combinations of methods",
        "",
        "Generated from the declarations of the classes: "
        "`mtl plugins combinations --built-in --format markdown > docs/combinations.md`.",
        f"For {tasks} tasks: ✓ works; 2 works with `--micro-batches 2` or more; · is rejected with a one-line error before the "
        "data is read.",
        "The tests train two steps of every pair that works.",
        "",
        f"| | {' | '.join(names[columns])} |",
        f"|---{'|---' * len(names[columns])}|",
    ]
    for family in families:
        lines.append(f"| **{FAMILIES[family].name.replace('_', ' ')}** |{' |' * len(names[columns])}")
        for name in names[family]:
            keys = [((columns, column), (family, name)) for column in names[columns]]
            cells = ["✓" if by_pair[key] else "2" if by_pair_doubled[key] else "·" for key in keys]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    rejections = _rejections(single, double)
    lines += ["", "All other combinations work. These are rejected:" if rejections else "All combinations work."]
    lines += [f"- {rejection.sentence()}" for rejection in rejections]
    return "\n".join(lines)
