"""The contract of architectures."""

from dataclasses import replace

import torch
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs
from mtlcli.testing.common import DIM, GRADES, RUN, checked_options, close, expect, finite, listed
from mtlcli.testing.models import tiny_batch, tiny_encoder


def check_architecture(plugin: type[Architecture], **options: object) -> None:
    """Tries an architecture around an encoder of two layers, for three tasks.

    - it gives finite hidden states (n, length, width), every layer where asked, and takes word embeddings for tokens;
    - private parameters are its own, of one task each, outside the encoder, and reached by that task alone;
    - every parameter is reached by some task, and a copy with the same state gives the same.
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
    others = [{id(p) for p in architecture.private_parameters(task)} for task in range(3)]
    names = {id(parameter): key for key, parameter in architecture.named_parameters()}
    encoder = {id(parameter) for parameter in architecture.encoder.parameters()}
    for task, own in enumerate(others):
        expect(own <= names.keys(), f"{name}.private_parameters({task}): expected parameters of the architecture")
        expect(not own & encoder, f"{name}.private_parameters({task}): expected none of the encoder's")
        expect(
            all(not own & others[one] for one in range(3) if one != task),
            f"{name}.private_parameters({task}): expected parameters of this task alone",
        )
    reached: set[int] = set()
    for task in range(3):
        architecture.zero_grad()
        hidden = architecture(task, inputs)
        _check_hidden(name, hidden, (4, 6, DIM))
        hidden.last.square().sum().backward()
        mine = {id(parameter) for parameter in architecture.parameters() if parameter.grad is not None}
        foreign = mine & set().union(*(others[one] for one in range(3) if one != task))
        expect(
            not foreign,
            f"{name}: task {task} reaches private parameters of another: {listed(names[i] for i in foreign)}",
        )
        reached |= mine
    learned = {id(parameter) for parameter in architecture.parameters() if parameter.requires_grad}
    idle = [names[one] for one in learned - reached]
    expect(not idle, f"{name}: no task reaches {listed(idle)}")
    other.load_state_dict(architecture.state_dict())
    other.eval()
    with torch.inference_mode():
        for task in range(3):
            last = architecture(task, inputs).last
            expect(
                torch.equal(other(task, inputs).last, last), f"{name}: a copy with the same state gives something else"
            )
            words = architecture.encoder.get_input_embeddings()(batch.tokens)  # type: ignore[operator]
            embedded = architecture(task, replace(inputs, embeddings=words)).last
            expect(close(embedded, last), f"{name}: word embeddings in place of their tokens give something else")
            layers = architecture(task, replace(inputs, all_layers=True)).layers
            expect(
                len(layers) >= 2 and all(layer.shape == last.shape for layer in layers),
                f"{name}: expected every layer (4, 6, {DIM}) where all_layers is asked, found {[tuple(x.shape) for x in layers]}",
            )


def _check_hidden(name: str, hidden: object, shape: tuple[int, ...]) -> None:
    expect(isinstance(hidden, HiddenStates), f"{name}: expected Hidden, found {type(hidden).__name__}")
    if isinstance(hidden, HiddenStates):
        expect(
            hidden.last.shape == shape and finite(hidden.last),
            f"{name}: expected finite hidden states {shape}, found {tuple(hidden.last.shape)}",
        )
