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
        typer.Option(
            "--task",
            "-t",
            metavar="NAME",
            help="Only this task. Repeat it. [default: all common tasks but auxiliary ones]",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", help="A metric, or all. Repeat it. [default: each task's primary one]"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="dev, test, train, or a set such as dev.NAME.")] = "dev",
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples, and random swaps.")] = 2000,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare finished runs on the same rows: differences with intervals and p-values.

    Rows are matched by their texts. A folder of `mtl train --seeds` is compared over its seeds. A comparison of two single
    runs says nothing about other seeds. With several comparisons, intervals and p-values are corrected for their number.

    Example: mtl compare runs/equal runs/pcgrad
    """
    from mtlcli.evaluation.compare import compare as compare_runs

    comparison = compare_runs(runs, split=split, tasks=task or (), metrics=metric or (), resamples=resamples)
    if not quiet:
        for note in comparison.notes:
            # On standard error, so that --json leaves only JSON on standard output.
            say(f"note: {note}", err)
    if as_json:
        print(json.dumps(_plain(comparison, resamples), indent=None if quiet else 1))
    else:
        show_comparison(comparison, resamples)


def show_comparison(comparison: "Comparison", resamples: int) -> None:
    """Print a legend, a table for each side against the baseline, and the conclusion in words."""
    sides = comparison.sides
    letters = [chr(ord("A") + index) if index < 26 else f"#{index + 1}" for index in range(len(sides))]
    for letter, side in zip(letters, sides, strict=True):
        seeds = f" ({len(side.seeds)} seeds: {', '.join(map(str, side.seeds))})" if side.seeds else ""
        say(f"{letter}  {side.name}{seeds}")
    # Side A is the baseline.
    for other, letter in list(enumerate(letters))[1:]:
        say("")
        rows = [row for row in comparison.compared if row.other == other]
        columns = [("task", ""), ("metric", ""), ("A", "right"), (letter, "right"), (f"{letter} - A", "right")]
        table(
            f"{letter} against A on {comparison.split}",
            [*columns, ("interval", ""), ("p", "right"), ("n", "right")],
            [
                (
                    row.name, row.metric, f"{row.difference.first:.4f}", f"{row.difference.second:.4f}",
                    f"{row.difference.value:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}", _p(row.p_holm),
                    f"{row.difference.n}",
                )
                for row in rows
            ],
        )  # fmt: skip
        for row in rows:
            say(_in_words(row, letter, several=len({other.metric for other in rows if other.name == row.name}) > 1))
    say("")
    say(method(comparison, resamples))


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _in_words(row: "Compared", letter: str, *, several: bool) -> str:
    where = f"{row.name} {row.metric}" if several else row.name
    if row.better is None:
        return f"{where}: no evidence of a difference between A and {letter}"
    better, worse = (letter, "A") if row.better else ("A", letter)
    return f"{where}: {better} is better than {worse} by {abs(row.difference.value):.4f}"


def method(comparison: "Comparison", resamples: int) -> str:
    """Return lines on how intervals and p-values were computed, and what they are about."""
    count = len(comparison.compared)
    if any(side.seeds for side in comparison.sides):
        lines = [f"Means over seeds; intervals and p from {resamples} resamples of rows and seeds."]
    else:
        lines = [
            f"Intervals: paired bootstrap, p: approximate randomization, {resamples} draws each.",
            "Single runs: this is about the rows, not about other seeds (mtl train --seeds).",
        ]
    if count > 1:
        lines.insert(1, f"Both are corrected for {count} comparisons (Holm), at 5 % for all together.")
    else:
        lines.insert(1, "The interval is at 95 %.")
    lines.insert(2, "It is a difference where p is at most 0.05 and the interval excludes 0.")
    if grouped := dict.fromkeys(row.name for row in comparison.compared if row.difference.groups is not None):
        counts = {row.name: row.difference.groups for row in comparison.compared}
        lines.append(
            f"Groups of rows are resampled as a whole: {', '.join(f'{name} {counts[name]} groups' for name in grouped)}."
        )
    return "\n".join(lines)


def _plain(comparison: "Comparison", resamples: int) -> dict[str, Any]:
    """Return the comparison as JSON values; sides are given by their index in `runs`."""
    return {
        "runs": [
            {"path": side.name, "seeds": list(side.seeds) or None, "folders": list(map(str, side.runs))}
            for side in comparison.sides
        ],
        "split": comparison.split,
        "resamples": resamples,
        "alpha": 0.05,
        "correction": "Holm",
        "compared": [
            {
                "task": row.task, "split": row.split, "metric": row.metric, "baseline": 0, "other": row.other,
                "n": row.difference.n, "groups": row.difference.groups,
                "baseline_value": row.difference.first, "other_value": row.difference.second,
                "baseline_values": list(row.difference.firsts), "other_values": list(row.difference.seconds),
                "difference": row.difference.value, "level": row.level, "low": row.low, "high": row.high,
                "p": row.difference.p, "p_holm": row.p_holm, "better": row.better,
            }
            for row in comparison.compared
        ],
        "notes": list(comparison.notes),
    }  # fmt: skip
