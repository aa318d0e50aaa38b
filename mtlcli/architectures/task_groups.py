"""Branches of groups of tasks above a common trunk: Caruana, Machine Learning 28, 1997, and section 2.1.1 of the survey of Chen, Zhang and
Yang, arXiv 2109.09138."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from mtlcli.architectures.base import Architecture, ArchitectureFacts, HiddenStates, Inputs, Part, run_encoder
from mtlcli.architectures.hierarchy import check_names
from mtlcli.architectures.hooks import replaced
from mtlcli.architectures.layers import distinct_blocks
from mtlcli.errors import MtlError, suggest
from mtlcli.tasks.targets import Target

Groups = Annotated[
    dict[str, list[str]] | None,
    Field(
        description="tasks of each group, such as {one: [sst], two: [quora, sts]}; the default is a group for each task"
    ),
]
Depth = Annotated[
    int | dict[str, int] | None,
    Field(description="layers of the trunk, for all groups or for each; the default is all but two, but at least half"),
]


class TaskGroups(Architecture):
    """Share the lower layers of the encoder among all tasks, and give every group of tasks its own copy of the upper ones.

    ``H^j = layer_j(H^{j-1})`` for j up to the depth k of the trunk, ``H_g^j = layer_j^g(H_g^{j-1})`` for j = k + 1 to N in group g. All
    branches start from the pretrained layers, so that the states before step 1 are the encoder's. With k = N this is hard sharing, with
    k = 0 only the embeddings are shared, as everything outside the layers always is: the last norm of encoders that have one after their
    layers, and a table of relative positions.

    The first group of several tasks keeps the encoder's own layers, so a run folder's `encoder/` is that of this group; without such a
    group the first one keeps them, and gradient methods treat them as shared, although only its task has gradients there. A batch costs
    one pass. Tasks share a pass with those of their group.

    Parameters of a further group: those of its N - k layers, 3,548,928 for two of MiniLM.

    The survey's formulas were read, not Caruana's text; the default depth is a choice made here.
    """

    def __init__(self, facts: ArchitectureFacts, *, groups: Groups = None, depth: Depth = None) -> None:
        super().__init__()
        # Again here, because an instance can be made without a configuration.
        self.check_tasks({"groups": groups, "depth": depth}, dict.fromkeys(facts.names))
        self.encoder, self.names = facts.encoder, facts.names
        self.blocks = distinct_blocks(facts.encoder)
        members = _groups(groups, facts.names)
        # The encoder can hold no layers of a single task, so it serves a group of several if there is one.
        order = sorted(members, key=lambda group: len(members[group]) == 1)
        self.depths = {group: self._depth(depth, group) for group in order}
        self.members = {group: tuple(map(facts.names.index, members[group])) for group in order}
        self.group_of = {task: group for group, tasks in self.members.items() for task in tasks}
        self.main = order[0]
        self.branches = nn.ModuleDict()
        for group in order[1:]:
            if self.depths[group] < len(self.blocks):
                self.branches[f"for_{group}"] = self._branch(self.blocks[self.depths[group] :])

    def _depth(self, depth: int | dict[str, int] | None, group: str) -> int:
        """Return how many layers of the trunk a group uses."""
        layers = len(self.blocks)
        depth_of_group = depth.get(group) if isinstance(depth, dict) else depth
        if depth_of_group is None:
            # The second value counts for encoders of one or two layers.
            return max(layers - 2, layers // 2)
        if not 0 <= depth_of_group <= layers:
            raise MtlError(
                f"architecture.depth: found {depth_of_group}; expected 0 to {layers}, the number of layers of this encoder"
            )
        return depth_of_group

    def _branch(self, names: tuple[str, ...]) -> nn.ModuleDict:
        """Return copies of layers, named as in the encoder, so that `freeze: layer.4` and methods for each layer find them."""
        stack = names[0].split(".")[-2]
        numbered = {name.split(".")[-1]: deepcopy(self.encoder.get_submodule(name)) for name in names}
        return nn.ModuleDict({stack: nn.ModuleDict(numbered)})

    def _own_blocks(self, task: int) -> dict[str, nn.Module]:
        """Return the layers of a task's group that take the place of the encoder's, by their names in the encoder."""
        group = self.group_of[task]
        if f"for_{group}" not in self.branches:
            return {}
        # A branch holds one module, named as the encoder's list of layers.
        (blocks,) = self.branches[f"for_{group}"].values()  # type: ignore[operator]
        return dict(zip(self.blocks[self.depths[group] :], blocks.values(), strict=True))

    def states(self, task: int, inputs: Inputs) -> HiddenStates:
        """Return the states of the trunk and the branch of the task's group."""
        blocks = self._own_blocks(task)
        # The encoder's own code runs the branch, so masks, positions and the last norm need no other code.
        with replaced(self.encoder, {name: block.forward for name, block in blocks.items()}):
            return run_encoder(self.encoder, inputs)

    def parts(self) -> dict[str, Part]:
        """Return one part per branch, and one per layer of the encoder that not all tasks use."""
        parts = {
            f"branches.for_{group}": Part(tasks)
            for group, tasks in self.members.items()
            if f"for_{group}" in self.branches
        }
        for index, name in enumerate(self.blocks):
            users = [group for group in self.members if group == self.main or self.depths[group] > index]
            tasks = tuple(sorted(task for group in users for task in self.members[group]))
            # A layer that one task alone uses stays shared, because no part of the encoder can be private.
            if 1 < len(tasks) < len(self.group_of):
                parts[f"encoder.{name}"] = Part(tasks)
        return parts

    def below(self) -> tuple[nn.Module, ...]:
        """Return the encoder and all branches."""
        return (self,)

    def encoders(self) -> tuple[nn.Module, ...]:
        """Return the encoder and all branches."""
        return (self,)

    def merged(self, task: int | None) -> nn.Module:
        """Return the encoder of the task's group."""
        if task is None:
            if self.branches:
                raise MtlError("has one encoder per group of tasks; export one task")
            return self.encoder
        blocks = self._own_blocks(task)
        if not blocks:
            return self.encoder
        merged = deepcopy(self.encoder)
        for name, block in blocks.items():
            # Weights are copied, not modules, so that the merged encoder shares nothing with the run.
            merged.get_submodule(name).load_state_dict(block.state_dict())
        return merged

    def notes(self) -> list[str]:
        """Return who shares what."""
        groups = ", ".join(
            f"{group} ({', '.join(self.names[task] for task in tasks)}) {len(self.blocks) - self.depths[group]}"
            for group, tasks in self.members.items()
        )
        return [f"layers of each group's own, of {len(self.blocks)}: {groups}; encoder/ holds those of {self.main}"]

    @classmethod
    def check_tasks(cls, options: Mapping[str, Any], readable: Mapping[str, Target | None]) -> None:
        """Check that every task of the run is in one group, and that `depth` names groups."""
        groups, depth = options.get("groups"), options.get("depth")
        if groups is not None:
            check_names([name for tasks in groups.values() for name in tasks], list(readable), "groups")
            listed = {name for tasks in groups.values() for name in tasks}
            if missing := [name for name in readable if name not in listed]:
                raise MtlError(
                    f'architecture.groups: "{missing[0]}" is in no group; put every task of the run into one'
                )
        for group, tasks in (groups or {}).items():
            if not tasks:
                raise MtlError(f'architecture.groups: "{group}" has no tasks; leave it out')
            # The name of a group becomes that of a module, in which a dot separates levels.
            if not group or "." in group:
                raise MtlError(f'architecture.groups: found the name "{group}"; expected one without a dot')
        if isinstance(depth, dict):
            members = _groups(groups, tuple(readable))
            if unknown := [group for group in depth if group not in members]:
                raise MtlError(f'architecture.depth: no group "{unknown[0]}"{suggest(unknown[0], list(members))}')


def _groups(groups: Mapping[str, list[str]] | None, names: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return the tasks of each group; by default a group for each task."""
    return {name: [name] for name in names} if groups is None else groups
