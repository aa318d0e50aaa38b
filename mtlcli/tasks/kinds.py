"""Kinds of tasks for a user's own files: columns and labels come from the configuration or from the file."""

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes, Score


class Classification(Task):
    """Classify one text."""

    target = Classes()
    heads = {"single": "linear"}
    metrics = ("accuracy", "macro-f1")


class Regression(Task):
    """Predict a score of one text."""

    target = Score()
    heads = {"single": "linear"}
    metrics = ("pearson", "spearman", "mean-squared-error")


class PairClassification(Task):
    """Classify a pair of texts. Both texts are encoded as one sequence, unless set to `bi`."""

    pair = True
    target = Classes()
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = ("accuracy", "macro-f1")


class PairRegression(Task):
    """Predict a score of a pair of texts. Each text is encoded alone, unless set to `cross`."""

    pair = True
    target = Score()
    heads = {"bi": "cosine", "cross": "linear"}
    metrics = ("pearson", "spearman", "mean-squared-error")
