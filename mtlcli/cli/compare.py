"""`mtl compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtlcli.cli import options
from mtlcli.cli.console import err, say, table

if TYPE_CHECKING:
    from mtlcli.evaluation.compare import Compared, Comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, the first of which is the baseline.")],
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", metavar="NAME", help="Only this task. Repeat it. [default: all that they share]"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", help="A metric, or all. Repeat it. [default: each task's primary one]"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="dev, test or train.")] = "dev",
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples, and random swaps.")] = 2000,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare finished runs on the same rows: differences with 95 % intervals and p-values.

    A folder that `mtl train --seeds` made is compared over its seeds. Two single runs are compared as they are, which says
    nothing about another seed.

    Example: mtl compare runs/equal runs/pcgrad
    """
    from mtlcli.evaluation.compare import compare as compare_runs

    found = compare_runs(
        runs, split=split, tasks=task or (), metrics=metric or (), resamples=resamples
    )  # fmt: skip
    if not quiet:
        for note in found.notes:
            say(f"note: {note}", err)
    if as_json:
        print(json.dumps(_plain(found, resamples), indent=None if quiet else 1))
    else:
        _show(found, resamples)


def _show(found: "Comparison", resamples: int) -> None:
    """A legend, a table for each side against the baseline, and what it comes to in words."""
    letters = [chr(ord("A") + index) if index < 26 else f"#{index + 1}" for index in range(len(found.sides))]
    for letter, side in zip(letters, found.sides, strict=True):
        seeds = f" ({len(side.seeds)} seeds: {', '.join(map(str, side.seeds))})" if side.seeds else ""
        say(f"{letter}  {side.name}{seeds}")
    for other, letter in list(enumerate(letters))[1:]:
        say("")
        rows = [one for one in found.compared if one.other == other]
        columns = [("task", ""), ("metric", ""), ("A", "right"), (letter, "right"), (f"{letter} - A", "right")]
        table(
            f"{letter} against A on {found.split}",
            [*columns, ("95 % interval", ""), ("p", "right"), ("n", "right")],
            [
                (
                    one.task, one.metric, f"{one.found.first:.4f}", f"{one.found.second:.4f}", f"{one.found.value:+.4f}",
                    f"{one.found.low:+.4f} to {one.found.high:+.4f}", _p(one.p_holm), f"{one.found.n}",
                )
                for one in rows
            ],
        )  # fmt: skip
        for one in rows:
            say(_in_words(one, letter, several=len({row.metric for row in rows if row.task == one.task}) > 1))
    say("")
    say(_method(found, resamples))


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _in_words(one: "Compared", letter: str, *, several: bool) -> str:
    where = f"{one.task} {one.metric}" if several else one.task
    if one.better is None:
        return f"{where}: no evidence of a difference between A and {letter}"
    better, worse = (letter, "A") if one.better else ("A", letter)
    return f"{where}: {better} is better than {worse} by {abs(one.found.value):.4f}"


def _method(found: "Comparison", resamples: int) -> str:
    """How intervals and p-values were found, and what they are about."""
    several = len(found.compared) > 1
    if any(side.seeds for side in found.sides):
        lines = [f"Means over seeds; intervals and p from {resamples} resamples of rows and seeds."]
    else:
        lines = [
            f"Intervals: paired bootstrap, p: approximate randomization, {resamples} draws each.",
            "Single runs: this is about the rows, not about other seeds (mtl train --seeds).",
        ]
    if several:
        lines.insert(1, f"p is corrected for {len(found.compared)} comparisons (Holm); each interval stands alone.")
    return "\n".join(lines)


def _plain(found: "Comparison", resamples: int) -> dict[str, Any]:
    """The comparison as JSON values; sides by their index in `runs`."""
    return {
        "runs": [
            {"path": side.name, "seeds": list(side.seeds) or None, "folders": list(map(str, side.runs))} for side in found.sides
        ],
        "split": found.split,
        "resamples": resamples,
        "compared": [
            {
                "task": one.task, "metric": one.metric, "baseline": 0, "other": one.other, "n": one.found.n,
                "baseline_value": one.found.first, "other_value": one.found.second,
                "baseline_values": list(one.found.firsts), "other_values": list(one.found.seconds),
                "difference": one.found.value, "low": one.found.low, "high": one.found.high,
                "p": one.found.p, "p_holm": one.p_holm, "better": one.better,
            }
            for one in found.compared
        ],
        "notes": list(found.notes),
    }  # fmt: skip
