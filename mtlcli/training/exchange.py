"""One reduction a step: rows of gradients, gradients of private parameters, losses and flags, summed over the processes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mtlcli.distributed.world import World
from mtlcli.training.passes import TaskLoss


class Exchange:
    """Sum what the processes computed from their parts of a step, so that every process continues with the same numbers.

    The rows of the step and what else travels lie in one buffer: `rows | losses | totals | flags | stop | private gradients`.
    A flag says whether a parameter has a gradient: a process without rows of a task has none where others have one, and an
    optimizer leaves a parameter without a gradient alone, while it decays and moves one whose gradient is 0.

    Attributes:
        overlaps: sum each row while the next task is computed; otherwise the whole buffer at the end.
        wants_to_stop: returns whether this process was asked to stop.
        stops: whether any process was asked to stop when the last step was computed.
    """

    def __init__(self, world: World, private: Sequence[Sequence[nn.Parameter]], *, overlaps: bool = False) -> None:
        self.world, self.private, self.overlaps = world, private, overlaps
        self.wants_to_stop: Callable[[], bool] = lambda: False
        self.stops = False
        self._buffer = torch.empty(0)
        self._started: list[Callable[[], None]] = []

    def rows_of(self, count: int, size: int, parameters: int, device: torch.device) -> Tensor:
        """Return rows (count, size) float32, before room for everything else that travels.

        Args:
            parameters: number of shared parameters.
        """
        private_parameters = [parameter for of_task in self.private for parameter in of_task]
        tasks = len(self.private)
        # Enough for a step that holds every task.
        tail = (
            2 * tasks
            + count * parameters
            + len(private_parameters)
            + 1
            + sum(parameter.numel() for parameter in private_parameters)
        )
        self._buffer = torch.empty(count * size + tail, device=device, dtype=torch.float32)
        return self._buffer[: count * size].view(count, size)

    def start(self, row: Tensor) -> None:
        """Start to sum a complete row. Every process starts the rows of a step in the same order."""
        self._started.append(self.world.start_sum(row))

    def sum_step(
        self, step: Sequence[TaskLoss], rows: Tensor, touched: list[set[int]], parameters: int, losses: Tensor, totals: Tensor,
        *, sums_rows: bool = True,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Sum the rows (r, P), set the gradients of private parameters, and return the sums of losses and totals (k,) each.

        Args:
            touched: for each row the numbers of the shared parameters with a gradient in any process, which replace its own.
            parameters: number of shared parameters.
            sums_rows: whether the rows are sums of this process alone.
        """
        tasks = dict.fromkeys(task_loss.task for task_loss in step)
        private_parameters = [parameter for task in tasks for parameter in self.private[task]]
        flags = torch.zeros(len(rows), parameters)
        for row, of_row in enumerate(touched):
            flags[row, list(of_row)] = 1.0
        flags_and_stop = torch.cat(
            [
                flags.flatten(),
                torch.tensor([float(parameter.grad is not None) for parameter in private_parameters]),
                torch.tensor([float(self.wants_to_stop())]),
            ]
        ).to(rows.device)
        # A process without rows of a task sends zeros, so that the sizes agree; the flags restore None.
        gradients = [
            parameter.new_zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten()
            for parameter in private_parameters
        ]
        travels = torch.cat([losses, totals, flags_and_stop, *gradients])
        # Directly behind the rows of this step, over rows that it does not use, so that both are one contiguous piece.
        tail = self._buffer[rows.numel() : rows.numel() + len(travels)]
        tail.copy_(travels)
        # The rows are summed already, by `start` or by FSDP, so only the tail remains.
        if self._started or not sums_rows:
            self.world.sum_(tail, in_step=True)
            for wait in self._started:
                wait()
            self._started.clear()
        else:
            self.world.sum_(self._buffer[: rows.numel() + len(travels)], in_step=True)
        return self._unpack(tail, len(step), touched, parameters, private_parameters)

    def _unpack(
        self,
        summed: Tensor,
        k: int,
        touched: list[set[int]],
        parameters: int,
        private_parameters: Sequence[nn.Parameter],
    ) -> tuple[Tensor, Tensor]:
        flags = len(touched) * parameters
        losses, totals, of_rows, private_flags, stop, gradients = summed.split(
            [k, k, flags, len(private_parameters), 1, len(summed) - 2 * k - flags - len(private_parameters) - 1]
        )
        for row, of_row in enumerate(of_rows.view(len(touched), parameters).cpu()):
            touched[row] = set(of_row.nonzero().flatten().tolist())
        parts = gradients.split([parameter.numel() for parameter in private_parameters])
        for parameter, has_gradient, gradient in zip(private_parameters, private_flags.tolist(), parts, strict=True):
            parameter.grad = gradient.view_as(parameter) if has_gradient else None
        self.stops = bool(stop > 0)
        # Copies, because the next step overwrites the buffer.
        return losses.clone(), totals.clone()
