"""The contract of heads."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.tasks.targets import Classes, LabelSets, Score, Tensors
from mtlcli.testing.class_options import check_class_options
from mtlcli.testing.common import (
    DIM,
    GRADES,
    MIXTURES,
    PAIRS,
    RANKS,
    SCORES,
    TEXTS,
    TOPICS,
    checked_options,
    close,
    expect,
    finite,
    gold_of,
    numbers,
    unknown_gold,
)
from mtlcli.testing.item_heads import check_item_head
from mtlcli.testing.word_heads import check_word_head

TASKS = (GRADES, PAIRS, SCORES, RANKS, MIXTURES, TOPICS)


def check_head(plugin: type[Head], **options: object) -> None:
    """Check a head on small random encodings for each kind of task, with the number of encodings that `sides` declares.

    A head declines a kind of task by raising MtlError in its constructor; it may not decline all of them.

    - output (n, ...) and loss (n,) float32 are finite, also under bfloat16 autocast;
    - the loss depends on every parameter and on the encoding;
    - of the hidden states, the head reads only those in `further_layers` if it names any;
    - in evaluation mode, a row with an unknown label has loss 0, and the other rows keep their losses;
    - with the options of a task's classes, a head that holds a `CrossEntropy` or a `BinaryCrossEntropy` applies the weights of classes
      in training, and has the plain loss in evaluation mode;
    - decoded classes are indices with probabilities that sum to 1; scores lie in the range of the task; sets of labels are 0 and 1
      with probabilities;
    - in evaluation mode the output of a row depends neither on other rows nor on padding, and survives save and load.

    A head with `items = "words"` has an output for each word (m, ...) instead, and is checked with tags; one of choices, marked spans
    or answers with rows that have such items. A head that is not `supervised` has a loss of 0 and no parameters.
    """
    checked = checked_options(plugin, Head, 1, options)
    expect(
        plugin.sides and set(plugin.sides) <= {1, 2},
        f"{plugin.__name__}.sides: expected (1,), (2,) or (1, 2), found {plugin.sides!r}",
    )
    if not plugin.supervised:
        _check_without_loss(plugin, checked)
        return
    if plugin.items == "words":
        check_word_head(plugin, lambda facts: plugin(facts, **checked))
        return
    if plugin.items:
        check_item_head(plugin, lambda facts: plugin(facts, **checked))
        return
    declined = []
    for task in TASKS:
        for sides in plugin.sides:
            facts = HeadFacts(task, DIM, sides)

            seeds = itertools.count(1)

            def make(facts: HeadFacts = facts, seeds: Iterator[int] = seeds) -> Head:
                # Seeded, because a unit of a small layer that is off for all of a few rows sends no gradient.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(next(seeds))
                    return plugin(facts, **checked)

            try:
                head = make()
            except MtlError as error:
                declined.append(f"{task.name}: {error}")
                continue
            except Exception as error:
                raise AssertionError(_cannot(plugin, task, "__init__", error)) from error
            try:
                _check_head(head, facts)
                _check_head_in_use(head, make, facts)
                name, output = f"{plugin.__name__} for {task.name}", head.eval()(_encodings(sides)).detach()
                check_class_options(name, head, make, facts, output, gold_of(task))
            except AssertionError:
                # Already a sentence of the contract.
                raise
            except Exception as error:
                raise AssertionError(_cannot(plugin, task, _method_of(error, plugin), error)) from error
    expect(len(declined) < len(TASKS) * len(plugin.sides), f"{plugin.__name__} declines every kind of task: {declined}")


def _check_without_loss(plugin: type[Head], options: dict[str, object]) -> None:
    """Check a head that learns nothing: the loss of each row is 0, and it has no parameters."""
    head = plugin(HeadFacts(TEXTS, DIM, plugin.sides[0]), **options)
    expect(not list(head.parameters()), f"{plugin.__name__}: expected no parameters in a head without a loss")
    for n in (4, 1):
        output = head(_encodings(plugin.sides[0], n))
        loss = head.loss(output, gold_of(TEXTS, n))
        expect(
            loss.shape == (n,) and loss.dtype == torch.float32 and not bool(loss.any()),
            f"{plugin.__name__}: expected losses of 0 ({n},) float32, found {numbers(loss)}",
        )
        decoded = head.decode(output)
        expect(len(decoded) == n, f"{plugin.__name__}.decode: expected {n} rows, found {len(decoded)}")


def _cannot(plugin: type[Head], task: TaskFacts, method: str, error: Exception) -> str:
    return (
        f"{plugin.__name__}.{method} raises {type(error).__name__} for {task.name}: {' '.join(str(error).split())}; a head that "
        "cannot predict this kind of target must decline it by raising MtlError in __init__"
    )


def _method_of(error: Exception, plugin: type[Head]) -> str:
    """Return the method of the head in which an error was raised."""
    methods = []
    traceback = error.__traceback__
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, plugin):
            methods.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    # The outermost method of the contract, not a helper that it calls.
    return next((name for name in methods if name in ("forward", "loss", "decode")), "forward, loss or decode")


def _encodings(sides: int, n: int = 4, length: int = 6, layers: int = 4) -> tuple[EncoderOutput, ...]:
    random = torch.Generator().manual_seed(n)
    encodings = []
    for _ in range(sides):
        states = [torch.randn(n, length, DIM, generator=random).requires_grad_() for _ in range(layers)]
        # Rows of different lengths, at least two tokens each, so that padding matters.
        mask = torch.arange(length)[None] < torch.arange(length, length - n, -1)[:, None].clamp(min=2)
        encodings.append(EncoderOutput(states[-1], mask, states[-1][:, 0], tuple(states)))
    return tuple(encodings)


def _check_head(head: Head, facts: HeadFacts) -> None:
    """Check a head in training: shapes, dtypes, gradients."""
    task = facts.task
    name = f"{type(head).__name__} for {task.name}"
    # A last batch of one row must not fail, as a squeeze or a batch norm would.
    for n in (4, 1):
        encodings = _encodings(facts.sides, n)
        # As in a run, which passes the other layers only to a head that asks for them.
        if not head.all_layers:
            encodings = tuple(replace(encoding, layers=()) for encoding in encodings)
        head.train()
        output = head(encodings)
        expect(
            isinstance(output, Tensor) and output.shape[:1] == (n,),
            f"{name}: expected an output ({n}, ...), found {tuple(getattr(output, 'shape', ()))}",
        )
        loss = head.loss(output, gold_of(task, n))
        expect(
            loss.shape == (n,) and loss.dtype == torch.float32,
            f"{name}: expected a loss ({n},) float32, found {tuple(loss.shape)} {loss.dtype}",
        )
        expect(finite(loss), f"{name}: expected finite losses, found {numbers(loss)}")
        with torch.autocast("cpu", torch.bfloat16):
            low = head.loss(head(encodings), gold_of(task, n))
        expect(
            low.dtype == torch.float32 and finite(low),
            f"{name}: expected finite float32 losses under bfloat16 autocast, found {low.dtype} {numbers(low)}",
        )
    encodings = _encodings(facts.sides)
    head.eval()  # dropout might hide a parameter
    loss = head.loss(head(encodings), gold_of(task)).mean()
    read = [state for encoding in encodings for state in encoding.layers]
    parameters = {key: parameter for key, parameter in head.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, [*parameters.values(), *read], allow_unused=True)
    # The gradients of the hidden states follow those of the parameters.
    for key, gradient in zip(parameters, gradients, strict=False):
        expect(gradient is not None, f"{name}: the loss does not depend on the parameter {key}")
    reached = [gradient for gradient in gradients if gradient is not None]
    expect(finite(*reached), f"{name}: expected finite gradients")
    below = [gradient for gradient in gradients[len(parameters) :] if gradient is not None]
    if head.further_layers:
        count = len(encodings[0].layers)
        # Layers can be counted from the end.
        named = {layer % count for layer in (*head.further_layers, -1)}
        reached_states = {
            index % count for index, gradient in enumerate(gradients[len(parameters) :]) if gradient is not None
        }
        expect(
            reached_states <= named,
            f"{name}: further_layers names {head.further_layers}, and it also reads hidden states {sorted(reached_states - named)}",
        )
    expect(any(bool((gradient != 0).any()) for gradient in below), f"{name}: the loss does not reach the encoder")


def _check_head_in_use(head: Head, make: Callable[[], Head], facts: HeadFacts) -> None:
    """Check a head in evaluation mode: decoding, independence of rows and padding, save and load."""
    task, name = facts.task, f"{type(head).__name__} for {facts.task.name}"
    head.eval()
    encodings = _encodings(facts.sides)
    with torch.inference_mode():
        output = head(encodings)
        plain = head.loss(output, gold_of(task))
        try:
            masked = head.loss(output, unknown_gold(task))
        except Exception as error:
            raise AssertionError(
                f"{name}: the loss raises {type(error).__name__} for a row whose label is unknown (class index -1): "
                f"{' '.join(str(error).split())}; expected a loss of 0 in that row"
            ) from error
        expect(
            finite(masked) and float(masked[0]) == 0 and close(masked[1:], plain[1:]),
            f"{name}: expected a loss of 0 in the first row, whose label is unknown, and {numbers(plain[1:])} in the others; "
            f"found {numbers(masked)}",
        )
        # Large outputs saturate a sigmoid or softmax, and must still decode to valid values.
        for scale in (1.0, 1e4):
            _check_decoded(name, head.decode(output * scale), task, len(output))
        order = torch.tensor([2, 0, 3, 1])
        shuffled = tuple(
            EncoderOutput(
                encoding.tokens[order],
                encoding.mask[order],
                encoding.pooled[order],
                tuple(state[order] for state in encoding.layers),
            )
            for encoding in encodings
        )
        expect(
            close(head(shuffled), output[order], 1e-4), f"{name}: in evaluation mode, rows depend on each other's order"
        )
        alone = tuple(
            EncoderOutput(
                encoding.tokens[:1],
                encoding.mask[:1],
                encoding.pooled[:1],
                tuple(state[:1] for state in encoding.layers),
            )
            for encoding in encodings
        )
        # Compared on the scale of all rows, because a single output near 0 may consist of rounding error.
        together = torch.cat([head(alone), output[1:]])
        expect(close(together, output, 1e-4), f"{name}: in evaluation mode, a row depends on the other rows")
        # Large values, because an attention weight on padding may be small.
        padded = tuple(
            replace(
                encoding,
                tokens=encoding.tokens.masked_fill(~encoding.mask[..., None], 1e3),
                layers=tuple(state.masked_fill(~encoding.mask[..., None], 1e3) for state in encoding.layers),
            )
            for encoding in encodings
        )
        expect(
            close(head(padded), output, 1e-4), f"{name}: the output depends on padding; expected the head to use mask"
        )
        copy = make().eval()
        copy.load_state_dict(head.state_dict())
        expect(
            torch.equal(copy(encodings), output), f"{name}: expected a copy with the same state to give the same output"
        )


def _check_decoded(name: str, decoded: Tensors, task: TaskFacts, n: int) -> None:
    fields = list(decoded.fields)
    match task.target:
        case Score():
            expect(fields == ["value"], f"{name}: expected decoded scores as the field value, found {fields}")
            _check_scores(name, decoded["value"], task.target, n)
        case Classes():
            both = ["index", "probabilities"]
            expect(
                sorted(fields) == both, f"{name}: expected decoded classes as index and probabilities, found {fields}"
            )
            _check_classes(name, decoded["index"], decoded["probabilities"], task.target.outputs(), n)
        case LabelSets():
            both = ["probabilities", "set"]
            expect(sorted(fields) == both, f"{name}: expected decoded labels as set and probabilities, found {fields}")
            _check_sets(name, decoded["set"], decoded["probabilities"], (n, task.target.outputs()))


def _check_scores(name: str, values: Tensor, target: Score, n: int) -> None:
    low, high = target.range
    expect(values.shape == (n,), f"{name}: expected decoded scores ({n},), found {tuple(values.shape)}")
    expect(
        values.is_floating_point() and bool(((values >= low) & (values <= high)).all()),
        f"{name}: expected decoded scores from {low} to {high}, found {numbers(values)}",
    )


def _check_classes(name: str, index: Tensor, probabilities: Tensor, classes: int, n: int) -> None:
    expect(index.shape == (n,), f"{name}: expected decoded classes ({n},), found {tuple(index.shape)}")
    expect(
        index.dtype == torch.int64 and bool(((index >= 0) & (index < classes)).all()),
        f"{name}: expected decoded class indices from 0 to {classes - 1} (int64), found {index.dtype} {numbers(index)}",
    )
    expect(
        probabilities.shape == (n, classes),
        f"{name}: expected probabilities ({n}, {classes}), found {tuple(probabilities.shape)}",
    )
    sums = probabilities.double().sum(-1)
    expect(
        bool((probabilities >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()),
        f"{name}: expected probabilities that sum to 1 in each row, found sums {numbers(sums)}",
    )


def _check_sets(name: str, sets: Tensor, probabilities: Tensor, shape: tuple[int, int]) -> None:
    for field, tensor in (("set", sets), ("probabilities", probabilities)):
        expect(tensor.shape == shape, f"{name}: expected {field} {shape}, found {tuple(tensor.shape)}")
        within = bool(((tensor >= 0) & (tensor <= 1)).all())
        expect(within, f"{name}: expected {field} from 0 to 1, found {numbers(tensor)}")
    agrees = torch.equal(sets.bool(), probabilities >= 0.5)
    expect(
        agrees,
        f"{name}: expected the labels with a probability of 0.5 or more, see Target.decide; found {numbers(sets)}",
    )
