"""The contract of heads that predict the words of a text."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mtlcli.errors import MtlError
from mtlcli.facts import TaskFacts
from mtlcli.heads.base import EncoderOutput, Head, HeadFacts
from mtlcli.tasks.items import Items
from mtlcli.tasks.tags import Tags
from mtlcli.testing.class_options import check_class_options
from mtlcli.testing.common import DIM, close, expect, finite, gold_of, numbers, unknown_gold

NAMES = TaskFacts("names", rows=200, batches=13, target=Tags(("O", "B-A", "I-A", "B-B", "I-B"), "bio"))
SPEECH = TaskFacts("speech", rows=200, batches=13, target=Tags(("noun", "verb", "other"), "plain"))


def check_word_head(plugin: type[Head], make_head: Callable[[HeadFacts], Head]) -> None:
    """Check a head for words with tags of spans and with plain ones, see `check_head`."""
    declined = []
    for task in (NAMES, SPEECH):
        facts = HeadFacts(task, DIM, 1)
        try:
            head = make_head(facts)
        except MtlError as error:
            declined.append(f"{task.name}: {error}")
            continue
        _check(head, partial(make_head, facts), task)
        name, gold = f"{plugin.__name__} for {task.name}", gold_of(task)
        if gold.starts is not None:
            output = head.eval()((encoding_of(gold.starts.diff().tolist()),)).detach()
            check_class_options(name, head, make_head, facts, output, gold)
    expect(len(declined) < 2, f"{plugin.__name__} declines every kind of task: {declined}")


def encoding_of(lengths: Sequence[int], seed: int = 0) -> EncoderOutput:
    """Return random vectors of rows with this many words, each of two tokens behind one that is no word."""
    random = torch.Generator().manual_seed(seed)
    count, longest = sum(lengths), 2 + 2 * max(lengths)
    tokens = torch.randn(len(lengths), longest, DIM, generator=random).requires_grad_()
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    first = 1 + 2 * (torch.arange(count) - starts[:-1].repeat_interleave(torch.tensor(lengths)))
    items = Items(starts, sequence, first, first + 1, torch.arange(len(lengths) + 1))
    mask = torch.arange(longest)[None] < 2 + 2 * torch.tensor(lengths)[:, None]
    return EncoderOutput(tokens, mask, tokens[:, 0], (), items)


def _check(head: Head, make: Callable[[], Head], task: TaskFacts) -> None:
    name = f"{type(head).__name__} for {task.name}"
    gold = gold_of(task)
    lengths = [int(length) for length in gold.starts.diff()] if gold.starts is not None else [1] * 4
    encoding, words = encoding_of(lengths), sum(lengths)
    head.train()
    output = head((encoding,))
    expect(
        isinstance(output, Tensor) and output.shape[:1] == (words,),
        f"{name}: expected an output ({words}, ...), one for each word; found {tuple(getattr(output, 'shape', ()))}",
    )
    head.eval()
    output = head((encoding,))
    loss = head.loss(output, gold)
    expect(
        loss.shape == (len(lengths),) and loss.dtype == torch.float32 and finite(loss),
        f"{name}: expected finite losses ({len(lengths)},) float32, one for each row; found {loss.dtype} {numbers(loss)}",
    )
    parameters = dict(head.named_parameters())
    gradients = torch.autograd.grad(loss.sum(), [encoding.tokens, *parameters.values()], allow_unused=True)
    for key, gradient in zip(("the encoding", *parameters), gradients, strict=True):
        reached = gradient is not None and finite(gradient) and bool(gradient.any())
        expect(reached, f"{name}: the loss does not depend on {key}, or its gradient is not finite")
    with torch.inference_mode():
        _check_in_use(name, head, make, task, encoding, lengths)


def _check_in_use(
    name: str, head: Head, make: Callable[[], Head], task: TaskFacts, encoding: EncoderOutput, lengths: Sequence[int]
) -> None:
    """Check unknown labels, decoding, a row alone, and a copy with the same state."""
    output = head((encoding,))
    # A row without a label has no words in the labels, so the output for its only word is left out.
    masked = head.loss(head((encoding_of([1, *lengths[1:]]),))[1:], unknown_gold(task))
    expect(float(masked[0]) == 0 and finite(masked), f"{name}: expected a loss of 0 for a row without labels: {masked}")
    # Large outputs saturate the softmax, and still have to decode.
    for scale in (1.0, 1e4):
        decoded = head.decode(output * scale, encoding.items)
        expect(
            sorted(decoded.fields) == ["probabilities", "tag"] and decoded.starts is not None,
            f"{name}: expected the tag and the probabilities of each word with the starts of rows, found {list(decoded.fields)}",
        )
        tags, probabilities = decoded["tag"], decoded["probabilities"]
        expect(
            tags.shape == (sum(lengths),) and bool(((tags >= 0) & (tags < task.target.outputs())).all()),
            f"{name}: expected tags from 0 to {task.target.outputs() - 1} for {sum(lengths)} words, found {numbers(tags)}",
        )
        sums = probabilities.double().sum(-1)
        expect(
            bool(((sums - 1).abs() < 1e-4).all()),
            f"{name}: expected probabilities that sum to 1, found {numbers(sums)}",
        )
    last = lengths[-1]
    alone = EncoderOutput(
        encoding.tokens[-1:], encoding.mask[-1:], encoding.pooled[-1:], (),
        Items(
            torch.tensor([0, last]), torch.zeros(last, dtype=torch.int64), 1 + 2 * torch.arange(last), 2 + 2 * torch.arange(last),
            torch.tensor([0, 1]),
        ),
    )  # fmt: skip
    expect(close(head((alone,)), output[-last:], 1e-4), f"{name}: the output of a row depends on other rows")
    copy = make().eval()
    copy.load_state_dict(head.state_dict())
    same = torch.equal(copy((encoding,)), output)
    expect(same, f"{name}: expected a copy with the same state to give the same output")
