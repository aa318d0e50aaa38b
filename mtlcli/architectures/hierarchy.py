"""The base of architectures in which tasks have an order, and higher tasks read what the heads of lower ones predict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, run_encoder
from mtlcli.architectures.modules import mean_over_tokens
from mtlcli.architectures.options import of_heads
from mtlcli.errors import MtlError, suggest

Order = Annotated[list[str] | None, Field(description="tasks from low to high; the default is the order of the run")]
Detach = Annotated[
    bool, Field(description="whether the loss of a higher task leaves the heads of lower tasks as they are")
]


def check_names(names: Sequence[str], tasks: Sequence[str], option: str) -> None:
    """Check that an option names tasks of the run, each at most once.

    Raises:
        MtlError: it does not.
    """
    for name in names:
        if name not in tasks:
            raise MtlError(f'architecture.{option}: no task "{name}" in this run{suggest(name, tasks)}')
    if twice := [name for name in names if list(names).count(name) > 1]:
        raise MtlError(f'architecture.{option}: "{twice[0]}" is listed twice; a task has one place')


def check_order(order: Sequence[str] | None, readable: Mapping[str, object], *, top: bool) -> None:
    """Check the option `order`.

    Args:
        readable: for each task of the run, its target if its head can run on the texts of other tasks, else None.
        top: whether the last task of the order is read by none, so that any head will do.

    Raises:
        MtlError: it names no task of the run, one twice, or one whose head cannot be read.
    """
    if order is None:
        return
    check_names(order, list(readable), "order")
    if not order:
        raise MtlError("architecture.order: expected one or more tasks, the lowest first")
    # No task reads the last one, unless a ring or feedback reads all.
    for name in order[:-1] if top else order:
        if readable[name] is None:
            cure = "put it last, or leave it out" if top else "leave it out"
            raise MtlError(
                f"architecture.order: the head of {name} cannot run on the texts of other tasks, because it reads pairs, choices or "
                f"parts of its own texts; {cure}"
            )


class Hierarchical(Architecture):
    """Runs the encoder as it is, and feeds higher tasks with what lower ones predict for the same text.

    Attributes:
        order: the tasks (indices) that have a place, low to high.
        lower: for each task, the tasks below it whose heads it can run, low to high.
        sizes: for each task, how many numbers `Inputs.read` gives.
    """

    def __init__(
        self, facts: ArchitectureFacts, order: Sequence[str] | None, *, detach: bool, lr: float | None
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        self.names, self.detach, self.sizes = facts.names, detach, facts.feature_sizes
        self.lr = of_heads(lr)
        ranks = {name: place for place, name in enumerate(facts.names if order is None else order)}
        self.order = tuple(
            # Indices follow the order of the run, in which heads and losses are numbered.
            sorted((t for t, name in enumerate(facts.names) if name in ranks), key=lambda t: ranks[facts.names[t]])
        )
        self.lower = tuple(
            # A task outside the order reads none: no rank is below 0. One whose head cannot be read has size 0.
            tuple(s for s in self.order if self.sizes[s] and ranks[self.names[s]] < ranks.get(name, 0))
            for name in facts.names
        )

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the encoder's hidden states, the same for every task."""
        return run_encoder(self.encoder, inputs)

    def above(self, task: int) -> tuple[int, ...]:
        """Return the tasks that read a task."""
        return tuple(t for t, lower in enumerate(self.lower) if task in lower)

    def reads(self, task: int) -> tuple[int, ...]:
        """Return the lower tasks, unless gradients end at their predictions."""
        return () if self.detach else self.lower[task]

    def runs(self, task: int) -> tuple[int, ...]:
        """Return the lower tasks."""
        return self.lower[task]

    def predicted(self, task: int, hidden: HiddenStates, inputs: Inputs) -> Tensor:
        """Return what a task predicts from its features, for each text (n, k) or token (n, length, k)."""
        if inputs.read is None:
            raise ValueError("these inputs have no heads to read")
        numbers = inputs.read(task, hidden)
        # Detached here, so that the heads and features of lower tasks get no gradient from higher ones.
        return numbers.detach() if self.detach else numbers

    def notes(self) -> list[str]:
        """Return which tasks each task reads."""
        lines = [
            f"{name} reads {', '.join(self.names[s] for s in lower)}"
            for name, lower in zip(self.names, self.lower, strict=True)
            if lower
        ]
        return [
            f"in this architecture {'; '.join(lines)}" if lines else "in this architecture no task reads another one"
        ]


def per_token(numbers: Tensor, like: Tensor) -> Tensor:
    """Return numbers (n, k) or (n, length, k) for each token (n, length, k) of states (n, length, dim)."""
    return numbers if numbers.dim() == 3 else numbers.unsqueeze(1).expand(-1, like.shape[1], -1)


def per_text(numbers: Tensor, mask: Tensor) -> Tensor:
    """Return numbers (n, k), the mean over the tokens of a text of (n, length, k), for a mask (n, length)."""
    return numbers if numbers.dim() == 2 else mean_over_tokens(numbers, mask)


def once(make: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return a function that computes the value of each task once, for one batch."""
    values: dict[int, Any] = {}

    def value(task: int) -> Any:
        # Several higher tasks read the same lower one; dropout would also draw other masks in a second computation.
        if task not in values:
            values[task] = make(task)
        return values[task]

    return value
