"""Natural language inference: does the premise entail the hypothesis, contradict it, or neither?"""

from mtlcli.tasks.base import Task
from mtlcli.tasks.targets import Classes

ENTAILMENT, NEUTRAL, CONTRADICTION = "entailment", "neutral", "contradiction"
SPELLINGS = {
    ENTAILMENT: ENTAILMENT,
    NEUTRAL: NEUTRAL,
    CONTRADICTION: CONTRADICTION,
    "contradictory": CONTRADICTION,  # XNLI
    "e": ENTAILMENT,
    "n": NEUTRAL,
    "c": CONTRADICTION,
}


class NLI(Task):
    """Classify a pair of texts as entailment, neutral or contradiction.

    Labels are read by name, in any case, and never by number, since libraries and checkpoints number these classes differently; files
    with numbers need `aliases`. Rows marked `-` or -1, on which annotators did not agree, are left out.
    """

    pair = True
    target = Classes(SPELLINGS, normalize=True)
    heads = {"cross": "linear", "bi": "pair-concat"}
    metrics = ("accuracy", "macro-f1")
    no_label = ("-", "-1")
