"""From run folders to the sections of a report: plan, results and course of each run, and the runs side by side."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from mtlcli.report import page, svg
from mtlcli.report.calibration import reliability_charts
from mtlcli.report.differences import differences, display_names, overlaid
from mtlcli.report.embeddings import Cloud
from mtlcli.report.errors import WorstRow
from mtlcli.report.page import Section
from mtlcli.report.predictions import baselines, score_charts
from mtlcli.report.run_files import Curve, Line, RunFiles, curve, metric_bounds
from mtlcli.runs.merge_record import MergeRecord
from mtlcli.statistics.bootstrap import Estimate

POINTS = 150
"""Most points of a curve; more steps are averaged into this number."""
MOST_CLASSES = 12
"""Classes of the largest confusion matrix that is drawn."""
MOST_ROWS = 40
"""Rows of the table of classes that are shown at once; the others are folded away."""
WEIGHT_TEXT = "The balancer multiplies each task's loss by its weight before the losses are added."
COSINE_TEXT = (
    "The cosine of the angle between the gradients of two tasks: 1 where they agree, below 0 where a step that helps one task "
    "hurts the other."
)
COEFFICIENT_TEXT = (
    "The gradient regularizer replaces the sum of the tasks' gradients by a weighted sum; the coefficient is that weight. "
    "1 leaves a gradient as it is. Peaks arise where a gradient is very small or opposes the others."
)


def overview(runs: Sequence[RunFiles]) -> Section:
    """Return a table of the runs, their primary metrics with intervals, and, of several runs, their differences."""
    names = display_names([run.folder for run in runs])
    head = ("run", "encoder", "scheduler", "methods", "seed", "steps", "kept step", "score", "seconds")
    rows = []
    for name, run in zip(names, runs, strict=True):
        config, results = run.config, run.results
        methods = [config.get("balancer", {}).get("name", "")]
        plugins = (config.get("gradient_regularizer"), *config.get("regularizers", []))
        methods += [plugin["name"] for plugin in plugins if plugin]
        scheduler = config.get("scheduler", {}).get("name", "")
        if run.merge is not None:  # nothing was scheduled or balanced
            scheduler, methods = "", [f"merge by {run.merge.method}"]
        rows.append(
            (
                name, config.get("encoder", {}).get("name", ""), scheduler,
                " + ".join(methods), f"{config.get('training', {}).get('seed', '')}", _number(results.steps, "d"),
                _number(results.selected_step, "d"), _number(results.score, ".4f"), _number(results.seconds, ".0f"),
            )
        )  # fmt: skip
    figures = []
    for task in dict.fromkeys(task for run in runs for task in run.tasks):
        # Runs can differ in their tasks and metrics, so the first one that has the task decides.
        metric = next((metric for run in runs for metric in run.dev_metrics(task)), None)
        if metric is not None:
            values = [
                (name, result.value, result.low, result.high)
                for name, run in zip(names, runs, strict=True)
                if (result := run.dev_metrics(task).get(metric))
            ]
            figures.append(svg.intervals(f"{task}: {metric} on dev", values, bounds=metric_bounds(metric)))
    several = len(runs) > 1
    return page.section(
        "Runs", ("", page.table(head, rows, text_columns=4)),
        ("Primary metrics", page.charts(figures, "With 95 % bootstrap intervals over the dev rows.")),
        ("Differences", differences([run.folder for run in runs]) if several else ""),
        ("Curves of all runs", page.charts(overlaid(runs)) if several else ""),
    )  # fmt: skip


def one_run(
    run: RunFiles, clouds: Sequence[Cloud], note: str, worst: Mapping[str, Sequence[WorstRow]] | None = None,
    *, name: str = "",
) -> Section:  # fmt: skip
    """Return everything about one run; `worst` are rows to show with their texts."""
    return page.section(
        name or run.name,
        ("Run", _facts(run)),
        ("Mixing plan", _plan(run)) if run.merge is None else ("Merge", _merge(run.merge)),
        ("Metrics on dev", _metrics(run)),
        ("Baselines", _baselines(run)),
        ("Classes", _classes(run)),
        ("Confusion", page.charts(
            [
                svg.matrix(task, labels, counts.tolist())
                for task, (labels, counts) in run.confusions.items()
                if len(labels) <= MOST_CLASSES
            ],
            "Rows: the target. Columns: the prediction. The stronger the color, the larger the share of the row.",
        )),
        ("Calibration", page.charts(
            reliability_charts(run),
            "A model is calibrated if its predictions are as often right as its confidence, the probability of the predicted class, "
            "says: then every bar ends at the dashed line.",
        )),
        ("Scores", page.charts(
            [chart for task, predictions in run.predictions.items() for chart in score_charts(task, predictions)],
            "The dashed line is where score and label agree.",
        )),
        ("Worst predictions", _worst(worst or {})),
        ("Loss of each task", page.charts(_losses(run), "Training (means of steps) and dev, before balancing.")),
        ("Metrics over time", page.charts(_over_time(run))),
        ("Balance", _balance(run.tasks, run.steps)),
        ("Learning rate", page.charts([svg.lines("Learning rate of the encoder", {"lr": thinned(curve(run.steps, "lr"))})])),
        ("Encodings of dev rows", page.charts(_clouds(clouds), note)),
    )  # fmt: skip


def _facts(run: RunFiles) -> str:
    environment, training = run.environment, run.config.get("training", {})
    versions, device, commit = dict[str, str](), "", ""
    if environment is not None:
        versions = {"mtlcli": environment.mtlcli, "Python": environment.python, **environment.versions}
        device = f"{environment.device} ({environment.device_name})" if environment.device_name else environment.device
        commit = environment.git or ""
    rows = [
        (task.name, task.rows, "none (auxiliary)" if task.auxiliary else f"{task.dev_rows}")
        for task in (run.plan.tasks if run.plan else ())
    ]
    return page.facts(
        [
            ("command", run.command),
            ("seed", f"{training.get('seed', '')}"),
            ("rows", ", ".join(f"{name} {train} for training and {dev} for dev" for name, train, dev in rows)),
            ("device", device),
            ("git commit", commit),
            ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ]
    )


def _plan(run: RunFiles) -> str:
    plan = run.plan
    if plan is None:
        return page.paragraph("This run has no plan.json.")
    head = ("task", "encoding", "head", "rows", "dev rows", "batch", "share of batches", "passes", "truncated")
    rows = [
        (
            task.name, task.encoding, task.head, f"{task.rows}", "auxiliary" if task.auxiliary else f"{task.dev_rows}",
            f"{task.batch_size}",
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
    sentences = map(page.paragraph, (text, *plan.notes, *plan.warnings))
    return page.table(head, rows, text_columns=3) + "".join(sentences)


def _merge(merge: MergeRecord) -> str:
    rows = [(run.folder, f"{run.weight:g}", ", ".join(run.heads)) for run in merge.runs]
    options = ", ".join(f"{name} {value:g}" for name, value in merge.options.items())
    scaling = "" if merge.scaling is None else f", scaling {merge.scaling:g}"
    summary = (
        f" The coefficients are the best of {len(merge.trials)} by {merge.select_by} on dev." if merge.trials else ""
    )
    text = (
        f"Merged by {merge.method}{scaling}{f' ({options})' if options else ''}, from the start {merge.start}.{summary}"
    )
    return page.table(("run", "weight", "heads"), rows) + page.paragraph(text)


def _metrics(run: RunFiles) -> str:
    rows = [
        (
            f"{task} {part}".rstrip(), metric, f"{result.value:.4f}", f"{result.low:.4f} to {result.high:.4f}",
            f"{result.n}" if result.groups is None else f"{result.n} in {result.groups} groups",
        )
        for task in run.tasks
        for part, metrics in run.dev_results(task).items()
        for metric, result in metrics.items()
    ]  # fmt: skip
    return page.table(("task", "metric", "value", "95 % interval", "rows"), rows, text_columns=2) or page.paragraph(
        "No dev rows, or the run was not finished."
    )


def _baselines(run: RunFiles) -> str:
    rows = [
        (task, metric, baseline, f"{model:.4f}", f"{value:.4f}")
        for task, predictions in run.predictions.items()
        for metric, model, value, baseline in baselines(predictions)
    ]
    text = "A model that answers every row alike, with the most frequent label or the mean score of the dev rows themselves."
    table = page.table(("task", "metric", "baseline", "this run", "the baseline"), rows, text_columns=3)
    return table and table + page.paragraph(text)


def _classes(run: RunFiles) -> str:
    rows = [
        (
            task, scores.label, f"{scores.support}",
            *(_interval_of(estimate) for estimate in (scores.precision, scores.recall, scores.f1)),
        )
        for task, of_task in run.classes.items()
        for scores in of_task
    ]  # fmt: skip
    head = ("task", "class", "support", "precision (95 %)", "recall (95 %)", "F1 (95 %)")
    shown = page.table(head, rows[:MOST_ROWS], text_columns=2)
    more = page.folded(f"{len(rows) - MOST_ROWS} more", page.table(head, rows[MOST_ROWS:], text_columns=2))
    text = "Classes of a task by their number of labels (support). An interval of a class with few of them is wide."
    return shown and page.paragraph(text) + shown + more


def _interval_of(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.2f} to {estimate.high:.2f})" if estimate.n else "-"


def _worst(worst: Mapping[str, Sequence[WorstRow]]) -> str:
    rows = [
        (task, f"{row.line}", row.target, row.predicted, " | ".join(row.texts))
        for task, rows in worst.items()
        for row in rows
    ]
    return page.table(("task", "line", "target", "prediction", "text"), rows, text_columns=4, long_columns=1)


def _losses(run: RunFiles) -> list[str]:
    drawn = []
    for task in run.tasks:
        curves = {
            "train": thinned(curve(run.steps, f"train/{task}/loss")),
            "dev": curve(run.evaluations, f"eval/{task}/loss"),
        }
        drawn.append(svg.lines(f"{task}: loss", curves))
    return drawn


def _balance(tasks: Sequence[str], steps: Sequence[Line]) -> str:
    """Return charts of weights, cosines and coefficients, and a sentence for those that never change."""
    # From all lines, because a step has only the pairs of its own tasks.
    names = dict.fromkeys(key for line in steps for key in line if key.startswith("gradients/cosine/"))
    groups: list[tuple[str, str, dict[str, Curve], bool]] = [
        ("Weight of each task", WEIGHT_TEXT, {task: curve(steps, f"balancer/{task}/weight") for task in tasks}, False),
        ("Cosine of the gradients", COSINE_TEXT, {_names_in(key): curve(steps, key) for key in names}, False),
        (
            "Coefficient of each gradient", COEFFICIENT_TEXT,
            {task: curve(steps, f"gradients/{task}/coefficient") for task in tasks}, True,
        ),
    ]  # fmt: skip
    sentences, drawn = [], []
    for title, text, curves, cut_outliers in groups:
        if (values := svg.constant(curves)) is not None:
            sentences.append(f"{title}: constant ({values}). {text}")
            continue
        bounds = (-1.0, 1.0) if title.startswith("Cosine") else svg.UNBOUNDED
        # Outliers are cut before curves are thinned: a mean over a peak would look like a long hill.
        chart = svg.lines(title, curves if cut_outliers else _thin(curves), bounds=bounds, cut_outliers=cut_outliers)
        if chart:
            sentences.append(f"{title}: {text}")
            drawn.append(chart)
    return "".join(map(page.paragraph, sentences)) + page.charts(drawn)


def _names_in(key: str) -> str:
    # Earlier versions joined the two names by an underscore.
    pair = key.removeprefix("gradients/cosine/")
    return pair.replace("/" if "/" in pair else "_", " and ")


def _thin(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    return {name: thinned(points) for name, points in curves.items()}


def _over_time(run: RunFiles) -> list[str]:
    drawn = []
    for task in run.tasks:
        keys = dict.fromkeys(key for line in run.evaluations for key in line if key.startswith(f"eval/{task}/"))
        names = {key: key.split("/", 2)[2] for key in keys if not key.endswith("/loss")}
        # Of several sets each has a chart of its own below.
        parts = {name: name.split("/") for name in names.values() if "/" in name}
        names = {key: name for key, name in names.items() if name not in parts}
        bounds = [metric_bounds(name) for name in names.values()]
        if names:
            ends = min(low for low, _ in bounds), max(high for _, high in bounds)
            curves = {name: curve(run.evaluations, key) for key, name in names.items()}
            drawn.append(svg.lines(f"{task}: metrics on dev", curves, bounds=ends))
        for metric in dict.fromkeys(metric for _, metric in parts.values()):
            of_sets = {
                part: curve(run.evaluations, f"eval/{task}/{part}/{metric}")
                for part, name in parts.values()
                if name == metric
            }
            drawn.append(svg.lines(f"{task}: {metric} on each dev set", of_sets, bounds=metric_bounds(metric)))
    return drawn


def _clouds(clouds: Sequence[Cloud]) -> list[str]:
    """Return the pictures before and after training as pairs that stay side by side."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for cloud in clouds:
        title = f"{cloud.task}, {cloud.method}, {cloud.when}"
        pairs.setdefault((cloud.task, cloud.method), []).append(
            svg.points(title, cloud.places, cloud.groups, cloud.names)
        )
    return [svg.pair(charts) for charts in pairs.values()]


def thinned(points: svg.Points) -> Curve:
    """Return at most POINTS points: means of equally long parts."""
    if len(points) <= POINTS:
        return list(points)
    # There are more points than parts, so no part is empty.
    bounds = [round(part * len(points) / POINTS) for part in range(POINTS + 1)]
    parts = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
