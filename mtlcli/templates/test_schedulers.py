from mtlcli.schedulers.base import Position
from mtlcli.templates.schedulers import Example
from mtlcli.testing import RUN, check_scheduler


def test_contract() -> None:
    check_scheduler(Example)
    check_scheduler(Example, block=1)


def test_blocks_of_two_steps_go_round_the_three_tasks() -> None:
    scheduler = Example(RUN, block=2)
    visited = [scheduler.visits(Position(step, 8, 8))[0].task for step in range(8)]
    assert visited == [0, 0, 1, 1, 2, 2, 0, 0]
