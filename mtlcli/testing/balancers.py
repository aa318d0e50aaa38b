"""The contract of balancers."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mtlcli.balancers.base import Balancer, BatchLosses
from mtlcli.facts import RunFacts
from mtlcli.plugin import SetupContext
from mtlcli.tasks.targets import Tensors
from mtlcli.testing.common import (
    ALONE,
    RUN,
    call_hooks,
    check_needs,
    checked_options,
    close,
    expect,
    finite,
    numbers,
    own_randomness,
    saved_and_loaded,
    start_of,
    steps_of,
    unchanged_state,
)
from mtlcli.testing.models import tiny_model


def check_balancer(plugin: type[Balancer], **options: object) -> None:
    """Check a balancer on every subset of the tasks, at losses from 0 to 1e6, before and after the hooks are called.

    - objectives are (k,) and finite, and so are the weights (their derivatives with respect to the losses) and the gradients of
      the balancer's parameters;
    - `forward` and `known_weights` change no state, which only the hooks may do;
    - the order of the tasks is irrelevant, except for a balancer that draws random numbers;
    - `batch_losses` returns (n,) finite losses;
    - `known_weights` returns None or the derivatives of `forward`, detached, and the same in two calls;
    - a copy with the same state continues with the same numbers;
    - random numbers come from `self.generator` alone.
    """
    checked = checked_options(plugin, Balancer, 1, options)
    check_needs(plugin)
    name, all_tasks, after = plugin.__name__, "all-tasks" in plugin.needs, "losses-after" in plugin.needs
    gram = bool(plugin.needs & {"gram", "last-layer-gram"})
    # With one task there is nothing to balance, but every balancer has to run.
    for run in (RUN, ALONE):
        start = start_of(tiny_model(run.tasks), run.tasks)

        def make(run: RunFacts = run, start: SetupContext = start) -> Balancer:
            balancer = plugin(run, **checked)
            balancer.setup(start)
            return balancer

        balancer, steps = make(), steps_of(run, all_tasks=all_tasks)
        with own_randomness(name):
            for shift, when in enumerate(
                ("before any hook was called", "after the hooks were called", "after the hooks were called again")
            ):
                for tasks in steps:
                    for losses in _losses(len(tasks)):
                        _check_objectives(balancer, losses, torch.tensor(tasks), when)
                    _check_order(balancer, tasks)
                call_hooks(balancer, run, steps, gram=gram, after=after, shift=shift)
            for task in range(len(run.tasks)):
                _check_batch_losses(balancer, task)
            copy = saved_and_loaded(balancer, make)
            # Twice, with hooks in between: history outside the buffers shows only at the next update.
            for shift in (3, 4):
                for tasks in steps:
                    losses = torch.arange(1.0, len(tasks) + 1)
                    first, second = (_balance(twin, losses, torch.tensor(tasks)) for twin in (balancer, copy))
                    expect(
                        torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]),
                        f"{name}: expected a copy with the same state to give the same objectives for tasks {tasks}, found "
                        f"{numbers(first[0])} and {numbers(second[0])}: keep history in buffers",
                    )
                for twin in (balancer, copy):
                    call_hooks(twin, run, steps, gram=gram, after=after, shift=shift)
    balancer = plugin(RUN, **checked)
    balancer.setup(start_of(tiny_model(RUN.tasks), RUN.tasks))
    # With all tasks, because a parameter can belong to a single one.
    _, _, learned = _balance(balancer, torch.ones(len(RUN.tasks)), torch.arange(len(RUN.tasks)))
    for parameter, gradient in learned.items():
        expect(gradient is not None, f"{name}.{parameter} is learned, but no objective depends on it")


def _losses(k: int) -> Iterator[Tensor]:
    # A task that is learned perfectly has loss 0, and a diverging one an enormous loss.
    for level in (0.0, 1e-6, 1.0, 1e6):
        yield torch.full((k,), level)
    yield torch.tensor([0.7, 1.3, 2.1][:k])
    yield torch.tensor([0.0, 1e6, 1.0][:k])


def _balance(balancer: Balancer, losses: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """Return objectives (k,), weights (k,) and the gradients of the parameters, as the step engine takes them."""
    losses = losses.clone().requires_grad_()
    name = type(balancer).__name__
    with unchanged_state(balancer, "forward"):
        objectives = balancer(losses, tasks)
    expect(
        isinstance(objectives, Tensor) and objectives.shape == losses.shape and objectives.dtype == losses.dtype,
        f"{name}: expected objectives ({len(losses)},) float32 for tasks {numbers(tasks)}, found "
        f"{(tuple(objectives.shape), objectives.dtype) if isinstance(objectives, Tensor) else objectives!r}",
    )
    expect(objectives.requires_grad, f"{name}: the objectives do not depend on the losses")
    learned = {key: parameter for key, parameter in balancer.named_parameters() if parameter.requires_grad}
    # As in the engine: a parameter of an absent task has no gradient.
    weights, *gradients = torch.autograd.grad(objectives.sum(), [losses, *learned.values()], allow_unused=True)
    if balancer.needs & {"gram", "last-layer-gram"}:
        rows = torch.randn(len(losses), 5, generator=torch.Generator().manual_seed(5))
        # Gradients can vanish or be very large.
        for scale in (0.0, 1.0, 1e4):
            aim = balancer.own_objective(losses.detach(), tasks, scale * (rows @ rows.T))
            if aim is not None:
                expect(
                    aim.shape == () and finite(aim), f"{name}.own_objective: expected one finite number, found {aim}"
                )
                gradients = list(torch.autograd.grad(aim, list(learned.values()), allow_unused=True))
                expect(
                    finite(*(gradient for gradient in gradients if gradient is not None)),
                    f"{name}.own_objective: its derivatives are not finite for losses {numbers(losses)}",
                )
    weights = torch.zeros_like(losses) if weights is None else weights
    return objectives.detach(), weights, dict(zip(learned, gradients, strict=True))


def _check_objectives(balancer: Balancer, losses: Tensor, tasks: Tensor, when: str) -> None:
    name = type(balancer).__name__
    place = f"for tasks {numbers(tasks)} with losses {numbers(losses)} {when}"
    with unchanged_state(balancer, "known_weights"):
        first = balancer.known_weights(tasks)
        second = balancer.known_weights(tasks)
    objectives, weights, learned = _balance(balancer, losses, tasks)
    gradients = [gradient for gradient in learned.values() if gradient is not None]
    expect(
        finite(objectives, weights, *gradients),
        f"{name}: expected finite numbers {place}, found objectives {numbers(objectives)} and weights {numbers(weights)}",
    )
    expect(
        (first is None) == (second is None),
        f"{name}.known_weights: expected weights or None from both of two calls {place}, found one of each",
    )
    if first is None or second is None:
        return
    expect(not first.requires_grad, f"{name}.known_weights: expected detached weights")
    expect(
        first.shape == weights.shape and torch.equal(first, second),
        f"{name}.known_weights: expected ({len(tasks)},) numbers, the same in two calls, found {numbers(first)} and "
        f"{numbers(second)}",
    )
    # The engine uses the one or the other, depending on the rest of the run, and both must train the same model.
    expect(
        close(first.to(weights), weights),
        f"{name}.known_weights: found {numbers(first)} {place}, but the objectives have the weights {numbers(weights)}",
    )


def _check_batch_losses(balancer: Balancer, task: int) -> None:
    output = torch.tensor([0.3, 1.2, 0.1], requires_grad=True)
    losses = balancer.batch_losses(
        BatchLosses(task, np.array([5, 0, 2]), output**2, lambda gold: (output - _first_field(gold).float()) ** 2)
    )
    expect(
        isinstance(losses, Tensor) and losses.shape == (3,) and finite(losses) and losses.requires_grad,
        f"{type(balancer).__name__}.batch_losses: expected finite losses (3,) that depend on the output, found {losses!r}",
    )


def _first_field(gold: Tensors) -> torch.Tensor:
    return next(iter(gold.fields.values()))


def _check_order(balancer: Balancer, tasks: list[int]) -> None:
    losses = torch.tensor([0.7, 1.3, 2.1][: len(tasks)])
    state = balancer.generator.get_state()
    expected, _, _ = _balance(balancer, losses, torch.tensor(tasks))
    if not torch.equal(state, balancer.generator.get_state()):  # random weights differ between calls anyway
        return
    for order in itertools.permutations(range(len(tasks))):
        index = torch.tensor(order)
        objectives, _, _ = _balance(balancer, losses[index], torch.tensor(tasks)[index])
        expect(
            close(objectives, expected[index]),
            f"{type(balancer).__name__}: the order of the tasks matters: for tasks {numbers(torch.tensor(tasks)[index])} in this "
            f"order expected objectives {numbers(expected[index])}, found {numbers(objectives)}",
        )
