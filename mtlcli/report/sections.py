"""From run folders to the sections of a report: what was planned, what came out, and how it went."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mtlcli.errors import MtlError
from mtlcli.report import page, svg
from mtlcli.report.embeddings import Cloud
from mtlcli.runs.results import Predictions
from mtlcli.tasks.targets import target_of

POINTS = 150
"""Most points of a curve; more steps are averaged into so many."""
MOST_CLASSES = 12
"""Classes of the largest confusion matrix that is drawn."""


def overview(runs: Sequence[Path]) -> str:
    """A table of the runs, and every primary metric of every run with its interval."""
    rows, measured = [], {folder: _results(folder) for folder in runs}
    for folder in runs:
        config, found = _config(folder), measured[folder]
        methods = [config.get("balancer", {}).get("name", "")]
        methods += [one["name"] for one in (config.get("gradient_regularizer"), *config.get("regularizers", [])) if one]
        rows.append(
            (
                folder.name, config.get("encoder", {}).get("name", ""), config.get("scheduler", {}).get("name", ""),
                " + ".join(methods), f"{found.get('steps', '')}", f"{found.get('selected_step', '')}",
                _number(found.get("score")), f"{found.get('seconds', 0):.0f}",
            )
        )  # fmt: skip
    head = ("run", "encoder", "scheduler", "methods", "steps", "kept step", "score", "seconds")
    tasks = list(dict.fromkeys(task for found in measured.values() for task in found.get("tasks", {})))
    figures = []
    for task in tasks:
        per_run = {
            folder.name: found["tasks"][task] for folder, found in measured.items() if task in found.get("tasks", {})
        }
        metric = next(iter(next(iter(per_run.values()))["dev"]))
        values = [
            (name, one["dev"][metric]["value"], one["dev"][metric]["low"], one["dev"][metric]["high"])
            for name, one in per_run.items()
            if metric in one.get("dev", {})
        ]
        figures.append(svg.intervals(f"{task}: {metric} on dev", values))
    return page.section(
        "Runs", page.table(head, rows, text_columns=4),
        page.charts("Primary metrics", figures, "With 95 % bootstrap intervals over the dev rows."),
    )  # fmt: skip


def one_run(folder: Path, clouds: Sequence[Cloud], note: str) -> str:
    """Everything about one run."""
    log = _log(folder)
    steps = [line for line in log if line.get("kind") == "step"]
    evaluations = [line for line in log if line.get("kind") == "evaluation"]
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
    path = folder / "plan.json"
    if not path.is_file():
        return page.paragraph("This run was trained by an mtlcli that did not keep its plan.")
    plan = _json(path)
    try:
        return _planned(plan)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _planned(plan: Mapping[str, Any]) -> str:
    head = ("task", "encoding", "head", "rows", "dev rows", "batch", "share of batches", "passes", "truncated")
    rows = [
        (
            one["name"], one["encoding"], one["head"], f"{one['rows']}", f"{one['dev_rows']}", f"{one['batch_size']}",
            f"{100 * one['share']:.1f} %", f"{one['passes']:.2f}", f"{one['truncated']}",
        )
        for one in plan["tasks"]
    ]  # fmt: skip
    cost = plan.get("forward_passes", 0), plan.get("backward_passes", 0)
    extra = f" Regularizers add {cost[0]:g} forward and {cost[1]:g} backward passes to each batch." if any(cost) else ""
    text = (
        f"{plan['steps']} steps, epochs: {len(plan['epoch_ends'])}, {plan['encoder_parameters'] / 1e6:.1f} M shared "
        f"parameters, {plan['device']} in {plan['precision']}.{extra}"
    )
    return page.table(head, rows, text_columns=3) + page.paragraph(text) + "".join(map(page.paragraph, plan["notes"]))


def _metrics(results: Mapping[str, Any]) -> str:
    rows = [
        (task, metric, f"{one['value']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}", f"{one['n']}")
        for task, splits in results.get("tasks", {}).items()
        for metric, one in splits.get("dev", {}).items()
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
    figures, tasks = [], _json(folder / "run.json").get("tasks", {})
    for path in sorted((folder / "predictions").glob("*.dev.jsonl")):
        name = path.name.removesuffix(".dev.jsonl")
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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _results(folder: Path) -> dict[str, Any]:
    return _json(folder / "results.json")


def _config(folder: Path) -> dict[str, Any]:
    record = _json(folder / "run.json")
    found: dict[str, Any] = record.get("config", {})
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, "not an object")
    return found


def _damaged(path: Path, why: object) -> MtlError:
    return MtlError(f"{path}: damaged ({why}); write it again: mtl train --resume --output {path.parent}")


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # a line cut off by a crash
            break
    return found
