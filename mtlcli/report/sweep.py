"""The page of a sweep: the best trials, scores over the trials, against each key, and all keys side by side."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from mtlcli.report import page, svg
from mtlcli.report.page import Section
from mtlcli.sweeps.results import DONE, FAILED, PRUNED, Sweep, Trial, cells
from mtlcli.sweeps.space import in_words

FEW = 20
"""Trials below which the importance of keys is not told."""


def sections(sweep: Sweep) -> list[Section]:
    """Return the sections of the page."""
    done, failed = sweep.done, [trial for trial in sweep.trials if trial.state == FAILED]
    pruned = sum(trial.state == PRUNED for trial in sweep.trials)
    columns, rows = cells(sweep)
    facts = page.facts(
        [
            ("trials", f"{len(sweep.trials)}: {len(done)} done, {pruned} pruned, {len(failed)} failed"),
            ("objective", ", ".join(sweep.objectives)),
            ("best", f"{done[0].place}: {in_words(done[0].values)}" if done else ""),
            ("training time", f"{sum(trial.seconds or 0 for trial in sweep.trials):,.0f} s"),
        ]
    )
    warning = page.paragraph(
        "The rows of dev have chosen the best trial, so its score on them is too high, the more so the more trials there were. "
        "mtl sweep --confirm-seeds trains the best again with other seeds and compares them with the recipe."
    )
    return [
        page.section(
            "Sweep",
            ("", facts + warning),
            ("Over the trials", page.charts(_over_trials(sweep))),
            ("Front", _front(sweep)),
        ),
        page.section(
            "Keys",
            ("Importance", _importance(sweep)),
            (
                "Slices",
                page.charts(
                    _slices(sweep),
                    "A dot is a trial; one that was stopped early is pale, at the last score that it reached.",
                ),
            ),
            ("Side by side", _parallel(sweep)),
        ),
        page.section(
            "Trials",
            ("", page.table([name for name, _ in columns], rows, text_columns=3)),
            (
                "Failed",
                page.table(["trial", "reason"], [[trial.place, trial.error] for trial in failed], text_columns=2),
            ),
        ),
    ]


def _score(trial: Trial) -> float | None:
    # A pruned or failed trial has the last score of its curve, if any.
    return trial.scores[0] if trial.scores else trial.curve[-1][1] if trial.curve else None


def _over_trials(sweep: Sweep) -> list[str]:
    """Draw the score of each trial, and the best so far over trials and over hours of training."""
    maximizes = sweep.directions[0] == "maximize"
    scores, best_by_trial, best_by_hours = [], [], []
    best: float | None = None
    hours = 0.0
    for number, trial in enumerate(sorted(sweep.trials, key=lambda trial: trial.number)):
        # Trials that failed or were pruned used time too.
        hours += (trial.seconds or 0.0) / 3600
        if trial.state != DONE:
            continue
        scores.append((float(number), trial.scores[0]))
        # For an objective that is minimized, a score is better unless it is larger.
        if best is None or (trial.scores[0] > best) == maximizes:
            best = trial.scores[0]
        best_by_trial.append((float(number), best))
        best_by_hours.append((hours, best))
    name = sweep.objectives[0]
    return [
        svg.lines(f"{name} over the trials", {"best so far": best_by_trial, "trial": scores}, unit="trial"),
        svg.lines(f"best {name} so far", {"best so far": best_by_hours}, unit="hours of training"),
    ]


def _front(sweep: Sweep) -> str:
    """Draw the first two objectives of all trials, and list the trials that no other beats."""
    if len(sweep.objectives) < 2:
        return ""
    front = sweep.front()
    places = [(trial.scores[0], trial.scores[1]) for trial in sweep.done]
    groups = [int(trial in front) for trial in sweep.done]
    drawn = svg.dots("Trials, those on the front darker", places, groups, sweep.objectives[0], sweep.objectives[1])
    rows = [[trial.place, in_words(trial.values), *(f"{score:.4f}" for score in trial.scores)] for trial in front]
    return page.charts([drawn]) + page.table(["trial", "values", *sweep.objectives], rows, text_columns=2)


def _importance(sweep: Sweep) -> str:
    if not sweep.importance:
        several = "; it is told for one objective only" if len(sweep.objectives) > 1 else ""
        return page.paragraph(f"Told from {FEW} trials on that were trained to their end{several}.")
    rows = [[key, f"{share:.2f}"] for key, share in sorted(sweep.importance.items(), key=lambda item: -item[1])]
    return page.table(["key", "share of the spread between good and other trials (PED-ANOVA)"], rows)


def _slices(sweep: Sweep) -> list[str]:
    """Draw the score against each key; choices stand side by side."""
    drawn = []
    for key in sweep.keys:
        trials = [trial for trial in sweep.trials if key in trial.values and _score(trial) is not None]
        positions, names = _positions(key, trials)
        # Values over several decades, such as learning rates, would overlap on a linear axis.
        log = bool(positions) and not names and min(positions) > 0 and max(positions) > 50 * min(positions)
        xs = [log10(x) for x in positions] if log else positions
        places = [(x, _score(trial) or 0.0) for x, trial in zip(xs, trials, strict=True)]
        across = f"log10 of {key}" if log else key
        if names:
            across += f" ({', '.join(f'{number}: {name}' for number, name in enumerate(names))})"
        drawn.append(svg.dots(key, places, [int(trial.state == DONE) for trial in trials], across, sweep.objectives[0]))
    return drawn


def _positions(key: str, trials: Sequence[Trial]) -> tuple[list[float], list[str]]:
    """Return the place of each trial's value on an axis, and the names of choices, none for numbers."""
    values = [trial.values[key] for trial in trials]
    # bool is a subclass of int, but true and false are choices.
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], []
    names = list(dict.fromkeys(_text(value) for value in values))
    return [float(names.index(_text(value))) for value in values], names


def _text(value: Any) -> str:
    return in_words({"": value}).removeprefix("=") if isinstance(value, Mapping) else str(value)


def _parallel(sweep: Sweep) -> str:
    """Draw a line for each trial over all keys and the score, the better the darker."""
    trials = [trial for trial in sweep.trials if _score(trial) is not None]
    if len(trials) < 2:
        return ""
    axes: list[tuple[str, list[float | None], list[str]]] = []
    for key in sweep.keys:
        # A key can exist in some trials only, such as an option of one method.
        holding = [trial for trial in trials if key in trial.values]
        if not holding:
            continue
        positions, names = _positions(key, holding)
        log = not names and min(positions) > 0 and max(positions) > 50 * min(positions)
        places = dict(zip((trial.number for trial in holding), positions, strict=True))
        values = [places.get(trial.number) for trial in trials]
        axes.append((key, [None if x is None else log10(x) if log else x for x in values], names))
    scores = [_score(trial) or 0.0 for trial in trials]
    axes.append((sweep.objectives[0], list(scores), []))
    return page.charts([svg.parallel("Parallel coordinates", axes, scores, sweep.directions[0] == "maximize")])
