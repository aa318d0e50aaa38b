"""The run in which plugins are checked, and the checks that several families share."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mtlcli import registry
from mtlcli.balancers.base import Need
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.plugin import EpochResult, EvaluationResult, Plugin, SetupContext, StepResult
from mtlcli.tasks.answers import Answers, row_of
from mtlcli.tasks.items import NO_SPAN, Items
from mtlcli.tasks.no_label import NoLabel
from mtlcli.tasks.targets import Arrays, Classes, Distributions, LabelSets, Ragged, Ranks, Score, Target, Tensors
from mtlcli.training.gradient_rows import blocks

# From 1000 to 100 rows, so that a method that weights by size differs from one that does not.
GRADES = TaskFacts("grades", rows=1000, batches=63, target=Classes.named("bad", "fair", "good"))
SCORES = TaskFacts("scores", rows=300, batches=19, target=Score(0.0, 5.0, 2.5, 1.5))
PAIRS = TaskFacts("pairs", rows=100, batches=7, target=Classes.named("different", "same"))
RANKS = TaskFacts("ranks", rows=100, batches=7, target=Ranks({label: label for label in "1234"}, above=(0.8, 0.5, 0.2)))
MIXTURES = TaskFacts(
    "mixtures", rows=100, batches=7, target=Distributions(dict(zip("abc", "abc", strict=True)), entropy=0.5)
)
TOPICS = TaskFacts("topics", rows=100, batches=7, target=LabelSets(("art", "food", "sport")))
TEXTS = TaskFacts("texts", rows=100, batches=7, target=NoLabel())
RUN = RunFacts((GRADES, SCORES, PAIRS))
ALONE = RunFacts((GRADES,))

DIM = 8
"""Width of the hidden states for heads and architectures."""


def expect(condition: object, sentence: str) -> None:
    """Raise AssertionError with a sentence unless the condition holds."""
    if not condition:
        # Not an `assert`, which `python -O` removes.
        raise AssertionError(sentence)


def checked_options(plugin: type, base: type, facts: int, options: Mapping[str, object]) -> dict[str, Any]:
    """Check the class and constructor of a plugin, and return all its options with defaults filled in."""
    expect(
        inspect.isclass(plugin) and issubclass(plugin, base),
        f"expected a class derived from {base.__module__}.{base.__qualname__}, found {plugin!r}",
    )
    name = plugin.__qualname__
    expect(
        not inspect.isabstract(plugin), f"{name} does not define {listed(getattr(plugin, '__abstractmethods__', ()))}"
    )
    # In the class's own dict, because a docstring is otherwise inherited from the base.
    expect(
        plugin.__dict__.get("__doc__"), f"{name}: expected a docstring, whose first sentence `mtl plugins list` shows"
    )
    constructor = plugin.__init__  # type: ignore[misc]
    if constructor is not object.__init__:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        positional = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
        expect(
            len(positional) == facts,
            f"{name}.__init__: expected {facts} positional parameter(s) and then keyword-only options, found {positional}",
        )
    model = registry.options_model(plugin)
    for option, field in model.model_fields.items():
        expect(
            field.description,
            f"{name}: the option {option} has no description; expected Annotated[..., Field(description=...)]",
        )
    try:
        checked = model.model_validate(dict(options))
    except ValidationError as error:
        raise AssertionError(f"{name} rejects the options {dict(options)}: {error}") from error
    return {option: getattr(checked, option) for option in model.model_fields}


def listed(names: Any) -> str:
    """Return names in alphabetical order for a message."""
    return ", ".join(sorted(map(str, names))) or "none"


def close(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> bool:
    """Return whether two tensors are equal up to rounding, relative to the largest number."""
    first, second = first.detach().double(), second.detach().double()
    # Relative to the largest number, because small ones can consist of rounding errors of large ones.
    largest = max(float(first.abs().max()), float(second.abs().max())) if first.numel() else 0.0
    return first.shape == second.shape and bool(((first - second).abs() <= tolerance * largest).all())


def finite(*tensors: Tensor) -> bool:
    """Return whether all numbers of all tensors are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def numbers(tensor: Tensor) -> list[Any]:
    """Return the numbers of a tensor for a message."""
    values: list[Any] = tensor.detach().tolist()
    return values


@contextmanager
def own_randomness(name: str) -> Iterator[None]:
    """Check that the block does not use torch's global random state."""
    # A plugin that drew from it would change the model's dropout masks.
    before = torch.get_rng_state()
    yield
    expect(
        torch.equal(before, torch.get_rng_state()),
        f"{name} draws from torch's global generator, which belongs to the model; expected generator=self.generator",
    )


@contextmanager
def unchanged_state(plugin: Plugin, method: str) -> Iterator[None]:
    """Check that parameters and buffers are the same after the block; the random generator may move."""
    before = {key: value.clone() for key, value in plugin.named_parameters()}
    before |= {key: value.clone() for key, value in plugin.named_buffers()}
    yield
    after = dict(plugin.named_parameters()) | dict(plugin.named_buffers())
    # A new buffer is a change, too.
    changed = [key for key, value in after.items() if key not in before or not same(value, before[key])]
    expect(
        not changed,
        f"{type(plugin).__qualname__}.{method} changes {listed(changed)}; expected state to change in a hook, such as on_step: the "
        f"engine may call {method} several times in a step",
    )


def same(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are equal in shape and value, NaN included."""
    return first.shape == second.shape and torch.equal(torch.nan_to_num(first), torch.nan_to_num(second))


def saved_and_loaded(plugin: Plugin, make: Callable[[], Plugin]) -> Any:
    """Return a fresh plugin with the state of this one."""
    name = type(plugin).__qualname__
    # A state dict shares its memory with the plugin, which continues to change it.
    state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in plugin.state_dict().items()}
    foreign = [key for key, value in state.items() if not isinstance(value, Tensor)]
    expect(not foreign, f"{name}.state_dict(): expected tensors only, found other values in {listed(foreign)}")
    fresh = make()
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        raise AssertionError(f"{name}: its state does not load into a fresh one: {error}") from error
    return fresh


def call_hooks(
    plugin: Plugin,
    run: RunFacts,
    steps: Sequence[Sequence[int]],
    *,
    gram: bool,
    after: bool = False,
    shift: int = 0,
) -> None:
    """Call the hooks as a run does: these steps, an epoch in which the last task was not visited, an evaluation without it."""
    random = torch.Generator().manual_seed(shift)
    for step, tasks in enumerate(steps, shift + 1):
        rows = torch.randn(len(tasks), 5, generator=random, dtype=torch.float64)
        losses = torch.rand(len(tasks), generator=random) + 0.1
        weights = torch.ones(len(tasks))
        products = rows @ rows.T if gram else None
        plugin.on_step(
            StepResult(step, torch.tensor(tasks), losses, weights, products, 0.9 * losses if after else None)
        )
    # A sampling scheduler may miss a task for an epoch, and a task may have no dev rows.
    seen = range(len(run.tasks)) if len(run.tasks) < 3 or shift % 2 else range(len(run.tasks) - 1)
    plugin.on_epoch(EpochResult(shift, {task: 0.5 + task for task in seen}))
    metrics = {task: {f"metric of {run.tasks[task].name}": 0.25 * task} for task in seen}
    plugin.on_evaluation(EvaluationResult(shift, {task: 0.7 + task for task in seen}, metrics))


def steps_of(run: RunFacts, *, all_tasks: bool) -> list[list[int]]:
    """Return every set of tasks that a step may visit; only the full one for a plugin that needs all tasks."""
    indices = range(len(run.tasks))
    sizes = [len(indices)] if all_tasks else range(1, len(indices) + 1)
    return [list(tasks) for size in sizes for tasks in itertools.combinations(indices, size)]


def check_needs(plugin: Any) -> None:
    """Check the values of `needs` and `native_scale`."""
    unknown = set(plugin.needs) - set(get_args(Need))
    expect(not unknown, f"{plugin.__name__}.needs: expected some of {listed(get_args(Need))}; found {listed(unknown)}")
    expect(
        plugin.native_scale in ("sum", "mean", "own"),
        f'{plugin.__name__}.native_scale: expected "sum", "mean" or "own", found {plugin.native_scale!r}',
    )


def start_of(model: MultiTaskModel, facts: Sequence[TaskFacts]) -> SetupContext:
    """Return the context of `setup` for this model, with a teacher that gives two labels a probability of one half each."""

    def teach(folder: str, task: int) -> Arrays:
        target, n = facts[task].target, facts[task].rows
        # The same labels, shifted by one row, so that the two votes disagree.
        votes = [target.examples(n), target.examples(n + 1).take(slice(1, None))]
        soft = target.soft(target.average(votes, [target, target]))
        if soft is None:
            raise ValueError(f"{facts[task].name} does not support distillation")
        return soft

    def named(granularity: str) -> tuple[str, ...]:
        return tuple(name for name, _ in blocks(model, granularity))

    return SetupContext(model, DIM, 12, named, teach)


def gold_of(task: TaskFacts, n: int = 4) -> Tensors:
    """Return labels of n rows as a batch has them."""
    gold = task.target.examples(n)
    return task.target.collate(gold, np.arange(n), items_for(task.target, gold))


def unknown_gold(task: TaskFacts, n: int = 4, like: Tensors | None = None) -> Tensors:
    """Return the same labels, the first of which is unknown.

    Args:
        like: labels of the same rows, whose items are kept; without it, the first row has no items.
    """
    target, examples = task.target, task.target.examples(n)
    if like is not None and like.starts is not None:
        first = int(like.starts[1])
        unknown = {name: labels.clone() for name, labels in like.fields.items()}
        # -1 marks a choice that is not known, and an answer that is not known starts and ends at 0.
        for name in {"chosen", "start", "end"} & set(unknown):
            unknown[name][:first] = -1 if name == "chosen" else 0
        return Ragged(unknown, like.starts)
    values = [None, *(target.gold_json(examples, row) for row in range(1, n))]
    gold = target.gold_from_json(values)
    return target.collate(gold, np.arange(n), items_for(target, gold))


def items_for(target: Target, gold: Arrays) -> Items | None:
    """Return places where answers can stand, one for each character of a row's context; None for other targets."""
    if not isinstance(target, Answers):
        return None
    contexts = [len(row_of(gold, row).context) for row in range(len(gold))]
    # Place 0 of a row stands for no answer, the others for the characters of its context.
    starts = torch.tensor([0, *(1 + length for length in contexts)]).cumsum(0)
    place = torch.cat([torch.arange(1 + length) for length in contexts])
    spans = torch.stack([place - 1, place], dim=1)
    spans[place == 0] = torch.tensor(NO_SPAN)
    sequence = torch.repeat_interleave(torch.arange(len(contexts)), starts.diff())
    return Items(starts, sequence, place, place, torch.arange(len(contexts) + 1), spans)
