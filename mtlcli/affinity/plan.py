"""Plan `mtl affinity`: what is asked for, checked before anything is slow, and what it will cost."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlcli.affinity.cost import Cost, Lengths, estimate_cost, step_times
from mtlcli.affinity.gains import RUNS, Budget, GainPlan, check_gains, plan_gains, updates_of
from mtlcli.affinity.probe import JOINT, check_shared, joint_config
from mtlcli.affinity.results import PAGE, SUMMARY, UNITS, Units
from mtlcli.config.changes import differences, shown_value
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError, one_of, suggest
from mtlcli.files import discard
from mtlcli.runs.folder import is_free
from mtlcli.runs.names import LOCK
from mtlcli.training.setup import TrainingRun, set_up

MEASURES = ("data", "gradients", "lookahead", "logme", "gain", "transfer")
DEFAULT = ("data", "gradients", "lookahead", "logme", "gain")


@dataclass(frozen=True)
class Options:
    """Hold what the command was asked for, besides the recipe.

    Attributes:
        measures: names of `MEASURES`.
        updates: of the joint run.
        batches: most batches of each task in a gradient.
        seeds: of the runs that measure gains.
        models: number of models to propose groups for.
        budget: what runs of a pair have in common with those of a task alone, see `plan_gains`.
        keep_models: keep the weights of runs on pairs, which nothing reads.
        confirm: train the proposed groups again.
    """

    measures: tuple[str, ...] = DEFAULT
    updates: int = 200
    batches: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)
    models: int = 2
    budget: Budget = "rows"
    keep_models: bool = False
    confirm: bool = False


@dataclass(frozen=True)
class AffinityPlan:
    """Hold everything before the first measurement: the joint run set up, the runs of the gains, and the cost."""

    base: Config
    options: Options
    run: TrainingRun
    gains: GainPlan | None
    cost: Cost
    settings: dict[str, Any] = field(default_factory=dict)
    cache: Path | None = None


def parse_measures(text: str) -> tuple[str, ...]:
    """Return measures from `gradients,gain`, in the order of `MEASURES`. Raise MtlError for an unknown name."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in MEASURES:
            raise MtlError(
                f'--measures {text}: "{name}" is not a measure{suggest(name, MEASURES)}; expected {one_of(MEASURES)}'
            )
    if not names:
        raise MtlError(f"--measures: found nothing; expected {one_of(MEASURES)}")
    return tuple(name for name in MEASURES if name in names)


def check_folder(folder: Path) -> None:
    """Raise MtlError if the folder contains anything but what `mtl affinity` wrote. Called before any slow work."""
    if folder.exists() and not folder.is_dir():
        raise MtlError(f"--output: {folder} is a file; expected a folder")
    if not is_free(folder) and not (folder / UNITS).is_file():
        raise MtlError(f"--output: {folder} is not a folder of mtl affinity (it has no {UNITS}); choose another folder")


def plan_affinity(
    base: Config,
    options: Options,
    folder: Path,
    *,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> AffinityPlan:
    """Read the data, build the joint run, check what the measures need, and time a few updates of each task.

    Raises:
        MtlError: everything that is wrong with recipe, data and measures.
    """
    if len(base.tasks) < 2:
        names = one_of(base.tasks) if base.tasks else "none"
        raise MtlError(f"an affinity is between tasks: expected two tasks or more, found {names}; add one with --task")
    if options.confirm and "gain" not in options.measures:
        raise MtlError("--confirm: compares gains, so --measures must have gain")
    of_gradients = [name for name in options.measures if name in ("gradients", "lookahead")]
    if of_gradients:
        # Before the data is read, as far as the architecture alone decides it.
        check_shared(base, None, of_gradients)
    start = time.perf_counter()
    run = set_up(joint_config(base, options.updates), cache=cache, tell=tell)
    seconds = time.perf_counter() - start
    of_runs = [name for name in options.measures if name in ("gain", "transfer", "logme")]
    if of_gradients:
        # Again with the model, which shows what is trainable.
        check_shared(base, run, of_gradients)
    gains = None
    alone = updates_of(base, run)
    if of_runs:
        check_gains(run, base, of_runs)
        gains = plan_gains(base, run, folder / RUNS, options.measures, options.seeds, options.budget)
    together = alone if gains is None else gains.together
    evaluations = 0 if gains is None else -(-gains.updates // gains.study.study.steps_per_epoch)
    lengths = Lengths(options.updates, options.batches, alone, together, evaluations, seconds)
    tell("timing a few updates of each task")
    cost = estimate_cost(
        run,
        options.measures,
        len(options.seeds),
        lengths,
        step_times(run),
        keep_models=options.keep_models,
        confirm=options.models if options.confirm else 0,
    )
    # Measures and seeds are not among the settings, because a later call can add some.
    settings = {
        "recipe": base.plain(),
        "rows": run.content(),
        "updates": options.updates,
        "batches": options.batches,
        "budget": options.budget,
    }
    return AffinityPlan(base, options, run, gains, cost, settings, cache)


def open_units(plan: AffinityPlan, folder: Path) -> Units:
    """Open the units of a folder. Raise MtlError if it was made with another recipe, other rows or other lengths."""
    return Units(folder, plan.settings, compare=_changes)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two settings, a clause each."""
    lines = [
        f"{key} (was {shown_value(old)}, now {shown_value(new)})"
        for key, old, new in differences(before["recipe"], now["recipe"])
    ]
    rows = [name for name in {**before["rows"], **now["rows"]} if before["rows"].get(name) != now["rows"].get(name)]
    # Other rows follow from another recipe, which is the more useful message.
    if rows and not lines:
        lines.append(f"the rows of {one_of(rows)}")
    return lines + [
        f"--{key} (was {before.get(key)}, now {now.get(key)})"
        for key in ("updates", "batches", "budget")
        if before.get(key) != now.get(key)
    ]


def remove_affinity(folder: Path) -> list[str]:
    """Remove what `mtl affinity` wrote, and return the names of everything else that is left in the folder."""
    for name in (UNITS, SUMMARY, PAGE, RUNS, JOINT):
        discard(folder / name)
    # The lock is held by this command.
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)
