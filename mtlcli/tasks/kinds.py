"""Kinds for a user's own files: the columns and labels come from the configuration or from the file."""

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes, Score


class Classification(Task):
    """One text, one of several classes."""

    target = Classes()
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")


class Regression(Task):
    """One text, a score."""

    target = Score()
    heads = {"single": "linear"}
    metrics = ("pearson", "spearman", "mean-squared-error")


class PairClassification(Task):
    """Two texts, one of several classes. Both texts in one sequence, unless set to `bi`."""

    pair = True
    target = Classes()
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = ("accuracy", "macro-f1")


class PairRegression(Task):
    """Two texts, a score. Each text alone through the encoder, unless set to `cross`."""

    pair = True
    target = Score()
    heads = {"bi": "cosine", "cross": "linear"}
    metrics = ("pearson", "spearman", "mean-squared-error")
