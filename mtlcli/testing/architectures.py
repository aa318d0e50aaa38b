"""The contract of architectures."""

from dataclasses import replace

import torch
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs
from mtlcli.testing.common import DIM, GRADES, RUN, checked_options, close, expect, finite, listed
from mtlcli.testing.models import tiny_batch, tiny_encoder


def check_architecture(plugin: type[Architecture], **options: object) -> None:
    """Check an architecture around an encoder of two layers, for three tasks.

    - it returns finite hidden states (n, length, dim), every layer on request, and accepts word embeddings instead of tokens;
    - the hidden states are the same for all tasks if `task_independent` says so;
    - a private parameter belongs to the architecture, outside the encoder, and only its task uses it;
    - every parameter is used by a task, and a copy with the same state returns the same hidden states.
    """
    checked = checked_options(plugin, Architecture, 1, options)
    name = plugin.__name__

    def make() -> Architecture:
        return plugin(ArchitectureFacts(tiny_encoder(), RUN.tasks), **checked)

    with torch.random.fork_rng(devices=[]):
        architecture, other = make(), make()
    expect(isinstance(architecture.encoder, nn.Module), f"{name}.encoder: expected the encoder as a module")
    architecture.eval()
    batch = tiny_batch(0, GRADES)
    inputs = Inputs(batch.tokens, batch.mask, batch.types)
    # By identity: tensors of the same values can be different parameters.
    private = [{id(p) for p in architecture.private_parameters(task)} for task in range(3)]
    names = {id(parameter): key for key, parameter in architecture.named_parameters()}
    encoder = {id(parameter) for parameter in architecture.encoder.parameters()}
    for task, parameters in enumerate(private):
        method = f"{name}.private_parameters({task})"
        expect(parameters <= names.keys(), f"{method}: expected parameters of the architecture")
        expect(not parameters & encoder, f"{method}: expected no parameters of the encoder")
        shared = parameters & set().union(*(private[other] for other in range(3) if other != task))
        expect(not shared, f"{method}: expected parameters of this task only, found {listed(names[i] for i in shared)}")
    reached: set[int] = set()
    for task in range(3):
        architecture.zero_grad()
        hidden = architecture(task, inputs)
        _check_hidden(name, hidden, (4, 6, DIM))
        # A gradient reaches exactly the parameters that the task uses.
        hidden.last.square().sum().backward()
        used = {id(parameter) for parameter in architecture.parameters() if parameter.grad is not None}
        foreign = used & set().union(*(private[other] for other in range(3) if other != task))
        expect(
            not foreign,
            f"{name}: task {task} uses private parameters of another task: {listed(names[i] for i in foreign)}",
        )
        reached |= used
    trainable = {id(parameter) for parameter in architecture.parameters() if parameter.requires_grad}
    idle = [names[parameter] for parameter in trainable - reached]
    expect(not idle, f"{name}: no task uses {listed(idle)}")
    # The copy was built with other random weights, so anything missing from the state shows in its output.
    other.load_state_dict(architecture.state_dict())
    other.eval()
    with torch.inference_mode():
        for task in range(3):
            last = architecture(task, inputs).last
            expect(
                not architecture.task_independent or torch.equal(last, architecture(0, inputs).last),
                f"{name}.task_independent: expected False, because tasks 0 and {task} have different hidden states",
            )
            expect(
                torch.equal(other(task, inputs).last, last),
                f"{name}: a copy with the same state returns other hidden states",
            )
            words = architecture.encoder.get_input_embeddings()(batch.tokens)  # type: ignore[operator]
            embedded = architecture(task, replace(inputs, embeddings=words)).last
            expect(close(embedded, last), f"{name}: word embeddings instead of tokens change the hidden states")
            layers = architecture(task, replace(inputs, all_layers=True)).layers
            expect(
                len(layers) >= 2 and all(layer.shape == last.shape for layer in layers),
                f"{name}: expected every layer (4, 6, {DIM}) with all_layers, found {[tuple(x.shape) for x in layers]}",
            )


def _check_hidden(name: str, hidden: object, shape: tuple[int, ...]) -> None:
    expect(isinstance(hidden, HiddenStates), f"{name}: expected HiddenStates, found {type(hidden).__name__}")
    if isinstance(hidden, HiddenStates):
        expect(
            hidden.last.shape == shape and finite(hidden.last),
            f"{name}: expected finite hidden states {shape}, found {tuple(hidden.last.shape)}",
        )
