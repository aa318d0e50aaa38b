"""Merge runs into one run folder."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mtlcli.config.schema import Config
from mtlcli.devices import describe_environment, find_device
from mtlcli.encoders.load import LoadedEncoder
from mtlcli.errors import MtlError, one_of
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.export.card import write_card
from mtlcli.facts import TaskFacts
from mtlcli.files import load_tensors, scratch_folder
from mtlcli.merging.configuration import merged_config
from mtlcli.merging.fisher import fisher_information
from mtlcli.merging.merger import METHODS, SCALED, SIGNED, Coefficients, Merger, Method, Options
from mtlcli.merging.rows import DevRows, DevScore, read_rows
from mtlcli.merging.search import Trial, search
from mtlcli.merging.sources import Source, Sources, open_sources, open_weights
from mtlcli.merging.tensors import TensorFile, write_tensors
from mtlcli.model.build import build_model, join_state
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.model.predict import NotFinite
from mtlcli.runs.ensemble import relative_name
from mtlcli.runs.environment import write_environment
from mtlcli.runs.folder import RunFolder, add_command, claim, is_free, write_config
from mtlcli.runs.merge_record import MergedSource, MergeRecord, MergeTrial, write_merge_record
from mtlcli.runs.names import HEADS
from mtlcli.runs.record import is_auxiliary, origin_record
from mtlcli.runs.results import Results, write_results
from mtlcli.runs.saved_model import export, load_run
from mtlcli.statistics.bootstrap import Estimate

Estimates = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""Estimates by task, split and metric."""


@dataclass(frozen=True)
class MergeSettings:
    """How runs are merged.

    Attributes:
        weights: the weight of each run; None to choose them on dev.
        scaling: lambda; None to choose it on dev.
        heads: the run whose head is kept, for tasks that several runs have.
        start: the encoder that all runs started from; None for what they record.
        select_by: the score on dev, as in `training.select_by`.
    """

    method: Method = "average"
    weights: tuple[float, ...] | None = None
    scaling: float | None = None
    options: Options = field(default_factory=Options)
    heads: Mapping[str, Path] = field(default_factory=dict)
    start: str | None = None
    select_by: str = "mean"
    device: str = "auto"


@dataclass(frozen=True)
class Merged:
    """A merged run: what was chosen, its results, and what a user should know."""

    folder: Path
    record: MergeRecord
    results: Estimates
    notes: tuple[str, ...]


def merge_runs(
    folders: Sequence[Path], output: Path, settings: MergeSettings, *, overwrite: bool = False, command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Merged:  # fmt: skip
    """Merge runs into a run folder, choose the coefficients that are not given on dev, and evaluate it on dev.

    Args:
        tell: receives a line about each step that takes time.

    Raises:
        MtlError: everything that a user can fix: runs that do not fit together, a start that is gone, no rows to choose by.
    """
    started = time.monotonic()
    sources = open_sources(folders, settings.heads)
    _check(settings, len(sources.runs))
    config = merged_config(sources, settings.select_by)
    device = find_device(settings.device)
    if any(output.resolve() == run.folder.resolve() for run in sources.runs):
        raise MtlError(f"--output: {output} is one of the runs to merge; choose another folder")
    if not overwrite and output.is_dir() and not is_free(output):
        raise MtlError(f"--output: {output} is not empty: add --overwrite to replace the run in it")
    with claim(output, overwrite=overwrite) as place, scratch_folder() as scratch:
        weights, encoder = open_weights(sources, scratch, settings.start)
        facts = tuple(_facts(sources.owner(name), name) for name in sources.owners)
        model = _model(sources, config, encoder, facts)
        counted = tuple(fact for fact in facts if not config.tasks[fact.name].auxiliary)
        dev = DevRows(config, read_rows(config, counted, encoder, "dev"), settings.select_by)
        has_dev = dev.selection() is not None
        free = _free(settings, len(sources.runs))
        if free and not has_dev:
            raise MtlError(f"no task has dev rows to choose {one_of(free)} by; give them: {' '.join(free)}")
        information: tuple[TensorFile, ...] = ()
        # In files, so that only one run at a time is in memory beside the merged model.
        if settings.method == "fisher":
            information = tuple(
                _information(run, index, scratch, settings, device, tell) for index, run in enumerate(sources.runs)
            )
        merger = Merger(settings.method, weights.start, weights.runs, settings.options, information)
        model.to(device).eval()

        def measured(coefficients: Coefficients) -> DevScore:
            _load(model, merger, coefficients)
            return dev.score(model, device, nullcontext())

        def score(coefficients: Coefficients) -> float:
            try:
                value = measured(coefficients).score
            except NotFinite:
                # A merge that gives NaN loses to every other one, and the search continues.
                value = -math.inf
            tell(f"{_in_words(settings.method, coefficients)}: {value:.4f}")
            return value

        best = Coefficients(
            settings.weights or (1.0,) * len(sources.runs), 1.0 if settings.scaling is None else settings.scaling
        )
        trials: list[Trial] = []
        if free:
            trials = list(
                search(settings.method, best, score, weights=settings.weights is None, scaling=settings.scaling is None)
            )
            best = max(trials, key=lambda trial: trial.score).coefficients  # the first one of equals
        if has_dev:
            # Once more, because the model has the weights of the last trial.
            final = measured(best)
        else:
            _load(model, merger, best)
            final = DevScore(math.nan, {}, {})
        score_on_dev = final.score if math.isfinite(final.score) else None
        record = _record(output, sources, settings, best, trials, score_on_dev, weights.described, weights.digest)
        results = _write(
            place, model.cpu(), encoder, config, sources, final, record, device, command, time.monotonic() - started
        )
    return Merged(output, record, results, sources.notes)


def _check(settings: MergeSettings, runs: int) -> None:
    """Raise MtlError for everything in the settings that does not fit the method."""
    errors = []
    method, weights = settings.method, settings.weights
    if method not in METHODS:
        errors.append(f'--method: found "{method}"; expected one of {one_of(METHODS)}')
    options = settings.options
    if not 0 < options.density <= 1:
        errors.append(f"--density: found {options.density:g}; expected a share above 0 and up to 1")
    if not 0 <= options.drop_rate < 1:
        errors.append(f"--drop-rate: found {options.drop_rate:g}; expected a share from 0 to below 1")
    if settings.scaling is not None and not math.isfinite(settings.scaling):
        errors.append(f"--scaling: found {settings.scaling:g}; expected a finite number")
    if settings.scaling is not None and method not in SCALED:
        errors.append(f"--scaling: {method} has no scaling coefficient; remove it, or use one of {one_of(SCALED)}")
    if weights is not None:
        if len(weights) != runs:
            errors.append(f"--weights: found {len(weights)}; expected {runs}, one for each run in their order")
        if not all(map(math.isfinite, weights)):
            errors.append("--weights: expected finite numbers")
        elif method not in SIGNED and (min(weights) < 0 or not sum(weights) > 0):
            errors.append(
                f"--weights: {method} needs weights from 0, one of them above 0; {one_of(SIGNED)} can subtract"
            )
    if errors:
        raise MtlError(*errors)


def _free(settings: MergeSettings, runs: int) -> list[str]:
    """Return the options of the coefficients that are to be chosen on dev."""
    free = []
    if settings.weights is None and runs > 1:
        free.append("--weights")
    if settings.scaling is None and settings.method in SCALED:
        free.append("--scaling")
    return free


def _facts(run: Source, name: str) -> TaskFacts:
    facts = run.member.find(name)
    if facts is None:
        raise KeyError(name)
    return facts


def _model(sources: Sources, config: Config, encoder: LoadedEncoder, facts: tuple[TaskFacts, ...]) -> MultiTaskModel:
    """Build the model around an encoder, with the heads of the runs.

    Raises:
        MtlError: heads of different runs share weights, so that they cannot both be kept.
    """
    model = build_model(config, encoder, facts)
    holders: dict[int, str] = {}
    for index, name in enumerate(model.names):
        for parameter in model.head(index).parameters():
            other = holders.setdefault(id(parameter), name)
            if sources.owners[other] != sources.owners[name]:
                raise MtlError(
                    f"{name}: its head shares weights with that of {other}, which comes from another run "
                    f"({sources.owner(other).folder}), so both cannot be kept"
                )
    heads: dict[str, torch.Tensor] = {}
    for index, run in enumerate(sources.runs):
        kept = {name for name, owner in sources.owners.items() if owner == index}
        tensors = load_tensors(run.folder / HEADS) if kept else {}
        heads |= {key: value for key, value in tensors.items() if key.partition(".")[0] in kept}
    # Not strict, because the encoder's weights are merged later; what else is missing is an error.
    missing, unexpected = model.load_state_dict(join_state(model, heads), strict=False)
    wrong = [key for key in missing if not key.startswith("architecture.encoder.")] + list(unexpected)
    if wrong:
        raise MtlError(f"the heads of the runs do not fit this mtlcli: {one_of(wrong[:4])}")
    return model


def _information(
    run: Source, index: int, scratch: Path, settings: MergeSettings, device: torch.device, tell: Callable[[str], None]
) -> TensorFile:
    tell(f"{run.folder}: Fisher information of up to {settings.options.fisher_rows} rows of each task")
    saved, _ = load_run(run.folder)
    counted = tuple(facts for facts in saved.facts if not saved.config.tasks[facts.name].auxiliary)
    rows = read_rows(saved.config, counted, saved.encoder, "train")
    try:
        values = fisher_information(
            saved.model, rows, rows=settings.options.fisher_rows, seed=settings.options.seed, device=device
        )
    except MtlError as error:
        raise MtlError(*(f"{run.folder}: {line}" for line in error.lines)) from error
    return write_tensors(values, scratch / f"information-{index}.safetensors")


def _load(model: MultiTaskModel, merger: Merger, coefficients: Coefficients) -> None:
    """Put merged weights into the encoder of a model, tensor by tensor."""
    # The tensors of a state dict are those of the model, so copying into them changes the model.
    state = model.architecture.encoder.state_dict()
    with torch.no_grad():
        for name, tensor in merger.merge(coefficients):
            state[name].copy_(tensor)


def _in_words(method: Method, coefficients: Coefficients) -> str:
    scaling = f"scaling {coefficients.scaling:g}, " if method in SCALED else ""
    return f"{scaling}weights {','.join(f'{weight:g}' for weight in coefficients.weights)}"


def _record(
    output: Path, sources: Sources, settings: MergeSettings, best: Coefficients, trials: Sequence[Trial], score: float | None,
    start: str, digest: str,
) -> MergeRecord:  # fmt: skip
    method = settings.method
    scaled = method in SCALED
    runs = tuple(
        MergedSource(
            relative_name(run.folder, output), run.member.digest, best.weights[index],
            tuple(name for name, owner in sources.owners.items() if owner == index),
        )
        for index, run in enumerate(sources.runs)
    )  # fmt: skip
    return MergeRecord(
        method, start, digest, best.scaling if scaled else None, settings.options.of(method), settings.select_by, score, runs,
        tuple(
            MergeTrial(trial.coefficients.weights, trial.coefficients.scaling if scaled else None, trial.score)
            for trial in trials
            # A trial without a finite output has a score of -inf, which JSON does not have.
            if math.isfinite(trial.score)
        ),
    )  # fmt: skip


def _write(
    place: RunFolder, model: MultiTaskModel, encoder: LoadedEncoder, config: Config, sources: Sources, final: DevScore,
    record: MergeRecord, device: torch.device, command: str, seconds: float,
) -> Estimates:  # fmt: skip
    """Write the run folder, results last, and return the results on dev."""
    folder = place.path
    # Only now, so that an earlier run is not lost if the merge fails.
    if place.replaces:
        place.clear()
    write_config(folder, config)
    if command:
        add_command(folder, command)
    write_environment(folder, describe_environment(device, config.training.seed))
    write_merge_record(folder, record)
    plain = config.plain()
    tasks: dict[str, Any] = {}
    for name in sources.owners:
        run = sources.owner(name)
        facts = _facts(run, name)
        target = final.targets.get(name, facts.target)
        stored = run.member.record["tasks"][name]
        tasks[name] = {
            **stored,
            "facts": {**stored["facts"], "target": target.record()},
            "config": plain["tasks"][name],
        }
    encoder_config = config.encoder
    export(
        folder, model, replace(encoder, model=model.architecture.encoder),
        {
            "step": 0, "steps": 0, "score": record.score, "select_by": record.select_by, "pooling": encoder_config.pooling,
            "layer": encoder_config.layer, "max_length": encoder_config.max_length, "tasks": tasks,
            "architecture": origin_record(config.architecture), "config": plain,
        },
    )  # fmt: skip
    auxiliary = tuple(name for name, task in tasks.items() if is_auxiliary(task))
    results: Estimates = {}
    if final.targets:
        results = evaluate(folder, [(name, []) for name in final.targets], splits=["dev"], device=str(device)).results
    plain_results = {
        task: {split: dict(metrics) for split, metrics in splits.items()} for task, splits in results.items()
    }
    write_results(
        folder,
        Results(plain_results, auxiliary or None, "merged", 0, 0, record.select_by, record.score, round(seconds, 1), 0),
    )
    write_card(folder)
    return results
