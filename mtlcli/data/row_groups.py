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


def reasons_apart(
    tasks: Sequence[LoadedTask], sizes: Sequence[int], own_order: Sequence[bool], groups: Sequence[int | None]
) -> list[str]:
    """Return why tasks that read the same texts of the same file are in different groups, a sentence for each such task."""
    of_files: dict[tuple[object, ...], list[int]] = {}
    for index, task in enumerate(tasks):
        split = task.splits["train"]
        where = None if split.source.where is None else split.source.where.describe()
        of_files.setdefault((split.source.name, where, split.columns.texts), []).append(index)
    sentences = []
    for indices in of_files.values():
        # Compare with a task that shares its rows with others, if there is one.
        first = next((index for index in indices if groups[index] is not None), indices[0])
        for index in indices:
            if index == first or (groups[first] is not None and groups[index] == groups[first]):
                continue
            pair = (first, index)
            names = [tasks[member].task.name for member in pair]
            splits = [tasks[member].splits["train"] for member in pair]
            if unordered := [name for name, member in zip(names, pair, strict=True) if own_order[member]]:
                reason = f"the rows of {' and '.join(unordered)} come in an order that depends on the labels"
            elif splits[0].encoding != splits[1].encoding:
                reason = "they encode the texts differently"
            elif splits[0].texts_digest != splits[1].texts_digest:
                reason = f"they train on different rows ({len(splits[0]):,} and {len(splits[1]):,})"
            else:
                reason = f"their batches have different sizes ({sizes[first]} and {sizes[index]})"
            sentences.append(
                f"{' and '.join(names)} read {splits[0].source.name}, but share no pass of the encoder: {reason}"
            )
    return sentences
