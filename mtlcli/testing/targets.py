"""The contract of targets."""

import json

import numpy as np
import torch

from mtlcli.tasks.targets import Arrays, Target, Tensors, concat
from mtlcli.testing.common import expect, items_for


def check_target(target: Target) -> None:
    """Check a fitted target on made-up labels, and on predictions that are right about them.

    - it survives run.json, and labels and predictions survive predictions/*.jsonl;
    - rows can be permuted and restored, split and joined; an empty split and a single row work too;
    - a batch consists of finite tensors, and a row with an unknown label has no units;
    - the average of one vote, or of the same vote twice, is that vote; the order of votes is irrelevant;
    - the divergence of two equal outputs is 0; the soft loss of a teacher that is certain equals the loss of its labels;
    - what other tasks read of an output has `feature_size` numbers for each item;
    - an uncertainty lies between 0 and 1, and cells are those that `cells` names;
    - if it has classes (`class_matches`), labels that serve as predictions are all right.
    """
    name, n = type(target).__qualname__, 7
    gold = target.examples(n)
    perfect = target.perfect(gold)
    # Through JSON text, which turns tuples into lists and integer keys into strings.
    record = json.loads(json.dumps(target.record()))
    again = type(target).of(record)
    expect(again == target, f"{name}: record() returns {record}, which reads back as {again}")
    expect(target.agree(again) == "", f"{name}.agree: a target does not agree with itself")
    _check_rows(name, target, gold)
    _check_json(name, target, gold)
    _check_units(name, target, gold)
    _check_average(name, target, perfect)
    _check_outputs(name, target, gold, perfect)
    _check_classes(name, target, gold, perfect)
    cells = target.as_cells(perfect, 0)
    expect(
        set(cells) <= set(target.cells()), f"{name}: as_cells returns {list(cells)}, but cells returns {target.cells()}"
    )


def _equal(first: Arrays, second: Arrays) -> bool:
    """Return whether the fields that both have are equal up to rounding."""
    names = set(first.fields) & set(second.fields)
    same = all(np.allclose(first[name], second[name], rtol=1e-12, atol=1e-12, equal_nan=True) for name in names)
    return same and bool(names) and len(first) == len(second)


def _check_rows(name: str, target: Target, gold: Arrays) -> None:
    order = np.random.default_rng(0).permutation(len(gold))
    back = gold.take(order).take(np.argsort(order))
    expect(_equal(back, gold), f"{name}: rows in another order and back are {back}, expected {gold}")
    joined = concat([gold.take(slice(3)), gold.take(slice(3, None))])
    expect(_equal(joined, gold), f"{name}: rows cut and joined are {joined}, expected {gold}")
    for count in (0, 1):
        expect(len(target.examples(count)) == count, f"{name}.examples({count}): expected {count} rows")
    expect(len(target.pack([])) == 0, f"{name}.pack([]): expected no rows")


def _check_json(name: str, target: Target, gold: Arrays) -> None:
    rows = range(len(gold))
    values = json.loads(json.dumps([target.gold_json(gold, row) for row in rows]))
    expect(_equal(target.gold_from_json(values), gold), f"{name}: labels written as {values} read back as other labels")
    unknown = target.gold_from_json([None])
    expect(target.gold_json(unknown, 0) is None, f"{name}: None is read as {target.gold_json(unknown, 0)!r}")
    perfect = target.perfect(gold)
    # `exact`, because numbers for people are rounded to six digits.
    written = json.loads(json.dumps([target.as_json(perfect, row, exact=True) for row in rows]))
    same = _equal(target.from_json(written), perfect)
    expect(same, f"{name}: predictions written as {written} read back differently")


def _check_units(name: str, target: Target, gold: Arrays) -> None:
    values = [target.gold_json(gold, row) for row in range(len(gold))]
    partly = target.gold_from_json([None, *values[1:]])
    for rows in (gold, partly):
        batch = target.collate(rows, np.arange(len(rows)), items_for(target, rows))
        finite = all(bool(torch.isfinite(tensor.double()).all()) for tensor in batch.fields.values())
        expect(finite, f"{name}.collate: expected finite tensors, found {batch}")
        is_known = target.known(batch).numpy()
        expect(np.array_equal(is_known, target.known(rows)), f"{name}.known: differs between a split and its batch")
    units = target.units(partly)
    expect(units[0] == 0 and (units[1:] == target.units(gold)[1:]).all(), f"{name}.units: found {units} for {values}")


def _check_average(name: str, target: Target, gold: Arrays) -> None:
    other = gold.take(np.arange(len(gold))[::-1])
    alone, twice = (target.average([gold] * votes, [target] * votes) for votes in (1, 2))
    expect(_equal(alone, gold), f"{name}.average: one vote {gold} becomes {alone}")
    expect(_equal(twice, gold), f"{name}.average: a vote {gold} given twice becomes {twice}")
    forth, back = (target.average(votes, [target] * 3) for votes in ([gold, gold, other], [other, gold, gold]))
    expect(_equal(forth, back), f"{name}.average: depends on the order of votes: {forth} and {back}")


def _check_outputs(name: str, target: Target, gold: Arrays, perfect: Arrays) -> None:
    random = torch.Generator().manual_seed(0)
    output = torch.randn(len(gold), target.outputs(), generator=random).squeeze(-1)
    apart = target.divergence(output, output)
    expect(not bool(apart.any()), f"{name}.divergence: expected 0 for equal outputs, found {apart.tolist()}")
    if target.feature_size:  # a target may not be readable by other tasks
        features = target.as_features(output)
        expect(
            features.shape == (len(gold), target.feature_size) and features.dtype == torch.float32,
            f"{name}.as_features: expected ({len(gold)}, {target.feature_size}) float32, found {tuple(features.shape)} {features.dtype}",
        )
    soft = target.soft(perfect)
    if soft is not None:  # a target may not support distillation
        losses = target.soft_loss(_any_loss, soft.tensors())
        expected = _any_loss(target.collate(gold, np.arange(len(gold))))
        close = torch.allclose(losses.double(), expected)
        expect(close, f"{name}.soft_loss: expected the loss of the labels {expected.tolist()}, found {losses.tolist()}")
    uncertainty = target.uncertainty(target.average([perfect, perfect], [target, target]).tensors())
    if uncertainty is not None:
        within = bool(((uncertainty >= 0) & (uncertainty <= 1)).all()) and uncertainty.shape == (len(gold),)
        expect(within, f"{name}.uncertainty: expected numbers from 0 to 1, found {uncertainty.tolist()}")


def _any_loss(labels: Tensors) -> torch.Tensor:
    """Return numbers of rows (n,) that depend on every label, in place of a head's loss."""
    values = next(iter(labels.fields.values())).double()
    if labels.starts is None:
        return values
    lengths = labels.starts.diff()
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    place = torch.arange(len(values)) - labels.starts[:-1][row]
    # Weighted by place, so that the same labels in another order have another loss.
    return values.new_zeros(len(lengths)).index_add(0, row, values * (1 + place))


def _check_classes(name: str, target: Target, gold: Arrays, perfect: Arrays) -> None:
    matches = target.class_matches(perfect, gold)
    if matches is None:
        return
    parts = [matches.gold, matches.predicted, matches.right]
    for pairs in parts:
        within = len(pairs) and (pairs >= 0).all() and (pairs < [len(gold), len(matches.names)]).all()
        expect(
            pairs.ndim == 2 and pairs.shape[1] == 2 and within,
            f"{name}.class_matches: expected pairs of a row below {len(gold)} and a class below {len(matches.names)}, found "
            f"{pairs.tolist()}",
        )
    ordered = [sorted(map(tuple, pairs.tolist())) for pairs in parts]
    expect(ordered[0] == ordered[1] == ordered[2], f"{name}.class_matches: labels as predictions are not all right")
