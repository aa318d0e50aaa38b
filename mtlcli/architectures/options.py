"""Options that several architectures have."""

from typing import Annotated, Literal

from pydantic import Field

Backbone = Annotated[
    Literal["frozen", "trained"],
    Field(description="whether the encoder itself is frozen, or trained with optimizer.lr"),
]
Norms = Annotated[
    Literal["frozen", "trained"],
    Field(description="whether the norms of a frozen encoder are trained; they are shared by all tasks"),
]
Per = Annotated[
    Literal["task", "shared", "both"],
    Field(description="modules for each task, one set for all tasks, or the sum of both"),
]
Rate = Annotated[float, Field(gt=0, description="peak learning rate of the modules")]
RateOfEncoder = Annotated[
    float | None, Field(gt=0, description="peak learning rate of the modules; by default optimizer.lr")
]
RateOfHeads = Annotated[
    float | None, Field(gt=0, description="peak learning rate of the modules; by default optimizer.head_lr")
]
Width = Annotated[int | None, Field(ge=1, description="inner width of a module; by default that of the encoder / 4")]


def of_heads(lr: float | None) -> float | Literal["head"]:
    """Return a rate `RateOfHeads` as `Part` takes it.

    New modules above a pretrained encoder need it: those that start at zero change little in hundreds of steps at the encoder's rate.
    """
    return "head" if lr is None else lr
