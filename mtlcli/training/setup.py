"""Set up a run from its configuration: rows, tokens, model, plugins, optimizer and plan.

Cheap checks come first: combinations of methods, rows and labels, plugins, encoder, tokens, model. Only token caches are
written.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mtlcli.balancers.base import Balancer
from mtlcli.config.schema import Config
from mtlcli.data.balanced import rows_with_class
from mtlcli.data.batches import TaskBatches, batches_per_pass, pairs_per_pass
from mtlcli.data.row_groups import reasons_apart, row_groups
from mtlcli.data.splits import LoadedTask, load_task
from mtlcli.data.tokenizer import Tokenizer, TokenSequences
from mtlcli.data.tokens import TokenizedSplit, tokenize_split
from mtlcli.devices import autocast, find_device, find_precision
from mtlcli.distributed.launch import Launch
from mtlcli.distributed.world import World, world
from mtlcli.encoders.base import EncoderFacts
from mtlcli.encoders.load import LoadedEncoder, check_length, check_padding, encoder_folder, load_encoder
from mtlcli.errors import MtlError
from mtlcli.evaluation.measure import Selection, make_metrics, make_selection, metrics_of
from mtlcli.facts import Coupling, RunFacts, TaskFacts
from mtlcli.files import scratch_folder
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.heads.base import Composition, Head
from mtlcli.metrics.base import Metric
from mtlcli.model.build import build_model
from mtlcli.model.frozen import FrozenFeatures
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.model.row_attention import use_row_attention
from mtlcli.model.row_noise import use_row_dropout
from mtlcli.plugin import Plugin, SetupContext
from mtlcli.registry import plugin_call
from mtlcli.regularizers.base import Regularizer
from mtlcli.runs.names import ENCODER
from mtlcli.schedulers.base import Scheduler, fewest_and_most
from mtlcli.training.class_options import check_class_options, check_heads, class_loss_of
from mtlcli.training.compatibility import check_combination, composition_of
from mtlcli.training.cost import sizes_and_products
from mtlcli.training.engine import StepEngine
from mtlcli.training.gradient_rows import blocks
from mtlcli.training.optimizer import make_optimizer
from mtlcli.training.plan import Plan, TaskInputs, make_plan, run_lengths, visits_by_stage
from mtlcli.training.processes import (
    check_couplings,
    check_layers_read,
    check_processes,
    notes_on_processes,
    same_folder,
)
from mtlcli.training.teacher import teacher_predictions
from mtlcli.training.warm_start import architecture_tensors, open_origin, warm_start


@dataclass(frozen=True)
class TrainingRun:
    """Hold a run that is ready for its first step. Lists and tuples are in task order."""

    config: Config
    tasks: tuple[LoadedTask, ...]
    facts: tuple[TaskFacts, ...]
    encoder: LoadedEncoder
    model: MultiTaskModel
    train: tuple[TaskBatches, ...]
    dev: dict[str, dict[str, TokenizedSplit]]
    """By task and split: `dev`, or a split such as `dev.matched` for each dev set."""
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
    plan: Plan
    visits: dict[int, list[int]]
    """Micro-batches of each task in each stage, by the stage's first step, as counted for the plan."""
    world: World = field(default_factory=lambda: World(Launch()))
    unsharded: MultiTaskModel | None = None
    """A model on the CPU for the files of a run whose encoder is divided over the processes, in the first one."""
    kept: FrozenFeatures = field(default_factory=FrozenFeatures)

    def __post_init__(self) -> None:
        # The same dict, which `FrozenFeatures.forget` empties in place.
        self.engine.passes.features = self.kept.train

    def selecting(self, task: str) -> list[TokenizedSplit]:
        """Return the dev splits of a task that count in the score that selects checkpoints; none for a task without dev rows."""
        splits = self.dev.get(task, {})
        return [splits[name] for name in self.config.tasks[task].selecting_splits() if name in splits]

    def coupling_of(self, task: int) -> Coupling:
        """Return what the loss of a row of a task depends on, by its head, the architecture and the regularizers."""
        couplings = {self.model.head(task).coupling, self.model.architecture.coupling}
        couplings |= {regularizer.coupling for regularizer in self.regularizers}
        return "rows" if couplings == {"rows"} else "memory" if "memory" in couplings else "batch"

    def plugins(self) -> dict[str, Plugin]:
        """Return the plugins with state, by their names in a checkpoint."""
        plugins: dict[str, Plugin] = {"scheduler": self.scheduler, "balancer": self.balancer}
        if self.gradient_regularizer is not None:
            plugins["gradient_regularizer"] = self.gradient_regularizer
        return plugins | {f"regularizers.{index}": plugin for index, plugin in enumerate(self.regularizers)}

    def content(self) -> dict[str, str]:
        """Return a digest of the rows of every split, and of their weights, so that resuming can detect a changed file."""
        splits = {f"{task.task.name}.{name}": split for task in self.tasks for name, split in task.splits.items()}
        weights = {f"{name} (weights)": split.weights for name, split in splits.items() if split.weights is not None}
        digests = {name: hashlib.sha256(numbers.tobytes()).hexdigest() for name, numbers in weights.items()}
        return {name: split.content for name, split in splits.items()} | digests


def set_up(
    config: Config, *, encoder_from: Path | None = None, cache: Path | None = None, first_step: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> TrainingRun:  # fmt: skip
    """Read the data, load the encoder and build the run.

    Args:
        encoder_from: folder in a checkpoint to build the encoder from, without its weights.
        cache: folder of token caches; None for none.
        first_step: steps completed before this call.
        tell: receives a line before slow work.

    Raises:
        MtlError: an error in the configuration, the data, the encoder or a plugin.
    """
    together = world()
    device = find_device(config.training.device, None if together.is_alone else together.launch.local_rank)
    precision = find_precision(config.training.precision, device)
    check_combination(config)
    check_processes(config, together.size)
    check_class_options(config)
    tasks = _load_tasks(config)
    sizes = [config.tasks[task.task.name].batch_size or config.training.batch_size for task in tasks]
    facts = tuple(
        _facts(task, size, composition_of(config, task.task.name), config.head_of(task.task.name).plugin)
        for task, size in zip(tasks, sizes, strict=True)
    )
    metrics = {
        task.task.name: make_metrics(
            metrics_of(config.tasks[fact.name], task.task, task.target),
            fact,
            f"tasks.{fact.name}.metrics",
            precision,
            weighted=config.tasks[fact.name].weighted_metrics,
        )
        for task, fact in zip(tasks, facts, strict=True)
    }
    auxiliary = [name for name, section in config.tasks.items() if section.auxiliary]
    evaluated = [task.task.name for task in tasks if task.dev]
    selection = make_selection(config.training.select_by, metrics, evaluated, auxiliary)
    if config.optimizer.schedule == "plateau" and not evaluated:
        raise MtlError(
            'optimizer.schedule: "plateau" requires losses on dev, but no task has dev rows; set tasks.NAME.dev, or choose '
            "linear, cosine or constant"
        )
    run = RunFacts(facts, config.training.seed, config.training.micro_batches)
    scheduler: Scheduler = config.scheduler.make(run)
    check_combination(config, scheduler)  # again with the instance, whose options can change what it promises
    balancer: Balancer = config.balancer.make(run)
    choice = config.gradient_regularizer
    gradient_regularizer: GradientRegularizer | None = None if choice is None else choice.make(run)
    regularizers: tuple[Regularizer, ...] = tuple(choice.make(run) for choice in config.regularizers)
    origin = open_origin(Path(config.init)) if config.init is not None and encoder_from is None else None
    # A resumed run takes encoder and weights from its checkpoint, so `init` matters only before the first step.
    with scratch_folder() as scratch:
        if origin is not None:
            encoder = load_encoder(origin.folder / ENCODER)
        elif encoder_from is None:
            facts_of_encoder = EncoderFacts(
                lambda: _all_texts(tasks), scratch, config.training.seed, config.encoder.max_length
            )
            encoder = load_encoder(
                same_folder(together, lambda: encoder_folder(config.encoder, facts_of_encoder), scratch)
            )
        else:
            encoder = load_encoder(same_folder(together, lambda: encoder_from, scratch), weights=False)
    check_length(encoder, config.encoder.max_length)
    check_padding(encoder)
    if device.type == "cpu" and precision == "bf16":
        # The backward pass of torch's fused attention is slow in bf16 on CPUs (benchmarks/attention.py).
        encoder.model.set_attn_implementation("eager")
    tokenizer = Tokenizer(encoder.tokenizer, config.encoder.max_length)
    # Splits with the same texts and encoding share one object, by whose id they are grouped later.
    memory: dict[str, tuple[TokenSequences, ...]] = {}
    tokenized = {
        (task.task.name, name): tokenize_split(split, tokenizer, cache, memory)
        for task in tasks
        for name, split in task.splits.items()
    }
    own_order = [
        composition_of(config, fact.name) is not None or config.tasks[fact.name].sampling is not None for fact in facts
    ]
    groups = row_groups(tasks, sizes, own_order)
    # One name for a group, since the order of rows is a function of it.
    order_names = [
        fact.name if group is None else facts[groups.index(group)].name
        for fact, group in zip(facts, groups, strict=True)
    ]
    train = tuple(
        TaskBatches(
            tokenized[fact.name, "train"],
            task=index,
            name=fact.name,
            batch_size=size,
            seed=run.seed,
            composition=composition_of(config, fact.name),
            balanced=config.tasks[fact.name].sampling == "balanced",
            group=groups[index],
            order_name=order_names[index],
        )
        for index, (fact, size) in enumerate(zip(facts, sizes, strict=True))
    )
    model = build_model(config, encoder, facts)
    check_heads(model, config)
    check_couplings(model, together.size)
    started_from = () if origin is None else warm_start(origin, model, config, facts)
    # A resumed run restores the loaded weights from its checkpoint.
    if encoder_from is None:
        with plugin_call(model.architecture, "start", "nothing in return, or MtlError where it cannot be loaded"):
            model.architecture.start(architecture_tensors)
    _check_layers(model, config)
    if config.training.dropout_by == "row" or (config.training.dropout_by == "auto" and not together.is_alone):
        use_row_dropout(model)
        # "auto" keeps fused attention, whose kernels draw their own random numbers, because it is faster on GPUs.
        if config.training.dropout_by == "row":
            use_row_attention(model)
    is_sharded = config.training.sharding == "full" and not together.is_alone
    # Copied first, because FSDP replaces the parameters and the classes of the modules, and on the CPU: the device may have no room.
    unsharded = copy.deepcopy(model) if is_sharded and together.is_main else None
    model.to(device)
    # Equal seeds are no proof of equal weights.
    together.copy_(model.state_dict().values())
    if is_sharded:
        check_layers_read(model)
        model.shard_encoder(device, together.size)
    context = autocast(device, precision)
    start = SetupContext(
        model,
        encoder.dim,
        run_lengths(config, scheduler)[1][-1],
        lambda granularity: tuple(name for name, _ in blocks(model, granularity)),
        lambda folder, index: teacher_predictions(folder, tasks[index], facts[index], device, context, cache, tell),
    )
    plugins: list[Plugin] = [scheduler, balancer, *regularizers]
    for plugin in plugins if gradient_regularizer is None else [*plugins, gradient_regularizer]:
        with plugin_call(plugin, "setup", "nothing in return, or MtlError where it cannot work with this model"):
            plugin.setup(start)
    # After setup, which may create buffers. Scheduler and gradient regularizer work on the CPU.
    for module in (balancer, *regularizers):
        module.to(device)
    _, most = fewest_and_most(scheduler.tasks_per_step, len(tasks), run.micro_batches)
    # After `shard_encoder`: engine and optimizer hold references to parameters, which it replaces.
    engine = StepEngine(
        model, balancer, gradient_regularizer, regularizers, max_tasks=most, autocast=context, world=together
    )
    modules = (scheduler, balancer, gradient_regularizer, *regularizers)
    learned = [parameter for module in modules if module is not None for parameter in module.parameters()]
    optimizer = make_optimizer(model, learned, config.optimizer)
    dev = {task.task.name: {name: tokenized[task.task.name, name] for name in task.dev} for task in tasks if task.dev}
    steps_per_epoch, ends = run_lengths(config, scheduler)
    visits = visits_by_stage(scheduler, len(tasks), ends[-1], steps_per_epoch)
    inputs = [
        TaskInputs(task, batches, fact.dev_rows or 0, sum(p.numel() for p in model.private_parameters(index)))
        for index, (task, fact, batches) in enumerate(zip(tasks, facts, train, strict=True))
    ]
    private_size = sum(p.numel() for index in range(len(tasks)) for p in model.private_parameters(index))
    # 4 bytes for a float32 number. FSDP sums the gradients of a divided encoder itself.
    travels = 4 * (private_size + (0 if engine.is_sharded else engine.size * (most if engine.needs_rows() else 1)))
    plan = make_plan(
        config, scheduler, inputs, visits,
        sizes=sizes_and_products(model, train, device), device=device, precision=precision,
        rows_buffer_bytes=engine.buffer_bytes(), regularizers=regularizers, first_step=first_step,
        started_from=started_from, passes=[model.pass_of(task) for task in range(len(tasks))],
        apart=reasons_apart(tasks, sizes, own_order, groups), of_architecture=model.architecture.notes(),
        of_processes=notes_on_processes(together, sizes, travels),
    )  # fmt: skip
    return TrainingRun(
        config, tasks, facts, encoder, model, train, dev, metrics, selection, scheduler, balancer, gradient_regularizer,
        regularizers, engine, optimizer, device, context, precision, plan, visits, together, unsharded,
    )  # fmt: skip


def _load_tasks(config: Config) -> tuple[LoadedTask, ...]:
    """Read all tasks. Raise MtlError with the errors of all tasks at once."""
    loaded: list[LoadedTask] = []
    errors: list[str] = []
    for name, section in config.tasks.items():
        try:
            task = section.make(name)
            loaded.append(
                load_task(name, section, task, data=config.data, sample=config.sample, seed=config.training.seed)
            )
        except MtlError as error:
            errors.extend(error.lines)
    if errors:
        # Tasks that read the same file report the same lines.
        raise MtlError(*dict.fromkeys(errors))
    return tuple(loaded)


def _all_texts(tasks: tuple[LoadedTask, ...]) -> Iterator[str]:
    for task in tasks:
        # No dev texts, because an encoder may build its vocabulary from these.
        for texts in task.splits["train"].texts():
            yield from map(str, texts)


def _facts(task: LoadedTask, batch_size: int, composition: Composition | None, head: type[Head]) -> TaskFacts:
    split, name = task.splits["train"], task.task.name
    rows = split.labeled
    dev_rows = sum(map(len, task.dev.values()))
    class_loss, guess = class_loss_of(task), head.guess(task.target)
    strata, labels = task.target.strata(task.splits["train"].gold), task.target.labels or ()
    if composition is None:
        drawn = len(split) if task.config.sampling is None or strata is None else rows_with_class(strata)
        return TaskFacts(name, rows, batches_per_pass(drawn, batch_size), task.target, dev_rows, class_loss, guess)
    if strata is None:
        raise MtlError(
            f"tasks.{name}.head: needs batches of {composition}, but this task has no classes; choose another head"
        )
    counts = np.bincount(strata[strata >= 0], minlength=len(labels))
    if counts.min() < 2:
        label = labels[counts.argmin()]
        raise MtlError(
            f'tasks.{name}.head: needs two training rows of every class, but "{label}" has {counts.min()}; choose another head'
        )
    return TaskFacts(name, rows, pairs_per_pass(strata), task.target, dev_rows, class_loss, guess)


def _check_layers(model: MultiTaskModel, config: Config) -> None:
    layers = getattr(model.architecture.encoder.config, "num_hidden_layers", None)
    if layers is None:  # some architectures on the Hub do not state their depth
        return
    for index, name in enumerate(model.names):
        layer_key = "encoder.layer" if config.tasks[name].layer is None else f"tasks.{name}.layer"
        read = [(layer_key, model.layer_of(index))]
        read += [(f"tasks.{name}.head", layer) for layer in model.head(index).further_layers]
        for key, layer in read:
            if not -layers - 1 <= layer <= layers:
                raise MtlError(
                    f"{key}: {name} reads layer {layer}; this encoder has 0 (embeddings) to {layers}, or -1 for the last"
                )
