"""Teacher annealing: mixtures worked out by hand, the paper's mixed target, and runs with a teacher."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from labels import rows
from mtlcli.balancers.base import BatchLosses
from mtlcli.balancers.distill_anneal import DistillAnneal
from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import BalancerChoice, Config
from mtlcli.config.shorthand import absolute_paths
from mtlcli.errors import MtlError
from mtlcli.plugin import SetupContext, StepResult
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.tasks.targets import Ragged
from mtlcli.training.events import Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from trained import TASKS, trained

CHANCES = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [0.2, 0.8, 0.0]])
SCORES = np.array([1.0, 2.0, 4.0])


def started(steps: int = 100, **options) -> DistillAnneal:
    """Teachers of `a` (three classes) and of `b` (scores), three training rows each; `c` has none."""
    balancer = DistillAnneal(toy.facts(3), **({"teachers": {"a": "x", "b": "y"}} | options))
    told = {("x", 0): Ragged({"probabilities": CHANCES}), ("y", 1): rows(SCORES)}
    balancer.setup(SetupContext(torch.nn.Linear(1, 1), 8, steps, lambda _: (), lambda folder, task: told[folder, task]))
    return balancer


def after(balancer: DistillAnneal, step: int) -> DistillAnneal:
    """The balancer once so many steps are done."""
    balancer.on_step(StepResult(step, torch.tensor([0]), torch.ones(1), torch.ones(1)))
    return balancer


def of_classes(numbers: list[int], gold: list[float]) -> BatchLosses:
    """Rows whose loss for class c is 10 * c + 1."""
    return BatchLosses(0, np.array(numbers), torch.tensor(gold), lambda gold: 10.0 * gold["index"] + 1)


def of_scores(numbers: list[int], gold: list[float]) -> BatchLosses:
    """Rows whose output is 3, with the squared error."""
    return BatchLosses(1, np.array(numbers), torch.tensor(gold), lambda gold: (3 - gold["value"].float()) ** 2)


# By hand


def test_the_first_step_learns_from_the_teacher_alone():
    # .5 * 1 + .25 * 11 + .25 * 21 = 8.5; 1 * 21 = 21
    assert started().batch_losses(of_classes([0, 1], [100.0, 200.0])).tolist() == pytest.approx([8.5, 21.0])


def test_a_quarter_of_the_way_the_label_counts_a_quarter():
    balancer = after(started(steps=100), 25)
    # .25 * 4 + .75 * 8.5 = 7.375; rows are found by their number: .2 * 1 + .8 * 11 = 9, .25 * 8 + .75 * 9 = 8.75
    assert balancer.batch_losses(of_classes([0, 2], [4.0, 8.0])).tolist() == pytest.approx([7.375, 8.75])


def test_scores_are_imitated_through_the_heads_own_loss():
    balancer = after(started(steps=100), 50)
    # teacher: (3 - 1)^2 = 4, (3 - 4)^2 = 1; half of 6 and half of 4 is 5, half of 2 and half of 1 is 1.5
    assert balancer.batch_losses(of_scores([0, 2], [6.0, 2.0])).tolist() == pytest.approx([5.0, 1.5])


def test_after_the_last_step_only_the_label_counts():
    batch = of_classes([0], [4.0])
    assert after(started(steps=100), 100).batch_losses(batch) is batch.losses
    assert after(started(steps=100), 130).batch_losses(batch) is batch.losses


def test_the_weight_of_the_label_rises_linearly():
    balancer = started(steps=8)
    assert [after(balancer, step).gold() for step in range(9)] == [step / 8 for step in range(9)]


def test_a_fixed_weight_stays():
    balancer = started(mode="fixed", weight=0.25)
    for step in (1, 99):
        assert after(balancer, step).batch_losses(of_classes([0], [4.0])).tolist() == pytest.approx([7.375])
    assert started(mode="fixed").gold() == 0.5


def test_a_task_without_a_teacher_learns_from_its_labels():
    batch = BatchLosses(2, np.array([0]), torch.tensor([3.0]), lambda _: pytest.fail("asked for another loss"))
    assert started().batch_losses(batch) is batch.losses


def test_every_task_counts_one():
    losses, tasks = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 2])
    assert started()(losses, tasks).tolist() == [1.0, 2.0, 4.0]


# The paper's form


@pytest.mark.parametrize("done", [0, 30, 90])
def test_the_gradient_is_that_of_cross_entropy_with_the_mixed_target(done):
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, -0.5], [0.1, 0.2, 0.3]], requires_grad=True)
    labels, gold = torch.tensor([1, 0, 2]), done / 100

    def loss(gold):
        return torch.nn.functional.cross_entropy(logits, gold["index"], reduction="none")

    mixed = after(started(steps=100), done).batch_losses(BatchLosses(0, np.arange(3), loss(rows(labels)), loss))
    target = gold * torch.nn.functional.one_hot(labels, 3) + (1 - gold) * torch.from_numpy(CHANCES)
    paper = -(target * torch.log_softmax(logits, 1)).sum(1)
    torch.testing.assert_close(mixed, paper.float())
    torch.testing.assert_close(torch.autograd.grad(mixed.sum(), logits)[0], torch.autograd.grad(paper.sum(), logits)[0])


def test_the_gradient_of_a_score_is_that_of_the_mixed_score():
    output = torch.tensor([0.5, 2.5, 3.0], requires_grad=True)
    labels = torch.tensor([1.5, 2.0, 5.0], dtype=torch.float64)

    def loss(gold):
        return (output - gold["value"].float()) ** 2

    mixed = after(started(steps=10), 3).batch_losses(BatchLosses(1, np.arange(3), loss(rows(labels)), loss))
    target = 0.3 * labels + 0.7 * torch.from_numpy(SCORES)
    torch.testing.assert_close(
        torch.autograd.grad(mixed.sum(), output)[0], torch.autograd.grad(loss(rows(target)).sum(), output)[0]
    )


# State and mistakes


def test_a_checkpoint_holds_the_step_and_not_what_was_taught():
    balancer = after(started(), 40)
    state = balancer.state_dict()
    assert sum(value.numel() for name, value in state.items() if "extra" not in name) == 1
    fresh = started()
    fresh.load_state_dict(state)
    assert fresh.gold() == 0.4


def test_a_teacher_for_a_task_that_is_not_there_is_guessed():
    with pytest.raises(MtlError, match=r'balancer\.teachers\.aa: no such task; did you mean "a"'):
        DistillAnneal(toy.facts(3), teachers={"aa": "x"})


def test_every_teacher_that_cannot_teach_is_named():
    def teach(folder: str, task: int) -> Ragged:
        raise MtlError(f"{folder}: nothing known")

    balancer = DistillAnneal(toy.facts(3), teachers={"a": "x", "b": "y"})
    with pytest.raises(MtlError) as caught:
        balancer.setup(SetupContext(torch.nn.Linear(1, 1), 8, 10, lambda _: (), teach))
    assert caught.value.lines == (
        "balancer.teachers.a: x: nothing known",
        "balancer.teachers.b: y: nothing known",
    )


# In a run


def config(steps: int = 6, **balancer) -> Config:
    files = trained().parent / "files"
    tasks = {
        name: {"kind": TASKS[name], "train": str(files / f"{name}-train.tsv"), "dev": str(files / f"{name}-dev.tsv")}
        for name in ("tone", "stars")
    }
    values = {
        "tasks": tasks,
        "encoder": {"name": "tiny", "dim": 16, "layers": 1, "attention_heads": 2, "intermediate": 16, "vocabulary": 100},
        "balancer": {"name": "distill-anneal", "teachers": {"tone": str(trained()), "stars": str(trained())}} | balancer,
        "training": {"steps": steps, "steps_per_epoch": steps, "batch_size": 8, "device": "cpu"},
    }  # fmt: skip
    return resolve([Layer(values)])


def run(chosen: Config, folder: Path, stop_after: int | None = None, resume: bool = False) -> None:
    found = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(
        chosen, encoder_from=found.folder / "encoder" if found else None, first_step=found.step if found else 0
    )
    seen = 0

    def stop() -> bool:
        return seen == stop_after

    for event in train(prepared, folder, resume_from=found, stop=stop):
        if isinstance(event, Stepped):
            seen = event.step


def steps(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def test_what_is_reported_is_the_plain_loss_beside_the_mixed_objective(tmp_path):
    run(config(), tmp_path / "run")
    first, *_, last = steps(tmp_path / "run")
    assert first["train/tone/loss"] != first["balancer/tone/objective"]
    assert abs(last["train/stars/loss"] - last["balancer/stars/objective"]) < abs(
        first["train/stars/loss"] - first["balancer/stars/objective"]
    )


def test_a_run_with_teachers_resumes_bit_by_bit(tmp_path):
    run(config(), tmp_path / "whole")
    run(config(), tmp_path / "broken", stop_after=2)
    run(config(), tmp_path / "broken", resume=True)
    assert steps(tmp_path / "whole") == steps(tmp_path / "broken")
    whole, broken = (
        checkpoint.latest(tmp_path / one / "checkpoints")[0].tensors("model") for one in ("whole", "broken")
    )
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


def test_with_the_labels_whole_weight_the_run_is_the_one_without_teachers(tmp_path):
    run(config(mode="fixed", weight=1.0), tmp_path / "taught")
    chosen = config()
    chosen.balancer = BalancerChoice(name="equal")
    run(chosen, tmp_path / "plain")
    assert [one["train/tone/loss"] for one in steps(tmp_path / "taught")] == [
        one["train/tone/loss"] for one in steps(tmp_path / "plain")
    ]


def test_a_teachers_path_is_relative_to_the_recipe_that_names_it(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "balancer:\n  name: distill-anneal\n  teachers: {sst: runs/sst, sts: /runs/sts}\n"
    )
    layer = absolute_paths(read_recipe(tmp_path / "recipe.yaml"), tmp_path)
    assert layer.values["balancer"]["teachers"] == {"sst": f"{tmp_path}/runs/sst", "sts": "/runs/sts"}
