"""Merge the weights of several encoders by one method, as often as coefficients are tried."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from mtlcli.facts import seed_for
from mtlcli.merging import methods
from mtlcli.merging.tensors import TensorFile

Method = Literal["average", "task-arithmetic", "ties", "dare", "fisher"]
METHODS: tuple[Method, ...] = get_args(Method)
SCALED: tuple[Method, ...] = ("task-arithmetic", "ties", "dare")
"""Methods with a scaling coefficient, which add task vectors to the start."""
SIGNED: tuple[Method, ...] = ("task-arithmetic", "dare")
"""Methods with negative weights: they subtract a task vector."""


@dataclass(frozen=True)
class Coefficients:
    """The weight c of each run, and the scaling coefficient lambda of all task vectors."""

    weights: tuple[float, ...]
    scaling: float = 1.0


@dataclass(frozen=True)
class Options:
    """Options of the methods.

    Attributes:
        density: share of each task vector's values that TIES keeps, above 0 and up to 1.
        drop_rate: share of each task vector's values that DARE drops at random, from 0 to below 1.
        fisher_rows: most training rows of each task for the Fisher information.
        seed: seed of what DARE drops, and of the rows and labels of the Fisher information.
    """

    density: float = 0.2
    drop_rate: float = 0.1
    fisher_rows: int = 256
    seed: int = 42

    def of(self, method: Method) -> dict[str, float]:
        """Return the options that a method has, by name."""
        return {name: getattr(self, name) for name in OPTIONS_OF[method]}


OPTIONS_OF: dict[Method, tuple[str, ...]] = {
    "average": (),
    "task-arithmetic": (),
    "ties": ("density",),
    "dare": ("drop_rate", "seed"),
    "fisher": ("fisher_rows", "seed"),
}
"""Names of the options of each method."""


@dataclass(frozen=True)
class Merger:
    """Encoders to merge: `start` is what all `runs` started from, and `information` the Fisher information of each run.

    All files have the same names and shapes. Tensors of integers are taken from the first run.
    """

    method: Method
    start: TensorFile
    runs: Sequence[TensorFile]
    options: Options = field(default_factory=Options)
    information: Sequence[TensorFile] = ()

    def merge(self, coefficients: Coefficients) -> Iterator[tuple[str, Tensor]]:
        """Yield name and merged value of each tensor, in float32 where it is of floating-point numbers."""
        majority = self._majority(coefficients) if self.method == "ties" else 0.0
        for name in self.start.names:
            first = self.runs[0][name]
            # Integer buffers, such as position ids, cannot be averaged.
            if not torch.is_floating_point(first):
                yield name, first
                continue
            yield name, self._merged(name, coefficients, majority).float()

    def _merged(self, name: str, coefficients: Coefficients, majority: float) -> Tensor:
        weights, scaling = coefficients.weights, coefficients.scaling
        match self.method:
            case "average":
                return methods.average([run[name] for run in self.runs], weights)
            case "fisher":
                thetas = [run[name] for run in self.runs]
                # A tensor without gradients, such as a buffer, has no information, and is averaged.
                information = [
                    of_run[name] if name in of_run.names else torch.zeros_like(theta)
                    for of_run, theta in zip(self.information, thetas, strict=True)
                ]
                return methods.fisher(thetas, information, weights)
            case "ties":
                return methods.ties(self.start[name], self._trimmed(name), weights, scaling, majority)
            case "dare":
                vectors = [
                    methods.drop(self._vector(index, name), self.options.drop_rate, self._generator(index, name))
                    for index in range(len(self.runs))
                ]
                return methods.task_arithmetic(self.start[name], vectors, weights, scaling)
            case "task-arithmetic":
                vectors = [self._vector(index, name) for index in range(len(self.runs))]
                return methods.task_arithmetic(self.start[name], vectors, weights, scaling)

    def _vector(self, run: int, name: str) -> Tensor:
        return self.runs[run][name].double() - self.start[name].double()

    def _generator(self, run: int, name: str) -> torch.Generator:
        # By run and tensor, so that all trials of a search drop the same values, whatever the order of the tensors.
        return torch.Generator().manual_seed(seed_for(self.options.seed, "dare", f"{run}", name))

    def _float_names(self) -> Iterator[str]:
        return (name for name, tensor in self.start if torch.is_floating_point(tensor))

    @cached_property
    def _thresholds(self) -> tuple[float, ...]:
        """The size from which each run's values are kept: over the whole task vector, as in the authors' code."""
        # The thresholds do not depend on the coefficients, so a search computes them once.
        thresholds = []
        for run in range(len(self.runs)):
            # float32 halves the memory, since the whole vector is needed at once; `trim` compares in float32 too.
            sizes = [self._vector(run, name).float().abs().flatten() for name in self._float_names()]
            thresholds.append(methods.trim_threshold(torch.cat(sizes), self.options.density))
        return tuple(thresholds)

    def _trimmed(self, name: str) -> list[Tensor]:
        return [methods.trim(self._vector(run, name), threshold) for run, threshold in enumerate(self._thresholds)]

    def _majority(self, coefficients: Coefficients) -> float:
        """Return the most frequent elected sign over all parameters; 1 where both are as frequent."""
        # Needs every tensor before the first one can be merged, so the files are read twice.
        total = sum(
            float(methods.elected(self._trimmed(name), coefficients.weights).sum()) for name in self._float_names()
        )
        return -1.0 if total < 0 else 1.0
