"""Build a model from its configuration, and split its state into encoder and heads."""

import torch
from torch import Tensor

from mtlcli.architectures.base import ArchitectureFacts
from mtlcli.config.schema import Config
from mtlcli.encoders.load import LoadedEncoder
from mtlcli.facts import TaskFacts, seed_for
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.layers import SharedModules
from mtlcli.model.multitask import MultiTaskModel


def build_model(config: Config, encoder: LoadedEncoder, facts: tuple[TaskFacts, ...]) -> MultiTaskModel:
    """Build architecture and heads around an encoder.

    The initial weights of what an architecture shares depend on the seed alone, those of a head and of a task's modules on the
    seed and the task's name, and those of a module that heads share on the seed and the module's name.
    """
    seed = config.training.seed
    # No state of a GPU needs to be saved, because models are built on the CPU.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "architecture"))
        readable = tuple(
            config.head_of(task.name).plugin.reads_any_text(_sides(config, task.name), task.target) for task in facts
        )
        architecture = config.architecture.make(ArchitectureFacts(encoder.model, facts, seed, readable))
    heads, shared = {}, SharedModules(seed)
    for task in facts:
        section = config.tasks[task.name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "head", task.name))
            head_facts = HeadFacts(task, encoder.dim, _sides(config, task.name), shared.asked_by(task.name))
            heads[task.name] = config.head_of(task.name).make(head_facts)
        if section.layer is not None:
            heads[task.name].layer = section.layer
    return MultiTaskModel(architecture, heads, pooling=config.encoder.pooling, layer=config.encoder.layer)


def _sides(config: Config, task: str) -> int:
    """Return how many encodings a row of a task has."""
    return 2 if config.tasks[task].encoding == "bi" else 1


def split_state(model: MultiTaskModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the encoder's state, and the state of everything else with heads under their tasks' names."""
    encoder, rest = {}, {}
    prefix = "architecture.encoder."
    for key, value in model.state_dict().items():
        if key.startswith(prefix):
            encoder[key.removeprefix(prefix)] = value
        elif key.startswith("heads."):
            index, name = key.removeprefix("heads.").split(".", 1)
            rest[f"{model.names[int(index)]}.{name}"] = value
        else:
            rest[key] = value
    return encoder, rest


def join_state(model: MultiTaskModel, rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the second part of `split_state` with the model's own names."""
    index = {name: number for number, name in enumerate(model.names)}
    state = {}
    for key, value in rest.items():
        task, _, name = key.partition(".")
        state[f"heads.{index[task]}.{name}" if task in index else key] = value
    return state
