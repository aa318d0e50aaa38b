"""What a task can predict: every target by name, and targets as run.json stores them."""

from collections.abc import Mapping
from typing import Any

from mtlcli.tasks.answers import Answers
from mtlcli.tasks.choices import Choices
from mtlcli.tasks.classes import UNSEEN, Classes
from mtlcli.tasks.distributions import Distributions
from mtlcli.tasks.label_sets import LabelSets
from mtlcli.tasks.no_label import NoLabel
from mtlcli.tasks.ragged import Arrays, Ragged, Tensors, concat
from mtlcli.tasks.ranks import Ranks
from mtlcli.tasks.score import Score
from mtlcli.tasks.tags import Tags
from mtlcli.tasks.target_base import BadLabel, Raw, Target

__all__ = [
    "UNSEEN", "Answers", "Arrays", "BadLabel", "Choices", "Classes", "Distributions", "LabelSets", "Ragged", "Ranks", "Raw",
    "Score", "Tags", "Target", "Tensors", "concat", "target_of",
]  # fmt: skip

KINDS: dict[str, type[Target]] = {
    member.kind: member for member in (Answers, Choices, Classes, Distributions, LabelSets, NoLabel, Ranks, Score, Tags)
}


def target_of(record: Mapping[str, Any]) -> Target:
    """Return the target that gave this record.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the record is damaged, or of a kind that this version does not have.
    """
    return KINDS[record["kind"]].of(record)
