"""The contract of an architecture: how encoder features reach the heads, and which parameters tasks share."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlcli.architectures.peft_files import PeftLora
from mtlcli.errors import MtlError
from mtlcli.facts import Coupling, TaskFacts, seed_for
from mtlcli.tasks.targets import Target


@dataclass(frozen=True)
class Part:
    """Describe the parameters of an architecture below a prefix of their names.

    Attributes:
        tasks: indices of the tasks that use them; None for all tasks. Parameters of one task are private: gradient methods do not
            combine them. Those of several tasks have a zero gradient for the others.
        lr: peak learning rate; None for that of the encoder, `head` for that of heads.
        decay: whether weight decay applies to matrices.
        apart: whether the gradient is the plain weighted sum over the tasks of a step, left out of gradient methods, as it must be
            for a discriminator.
    """

    tasks: tuple[int, ...] | None = None
    lr: float | Literal["head"] | None = None
    decay: bool = True
    apart: bool = False


def part_of(name: str, parts: Mapping[str, Part]) -> Part:
    """Return the part with the longest matching prefix of a parameter's name, by default a part that all tasks use."""
    prefix = name
    while prefix and prefix not in parts:
        prefix = prefix.rpartition(".")[0]
    return parts.get(prefix, Part())


class TaskModules(nn.ModuleDict):
    """Hold one module per task, by the task's name, so that another run can load them whatever its other tasks are."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        # A ModuleDict rejects the names of its own methods, such as "type", which a task may have.
        super().__init__({f"for_{name}": module for name, module in modules.items()})
        self.tasks = tuple(modules)

    def of(self, task: int) -> Any:
        """Return the module of a task."""
        return self[f"for_{self.tasks[task]}"]

    def parts(self, name: str, **settings: Any) -> dict[str, Part]:
        """Return one part per task, for an architecture whose attribute `name` is this object.

        Args:
            settings: fields of `Part` besides `tasks`.
        """
        return {f"{name}.for_{task}": Part((index,), **settings) for index, task in enumerate(self.tasks)}


@dataclass(frozen=True)
class ArchitectureFacts:
    """What an architecture is built from.

    Attributes:
        encoder: the loaded encoder.
        tasks: in the order of the run.
        seed: of the run.
        readable: for each task, whether its head can run on the texts of other tasks, see `Inputs.read`; None: every head whose
            target can be read.
    """

    encoder: nn.Module
    tasks: tuple[TaskFacts, ...]
    seed: int = 42
    readable: tuple[bool, ...] | None = None

    @property
    def width(self) -> int:
        """Return the width of the encoder's hidden states."""
        config: Any = self.encoder.config
        return int(config.hidden_size)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the tasks."""
        return tuple(task.name for task in self.tasks)

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Return how many numbers `Inputs.read` gives for each task, 0 for a task whose head cannot run on other texts."""
        sizes = [task.target.feature_size for task in self.tasks]
        readable = self.readable or [True] * len(sizes)
        return tuple(size if can_be_read else 0 for size, can_be_read in zip(sizes, readable, strict=True))

    @property
    def readable_targets(self) -> dict[str, Target | None]:
        """Return the target of each task, None for a task whose head cannot run on other texts, see `Architecture.check_tasks`."""
        return {
            task.name: task.target if size else None for task, size in zip(self.tasks, self.feature_sizes, strict=True)
        }

    def task_modules(self, purpose: str, make: Callable[[int], nn.Module]) -> TaskModules:
        """Return one new module per task, whose random weights depend on the seed, the purpose and the task's name alone."""
        modules = {}
        for index, task in enumerate(self.tasks):
            # A separate random stream, so that a further task does not change the weights that are drawn after it. No
            # state of a GPU needs to be saved, because models are built on the CPU.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_for(self.seed, "architecture", purpose, task.name))
                modules[task.name] = make(index)
        return TaskModules(modules)


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states of n texts.

    Attributes:
        last: (n, length, dim), the last layer.
        layers: every layer, if requested, starting with the embeddings; the last one is `last`.
        extra: loss of each text (n,), weight included, which is added to the loss of the task; only in training.
    """

    last: Tensor
    layers: tuple[Tensor, ...] = ()
    extra: Tensor | None = None

    def with_last(self, last: Tensor) -> "HiddenStates":
        """Return these states with another last layer."""
        # Heads can read the last layer by either name, so both have to change.
        return replace(self, last=last, layers=(*self.layers[:-1], last) if self.layers else ())


@dataclass(frozen=True)
class Inputs:
    """One batch of encoder inputs.

    Attributes:
        tokens: (n, length) int64.
        mask: (n, length) bool, None if nothing is padded.
        types: (n, length), None if the encoder has no segments.
        embeddings: (n, length, dim) in place of the words' vectors.
        all_layers: whether every hidden state is requested.
        positions: (n, length) int64 position numbers; None for those of the encoder.
        read: `read(task, hidden)` runs the head of another task on hidden states of these texts and returns what it predicts as
            numbers, see `Target.as_features`: (n, k), or (n, length, k) of a task that tags words, for which each token counts as
            a word; 0 at padding.
    """

    tokens: Tensor
    mask: Tensor | None
    types: Tensor | None
    embeddings: Tensor | None = None
    all_layers: bool = False
    positions: Tensor | None = None
    read: Callable[[int, HiddenStates], Tensor] | None = None

    @property
    def full_mask(self) -> Tensor:
        """Return the mask (n, length) bool, also if nothing is padded."""
        return torch.ones_like(self.tokens, dtype=torch.bool) if self.mask is None else self.mask


def without_cache(encoder: nn.Module) -> dict[str, bool]:
    """Return the arguments that stop a decoder (`use_cache`) or XLNet (`use_mems`) from keeping keys and values."""
    # By the signature, because most encoders have neither argument.
    parameters = inspect.signature(encoder.forward).parameters
    return {name: False for name in ("use_cache", "use_mems") if name in parameters}


def run_encoder(encoder: nn.Module, inputs: Inputs) -> HiddenStates:
    """Run a transformers model on tokens, or on word embeddings in their place."""
    # Regularizers perturb word embeddings, so a model has to accept them instead of tokens.
    arguments = {"input_ids": inputs.tokens} if inputs.embeddings is None else {"inputs_embeds": inputs.embeddings}
    if inputs.types is not None:
        arguments["token_type_ids"] = inputs.types
    if inputs.positions is not None:
        arguments["position_ids"] = inputs.positions
    # XLNet computes 1 - mask, which torch does not define for bool.
    mask = None if inputs.mask is None else inputs.mask.long()
    output = encoder(
        **arguments,
        attention_mask=mask,
        output_hidden_states=inputs.all_layers,
        **without_cache(encoder),
    )
    return HiddenStates(output.last_hidden_state, tuple(output.hidden_states or ()) if inputs.all_layers else ())


class Architecture(nn.Module, ABC):
    """Holds the encoder and all modules between it and the heads.

    Subclasses define `states`, which runs the encoder, and, if something stands between its states and the heads, `features`. A
    run folder stores `encoder` as `encoder/`, and the rest of the state with the heads.

    Attributes:
        loads_from: names of other architectures from whose runs `init` may load modules of the same names and shapes.
        needs: `several-tasks` if a step of one task would train something wrong.
        adds_loss: whether `features` adds a loss, from which tasks without labels can learn.
        reverses: whether it reverses gradients, so that the tasks' gradients oppose each other on purpose.
        coupling: what the loss that it adds to a text depends on.
        why_no_graph: why it cannot be exported as a graph of tensor operations, such as ONNX, as the rest of a sentence; "" if it can.
    """

    loads_from: ClassVar[tuple[str, ...]] = ()
    encoder: nn.Module
    needs: ClassVar[frozenset[Literal["several-tasks"]]] = frozenset()
    adds_loss: ClassVar[bool] = False
    reverses: ClassVar[bool] = False
    coupling: Coupling = "rows"
    why_no_graph: str = ""

    def forward(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the features of a batch of one task. Subclasses define `states` and `features` instead."""
        if self.layers_read(task):
            inputs = replace(inputs, all_layers=True)
        return self.features(task, self.states(task, inputs), inputs)

    @abstractmethod
    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the hidden states of a batch of one task.

        In evaluation mode they may depend on each text and the weights of `below` alone, because a run caches them while nothing in
        `below` is trainable.
        """

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return what the heads read from the hidden states of a batch, which may be cached ones or those of several tasks."""
        return hidden

    def parts(self) -> Mapping[str, Part]:
        """Return what differs from the default for parameters, by prefixes of their names; the longest prefix counts.

        A parameter without a part is shared by all tasks.
        """
        return {}

    def below(self) -> tuple[nn.Module, ...]:
        """Return the modules that `states` uses."""
        return (self.encoder,)

    def layers_read(self, task: int) -> tuple[int, ...]:
        """Return the hidden layers of `states` that `features` reads for a task, besides the last one."""
        return ()

    def pass_of(self, task: int) -> Hashable:
        """Return a key that is equal for tasks with the same `states`, so that one pass serves all tasks that read the same texts.

        By default, tasks differ in the parts of `below` that they use.
        """
        # By id, because the names of the parameters of `below` start within its modules, and those of `parts` do not.
        below = {id(parameter) for module in self.below() for parameter in module.parameters()}
        used = [name for name, parameter in self.named_parameters() if id(parameter) in below]
        return tuple(
            prefix
            for prefix, part in self.parts().items()
            if part.tasks is not None
            and task in part.tasks
            and any(name == prefix or name.startswith(f"{prefix}.") for name in used)
        )

    def reads(self, task: int) -> tuple[int, ...]:
        """Return the tasks whose heads `features` runs for a task with `Inputs.read`, and through which it sends gradients."""
        return ()

    def runs(self, task: int) -> tuple[int, ...]:
        """Return the tasks whose heads `features` runs for a task, with gradients or without."""
        return self.reads(task)

    def set_progress(self, share: float) -> None:
        """Prepare the next step, before which this share of all steps is done: 0.0 at the first. For schedules."""

    def measures(self) -> Mapping[str, float]:
        """Return numbers of the last step for metrics.jsonl, by name."""
        return {}

    def notes(self) -> list[str]:
        """Return what the plan of a run should say of this architecture."""
        return []

    def encoder_passes(self) -> float:
        """Return how many passes of the encoder one batch costs; the plan of a run states it where it is not 1."""
        return 1.0

    def start(self, tensors_of: Callable[[str], Mapping[str, Tensor]]) -> None:
        """Load what the options say to start from, once before step 1; not where a run is loaded or resumed.

        Args:
            tensors_of: reads the architecture's tensors of a finished run, by their names, from its folder.

        Raises:
            MtlError: it cannot be loaded.
        """

    def to_peft(self, task: int | None) -> PeftLora:
        """Return the changes for a task, or for all tasks (None), as the package peft stores them.

        Raises:
            MtlError: peft has no place for them; the message completes "ARCHITECTURE ...".
        """
        raise MtlError("is no LoRA, which files of peft hold")

    def merged(self, task: int | None) -> nn.Module:
        """Return a plain encoder with the features of a task, or of all tasks (None).

        Raises:
            MtlError: there is no such encoder; the message completes "ARCHITECTURE ...".
        """
        raise MtlError("has modules outside the encoder, which no plain encoder can hold")

    @classmethod
    def compares(cls, options: Mapping[str, Any]) -> bool:
        """Return whether tasks share trainable parameters with these options, so that methods can compare their gradients."""
        return True

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check options that name tasks, before data is read.

        Args:
            readable: the target of each task of the run, not fitted yet; None for a task whose head cannot run on the texts of
                other tasks.

        Raises:
            MtlError: the options do not fit the tasks.
        """

    def encoder_of(self, task: int) -> nn.Module:
        """Return the encoder of this task's texts."""
        return self.encoder

    def encoders(self) -> tuple[nn.Module, ...]:
        """Return the modules that hold the parameters of the encoder, and of its copies: what `freeze: encoder` freezes."""
        return (self.encoder, *self.towers())

    def towers(self) -> list[nn.Module]:
        """Return one module per task, all of one shape, for soft sharing; empty if the tasks share one encoder."""
        return []
