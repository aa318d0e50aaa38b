"""Decide when scores are constant: when they differ by no more than the rounding of the model that predicted them."""

import numpy as np

from mtlcli.facts import TaskFacts
from mtlcli.tasks.targets import Arrays, Score

FLOAT32_EPSILON, BFLOAT16_EPSILON = 2.0**-23, 2.0**-7
FLOAT32_STEPS = 16
"""Times FLOAT32_EPSILON: how far two outputs for one text may be apart. A head's output has a standard deviation of about 1, so its
rounding is absolute and not relative to the output. Measured with MiniLM in batches of 2 to 33 equal texts, with and without AVX2:
1.1 at most. A difference between two texts that means anything is larger by a factor of a thousand."""
BFLOAT16_STEPS = 2
"""Times BFLOAT16_EPSILON and the output's size: bf16 rounds the output itself, relative to its size."""


def rounding(task: TaskFacts, extremes: np.ndarray, precision: str = "fp32") -> np.ndarray:
    """Return the largest difference that rounding alone explains, in units of the data.

    Args:
        task: the mean and standard deviation of its target are the zero and the unit of a head's output.
        extremes: the lowest and the highest score, shape (2, b).
        precision: `fp32` or `bf16`, what the model predicts in.

    Returns:
        Tolerances, shape (b,).
    """
    # Heads standardize scores by these two; another kind of target has no such unit.
    mean, std = (task.target.mean, task.target.std) if isinstance(task.target, Score) else (0.0, 1.0)
    tolerance = np.full(extremes.shape[1], FLOAT32_STEPS * FLOAT32_EPSILON * std)
    if precision == "bf16":
        tolerance += BFLOAT16_STEPS * BFLOAT16_EPSILON * np.abs(extremes - mean).max(axis=0)
    return tolerance


def are_constant(scores: np.ndarray, counts: np.ndarray, task: TaskFacts, precision: str = "fp32") -> np.ndarray:
    """Say of each resample whether its scores are equal within the rounding of the model.

    Two equal texts can get predictions that differ in the last bits: a matrix product may add in another order in another row of
    a batch, by the CPU's instructions or the GPU. A correlation of that difference is 1 or -1 and means nothing. Targets are read
    from a file without rounding; the same tolerance is far below what a label's decimals can express.

    Args:
        scores: predictions or targets, float64, in units of the data, shape (n,).
        counts: how often each resample holds each row, shape (b, n).
        task: the task of the scores.
        precision: `fp32` or `bf16`, what the model predicts in.

    Returns:
        Booleans, shape (b,).
    """
    order = np.argsort(scores, kind="stable")
    ascending, drawn = scores[order], (counts > 0).take(order, axis=1)
    # For a bool array, argmax is the first True: the lowest drawn score, and from the other end the highest one.
    lowest = ascending[drawn.argmax(axis=1)]
    highest = ascending[len(scores) - 1 - drawn[:, ::-1].argmax(axis=1)]
    return highest - lowest <= rounding(task, np.stack([lowest, highest]), precision)


def answers(rows: Arrays) -> list[np.ndarray]:
    """Return the fields that hold the answers: a number of each item, or whole numbers; probabilities (m, C) led to them.

    Where there are no such fields, as in labels that are distributions, all are the answers.
    """
    fields = list(rows.fields.values())
    return [array for array in fields if array.ndim == 1 or np.issubdtype(array.dtype, np.integer)] or fields


def is_constant(rows: Arrays, task: TaskFacts, precision: str = "fp32") -> bool:
    """Return True if all predictions or labels of n rows are equal: scores within rounding, everything else exactly."""
    if isinstance(task.target, Score):
        ones = np.ones((1, len(rows)), dtype=np.int64)
        return all(bool(are_constant(array, ones, task, precision)[0]) for array in answers(rows))
    # The slice keeps an axis to compare with, and works for an array without rows.
    return all(bool((array == array[:1]).all()) for array in answers(rows))


def without_rounding(rows: Arrays, task: TaskFacts, precision: str = "fp32") -> Arrays:
    """Return scores that are constant within rounding as equal numbers; all other predictions as they are."""
    if isinstance(task.target, Score) and is_constant(rows, task, precision):
        return rows.take(np.zeros(len(rows), dtype=np.int64))
    return rows
