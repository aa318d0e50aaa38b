"""Unlabeled texts, for architectures that add a loss."""

from mtlcli.tasks.base import Task
from mtlcli.tasks.no_label import NoLabel


class Unlabeled(Task):
    """Texts without labels, such as those of the target domain of the architecture `domain-adversarial`.

    The task is auxiliary: it has no metric, is not evaluated and predicts nothing. Labels in its files are ignored.
    """

    target = NoLabel()
    heads = {"single": "none"}
    metrics = ()


class PairUnlabeled(Task):
    """Pairs of texts without labels. Both texts are encoded as one sequence, unless set to `bi`."""

    pair = True
    target = NoLabel()
    heads = {"cross": "none", "bi": "none"}
    metrics = ()
