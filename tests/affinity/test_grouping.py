"""Groups of tasks: a case by hand, brute force, ties, and how stable a choice is."""

from itertools import combinations

import numpy as np
import pytest

from mtlcli.affinity.grouping import draw_affinities, group_tasks, stability, value_of
from mtlcli.errors import MtlError

BY_HAND = np.array([[0, 0.5, -0.2, 0.1], [0.4, 0, -0.3, 0], [0.3, 0.1, 0, 0.2], [-0.1, 0, 0.6, 0]])


def test_four_tasks_by_hand():
    # all four: task 0 (.4 + .3 - .1) / 3, task 1 .6 / 3, task 2 .1 / 3, task 3 .3 / 3: 1.6 / 3
    assert group_tasks(BY_HAND, 1).value == pytest.approx(1.6 / 3)
    two = group_tasks(BY_HAND, 2)
    assert two.groups == ((0, 1), (2, 3))
    assert two.value == pytest.approx(0.5 + 0.4 + 0.2 + 0.6)
    assert group_tasks(BY_HAND, 3).groups == two.groups


def brute_force(affinity, models):
    """The best value of any choice of groups that hold every task."""
    k = len(affinity)
    groups = [group for size in range(1, k + 1) for group in combinations(range(k), size)]
    best = -np.inf
    for count in range(1, models + 1):
        for chosen in combinations(groups, count):
            if set().union(*chosen) == set(range(k)):
                best = max(best, value_of(affinity, chosen))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_search_finds_what_brute_force_finds(seed):
    generator = np.random.default_rng(seed)
    k = 4 if seed % 2 else 5
    models = 1 + seed % 3 if k == 4 else 1 + seed % 2
    affinity = generator.standard_normal((k, k))
    found = group_tasks(affinity, models)
    assert found.value == pytest.approx(brute_force(affinity, models))
    assert found.value == pytest.approx(value_of(affinity, found.groups))
    assert sorted(task for part in found.served for task in part) == list(range(k))
    assert len(found.groups) <= models


def test_a_task_that_others_harm_stands_alone():
    affinity = np.array([[0.0, 1.0, -1.0], [1.0, 0.0, -1.0], [-1.0, -1.0, 0.0]])
    assert set(group_tasks(affinity, 2).groups) == {(0, 1), (2,)}


def test_a_task_may_sit_in_a_group_only_to_help():
    # 2 helps 0 and 1 much and is harmed by both, so it is served alone
    affinity = np.array([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [2.0, 2.0, 0.0]])
    found = group_tasks(affinity, 3)
    assert (2,) in found.served
    assert all(2 in group for group in found.groups)
    assert found.value == pytest.approx(4.0)


def test_equal_values_give_the_fewest_groups_with_the_fewest_members():
    assert group_tasks(np.zeros((3, 3)), 3).groups == ((0, 1, 2),)
    # Two pairs that help each other, and nothing between them: a third model changes nothing.
    affinity = np.zeros((4, 4))
    affinity[0, 1] = affinity[1, 0] = affinity[2, 3] = affinity[3, 2] = 1.0
    assert group_tasks(affinity, 4).groups == ((0, 1), (2, 3))


def test_an_unknown_affinity_counts_as_none():
    affinity = np.array([[0.0, np.nan], [1.0, 0.0]])
    assert group_tasks(affinity, 2).value == pytest.approx(1.0)


def test_more_than_twelve_tasks_are_refused():
    with pytest.raises(MtlError, match="13 tasks: the search for groups is exact up to 12"):
        group_tasks(np.zeros((13, 13)), 2)


def test_certain_affinities_always_give_the_same_groups_and_uncertain_ones_do_not():
    found = group_tasks(BY_HAND, 2)
    sure = draw_affinities(BY_HAND, BY_HAND - 0.01, BY_HAND + 0.01, seed=1, draws=30)
    assert stability(sure, 2, found).share == 1.0
    assert stability(sure, 2, found).together[0, 1] == 1.0
    unsure = draw_affinities(BY_HAND, BY_HAND - 3, BY_HAND + 3, seed=1, draws=30)
    assert stability(unsure, 2, found).share < 0.5
    # 95 % of a normal distribution lie within 1.96 standard deviations
    spread = np.std(
        np.array(draw_affinities(np.zeros((2, 2)), -1.96 * np.ones((2, 2)), 1.96 * np.ones((2, 2)), seed=2, draws=2000))
    )
    assert spread == pytest.approx(1.0, abs=0.05)
