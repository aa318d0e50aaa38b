"""Several runs side by side: differences with intervals, and their curves in one frame."""

from collections.abc import Sequence
from pathlib import Path

from mtlcli.errors import MtlError
from mtlcli.evaluation.compare import compare
from mtlcli.report import page, svg
from mtlcli.report.run_files import RunFiles, curve, metric_bounds

RESAMPLES = 2000


def differences(folders: Sequence[Path]) -> str:
    """Return the table of primary metrics against the first run; a sentence where the runs cannot be compared."""
    try:
        comparison = compare(folders, resamples=RESAMPLES)
    except MtlError as error:
        # The rest of the page is still useful, for example for runs with different dev rows.
        return page.paragraph(f"The runs cannot be compared: {'; '.join(error.lines)}")
    names = display_names(folders)
    baseline = names[0]
    rows = []
    for row in comparison.compared:
        other = names[row.other]
        verdict = "no evidence" if row.better is None else f"{other if row.better else baseline} is better"
        rows.append(
            (
                row.name, row.metric, other, verdict, f"{row.difference.first:.4f}", f"{row.difference.second:.4f}",
                f"{row.difference.value:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}", f"{row.p_holm:.3f}",
                f"{row.difference.n}",
            )
        )  # fmt: skip
    head = ("task", "metric", "run", "verdict", baseline, "run's value", "difference", "interval", "p", "rows")
    count = len(comparison.compared)
    text = (
        f"Each run less {baseline}, on the same dev rows. Intervals (paired bootstrap) and p (approximate randomization) are "
        f"corrected for {count} comparison{'s' if count > 1 else ''} after Holm. "
        "A difference counts where p is at most 0.05 and the interval excludes 0; it says nothing about other seeds."
    )
    return (
        page.table(head, rows, text_columns=4) + page.paragraph(text) + "".join(map(page.paragraph, comparison.notes))
    )


def overlaid(runs: Sequence[RunFiles]) -> list[str]:
    """Return a chart for each task with the primary dev metric of every run, and one with every dev loss."""
    charts = []
    for task in dict.fromkeys(task for run in runs for task in run.tasks):
        # Runs can differ in their tasks and metrics, so the first one that has the task decides.
        metric = next((name for run in runs for name in run.dev_metrics(task)), None)
        names = display_names([run.folder for run in runs])
        if metric is not None:
            series = {
                name: curve(run.evaluations, f"eval/{task}/{metric}") for name, run in zip(names, runs, strict=True)
            }
            charts.append(svg.lines(f"{task}: {metric} on dev", series, bounds=metric_bounds(metric)))
        losses = {name: curve(run.evaluations, f"eval/{task}/loss") for name, run in zip(names, runs, strict=True)}
        charts.append(svg.lines(f"{task}: loss on dev", losses))
    return charts


def display_names(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or the whole path where two runs share their last part."""
    names = [folder.name for folder in folders]
    return [str(folder) if names.count(folder.name) > 1 else folder.name for folder in folders]
