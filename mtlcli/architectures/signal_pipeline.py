"""Pipelines of signals: Isonuma et al., EMNLP 2017; Maddela et al., ACL 2019."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from mtlcli.architectures.adapters import Bottleneck
from mtlcli.architectures.base import ArchitectureFacts, HiddenStates, Inputs, Part
from mtlcli.architectures.hierarchy import Detach, Hierarchical, check_names, per_text, per_token
from mtlcli.architectures.options import RateOfHeads
from mtlcli.errors import MtlError, suggest
from mtlcli.tasks.targets import Target

EPSILON = 1e-6
"""Keeps weights finite where no token has a probability: they are then equal."""


class SignalPipeline(Hierarchical):
    """Weigh the features of tasks by the probability that another task, the source, gives to one of its labels.

    With p the probability, for each token (n, length) if the source tags words, else for each text (n,):

    * ``weights``: ``Z_l = p_l / mean(p) * H_l``, the mean over the tokens of a text, so that mean pooling gives
      ``sum_l p_l H_l / sum_l p_l`` (Isonuma et al. weigh the sentences of a document); it needs a source that tags words. Poolings
      other than the mean are not weighted.
    * ``views``: ``Z = p A_1(H) + (1 - p) A_2(H)`` with ``A_i(H) = H + U_i gelu(D_i H)`` of each task (after the two feature vectors of
      Maddela et al.).

    U starts at 0, so that `views` starts with the encoder's states. p becomes ``floor + (1 - floor) p``: an untrained source gives
    arbitrary weights, which a floor or a first stage for the source alone avoids. The source itself reads H.

    Parameters: none for `weights`, ``2 (2 d m + m + d)`` for each task with `views`.

    Differences from the papers, which were read second hand: both are models of one pair of tasks, with recurrent or feature-based
    encoders.
    """

    def __init__(
        self,
        facts: ArchitectureFacts,
        *,
        source: Annotated[
            str | None,
            Field(description="the task whose probability is read; the default is the first one that can be read"),
        ] = None,
        label: Annotated[
            str | None, Field(description="its label whose probability is read; the default is the second one")
        ] = None,
        readers: Annotated[list[str] | None, Field(description="tasks that read it; the default is all others")] = None,
        form: Annotated[
            Literal["views", "weights"],
            Field(description="whether the probability mixes two views of the text, or weighs its tokens"),
        ] = "views",
        width: Annotated[
            int | None,
            Field(ge=1, description="width of the views' bottleneck; the default is that of the encoder / 4"),
        ] = None,
        floor: Annotated[float, Field(ge=0, lt=1, description="lowest probability that is read")] = 0.0,
        detach: Detach = False,
        lr: RateOfHeads = None,
    ) -> None:
        super().__init__(facts, None, detach=detach, lr=lr)
        targets = facts.readable_targets
        self.check_tasks({"source": source, "readers": readers, "form": form}, targets)
        name = _source_of(source, form, targets)
        self.form, self.floor = form, floor
        self.source = None if name is None else facts.names.index(name)
        # Not in `check_tasks`, because a target can learn its labels from the data.
        self.label = 0 if name is None else _index_of(label, name, targets)
        # Replaces the order of the base: all readers read the source, and the source reads none.
        self.lower = tuple(
            (self.source,)
            if self.source is not None and t != self.source and (readers is None or task in readers)
            else ()
            for t, task in enumerate(facts.names)
        )
        m = width or max(1, facts.width // 4)

        def views(t: int) -> nn.Module:
            if form == "weights" or not self.lower[t]:
                return nn.Identity()
            return nn.ModuleList(Bottleneck(facts.width, m, activation="gelu") for _ in range(2))

        self.views = facts.task_modules("views", views)

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check `source` and `readers`."""
        source, readers, form = options.get("source"), options.get("readers"), options.get("form", "views")
        if source is not None:
            check_names([source], list(readable), "source")
            if not _has_probabilities(readable[source]):
                raise MtlError(
                    f"architecture.source: {source} gives no probabilities for the texts of other tasks; name a task that classifies "
                    "or tags single texts"
                )
        check_names(readers or [], list(readable), "readers")
        if source is not None and source in (readers or []):
            raise MtlError(f"architecture.readers: {source} is the source; remove it")
        # A run of one task has no reader, and needs no source.
        if form == "weights" and len(readable) > 1:
            name = _source_of(source, form, readable)
            target = None if name is None else readable[name]
            if target is None or target.unit != "word":
                raise MtlError(
                    "architecture.form: weights need a source that tags words, because one probability for a whole text weighs all "
                    "its tokens alike; choose views"
                )

    def features(self, task: int, hidden: HiddenStates, inputs: Inputs) -> HiddenStates:
        """Return the states weighed by the source's probability; those of the source, and of tasks that do not read it, as they
        are."""
        if not self.lower[task] or self.source is None:
            return hidden
        numbers = self.predicted(self.source, hidden, inputs)[..., self.label].unsqueeze(-1)
        p = self.floor + (1 - self.floor) * per_token(numbers, hidden.last)
        if self.form == "weights":
            return hidden.with_last(weighted(hidden.last, p, inputs.full_mask))
        first, second = self.views.of(task)
        return hidden.with_last(hidden.last + p * first(hidden.last) + (1 - p) * second(hidden.last))

    def parts(self) -> dict[str, Part]:
        """Return one part for the views of each task."""
        parts = self.views.parts("views", lr=self.lr)
        return {name: part for name, part in parts.items() if part.tasks and self.lower[part.tasks[0]]} if (
            self.form == "views"
        ) else {}  # fmt: skip


def weighted(states: Tensor, p: Tensor, mask: Tensor) -> Tensor:
    """Return the states (n, length, dim) times p (n, length, 1) over the mean of p over the tokens of a text."""
    means = per_text(p, mask).unsqueeze(1)
    # Divided in float32, because half precision would round EPSILON away.
    return states * ((p + EPSILON) / (means + EPSILON)).to(states.dtype)


def _has_probabilities(target: Target | None) -> bool:
    """Return whether a readable target has classes, tags or labels; a target that is not fitted may not know them yet."""
    return target is not None and target.has_labels


def _source_of(source: str | None, form: str, readable: Mapping[str, Target | None]) -> str | None:
    """Return the source, by default the first task with probabilities, of words if tokens are weighed; None if there is none."""
    for name, target in readable.items():
        if source in (None, name) and target is not None and _has_probabilities(target):
            if source is None and form == "weights" and target.unit != "word":
                continue
            return name
    return None


def _index_of(label: str | None, source: str, targets: Mapping[str, Target | None]) -> int:
    """Return the index of a label of the source."""
    target = targets[source]
    labels = () if target is None else target.labels or ()
    if label is None:
        # The second of two labels is usually the positive one; a set of labels can have one alone.
        return min(1, len(labels) - 1)
    if label not in labels:
        raise MtlError(f'architecture.label: {source} has no label "{label}"{suggest(label, labels)}')
    return labels.index(label)
