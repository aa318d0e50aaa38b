"""TorchJD: Quinton and Rey, 2024, arXiv:2406.16232, whose documentation names the paper of each method."""

from inspect import Parameter, Signature
from typing import Annotated, Any, ClassVar, Literal

import torch
import torchjd.aggregation as jd
from pydantic import Field
from torch import Tensor

from mtlcli.facts import RunFacts
from mtlcli.gradient_regularizers.base import GradientRegularizer, Scale


class TorchJD(GradientRegularizer):
    """Base of the classes below: `asks` is a weighting of TorchJD, `takes` the options for it as name: (type, default).

    TorchJD draws from torch's global generator: it is lent this plugin's, which a checkpoint holds. What TorchJD remembers
    is by position, so a weighting with a history needs all tasks in every step.
    """

    cost = "gradient rows and their Gram matrix"
    asks: ClassVar[Any]
    takes: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def __init_subclass__(cls) -> None:
        described = Annotated[Scale, Field(description="native is TorchJD's own; mean and sum convert it")]
        taken = {**cls.takes, "scale": (described, "native")}

        def __init__(self: TorchJD, run: RunFacts, **chosen: Any) -> None:
            GradientRegularizer.__init__(self, run)
            options = {name: default for name, (_, default) in taken.items()} | chosen
            self.scale = options.pop("scale")
            self.weighting = self.asks(**options)
            if "all-tasks" in self.needs:  # the first call makes the buffers, the history begins at zero
                self.weights(torch.eye(len(run.tasks), dtype=torch.float64), torch.arange(len(run.tasks)))
                for buffer in self.weighting.buffers():
                    buffer.zero_()

        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "run")]
        parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, (_, default) in taken.items()]
        __init__.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        __init__.__annotations__ = {"run": RunFacts} | {name: kind for name, (kind, _) in taken.items()}
        cls.__init__ = __init__  # type: ignore[method-assign]

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k) float64 on the CPU, tasks (k,) -> TorchJD's weights (k,) for the tasks in the order of the run."""
        order, state = tasks.argsort(), torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            found = self.weighting(gram[order][:, order])
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(state)
        return torch.empty_like(found).index_copy(0, order, found)


class AlignedMTL(TorchJD):
    """Replaces the gradients by the nearest orthogonal ones of one length, and takes their mean."""

    native_scale = "mean"
    asks = jd.AlignedMTLWeighting
    takes = {
        "scale_mode": (
            Annotated[Literal["min", "median", "rmse"], Field(description="the squared length that they get")],
            "min",
        )
    }


class CAGrad(TorchJD):
    """Turns the mean gradient towards what helps the worst-off task; cvxpy solves for it, which takes milliseconds."""

    native_scale = "own"
    asks = jd.CAGradWeighting
    takes = {"c": (Annotated[float, Field(ge=0, description="how far the update may be from the mean")], 0.5)}


class DualProj(TorchJD):
    """Changes the mean gradient as little as makes it oppose no task's."""

    native_scale = "mean"
    asks = jd.DualProjWeighting


class FairGrad(TorchJD):
    """Shares the gain of a step among the tasks by alpha-fairness."""

    native_scale = "own"
    asks = jd.FairGradWeighting
    takes = {"alpha": (Annotated[float, Field(ge=0, description="0: the mean; 1: Nash-MTL; more: fairer")], 1.0)}


class GradVac(TorchJD):
    """Brings each pair of gradients up to the cosine that is usual for them."""

    needs = frozenset({"several-tasks", "all-tasks"})
    asks = jd.GradVacWeighting
    takes = {"beta": (Annotated[float, Field(ge=0, le=1, description="how fast the usual cosines move")], 0.5)}


class IMTLG(TorchJD):
    """Gives the update the same projection on every task's gradient."""

    native_scale = "mean"
    asks = jd.IMTLGWeighting


class Krum(TorchJD):
    """Takes the gradient that is closest to the others; the mean of all where a step has too few tasks to tell."""

    native_scale = "mean"
    asks = jd.KrumWeighting
    takes = {
        "n_byzantine": (Annotated[int, Field(ge=0, description="outliers; 3 tasks more are needed")], 0),
        "n_selected": (
            Annotated[int, Field(ge=1, description="how many of the closest, of which the mean is taken")],
            1,
        ),
    }

    def weights(self, gram: Tensor, tasks: Tensor) -> Tensor:
        """gram (k, k), tasks (k,) -> weights (k,) of sum 1."""
        enough = len(gram) >= max(self.weighting.n_byzantine + 3, self.weighting.n_selected)
        return super().weights(gram, tasks) if enough else torch.full_like(gram[0], 1 / len(gram))


class MGDA(TorchJD):
    """Takes the shortest weighted mean of the gradients, by steps of Frank and Wolfe."""

    native_scale = "mean"
    asks = jd.MGDAWeighting
    takes = {
        "epsilon": (Annotated[float, Field(gt=0, description="length of a step that ends the search")], 0.001),
        "max_iters": (Annotated[int, Field(ge=1, description="most steps")], 100),
    }


class PCD(TorchJD):
    """Follows the gradient of the run's first task as far as each other task keeps a share of its own progress."""

    native_scale = "mean"
    needs = frozenset({"several-tasks", "all-tasks"})
    asks = jd.PCDWeighting
    takes = {
        "tau": (Annotated[float, Field(ge=0, le=1, description="the share that the others keep")], 0.02),
        "beta": (Annotated[float, Field(ge=0, lt=1, description="decay of the average of squared norms")], 0.999),
    }


class PCGrad(TorchJD):
    """Removes from each gradient what opposes another, in random order."""

    asks = jd.PCGradWeighting


class UPGrad(TorchJD):
    """Changes each gradient as little as makes it oppose no other, and takes the mean."""

    native_scale = "mean"
    asks = jd.UPGradWeighting
