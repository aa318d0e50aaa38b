"""The base of modules inside the layers of an encoder that is frozen by default, for each task, for all tasks, or both."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from mtlcli.architectures.base import (
    Architecture,
    ArchitectureFacts,
    HiddenStates,
    Inputs,
    Part,
    TaskModules,
    run_encoder,
)
from mtlcli.architectures.hooks import ChangeInput, ChangeOutput, Place, changed
from mtlcli.architectures.layers import is_norm, trace_layers
from mtlcli.errors import MtlError

Outputs = Mapping[Place, ChangeOutput]
PlaceInputs = Mapping[Place, ChangeInput]


class OnBackbone(Architecture):
    """Has modules beside an encoder that is frozen by default. All modules of a task are private, those for all tasks are shared.

    Attributes:
        default_per: `per` of an architecture without such an option; `both` if all tasks share some of its modules.
        decay: whether weight decay applies to the modules' matrices.
    """

    default_per: ClassVar[str] = "task"
    decay: ClassVar[bool] = True
    shared: nn.Module | None
    tasks: TaskModules | None

    def __init__(
        self, facts: ArchitectureFacts, *, lr: float | None, backbone: str = "frozen", norms: str = "frozen"
    ) -> None:
        super().__init__()
        self.encoder = facts.encoder
        self.lr, self.backbone = lr, backbone
        # In the constructor, because the model records which parameters are trainable when it is built.
        if backbone == "frozen":
            self.encoder.requires_grad_(False)
            if norms == "trained":
                for module in filter(is_norm, self.encoder.modules()):
                    module.requires_grad_(True)
        self.shared, self.tasks = None, None

    def add_modules(self, facts: ArchitectureFacts, per: str, make: Callable[[], nn.Module]) -> None:
        """Make one set of modules for all tasks, one for each task, or both."""
        if per != "task":
            # From the random stream of the architecture; those of a task depend on its name.
            self.shared = make()
        if per != "shared":
            self.tasks = facts.task_modules("modules", lambda _: make())

    def modules_of(self, task: int) -> list[Any]:
        """Return the sets of modules that change the states of a task."""
        sets = [self.shared, None if self.tasks is None else self.tasks.of(task)]
        return [modules for modules in sets if modules is not None]

    def parts(self) -> dict[str, Part]:
        """Return one part per task, with the learning rate of the modules."""
        parts = {} if self.tasks is None else self.tasks.parts("tasks", lr=self.lr, decay=self.decay)
        if self.shared is not None:
            parts["shared"] = Part(lr=self.lr, decay=self.decay)
        # What remains trainable in a frozen encoder, its norms, learns at the rate of the modules.
        if self.backbone == "frozen":
            parts["encoder"] = Part(lr=self.lr)
        return parts

    def below(self) -> tuple[nn.Module, ...]:
        """Return the whole architecture."""
        # The modules change the states within the encoder, so states can be cached only if none of them is trainable.
        return (self,)

    @classmethod
    def compares(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the encoder, its norms or the modules are trained for all tasks."""
        # From options alone, without an instance: combinations of methods are checked before weights are loaded.
        return (
            options.get("backbone") == "trained"
            or options.get("norms") == "trained"
            or options.get("per", cls.default_per) != "task"
        )


class Modular(OnBackbone):
    """Runs the encoder with changes to its layers, which depend on the task.

    A subclass makes its modules with `add_modules`, and says in `changes` what they do.

    Attributes:
        layers: the layers of the encoder, one for each call of a block.
    """

    def __init__(
        self, facts: ArchitectureFacts, *, lr: float | None, backbone: str = "frozen", norms: str = "frozen"
    ) -> None:
        super().__init__(facts, lr=lr, backbone=backbone, norms=norms)
        self.layers = trace_layers(facts.encoder)

    @abstractmethod
    def changes(self, task: int, inputs: Inputs) -> tuple[Outputs, PlaceInputs]:
        """Return what to do with the outputs, and with the inputs, of places in every layer, for one batch of a task."""

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of the changed encoder."""
        return self.run(inputs, *self.changes(task, inputs))

    def run(self, inputs: Inputs, outputs: Outputs, places: PlaceInputs) -> HiddenStates:
        """Run the encoder with these changes."""
        # For this pass only, so that the encoder is a plain model wherever it is saved, copied or used by another task.
        with changed(self.encoder, self.layers, outputs=outputs, inputs=places):
            return run_encoder(self.encoder, inputs)

    def check_mergeable(self, task: int | None) -> None:
        """Raise MtlError where no single encoder can hold the modules of a task, or of all tasks (None)."""
        if task is None and self.tasks is not None:
            raise MtlError("has modules for each task; export one task")
        if len({layer.block for layer in self.layers}) < len(self.layers):
            raise MtlError("has other modules at every depth, and this encoder has one block for several depths")
