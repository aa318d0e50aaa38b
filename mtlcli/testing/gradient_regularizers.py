"""The contract of gradient regularizers."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer
from mtlcli.testing.common import (
    ALONE,
    RUN,
    call_hooks,
    check_needs,
    checked_options,
    close,
    expect,
    finite,
    listed,
    numbers,
    own_randomness,
    saved_and_loaded,
    start_of,
    steps_of,
)
from mtlcli.testing.models import tiny_model


def check_gradient_regularizer(plugin: type[GradientRegularizer], **options: object) -> None:
    """Check a gradient regularizer on small gradients: ordinary, opposed, zero, equal, and with norms from 1e-8 to 1e8.

    - weights (k,), or the combination (P,), are finite;
    - k equal gradients g give k g (native scale `sum`), g (`mean`) or another multiple of g (`own`), and the option `scale`
      converts between them; the gradient of a single task is unchanged, except for its length with the scale `own`;
    - with a granularity of `layer` or `tensor`, it returns weights (blocks, k);
    - the order of two tasks is irrelevant;
    - a copy with the same state, generator included, continues with the same numbers;
    - the Gram matrix is not changed, and random numbers come from `self.generator` alone.
    """
    checked = checked_options(plugin, GradientRegularizer, 1, options)
    check_needs(plugin)
    name, all_tasks = plugin.__name__, "all-tasks" in plugin.needs
    expect("scale" in checked, f"{name}: expected the option `scale: native | mean | sum`, found {listed(checked)}")

    start = start_of(tiny_model(RUN.tasks), RUN.tasks)

    def make(run: RunFacts = RUN, **more: object) -> GradientRegularizer:
        regularizer = plugin(run, **checked | more)
        regularizer.setup(start)
        return regularizer

    with own_randomness(name):
        regularizer = make()
        for tasks in steps_of(RUN, all_tasks=all_tasks):
            for rows in _gradients(len(tasks)):
                combined = _combine(regularizer, rows, tasks)
                expect(
                    finite(combined),
                    f"{name}: expected finite numbers for the gradients {numbers(rows)}, found {numbers(combined)}",
                )
            if len(tasks) == 2:
                _check_order_of_two(regularizer, tasks)
        _check_native_scale(make, all_tasks)
        call_hooks(regularizer, RUN, steps_of(RUN, all_tasks=all_tasks), gram="gram" in plugin.needs)
        copy = saved_and_loaded(regularizer, make)
        rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
        rows[1] -= rows[0] + rows[2]  # opposed to both others, so that every method acts
        for _ in range(5):
            first, second = (_combine(twin, rows, [0, 1, 2]) for twin in (regularizer, copy))
            expect(
                torch.equal(first, second),
                f"{name}: expected a copy with the same state to give the same combination, found {numbers(first)} and "
                f"{numbers(second)}: keep history in buffers and draw from self.generator",
            )


def _gradients(k: int) -> Iterator[Tensor]:
    random = torch.Generator().manual_seed(k)
    rows = torch.randn(k, 5, generator=random)
    yield rows
    # Degenerate cases: no gradient at all, a task without one, opposed gradients, and nearly equal ones.
    yield torch.zeros(k, 5)
    yield torch.cat([rows[:-1], torch.zeros(1, 5)])
    yield rows[:1] * torch.tensor([1.0, -1.0, 1.0])[:k, None]
    yield rows[:1].repeat(k, 1) + 1e-6 * rows
    # Solvers with absolute tolerances fail at other scales than 1.
    for scale in (1e-8, 1e-4, 1e4, 1e8):
        yield scale * rows
        yield torch.cat([scale * rows[:1], rows[1:]])
    yield torch.tensor([1e-8, 1.0, 1e8])[:k, None] * rows


def _combine(regularizer: GradientRegularizer, rows: Tensor, tasks: list[int]) -> Tensor:
    """Combine rows (k, P) into (P,) in the scale of the options, as the step engine does."""
    name = type(regularizer).__name__
    gram = rows.double() @ rows.double().T
    before, index = gram.clone(), torch.tensor(tasks)
    weights: Tensor | None = None
    if regularizer.reads_rows:
        # A copy, because `combine` may overwrite the rows.
        combined = regularizer.combine(rows.clone(), gram, index)
    else:
        _check_blocks(regularizer, gram, index)
        weights = regularizer.weights(gram, index)
        expect(
            isinstance(weights, Tensor) and weights.shape == (len(tasks),) and weights.is_floating_point(),
            f"{name}.weights: expected ({len(tasks)},) numbers, found {weights!r}",
        )
        expect(finite(weights), f"{name}.weights: found {numbers(weights)} for the Gram matrix {numbers(before)}")
        combined = (weights.double() @ rows.double()).to(rows)
    expect(torch.equal(gram, before), f"{name} changes the Gram matrix that it receives; expected a copy")
    expect(combined.shape == rows.shape[1:], f"{name}: expected ({rows.shape[1]},), found {tuple(combined.shape)}")
    return combined * regularizer.scaling(len(tasks), weights)


def _check_blocks(regularizer: GradientRegularizer, gram: Tensor, tasks: Tensor) -> None:
    if regularizer.granularity == "whole":
        return
    count = len(start_of(tiny_model(RUN.tasks), RUN.tasks).blocks(regularizer.granularity))
    weights = regularizer.block_weights(gram.repeat(count, 1, 1), tasks)
    expect(
        isinstance(weights, Tensor) and weights.shape == (count, len(tasks)) and finite(weights),
        f"{type(regularizer).__name__}.block_weights: expected finite weights ({count}, {len(tasks)}), found {weights!r}",
    )


def _check_native_scale(make: Callable[..., GradientRegularizer], all_tasks: bool) -> None:
    # Equal gradients have no conflict, so only the scale of the method shows.
    gradient = torch.tensor([0.3, -1.2, 0.7, 2.0, 0.1])
    for scale in ("native", "mean", "sum"):
        for run in (ALONE, RUN):
            for tasks in steps_of(run, all_tasks=all_tasks):
                k = len(tasks)
                regularizer = make(run, scale=scale)
                combined = _combine(regularizer, gradient.repeat(k, 1), tasks)
                kind = regularizer.native_scale if scale == "native" else scale
                along = float(combined @ gradient / (gradient @ gradient))
                # A method with a scale of its own can return any positive multiple.
                factor = {"mean": 1.0, "sum": float(k)}.get(kind, max(along, 1e-6))
                expect(
                    # Ridges and clamps of single methods change the result slightly.
                    close(combined, factor * gradient, 1e-3),
                    f"{type(regularizer).__name__}: {k} gradient(s) equal to {numbers(gradient)} with scale {scale} (native: "
                    f"{regularizer.native_scale}): expected {numbers(factor * gradient)}, found {numbers(combined)}",
                )


def _check_order_of_two(regularizer: GradientRegularizer, tasks: list[int]) -> None:
    state = {key: value.clone() for key, value in regularizer.state_dict().items()}
    for rows in (torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), torch.tensor([[3.0, 1.0], [1.0, 0.5]])):
        results = []
        for order in ([0, 1], [1, 0]):
            # Both orders start from the same history and random state.
            regularizer.load_state_dict(state)
            results.append(_combine(regularizer, rows[order], [tasks[index] for index in order]))
        expect(
            close(results[0], results[1]),
            f"{type(regularizer).__name__}: expected the same combination for two tasks in either order, found "
            f"{numbers(results[0])} and {numbers(results[1])}",
        )
