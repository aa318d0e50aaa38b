"""The contract of architectures."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, part_of, run_encoder
from mtlcli.errors import MtlError
from mtlcli.heads.base import HeadFacts
from mtlcli.heads.linear import Linear
from mtlcli.model.multitask import MultiTaskModel
from mtlcli.testing.common import DIM, GRADES, RUN, checked_options, close, expect, finite, listed
from mtlcli.testing.models import tiny_batch, tiny_encoder

TASKS = range(3)


def check_architecture(plugin: type[Architecture], *, identity: bool = False, **options: object) -> None:
    """Check an architecture around an encoder of two layers, for three tasks.

    - it returns finite hidden states (n, length, dim), every layer on request, and accepts word embeddings instead of tokens;
    - a batch of a task sends gradients to exactly the trainable parameters that `parts` and `reads` give to the task;
    - a private parameter lies outside the encoder, and `compares` says whether tasks share trainable parameters;
    - tasks with the same `pass_of` have the same states, and the features of states are those of `forward`;
    - a text has the same features alone and in a padded batch;
    - a copy with the same state returns the same hidden states, and the encoder is the plain one outside of a pass;
    - `merged` returns an encoder with the features of a task, or raises MtlError.

    Args:
        identity: whether every hidden state before step 1 equals that of the encoder, bit by bit.
    """
    checked = checked_options(plugin, Architecture, 1, options)
    name = plugin.__name__

    def make(seed: int) -> tuple[Architecture, MultiTaskModel]:
        architecture = plugin(ArchitectureFacts(tiny_encoder(), RUN.tasks, seed), **checked)
        heads = {task.name: Linear(HeadFacts(task, DIM, 1), dropout=0.0) for task in RUN.tasks}
        return architecture, MultiTaskModel(architecture, heads)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture, model = make(1)
        other, other_model = make(2)
    expect(isinstance(architecture.encoder, nn.Module), f"{name}.encoder: expected the encoder as a module")
    model.eval()
    batch = tiny_batch(0, GRADES)
    if identity:
        _check_identity(name, architecture, model)
    _move_off_zero(architecture)
    _check_parts(name, architecture, checked)
    _check_gradients(name, architecture, model)
    # The copy was built with other random weights, so anything missing from the state shows in its output.
    other_model.load_state_dict(model.state_dict())
    other_model.eval()
    with torch.no_grad():
        for task in TASKS:
            inputs = model.inputs(task, batch)
            last = _check_hidden(name, architecture(task, inputs), (4, 6, DIM))
            expect(
                torch.equal(other(task, other_model.inputs(task, batch)).last, last),
                f"{name}: a copy with the same state returns other hidden states",
            )
            words = architecture.encoder_of(task).get_input_embeddings()(batch.tokens)  # type: ignore[operator]
            embedded = architecture(task, replace(inputs, embeddings=words)).last
            expect(close(embedded, last), f"{name}: word embeddings instead of tokens change the hidden states")
            layers = architecture(task, replace(inputs, all_layers=True)).layers
            expect(
                len(layers) >= 2
                and all(layer.shape == last.shape for layer in layers)
                and torch.equal(layers[-1], last),
                f"{name}: expected every layer (4, 6, {DIM}) with all_layers, the last one as without, found "
                f"{[tuple(layer.shape) for layer in layers]}",
            )
            _check_rows_alone(name, architecture, model, task, last)
            _check_merged(name, architecture, model, task, last)
        _check_passes(name, architecture, model)
        # After all passes, because an architecture can change the encoder within one and has to restore it.
        plain = run_encoder(tiny_encoder().eval(), model.inputs(0, batch))
        encoder = run_encoder(architecture.encoder, model.inputs(0, batch))
        expect(
            torch.equal(encoder.last, plain.last),
            f"{name}: the encoder is not the plain one outside of a pass",
        )
        expect(
            {key for key, _ in architecture.encoder.named_parameters()}
            == {key for key, _ in tiny_encoder().named_parameters()},
            f"{name}: the encoder has other parameters than the plain one",
        )


def _check_identity(name: str, architecture: Architecture, model: MultiTaskModel) -> None:
    """Check that the architecture changes no hidden state before step 1."""
    for task in TASKS:
        inputs = replace(model.inputs(task, tiny_batch(0, GRADES)), all_layers=True)
        with torch.no_grad():
            plain, changed = run_encoder(tiny_encoder().eval(), inputs), architecture(task, inputs)
        expect(
            all(torch.equal(a, b) for a, b in zip(plain.layers, changed.layers, strict=True))
            and torch.equal(plain.last, changed.last),
            f"{name}: the hidden states before step 1 are not those of the encoder",
        )


def _move_off_zero(architecture: Architecture) -> None:
    """Change what starts at zero, because a factor of zero hides the gradients and the effect of the other factor."""
    encoder = {id(parameter) for parameter in architecture.encoder.parameters()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        for parameter in architecture.parameters():
            if id(parameter) not in encoder:
                parameter.add_(0.05 * torch.randn_like(parameter))


def _check_parts(name: str, architecture: Architecture, options: dict[str, object]) -> None:
    """Check that `parts` names parameters of the architecture, none of one task in the encoder, and that `compares` is true to it."""
    parts = architecture.parts()
    parameters = dict(architecture.named_parameters())
    encoder = {id(parameter) for parameter in architecture.encoder.parameters()}
    for prefix, part in parts.items():
        below = [key for key in parameters if key == prefix or key.startswith(f"{prefix}.") or not prefix]
        expect(below, f'{name}.parts: no parameter begins with "{prefix}"')
        if part.tasks is None:
            continue
        expect(
            part.tasks and set(part.tasks) <= set(TASKS), f"{name}.parts: {prefix} names the tasks {part.tasks} of 3"
        )
        if len(part.tasks) == 1:
            inside = [key for key in below if id(parameters[key]) in encoder]
            expect(not inside, f"{name}.parts: {prefix}: expected no parameters of the encoder")
    shared = [key for key, p in parameters.items() if p.requires_grad and not _is_private(key, architecture)]
    compares = type(architecture).compares(options)
    towers = type(architecture).towers is not Architecture.towers
    expect(
        towers or compares == bool(shared),
        f"{name}.compares: found {compares}, but the tasks share {listed(shared) if shared else 'no trainable parameter'}",
    )


def _is_private(key: str, architecture: Architecture) -> bool:
    part = part_of(key, architecture.parts())
    return part.apart or (part.tasks is not None and len(part.tasks) == 1)


def _check_gradients(name: str, architecture: Architecture, model: MultiTaskModel) -> None:
    """Check that a batch of each task reaches exactly the trainable parameters that the task uses, and all are used."""
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    tasks_of = model.tasks_of_parameters()
    trainable = {id(p) for p in architecture.parameters() if p.requires_grad}
    training = architecture.training
    architecture.train()  # `extra` exists only in training
    reached: set[int] = set()
    for task in TASKS:
        model.zero_grad()
        hidden = architecture(task, model.inputs(task, tiny_batch(task, RUN.tasks[task])))
        _check_hidden(name, hidden, (4, 6, DIM))
        # Weighted, because the sum of a normalized state is constant.
        weights = torch.linspace(0.5, 1.5, hidden.last.numel()).view_as(hidden.last)
        total = (hidden.last * weights).square().sum()
        if hidden.extra is not None:
            expect(hidden.extra.shape == (4,), f"{name}: expected `extra` (4,), found {tuple(hidden.extra.shape)}")
            total = total + hidden.extra.sum()
        if total.requires_grad:
            total.backward()
        # A unit that is off for all of these few texts has a gradient of zero.
        used = {id(p) for p in model.parameters() if p.grad is not None}
        moved = {id(p) for p in model.parameters() if p.grad is not None and bool(p.grad.any())}
        allowed = {key for key, tasks in tasks_of.items() if tasks is None or task in tasks}
        # A gradient of zeros does not count as use of a foreign parameter.
        foreign = sorted(names[key] for key in moved - allowed)
        expect(
            not foreign,
            f"{name}: task {task} uses parameters that `parts` and `reads` give to others: {listed(foreign)}",
        )
        named = {key for key, tasks in tasks_of.items() if tasks is not None and task in tasks} & trainable
        idle = sorted(names[key] for key in named - used)
        expect(not idle, f"{name}: task {task} does not use {listed(idle)}, which `parts` gives to it")
        reached |= used
    architecture.train(training)
    idle = sorted(names[key] for key in trainable - reached)
    expect(not idle, f"{name}: no task uses {listed(idle)}")


def _check_passes(name: str, architecture: Architecture, model: MultiTaskModel) -> None:
    """Check that tasks with the same pass have the same states, and that their features are those of `forward`."""
    for group in model.pass_groups(list(TASKS)):
        batch = tiny_batch(group[0], GRADES)
        states = model.states_of(group, batch)
        for task in group:
            alone = model.states_of([task], batch)
            expect(
                torch.equal(alone.last, states.last),
                f"{name}.pass_of: expected another key, because tasks {group[0]} and {task} have different states",
            )
            expected = architecture(task, model.inputs(task, batch)).last
            expect(
                close(model.features(task, batch, states).last, expected),
                f"{name}: `features` of the states that several tasks share are not those of `forward`",
            )


def _check_rows_alone(
    name: str, architecture: Architecture, model: MultiTaskModel, task: int, last: Tensor
) -> None:  # fmt: skip
    """Check that the features of a text do not depend on the batch it is in."""
    batch = tiny_batch(task, RUN.tasks[task])
    mask = batch.mask
    if mask is None:
        return
    for row in range(4):
        length = int(mask[row].sum())
        types = None if batch.types is None else batch.types[row : row + 1, :length]
        tokens = batch.tokens[row : row + 1, :length]
        row_alone = replace(batch, tokens=tokens, mask=None, types=types)
        features = architecture(task, model.inputs(task, row_alone)).last
        expect(
            # Shorter rows are summed in another order, which changes the rounding.
            torch.allclose(features[0], last[row, :length], atol=2e-6),
            f"{name}: a text has other features alone than in a padded batch",
        )


def _check_merged(
    name: str, architecture: Architecture, model: MultiTaskModel, task: int, last: Tensor
) -> None:  # fmt: skip
    """Check that a merged encoder has the features of the task."""
    try:
        merged = architecture.merged(task)
    except MtlError:
        # Not every architecture can be merged.
        return
    features = run_encoder(merged.eval(), model.inputs(task, tiny_batch(0, GRADES))).last
    # Hidden states at padding are arbitrary.
    mask = tiny_batch(0, GRADES).mask
    expect(
        torch.allclose(features[mask], last[mask], atol=1e-5),
        f"{name}.merged: the features of the merged encoder differ from those of task {task}",
    )


def _check_hidden(name: str, hidden: object, shape: tuple[int, ...]) -> Tensor:
    """Return the last layer."""
    if not isinstance(hidden, HiddenStates):
        raise AssertionError(f"{name}: expected HiddenStates, found {type(hidden).__name__}")
    expect(
        hidden.last.shape == shape and finite(hidden.last),
        f"{name}: expected finite hidden states {shape}, found {tuple(hidden.last.shape)}",
    )
    return hidden.last
