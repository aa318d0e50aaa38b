"""Contracts for plugin authors: one function per family that checks a plugin class under the conditions of a run.

    from mtlcli.testing import check_balancer
    from mtlcli_mine import Mine

    def test_contract():
        check_balancer(Mine)
        check_balancer(Mine, temperature=0.5)

Each function takes the class and its options by keyword, and raises AssertionError with one sentence that states the expected
and the actual result. Plugins are checked in the run `RUN` with the tasks `grades` (three classes, 1000 rows), `scores` (0 to
5, 300 rows) and `pairs` (two classes, 100 rows), and in a run of `grades` alone. Heads are also checked on `TOPICS` (any of three
labels). Heads and metrics for words are checked on `NAMES` (spans of two types) and `SPEECH` (plain tags), those of choices on
`CHOICES`, those of answers on `QUESTIONS`, those of ordered classes on `RANKS`, and those of distributions on `MIXTURES`.
"""

from mtlcli.testing.architectures import check_architecture
from mtlcli.testing.balancers import check_balancer
from mtlcli.testing.common import GRADES, MIXTURES, PAIRS, RANKS, RUN, SCORES, TOPICS
from mtlcli.testing.encoders import check_encoder
from mtlcli.testing.gradient_regularizers import check_gradient_regularizer
from mtlcli.testing.heads import check_head
from mtlcli.testing.item_heads import CHOICES, QUESTIONS
from mtlcli.testing.metrics import check_metric
from mtlcli.testing.regularizers import check_regularizer
from mtlcli.testing.schedulers import check_scheduler
from mtlcli.testing.targets import check_target
from mtlcli.testing.tasks import check_task
from mtlcli.testing.trackers import check_tracker
from mtlcli.testing.word_heads import NAMES, SPEECH

__all__ = [
    "CHOICES",
    "GRADES",
    "MIXTURES",
    "NAMES",
    "PAIRS",
    "QUESTIONS",
    "RANKS",
    "RUN",
    "SCORES",
    "SPEECH",
    "TOPICS",
    "check_architecture",
    "check_balancer",
    "check_encoder",
    "check_gradient_regularizer",
    "check_head",
    "check_metric",
    "check_regularizer",
    "check_scheduler",
    "check_target",
    "check_task",
    "check_tracker",
]
