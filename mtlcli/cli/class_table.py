"""The table of `mtl eval --per-class`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtlcli.cli.console import explain, table
from mtlcli.metrics.titles import is_weighted

if TYPE_CHECKING:
    from mtlcli.evaluation.evaluate import Evaluation
    from mtlcli.statistics.bootstrap import Estimate
    from mtlcli.statistics.per_class import ClassScores

COLUMNS = [("class", ""), ("support", "right"), ("precision (95 %)", ""), ("recall (95 %)", ""), ("F1 (95 %)", "")]


def show_classes(evaluation: "Evaluation") -> None:
    """Print precision, recall and F1 of each class with their intervals, the class with the most labels first."""
    from mtlcli.config.evaluation_sets import in_words

    for task, splits in evaluation.classes.items():
        for split, scores in splits.items():
            weighted = any(map(is_weighted, evaluation.results[task][split]))
            title = f"{task} {in_words(split)}: {len(scores)} classes{', rows counted by weight' if weighted else ''}"
            # One space between columns, so that 17 characters are left for the class on 80 columns.
            table(f"\n{title}", COLUMNS, [_row(of_class) for of_class in scores], gap=1)
    if any(_is_undefined(scores) for splits in evaluation.classes.values() for scores in splits.values()):
        explain("-: the class is never predicted (precision), or no item has it (recall)")


def _row(scores: "ClassScores") -> tuple[str, ...]:
    cells = (_cell(estimate) for estimate in (scores.precision, scores.recall, scores.f1))
    return (scores.label, f"{scores.support}", *cells)


def _cell(estimate: "Estimate") -> str:
    return f"{estimate.value:.3f} ({estimate.low:.2f}-{estimate.high:.2f})" if estimate.n else "-"


def _is_undefined(scores: "Sequence[ClassScores]") -> bool:
    return any(not estimate.n for of_class in scores for estimate in (of_class.precision, of_class.recall))
