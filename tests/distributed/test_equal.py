"""Several processes compute what one process computes on the joined batch."""

import pytest

from joint_runs import METHODS, case, distance, must_be_equal, run
from small import write_files

QUICK = ("equal", "pcgrad")


def test_two_processes_train_as_one(tmp_path):
    files = write_files(tmp_path / "files")
    cases = [case(name, files, **METHODS[name]) for name in QUICK]
    must_be_equal(run(cases, 1, tmp_path)[0], cases, 2, tmp_path)


SHARDED = ("equal", "pcgrad", "gradvac", "gradnorm", "famo", "stages", "micro-batches")
"""Methods that run with a sharded encoder too."""
OVERLAPPED = ("pcgrad", "micro-batches", "equal")
"""Methods of runs in which a row is summed while the next task is computed."""
OF_THREE = ("pcgrad", "gradvac", "stages", "entropy", "task-moe")
"""Methods that three processes run too."""


@pytest.mark.slow
def test_two_and_three_processes_train_as_one_with_every_method(tmp_path):
    # One start of the processes for all cases, because it takes longer than most of them.
    files = write_files(tmp_path / "files")
    cases = {name: case(name, files, **sections) for name, sections in METHODS.items()}
    further = [{**case(f"overlapped-{name}", files, **METHODS[name]), "overlaps": True} for name in OVERLAPPED]
    for name in SHARDED:
        training = {**METHODS[name].get("training", {}), "sharding": "full"}
        further.append(case(f"sharded-{name}", files, **{**METHODS[name], "training": training}))
    all_cases = [*cases.values(), *({**each, "steps": 10} for each in further)]
    (alone,) = run(all_cases, 1, tmp_path)
    must_be_equal(alone, all_cases, 2, tmp_path)
    must_be_equal(alone, [cases[name] for name in OF_THREE], 3, tmp_path)


@pytest.mark.slow
def test_smart_differs_no_more_than_by_rounding(tmp_path):
    # Its normalized inner gradient enlarges rounding, so the distance is compared with that of one process in several passes.
    files = write_files(tmp_path / "files")

    def smart(seed: int, cut: int = 0) -> dict[str, object]:
        sections = {"regularizers": [{"name": "smart", "form": "mtdnn"}], "training": {"seed": seed}}
        return case(f"{seed}-{cut}", files, cut=cut, **sections)

    for size, seed in ((2, 1), (3, 3)):
        (alone,) = run([smart(seed, cut) for cut in (0, 2, 3)], 1, tmp_path)
        found = run([smart(seed)], size, tmp_path)[0]
        whole = alone[f"{seed}-0"]["state"]
        floor = max(distance(alone[f"{seed}-{cut}"]["state"], whole) for cut in (2, 3))
        assert 0 < floor < 1e-4
        assert distance(found[f"{seed}-0"]["state"], whole) < 3 * floor, (size, seed)
