"""Tasks that read the same rows, such as several label columns of one file: they share tokens, an order, and passes of the encoder."""

from collections.abc import Sequence

from mtlcli.data.splits import LoadedTask


def row_groups(tasks: Sequence[LoadedTask], sizes: Sequence[int], own_order: Sequence[bool]) -> list[int | None]:
    """Return the number of each task's group, None for a task that shares its rows with no other.

    Tasks of one group have the same texts in the same order, encode them alike, and take equally many in a batch.

    Args:
        sizes: rows in a batch of each task.
        own_order: whether a task's rows come in an order that depends on its labels, so that it cannot share another's.
    """
    members: dict[tuple[str, object, int], list[int]] = {}
    for index, (task, size) in enumerate(zip(tasks, sizes, strict=True)):
        split = task.splits["train"]
        if not own_order[index]:
            members.setdefault((split.texts_digest, split.encoding, size), []).append(index)
    groups: list[int | None] = [None] * len(tasks)
    for number, indices in enumerate(of_group for of_group in members.values() if len(of_group) > 1):
        for index in indices:
            groups[index] = number
    return groups
