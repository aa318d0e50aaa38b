"""From run folders to the sections of a report: what was planned, what came out, and how it went."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtlcli.report import page, svg
from mtlcli.report.embeddings import Cloud
from mtlcli.runs.metrics_log import read_log
from mtlcli.runs.names import PLAN, predicted_tasks
from mtlcli.runs.plan import read_plan
from mtlcli.runs.record import read_record
from mtlcli.runs.results import Predictions, Results, has_results, read_results
from mtlcli.tasks.targets import target_of

POINTS = 150
"""Most points of a curve; more steps are averaged into so many."""
MOST_CLASSES = 12
"""Classes of the largest confusion matrix that is drawn."""


def overview(runs: Sequence[Path]) -> str:
    """Return a table of the runs, and every primary metric of every run with its interval."""
    rows, measured = [], {folder: _results(folder) for folder in runs}
    for folder, results in measured.items():
        config = _config(folder)
        methods = [config.get("balancer", {}).get("name", "")]
        choices = (config.get("gradient_regularizer"), *config.get("regularizers", []))
        methods += [choice["name"] for choice in choices if choice]
        rows.append(
            (
                folder.name, config.get("encoder", {}).get("name", ""), config.get("scheduler", {}).get("name", ""),
                " + ".join(methods), _number(results.steps, "d"), _number(results.selected_step, "d"),
                _number(results.score, ".4f"), _number(results.seconds, ".0f"),
            )
        )  # fmt: skip
    head = ("run", "encoder", "scheduler", "methods", "steps", "kept step", "score", "seconds")
    figures = []
    for task in dict.fromkeys(task for results in measured.values() for task in results.tasks):
        on_dev = {
            folder.name: results.tasks[task]["dev"]
            for folder, results in measured.items()
            if results.tasks.get(task, {}).get("dev")
        }
        if not on_dev:
            continue
        metric = next(iter(next(iter(on_dev.values()))))
        values = [
            (name, metrics[metric].value, metrics[metric].low, metrics[metric].high)
            for name, metrics in on_dev.items()
            if metric in metrics
        ]
        figures.append(svg.intervals(f"{task}: {metric} on dev", values))
    return page.section(
        "Runs", page.table(head, rows, text_columns=4),
        page.charts("Primary metrics", figures, "With 95 % bootstrap intervals over the dev rows."),
    )  # fmt: skip


def one_run(folder: Path, clouds: Sequence[Cloud], note: str) -> str:
    """Everything about one run."""
    log = read_log(folder)
    steps = [line.values for line in log if line.kind == "step"]
    evaluations = [line.values for line in log if line.kind == "evaluation"]
    results = _results(folder)
    tasks = list(_config(folder).get("tasks", {}))
    return page.section(
        folder.name,
        "<h3>Mixing plan</h3>" + _plan(folder),
        "<h3>Metrics on dev</h3>" + _metrics(results),
        page.charts("Loss of each task", _losses(tasks, steps, evaluations), "Training (means of steps) and dev, before balancing."),
        page.charts("Balance", _balance(tasks, steps), "Weights that the balancer gave, and the cosine of the tasks' gradients."),
        page.charts("Metrics over time", _over_time(tasks, evaluations)),
        page.charts("Confusion", _confusion(folder), "Rows: what was expected. The darker, the larger the share of the row."),
        page.charts("Encodings of dev rows", _clouds(clouds), note),
    )  # fmt: skip


def _plan(folder: Path) -> str:
    if not (folder / PLAN).is_file():
        return page.paragraph("This run has no plan.json.")
    plan = read_plan(folder)
    head = ("task", "encoding", "head", "rows", "dev rows", "batch", "share of batches", "passes", "truncated")
    rows = [
        (
            task.name, task.encoding, task.head, f"{task.rows}", f"{task.dev_rows}", f"{task.batch_size}",
            f"{100 * task.share:.1f} %", f"{task.passes:.2f}", f"{task.truncated}",
        )
        for task in plan.tasks
    ]  # fmt: skip
    cost = plan.forward_passes, plan.backward_passes
    extra = f" Regularizers add {cost[0]:g} forward and {cost[1]:g} backward passes to each batch." if any(cost) else ""
    text = (
        f"{plan.steps} steps, epochs: {len(plan.epoch_ends)}, {plan.encoder_parameters / 1e6:.1f} M shared "
        f"parameters, {plan.device} in {plan.precision}.{extra}"
    )
    return page.table(head, rows, text_columns=3) + page.paragraph(text) + "".join(map(page.paragraph, plan.notes))


def _metrics(results: Results) -> str:
    rows = [
        (task, metric, f"{value.value:.4f}", f"{value.low:.4f} to {value.high:.4f}", f"{value.n}")
        for task, splits in results.tasks.items()
        for metric, value in splits.get("dev", {}).items()
    ]
    return page.table(("task", "metric", "value", "95 % interval", "rows"), rows, text_columns=2) or page.paragraph(
        "No dev rows, or the run was not finished."
    )


def _losses(
    tasks: Sequence[str], steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> list[str]:
    found = []
    for task in tasks:
        curves = {
            "train": thinned(_curve(steps, f"train/{task}/loss")),
            "dev": _curve(evaluations, f"eval/{task}/loss"),
        }
        found.append(svg.lines(f"{task}: loss", curves))
    return found


def _balance(tasks: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> list[str]:
    weights = {task: thinned(_curve(steps, f"balancer/{task}/weight")) for task in tasks}
    coefficients = {task: thinned(_curve(steps, f"gradients/{task}/coefficient")) for task in tasks}
    names = dict.fromkeys(key for line in steps for key in line if key.startswith("gradients/cosine/"))
    cosines = {
        key.removeprefix("gradients/cosine/").replace("_", " and "): thinned(_curve(steps, key)) for key in names
    }
    return [
        svg.lines("Weight of each task", weights),
        svg.lines("Cosine of the gradients", cosines),
        svg.lines("Coefficient of each gradient", coefficients),
    ]


def _over_time(tasks: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for task in tasks:
        keys = dict.fromkeys(key for line in evaluations for key in line if key.startswith(f"eval/{task}/"))
        curves = {key.rpartition("/")[2]: _curve(evaluations, key) for key in keys if not key.endswith("/loss")}
        found.append(svg.lines(f"{task}: metrics on dev", curves))
    return found


def _confusion(folder: Path) -> list[str]:
    figures, tasks = [], read_record(folder)["tasks"]
    for name, path in predicted_tasks(folder, "dev").items():
        if name not in tasks:
            continue
        target = target_of(tasks[name]["facts"]["target"])
        labels = target.labels or ()
        counts = target.confusion(*Predictions(path).read(target)) if 0 < len(labels) <= MOST_CLASSES else None
        if counts is not None and counts.any():
            figures.append(svg.matrix(name, labels, counts.tolist()))
    return figures


def _clouds(clouds: Sequence[Cloud]) -> list[str]:
    return [
        svg.points(f"{cloud.task}, {cloud.method}, {cloud.when}", cloud.places, cloud.groups, cloud.names)
        for cloud in clouds
    ]


def thinned(points: svg.Points) -> list[tuple[float, float]]:
    """At most POINTS points: means of equally long parts."""
    if len(points) <= POINTS:
        return list(points)
    bounds = [round(part * len(points) / POINTS) for part in range(POINTS + 1)]
    parts = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _curve(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(line["step"]), float(line[key])) for line in lines if line.get(key) is not None]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _results(folder: Path) -> Results:
    """Return the results of a run; empty ones for a run that has not finished."""
    return read_results(folder) if has_results(folder) else Results()


def _config(folder: Path) -> Mapping[str, Any]:
    return read_record(folder)["config"]
