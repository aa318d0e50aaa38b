"""The contract of heads that read items other than words: choices, marked spans, places of answers."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.tasks.answers import Answers
from mtlcli.tasks.choices import Choices
from mtlcli.tasks.items import Items
from mtlcli.testing.class_options import check_class_options
from mtlcli.testing.common import (
    DIM,
    GRADES,
    SCORES,
    close,
    expect,
    finite,
    gold_of,
    items_for,
    numbers,
    unknown_gold,
)

CHOICES = TaskFacts("choices", rows=200, batches=13, target=Choices("number", 0, 0.9))
QUESTIONS = TaskFacts("questions", rows=200, batches=13, target=Answers(0.0, log_places=2.0))
TASKS = {"choices": (CHOICES,), "spans": (QUESTIONS,), "marked": (GRADES, SCORES)}
"""The tasks with which heads of these items are checked."""
FIELDS = {
    "choice": {"chosen", "probabilities"}, "answers": {"start", "end", "score"}, "classes": {"index", "probabilities"},
    "score": {"value"},
}  # fmt: skip
"""What a head predicts of each kind of target."""


def check_item_head(plugin: type[Head], make_head: Callable[[HeadFacts], Head]) -> None:
    """Check a head for the items that it names, see `check_head`."""
    expect(
        plugin.items in TASKS,
        f"{plugin.__name__}.items: expected words, {', '.join(TASKS)} or nothing, found {plugin.items!r}",
    )
    declined = []
    for task in TASKS[plugin.items]:
        facts = HeadFacts(task, DIM, 1)

        def make(facts: HeadFacts = facts) -> Head:
            with torch.random.fork_rng(devices=[]):
                return make_head(facts)

        try:
            head = make()
        except MtlError as error:
            declined.append(f"{task.name}: {error}")
            continue
        encoding = encoding_for(plugin.items, task)
        _check(head, make, task, encoding)
        # The only one of these tasks with classes.
        if task is GRADES:
            name, output = f"{plugin.__name__} for {task.name}", head.eval()((encoding,)).detach()
            check_class_options(name, head, make, facts, output, gold_of(task))
    expect(len(declined) < len(TASKS[plugin.items]), f"{plugin.__name__} declines every kind of task: {declined}")


def encoding_for(kind: str, task: TaskFacts, n: int = 4) -> EncoderOutput:
    """Return random vectors of n rows with the items of a kind, as many as the task's made-up labels have."""
    gold = task.target.examples(n)
    if kind == "spans":
        items = items_for(task.target, gold)
        if items is None:
            raise ValueError("no places for answers")
        # One position more than the last place, for padding.
        sequences, length = n, int(items.first.max()) + 2
    elif kind == "choices":
        starts = torch.from_numpy(gold.starts).clone()
        sequences, length = int(starts[-1]), 6
        numbers_of = torch.arange(sequences)
        items = Items(starts, numbers_of, torch.zeros_like(numbers_of), torch.full_like(numbers_of, 3), starts)
    else:
        sequences, length = n, 6
        first = torch.tensor([1, 3]).repeat(n)
        starts = 2 * torch.arange(n + 1)
        items = Items(starts, torch.arange(n).repeat_interleave(2), first, first + 1, torch.arange(n + 1))
    random = torch.Generator().manual_seed(n)
    tokens = torch.randn(sequences, length, DIM, generator=random).requires_grad_()
    mask = torch.ones(sequences, length, dtype=torch.bool)
    # One position of padding, behind all items.
    mask[0, -1] = False
    return EncoderOutput(tokens, mask, tokens[:, 0], (), items)


def _check(head: Head, make: Callable[[], Head], task: TaskFacts, encoding: EncoderOutput) -> None:
    name, gold, n = f"{type(head).__name__} for {task.name}", gold_of(task), 4
    head.train()
    # Losses are float32 under autocast, too.
    for cast in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=cast == torch.bfloat16):
            output = head((encoding,))
            loss = head.loss(output, gold)
        expect(isinstance(output, Tensor), f"{name}: expected a tensor, found {output!r}")
        expect(
            loss.shape == (n,) and loss.dtype == torch.float32 and finite(loss),
            f"{name}: expected finite losses ({n},) float32, one for each row; found {loss.dtype} {numbers(loss)}",
        )
    head.eval()
    loss = head.loss(head((encoding,)), gold)
    parameters = dict(head.named_parameters())
    gradients = torch.autograd.grad(loss.sum(), [encoding.tokens, *parameters.values()], allow_unused=True)
    for key, gradient in zip(("the encoding", *parameters), gradients, strict=True):
        reached = gradient is not None and finite(gradient) and bool(gradient.any())
        expect(reached, f"{name}: the loss does not depend on {key}, or its gradient is not finite")
    with torch.inference_mode():
        _check_in_use(name, head, make, task, encoding)


def _check_in_use(name: str, head: Head, make: Callable[[], Head], task: TaskFacts, encoding: EncoderOutput) -> None:
    """Check unknown labels, decoding, and a copy with the same state."""
    output = head((encoding,))
    losses, unknown = head.loss(output, gold_of(task)), unknown_gold(task, like=gold_of(task))
    masked = head.loss(output, unknown)
    expect(
        float(masked[0]) == 0 and close(masked[1:], losses[1:]),
        f"{name}: expected a loss of 0 for the row without a label, found {numbers(masked)} instead of {numbers(losses)}",
    )
    for scale in (1.0, 1e4):
        decoded = head.decode(output * scale, encoding.items)
        expected = FIELDS[task.target.kind]
        expect(
            set(decoded.fields) == expected and len(decoded) == 4,
            f"{name}: expected {sorted(expected)} of 4 rows, found {sorted(decoded.fields)} of {len(decoded)}",
        )
        expect(
            all(bool(torch.isfinite(field.double()).all()) for field in decoded.fields.values()),
            f"{name}: expected finite predictions, found {decoded}",
        )
    # The new position is padding, so its values must not matter.
    longer = replace(
        encoding,
        tokens=torch.cat([encoding.tokens, encoding.tokens.new_ones(len(encoding.tokens), 1, DIM)], dim=1),
        mask=torch.cat([encoding.mask, encoding.mask.new_zeros(len(encoding.mask), 1)], dim=1),
    )
    expect(close(head((longer,)), output, 1e-4), f"{name}: the output depends on padding")
    copy = make().eval()
    copy.load_state_dict(head.state_dict())
    expect(
        torch.equal(copy((encoding,)), output), f"{name}: expected a copy with the same state to give the same output"
    )
