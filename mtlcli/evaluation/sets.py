"""Combine the evaluation sets of a task: the mean of every metric over them."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from mtlcli.config.evaluation_sets import kind_of
from mtlcli.statistics.bootstrap import Estimate, mean_estimate
from mtlcli.statistics.groups import RowGroups


def with_means(
    by_split: Mapping[str, Mapping[str, Estimate]], groups: Mapping[str, RowGroups | None], selecting: Collection[str]
) -> dict[str, dict[str, Estimate]]:
    """Return the metrics of a task's splits, and behind those of its sets their mean, under the name of the kind of split.

    The mean over dev sets is that of the sets that select checkpoints. There is none if one of these was not evaluated.

    Args:
        by_split: estimates by split, such as `dev.matched`, and metric.
        groups: groups of the rows of each split.
        selecting: the dev splits that select checkpoints.
    """
    results: dict[str, dict[str, Estimate]] = {}
    for kind in dict.fromkeys(map(kind_of, by_split)):
        results |= {split: dict(metrics) for split, metrics in by_split.items() if kind_of(split) == kind}
        splits = [split for split in (selecting if kind == "dev" else by_split) if kind_of(split) == kind]
        # A split without sets has no mean, and one over some of the selecting sets would differ from training.
        if kind in by_split or not all(split in by_split for split in splits):
            continue
        names = [groups_of_split.names if groups_of_split else () for groups_of_split in map(groups.get, splits)]
        # The names are sorted, so equal names have equal codes. Groups without a name cannot be matched.
        same_groups = bool(names[0]) and "" not in names[0] and len(set(names)) == 1
        results[kind] = {
            metric: mean_estimate(
                {split.partition(".")[2]: by_split[split][metric] for split in splits}, same_groups=same_groups
            )
            for metric in by_split[splits[0]]
        }
    return results


def mean_values(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every metric over sets. A number that is not finite, a loss without known labels, is left out."""
    means = {}
    for metric in values[0]:
        finite = [of_set[metric] for of_set in values if math.isfinite(of_set[metric])]
        means[metric] = fmean(finite) if finite else math.nan
    return means
