"""`mtl affinity` from its plan to finished units.

Every finished unit is a line of affinity.jsonl or a run of the study in runs/, so a call that is stopped goes on where it was; the
summary is always made again from these.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.affinity.gains import RUNS, plan_confirmation, single_place, transferred
from mtlcli.affinity.gradients import TOTAL, WORDS, Sketch, cosines_of, direction
from mtlcli.affinity.logme import features_of, log_me, targets_of
from mtlcli.affinity.lookahead import FLOOR, LookaheadRows, lookahead_steps, measure_lookahead
from mtlcli.affinity.overlap import RowTexts, jaccard, label_overlap, leaks, texts_of, words_of
from mtlcli.affinity.plan import AffinityPlan
from mtlcli.affinity.probe import JOINT, joint_run
from mtlcli.affinity.results import Units
from mtlcli.affinity.rows import encoder_blocks, gradient_row, in_rounds, make_batch, measured_batches, shared_encoder
from mtlcli.errors import MtlError
from mtlcli.files import discard, write_whole
from mtlcli.model.predict import evaluating
from mtlcli.runs.names import ENCODER, HEADS
from mtlcli.studies.plan import only, seeded
from mtlcli.studies.run import Interrupted, RunEnded, StudyEvent, open_study, run_study
from mtlcli.training.setup import set_up

ROUND = 10
"""Batches of each task between two looks at the reliability of its gradient."""
ENOUGH = 0.8
"""Reliability of every task's gradient at which no more batches are drawn."""


@dataclass(frozen=True)
class Doing:
    """Report in a line what is measured next."""

    text: str


@dataclass(frozen=True)
class Stopped:
    """Report that the measurement was stopped; the same call goes on."""


Event = Doing | Stopped | StudyEvent


def measure_affinity(
    plan: AffinityPlan, folder: Path, units: Units, *, command: str = "", stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Measure what is not measured yet, and yield lines about it and the events of runs."""
    measures = plan.options.measures
    if "data" in measures:
        yield from _measure_data(plan, units)
    if {"gradients", "lookahead"} & {*measures}:
        yield from _measure_joint(plan, folder / JOINT, units, stop)
        if stop():
            yield Stopped()
            return
    if plan.gains is not None:
        open_study(plan.gains.study, folder / RUNS)
        for event in run_study(plan.gains.study, folder / RUNS, command=command, stop=stop):
            yield event
            if isinstance(event, Interrupted):
                return
            _drop_models(plan, folder / RUNS, event)
    if "logme" in measures:
        yield from _measure_logme(plan, folder / RUNS, units, stop)
        if stop():
            yield Stopped()


def confirm_groups(
    plan: AffinityPlan,
    folder: Path,
    groups: Sequence[Sequence[str]],
    *,
    command: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train proposed groups, one model of all tasks and every task alone again, with other seeds, and yield the events of the runs.

    Raises:
        MtlError: the plan has no runs to compare with.
    """
    if plan.gains is None:
        raise MtlError("--confirm: compares gains, so --measures must have gain")
    # Without `open_study`: the plan holds the same Study, into which `measure_affinity` has read the finished runs.
    study = plan_confirmation(plan.gains, groups, plan.options.seeds, plan.options.budget)
    yield Doing(f"training the proposed groups again: {len(study.jobs)} runs")
    for event in run_study(study, folder / RUNS, command=command, stop=stop):
        yield event
        _drop_models(plan, folder / RUNS, event)


def _drop_models(plan: AffinityPlan, runs: Path, event: StudyEvent) -> None:
    """Remove the weights of a finished run on a pair or after another task: only single-task encoders are read again."""
    if plan.options.keep_models or not isinstance(event, RunEnded) or event.record.error:
        return
    if event.record.kind in ("pair", "transfer", "group"):
        for name in (ENCODER, HEADS):
            discard(runs / event.record.place / name)


def _measure_data(plan: AffinityPlan, units: Units) -> Iterator[Event]:
    """Measure vocabularies, labels of shared words and shared rows of all pairs."""
    run, names = plan.run, plan.run.model.names
    k = len(names)
    pairs = [(i, j) for i in range(k) for j in range(k) if i != j]
    if all(units.get("data", [names[i], names[j]]) for i, j in pairs):
        return
    yield Doing("data: words, labels and shared rows")
    words = [words_of(task.splits["train"]) for task in run.tasks]
    train = [texts_of(task.splits["train"]) for task in run.tasks]
    dev: list[list[RowTexts]] = [[texts_of(split) for split in task.dev.values()] for task in run.tasks]
    for i, j in pairs:
        unit = [names[i], names[j]]
        if units.get("data", unit) is not None:
            continue
        leaked = leaks(train[i], dev[j])
        values: dict[str, Any] = {"leaked": list(leaked.rows), "sharing": leaked.sharing, "dev_rows": leaked.total}
        # Symmetric measures are stored once, in the line of this order of the pair.
        if i < j:
            values["jaccard"] = jaccard(words[i].vocabulary, words[j].vocabulary)
            overlap = label_overlap(words[i], words[j], seed=run.config.training.seed)
            values["labels"] = (
                None
                if overlap is None
                else {
                    "value": overlap.value,
                    "null": overlap.null,
                    "deviation": overlap.deviation,
                    "words": overlap.words,
                    "by_sum": overlap.by_sum,
                    "z": overlap.z,
                }
            )
        units.add("data", unit, **values)


def _measure_joint(plan: AffinityPlan, folder: Path, units: Units, stop: Callable[[], bool]) -> Iterator[Event]:
    """Measure gradients at three times of the joint run, and the lookahead every few updates."""
    run, options = plan.run, plan.options
    # A dict as an ordered set, because two of the times are equal in a very short run.
    gradients = dict.fromkeys((0, options.updates // 3, options.updates)) if "gradients" in options.measures else {}
    ahead = lookahead_steps(options.updates) if "lookahead" in options.measures else []
    open_gradients = [step for step in gradients if units.get("gradients", step) is None]
    open_ahead = [step for step in ahead if units.get("lookahead", step) is None]
    wanted = [*open_gradients, *open_ahead]
    if not wanted:
        return
    rows = LookaheadRows(run) if open_ahead else None
    sketch: Sketch | None = None
    for event in joint_run(
        run, folder, wanted, lambda fits: units.add("heads", "all", heads=fits), stop, keep=gradients
    ):
        if isinstance(event, str):
            yield Doing(event)
            continue
        step = event.step
        if step in open_gradients:
            # Built only when needed, because the signs take a byte for each parameter.
            if sketch is None:
                sketch = Sketch(encoder_blocks(run.model, WORDS), run.config.training.seed)
            yield Doing(f"gradients after {step} of {options.updates} updates of the joint run")
            finished = _measure_gradients(plan, folder, units, step, [*gradients].index(step), sketch, stop)
            if not finished:
                yield Stopped()
                return
        if step in open_ahead and rows is not None:
            if step == open_ahead[0]:
                yield Doing(f"lookahead: {len(open_ahead)} measurements in the joint run")
            heads = units.get("heads", "all")
            floors = (
                [FLOOR * max(0.0, float(fit["loss"])) for fit in heads["heads"].values()]
                if heads
                else [0.0] * len(run.tasks)
            )
            measured = measure_lookahead(run, rows, ahead.index(step), step, floors)
            units.add(
                "lookahead",
                step,
                rate=measured.rate,
                affinity=measured.affinity.tolist(),
                first_order=measured.first_order.tolist(),
                losses=measured.losses.tolist(),
            )


def _measure_gradients(
    plan: AffinityPlan, folder: Path, units: Units, step: int, number: int, sketch: Sketch, stop: Callable[[], bool]
) -> bool:
    """Measure the gradients after `step` updates. Return False if it was stopped; finished batches are kept as sketches."""
    run, k = plan.run, len(plan.run.tasks)
    parameters = [parameter for _, parameter in shared_encoder(run.model)]
    place = folder / "sketches" / f"step-{step}"
    place.mkdir(parents=True, exist_ok=True)
    # Drawn separately at each of the three times, because `of_gradients` combines their errors as independent.
    batches = [measured_batches(run, task, f"gradients {number}", plan.options.batches).batches for task in range(k)]
    # The same parameters as in the total.
    without_words = [columns for name, columns in sketch.columns.items() if name != WORDS]
    rows: list[list[np.ndarray]] = [[] for _ in range(k)]
    for part in in_rounds(plan.options.batches, ROUND):
        for task in range(k):
            for index in part:
                if index >= len(batches[task]):
                    break
                if stop():
                    return False
                path = place / f"{run.model.names[task]}-{index}.npy"
                folded = _stored(path, sketch.size)
                if folded is None:
                    with evaluating(run.model):
                        batch = make_batch(run, task, batches[task][index])
                        folded = sketch.fold(gradient_row(run.model, batch, parameters))
                    # Atomic, so that an existing file is never a partial sketch.
                    write_whole(path, folded.tobytes())
                rows[task].append(folded)
        # A task without further batches cannot become more reliable, and does not keep the others measuring.
        if all(
            len(own) == len(possible) or (len(own) > 1 and _reliability(own, without_words) >= ENOUGH)
            for own, possible in zip(rows, batches, strict=True)
        ):
            break
    _summarize_gradients(units, step, run.model.names, rows, sketch)
    # After the line is written, because the sketches are what a stopped call resumes from.
    discard(place)
    return True


def _stored(path: Path, size: int) -> np.ndarray | None:
    """Return the sketch of a batch that an earlier call measured; None if there is none."""
    if not path.is_file():
        return None
    folded = np.frombuffer(path.read_bytes(), dtype=np.float32)
    return folded if len(folded) == size else None


def _reliability(rows: Sequence[np.ndarray], columns: Sequence[slice]) -> float:
    # In float64, because U is a small difference of large sums.
    stacked = np.stack(rows).astype(np.float64)
    return direction(sum(stacked[:, part] @ stacked[:, part].T for part in columns)).reliability  # type: ignore[arg-type]


def _summarize_gradients(
    units: Units, step: int, names: Sequence[str], rows: Sequence[Sequence[np.ndarray]], sketch: Sketch
) -> None:
    stacked = [np.stack(task) if task else np.zeros((0, sketch.size), dtype=np.float32) for task in rows]
    total = np.concatenate([np.arange(part.start, part.stop) for name, part in sketch.columns.items() if name != WORDS])
    measured = [cosines_of(TOTAL, [task[:, total] for task in stacked])]
    measured += [cosines_of(name, [task[:, part] for task in stacked]) for name, part in sketch.columns.items()]
    # Interleaved halves of the batches of each task, for `pair_reliability`.
    odd, even = (cosines_of(TOTAL, [task[half::2][:, total] for task in stacked]).cosines for half in (0, 1))
    units.add(
        "gradients",
        step,
        batches={name: len(task) for name, task in zip(names, rows, strict=True)},
        blocks={
            block.name: {
                "cosines": _plain(block.cosines),
                "errors": _plain(block.errors),
                "share": [own.share for own in block.directions],
                "reliability": [own.reliability for own in block.directions],
            }
            for block in measured
        },
        odd=_plain(odd),
        even=_plain(even),
    )


def _plain(values: np.ndarray) -> list[list[float | None]]:
    return [[float(value) if np.isfinite(value) else None for value in row] for row in values]


def _measure_logme(plan: AffinityPlan, runs: Path, units: Units, stop: Callable[[], bool]) -> Iterator[Event]:
    """Measure the evidence of every task's labels under the features of the pretrained encoder and of every single-task run."""
    names, seed = plan.run.model.names, plan.options.seeds[0]
    todo = [
        (source, name)
        for name in names
        # None is the pretrained encoder, to which `of_logme` compares the others.
        for source in [None, *names]
        if source != name and units.get("logme", [source, name]) is None
    ]
    if not todo:
        return
    yield Doing(f"logme: {len(todo)} evidences")
    for source, name in todo:
        if stop():
            return
        config = seeded(only(plan.base, [name]), seed)
        if source is not None:
            config = transferred(config, runs / single_place(source, seed))
        run = set_up(config, cache=plan.cache)
        chosen = targets_of(run, 0)
        value = None
        if chosen is not None and len(chosen[0]) > 1:
            rows, targets = chosen
            value = log_me(features_of(run, 0, rows), targets)
        units.add("logme", [source, name], value=None if value is None or not np.isfinite(value) else value)
