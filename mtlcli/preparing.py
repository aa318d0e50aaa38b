"""Everything between a configuration and step 1: rows, tokens, model, scheduler, balancer and the plan of the run.

In the order of cost: combinations of methods, rows and labels, plugins, encoder, tokens, model. Nothing is written.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mtlcli import registry
from mtlcli.architectures.base import Architecture
from mtlcli.balancers.base import Balancer
from mtlcli.combining import Methods, problems
from mtlcli.config import Config
from mtlcli.data.batching import TaskBatches, batches_per_pass, pairs_per_pass
from mtlcli.data.encoding import Encoded, Tokenizer, encode_split
from mtlcli.data.loading import LoadedTask, load_task, overlap
from mtlcli.devices import autocast, find_device, find_precision
from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.resolving import LoadedEncoder, check_length, encoder_folder, load_encoder
from mtlcli.errors import MtlError
from mtlcli.evaluation import Selection, chosen_metrics, make_metrics, make_selection
from mtlcli.features import Kept
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.gradients import StepEngine, blocks
from mtlcli.heads.base import Composition, Head
from mtlcli.metrics.base import Metric
from mtlcli.model import MultiTaskModel
from mtlcli.optimization import make_optimizer
from mtlcli.plan import Plan, TaskPlan, visits_by_phase
from mtlcli.plugin import Plugin, RunFacts, Start, TaskFacts
from mtlcli.regularizers.base import Regularizer
from mtlcli.run_folder import build_model
from mtlcli.schedulers.base import Scheduler, fewest_and_most
from mtlcli.starting import open_origin, take_over
from mtlcli.tasks.base import Classes, Score, Target
from mtlcli.teaching import teach


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first step. Lists and tuples are in the order of the tasks."""

    config: Config
    tasks: tuple[LoadedTask, ...]
    facts: tuple[TaskFacts, ...]
    encoder: LoadedEncoder
    model: MultiTaskModel
    train: tuple[TaskBatches, ...]
    dev: dict[str, Encoded]
    metrics: dict[str, dict[str, Metric]]
    selection: Selection | None
    scheduler: Scheduler
    balancer: Balancer
    gradient_regularizer: GradientRegularizer | None
    regularizers: tuple[Regularizer, ...]
    engine: StepEngine
    optimizer: torch.optim.AdamW
    device: torch.device
    autocast: AbstractContextManager[object]
    precision: str
    first_step: int
    started_from: tuple[str, ...] = ()
    """What was taken over from the run that `init` names, and what starts anew, in sentences."""
    kept: Kept = field(default_factory=Kept)

    def __post_init__(self) -> None:
        self.engine.features = self.kept.train

    @cached_property
    def plan(self) -> Plan:
        """The mixing plan."""
        return make_plan(self)

    @cached_property
    def visits(self) -> dict[int, list[int]]:
        """Micro-batches of each task in each phase, by the step it begins at; counted with the plan, before any news."""
        steps_per_epoch, ends = _lengths(self.config, self.scheduler)
        return visits_by_phase(self.scheduler, len(self.tasks), ends[-1], steps_per_epoch)

    def plugins(self) -> dict[str, Plugin]:
        """The plugins with state, by the name under which a checkpoint keeps them."""
        found: dict[str, Plugin] = {"scheduler": self.scheduler, "balancer": self.balancer}
        if self.gradient_regularizer is not None:
            found["gradient_regularizer"] = self.gradient_regularizer
        return found | {f"regularizers.{index}": one for index, one in enumerate(self.regularizers)}

    def content(self) -> dict[str, str]:
        """What the rows of every split hold, to notice on resuming that a file has changed."""
        return {f"{task.task.name}.{name}": split.content for task in self.tasks for name, split in task.splits.items()}


def check_combination(config: Config, built: Scheduler | None = None) -> None:
    """Refuses methods that cannot work together: by the scheduler's class before data is read, and again by the one that was
    `built`, whose options may promise less. Raises MtlError with one sentence each."""
    choice = config.gradient_regularizer
    methods = Methods(
        built or registry.load("schedulers", config.scheduler.name, "scheduler"),
        registry.load("balancers", config.balancer.name, "balancer"),
        registry.load("gradient_regularizers", choice.name, "gradient_regularizer") if choice else None,
        tuple(registry.load("regularizers", one.name, "regularizers") for one in config.regularizers),
        registry.load("architectures", config.architecture.name, "architecture"),
    )
    names = [config.balancer.name, choice.name if choice else ""]
    names += [one.name for one in config.regularizers]
    errors = problems(
        methods, config.scheduler.name, names, tasks=len(config.tasks), micro_batches=config.training.micro_batches
    )
    errors += [
        f'tasks.{name}.head: its batches are {composition}, but the scheduler "{config.scheduler.name}" chooses rows'
        for name in config.tasks
        if methods.scheduler.chooses_rows and (composition := _composition(config, name)) is not None
    ]
    if errors:
        raise MtlError(*errors)


def prepare(
    config: Config, *, encoder_from: Path | None = None, cache: Path | None = None, first_step: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Prepared:  # fmt: skip
    """Reads the data, loads the encoder and builds the run. `encoder_from` is a checkpoint's folder to make the encoder from,
    without its weights; `tell` hears of work that takes long. Raises MtlError for everything a user can mend."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MtlError("this version trains in one process; start `mtl train` without torchrun")
    device = find_device(config.training.device)
    precision = find_precision(config.training.precision, device)
    check_combination(config)
    tasks = _load_tasks(config)
    sizes = [config.tasks[task.task.name].batch_size or config.training.batch_size for task in tasks]
    facts = tuple(
        _facts(task, size, _composition(config, task.task.name)) for task, size in zip(tasks, sizes, strict=True)
    )
    metrics = {
        task.task.name: make_metrics(
            chosen_metrics(config.tasks[fact.name], task.task), fact, f"tasks.{fact.name}.metrics", precision
        )
        for task, fact in zip(tasks, facts, strict=True)
    }
    selection = make_selection(config.training.select_by, metrics, [t.task.name for t in tasks if "dev" in t.splits])
    if config.optimizer.schedule == "plateau" and not any("dev" in task.splits for task in tasks):
        raise MtlError(
            'optimizer.schedule: "plateau" follows the losses on dev, and no task has dev rows; give some, or choose linear, '
            "cosine or constant"
        )
    run = RunFacts(facts, config.training.seed, config.training.micro_batches)
    scheduler: Scheduler = registry.load("schedulers", config.scheduler.name, "scheduler")(
        run, **config.scheduler.options
    )
    check_combination(config, scheduler)
    balancer: Balancer = registry.load("balancers", config.balancer.name, "balancer")(run, **config.balancer.options)
    choice = config.gradient_regularizer
    gradient_regularizer: GradientRegularizer | None = None
    if choice is not None:
        gradient_regularizer = registry.load("gradient_regularizers", choice.name, "gradient_regularizer")(
            run, **choice.options
        )
    regularizers: tuple[Regularizer, ...] = tuple(
        registry.load("regularizers", one.name, "regularizers")(run, **one.options) for one in config.regularizers
    )
    origin = open_origin(Path(config.init)) if config.init is not None and encoder_from is None else None
    with tempfile.TemporaryDirectory(prefix="mtl-") as scratch:
        if origin is not None:
            encoder = load_encoder(origin.folder / "encoder")
        elif encoder_from is None:
            folder = encoder_folder(
                config.encoder,
                EncoderFacts(lambda: _all_texts(tasks), Path(scratch), config.training.seed, config.encoder.max_length),
            )
            encoder = load_encoder(folder)
        else:
            encoder = load_encoder(encoder_from, weights=False)
    check_length(encoder, config.encoder.max_length)
    if device.type == "cpu" and precision == "bf16":
        # torch's fused attention has a slow backward pass there (benchmarks/attention.py)
        encoder.model.set_attn_implementation("eager")
    tokenizer = Tokenizer(encoder.tokenizer, config.encoder.max_length)
    encoded = {
        (task.task.name, name): encode_split(split, tokenizer, config.tasks[task.task.name].encoding or "single", cache)
        for task in tasks
        for name, split in task.splits.items()
    }
    train = tuple(
        TaskBatches(
            encoded[fact.name, "train"],
            task=index,
            name=fact.name,
            batch_size=size,
            seed=run.seed,
            composition=_composition(config, fact.name),
        )
        for index, (fact, size) in enumerate(zip(facts, sizes, strict=True))
    )
    model = build_model(config, encoder, facts)
    started_from = () if origin is None else take_over(origin, model, config, facts)
    _check_layers(model, config)
    model.to(device)
    context = autocast(device, precision)
    start = Start(
        model,
        encoder.dim,
        _lengths(config, scheduler)[1][-1],
        lambda granularity: tuple(name for name, _ in blocks(model, granularity)),
        lambda folder, index: teach(folder, tasks[index], facts[index], device, context, cache, tell),
    )
    plugins: list[Plugin] = [scheduler, balancer, *regularizers]
    for one in plugins if gradient_regularizer is None else [*plugins, gradient_regularizer]:
        one.begin(start)
    for one in (balancer, *regularizers):
        one.to(device)
    _, most = fewest_and_most(scheduler.tasks_per_step, len(tasks), run.micro_batches)
    engine = StepEngine(model, balancer, gradient_regularizer, regularizers, max_tasks=most, autocast=context)
    learned = [p for one in (scheduler, balancer, gradient_regularizer, *regularizers) if one for p in one.parameters()]
    optimizer = make_optimizer(model, learned, config.optimizer)
    return Prepared(
        config, tasks, facts, encoder, model, train,
        {name: one for (name, split), one in encoded.items() if split == "dev"},
        metrics, selection, scheduler, balancer, gradient_regularizer, regularizers, engine, optimizer,
        device, context, precision, first_step, started_from,
    )  # fmt: skip


def _load_tasks(config: Config) -> tuple[LoadedTask, ...]:
    """All tasks; the errors of all of them at once."""
    found: list[LoadedTask] = []
    errors: list[str] = []
    for name, section in config.tasks.items():
        try:
            task = registry.load("tasks", section.name, f"tasks.{name}")(name, **section.options)
            found.append(
                load_task(name, section, task, data=config.data, sample=config.sample, seed=config.training.seed)
            )
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        raise MtlError(*dict.fromkeys(errors))
    return tuple(found)


def _all_texts(tasks: tuple[LoadedTask, ...]) -> Iterator[str]:
    for task in tasks:
        for texts in task.splits["train"].texts():
            yield from texts


def _composition(config: Config, task: str) -> Composition | None:
    """What the head of a task asks of its training batches."""
    section = config.tasks[task].head
    head: type[Head] = registry.load("heads", section.name if section else "", f"tasks.{task}.head")
    return head.composition


def _facts(task: LoadedTask, batch_size: int, composition: Composition | None) -> TaskFacts:
    rows, name = len(task.splits["train"]), task.task.name
    dev_rows = len(task.splits["dev"]) if "dev" in task.splits else 0
    if composition is None:
        batches = batches_per_pass(rows, batch_size)
        return target_facts(task.target, TaskFacts(name, rows, batches, dev_rows=dev_rows))
    if not isinstance(task.target, Classes):
        raise MtlError(f"tasks.{name}.head: its batches are {composition}, and this task has none; choose another head")
    counts = np.bincount(task.splits["train"].targets, minlength=len(task.target.labels))
    if counts.min() < 2:
        label = task.target.labels[counts.argmin()]
        raise MtlError(
            f'tasks.{name}.head: its batches need two training rows of every class; "{label}" has {counts.min()}'
        )
    batches = pairs_per_pass(task.splits["train"].targets)
    return target_facts(task.target, TaskFacts(name, rows, batches, dev_rows=dev_rows))


def target_facts(target: Target, facts: TaskFacts) -> TaskFacts:
    """The facts with what the fitted target knows of labels or scores."""
    if isinstance(target, Classes):
        return replace(facts, labels=target.labels)
    if isinstance(target, Score) and target.low is not None and target.high is not None:
        return replace(facts, score_range=(target.low, target.high), score_mean=target.mean, score_std=target.std)
    return facts


def _check_layers(model: MultiTaskModel, config: Config) -> None:
    layers = getattr(model.architecture.encoder.config, "num_hidden_layers", None)
    if layers is None:
        return
    for index, name in enumerate(model.names):
        own = "encoder.layer" if config.tasks[name].layer is None else f"tasks.{name}.layer"
        read = [(own, model.layer_of(index))]
        read += [(f"tasks.{name}.head", layer) for layer in model.head(index).further_layers]
        for key, layer in read:
            if not -layers - 1 <= layer <= layers:
                raise MtlError(
                    f"{key}: {name} reads layer {layer}; this encoder has 0 (embeddings) to {layers}, or -1 for the last"
                )


def _lengths(config: Config, scheduler: Scheduler) -> tuple[int, list[int]]:
    """Steps of an epoch, and the steps after which each epoch ends."""
    training = config.training
    steps_per_epoch = training.steps_per_epoch or scheduler.steps_per_epoch()
    return steps_per_epoch, scheduler.epoch_ends(training.epochs or 1, training.steps, steps_per_epoch)


def make_plan(run: Prepared) -> Plan:
    """What the run is going to do, and what about it is worth a note."""
    config = run.config
    steps_per_epoch, ends = _lengths(config, run.scheduler)
    steps = ends[-1]
    counts = [sum(each) for each in zip(*run.visits.values(), strict=True)]
    tasks = tuple(_task_plan(run, index, count, max(1, sum(counts))) for index, count in enumerate(counts))
    notes = [note for index, planned in enumerate(tasks) for note in _notes(run, run.tasks[index], planned)]
    notes = [*run.started_from, *_rate_notes(config, steps, len(ends)), *notes]
    method = config.balancer.name + (f"+{config.gradient_regularizer.name}" if config.gradient_regularizer else "")
    return Plan(
        tasks=tasks,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        epoch_ends=tuple(ends),
        scheduler=config.scheduler.name,
        balancer=method,
        encoder=config.encoder.name,
        encoder_parameters=_shared_size(run.model.architecture, len(run.tasks)),
        device=str(run.device),
        precision=run.precision,
        rows_buffer_bytes=run.engine.buffer_bytes(),
        forward_passes=sum(one.forward_passes for one in run.regularizers),
        backward_passes=sum(one.backward_passes for one in run.regularizers),
        first_step=run.first_step,
        notes=tuple(notes),
    )


def _shared_size(architecture: Architecture, tasks: int) -> int:
    """Parameters of an architecture that are no task's own, frozen ones included."""
    own = {id(p) for task in range(tasks) for p in architecture.private_parameters(task)}
    return sum(p.numel() for p in architecture.parameters() if id(p) not in own)


def _task_plan(run: Prepared, index: int, count: int, total: int) -> TaskPlan:
    batches, name = run.train[index], run.facts[index].name
    section = run.config.tasks[name]
    return TaskPlan(
        name=name,
        rows=len(batches.encoded),
        dev_rows=len(run.dev[name]) if name in run.dev else 0,
        batch_size=batches.batch_size,
        share=count / total,
        passes=count / batches.per_pass,
        truncated=batches.encoded.truncated,
        texts=len(batches.encoded) * len(batches.encoded.sides),
        encoding=section.encoding or "",
        head=section.head.name if section.head else "",
        parameters=sum(p.numel() for p in run.model.private_parameters(index)),
    )


def _rate_notes(config: Config, steps: int, epochs: int) -> list[str]:
    """What a user should know of a rate that waits for rising losses: after the last evaluation it can fall no more."""
    patience, every = config.optimizer.plateau_patience, config.training.eval_every
    evaluations = epochs if every == "epoch" else -(-steps // every)
    if config.optimizer.schedule != "plateau" or evaluations > patience + 1:
        return []
    return [
        f"the rate cannot fall: {evaluations} evaluation{'s' if evaluations > 1 else ''}, and it falls after {patience + 1} at "
        "the earliest (optimizer.plateau_patience, training.eval_every)"
    ]


def _notes(run: Prepared, task: LoadedTask, planned: TaskPlan) -> list[str]:
    """What a user should know of a task before the run starts."""
    name, limit = planned.name, run.config.encoder.max_length
    notes = [warning for split in task.splits.values() for warning in split.warnings]
    if planned.truncated > 0.01 * planned.texts:
        share = 100 * planned.truncated / planned.texts
        notes.append(
            f"{name}: {share:.1f} % of the texts are longer than {limit} tokens and are truncated (encoder.max_length)"
        )
    if planned.passes > 15:
        notes.append(
            f"{name}: its rows are seen {planned.passes:.1f} times; consider fewer epochs or another scheduler"
        )
    if planned.share == 0:
        notes.append(f"{name}: this schedule never visits it")
    if "dev" not in task.splits:
        notes.append(f"{name}: no dev rows, so it has no part in choosing the best checkpoint")
    elif shared := overlap(task.splits["train"], task.splits["dev"]):
        notes.append(f"{name}: {shared} of {planned.dev_rows} dev rows have the texts of a training row")
    return notes
