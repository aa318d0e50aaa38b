"""Stages: what each stage visits, how its rate runs, what it freezes and where it starts from."""

import json

import pytest
import torch

import toy
from mtlcli.errors import MtlError
from mtlcli.plugin import EpochResult, EvaluationResult, ProbeResult, StepResult
from mtlcli.runs.folder import inspect_folder
from mtlcli.schedulers.base import Position
from mtlcli.schedulers.stages import Stages
from mtlcli.training.events import Evaluated, Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import set_up
from small import small_config, write_files

TWO = [{"tasks": ["b"], "steps": 4}, {"epochs": 2, "steps_per_epoch": 3, "lr_factor": 0.5, "freeze": ["heads"]}]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def at(stages, step):
    return Position(step, stages.epoch_ends(1, None, 1)[-1], 1)


def test_each_stage_visits_its_own_tasks():
    stages = Stages(toy.facts(3), stages=TWO)
    assert [[visit.task for visit in stages.visits(at(stages, step))] for step in (0, 3, 4, 9)] == [
        [1],
        [1],
        [0, 1, 2],
        [0, 1, 2],
    ]


def test_epochs_end_where_those_of_the_stages_do_and_steps_cut_them_short():
    stages = Stages(toy.facts(3), stages=TWO)
    assert stages.epoch_ends(3, None, 99) == [4, 7, 10]
    assert stages.epoch_ends(3, 6, 99) == [4, 6]
    assert stages.epoch_ends(3, 50, 99) == [4, 7, 10]


def test_a_stage_has_a_schedule_of_its_own():
    stages = Stages(toy.facts(3), stages=TWO)
    first, second = stages.stage(at(stages, 3)), stages.stage(at(stages, 4))
    assert (first.start, first.steps, first.lr, first.frozen) == (0, 4, 1.0, ())
    assert (second.start, second.steps, second.lr, second.frozen) == (4, 6, 0.5, ("heads",))


def test_the_rate_of_a_stage_multiplies_that_of_its_scheduler():
    stages = Stages(toy.facts(2), stages=[{"scheduler": {"name": "state-machine", "decay": 0.25}, "lr_factor": 0.5}])
    for loss in (1.0, 2.0):  # a rise: the state machine multiplies its rate by .25
        stages.on_evaluation(EvaluationResult(1, {0: loss}, {0: {}}))
    assert stages.stage(at(stages, 0)).lr == pytest.approx(0.125)


def test_the_epoch_of_the_run_is_that_of_the_first_stage():
    assert Stages(toy.facts(3), stages=TWO).steps_per_epoch() == 30  # batches of b
    assert Stages(toy.facts(3), stages=TWO[::-1]).steps_per_epoch() == 3


def test_a_scheduler_sees_its_stage_as_the_whole_run():
    stages = Stages(toy.facts(3), stages=TWO)
    positions = []
    stages.inner[1].visits = lambda position: positions.append(position) or []
    for step in (4, 9):
        stages.visits(at(stages, step))
    assert positions == [Position(0, 6, 3), Position(5, 6, 3)]


def test_the_last_stage_is_also_that_of_the_end_of_the_run():
    stages = Stages(toy.facts(3), stages=TWO)
    assert [visit.task for visit in stages.visits(Position(10, 10, 1))] == [0, 1, 2]


def test_what_steps_can_hold_is_what_the_stages_promise():
    def promise(*stages):
        return Stages(toy.facts(3), stages=list(stages)).tasks_per_step

    assert promise({}, {"tasks": ["a", "b", "c"]}) == "all"
    assert promise({}, {"tasks": ["a"]}) == "several"
    assert promise({"tasks": ["a"]}, {"tasks": ["b"]}) == "one"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"tasks": ["bb"]}, 'scheduler.stages.0.tasks: no task "bb"; did you mean "b"'),
        ({"tasks": []}, "scheduler.stages.0.tasks: found none"),
        (
            {"scheduler": "anealed"},
            'scheduler.stages.0.scheduler: unknown scheduler "anealed"; did you mean "annealed"',
        ),
        ({"scheduler": {"name": "annealed", "decay": 2}}, "scheduler.stages.0.scheduler.decay: found 2"),
    ],
)
def test_a_wrong_stage_says_which_and_what_was_meant(stage, message):
    with pytest.raises(MtlError) as error:
        Stages(toy.facts(3), stages=[stage])
    assert str(error.value).startswith(message)


def test_news_reaches_the_scheduler_of_the_stage_in_its_own_counting():
    stages = Stages(toy.facts(3), stages=[*TWO[:1], {"tasks": ["b", "c"], "steps": 4}])
    heard = []
    inner = stages.inner[1]
    inner.on_step = inner.on_evaluation = inner.on_probe = heard.append
    one = torch.ones(1)
    stages.on_step(StepResult(4, torch.tensor([1]), one, one))  # still the first stage
    stages.on_step(StepResult(6, torch.tensor([2]), one, one))
    stages.on_evaluation(EvaluationResult(6, {0: 0.1, 2: 0.3}, {0: {}, 2: {"accuracy": 0.5}}))
    stages.on_probe(ProbeResult(6, {1: 0.7}))
    step, evaluation, probe = heard
    assert (step.step, step.tasks.tolist()) == (2, [1])  # the second step of the stage, its second task
    assert (evaluation.step, evaluation.losses, evaluation.metrics) == (2, {1: 0.3}, {1: {"accuracy": 0.5}})
    assert (probe.step, probe.losses) == (2, {0: 0.7})


PHASES = [
    {"tasks": ["same", "near"], "steps": 4},
    {"tasks": ["tone"], "steps": 4, "freeze": ["encoder"], "weights": "best", "lr_factor": 0.1},
]


def staged(files, **training):
    return small_config(
        files, scheduler={"name": "stages", "stages": PHASES}, balancer="pcgrad",
        training={"steps": None, "eval_every": 2, **training},
    )  # fmt: skip


def test_a_frozen_encoder_stays_where_the_best_weights_before_it_were(files, tmp_path):
    prepared = set_up(staged(files, select_by="near.mean-squared-error"))
    events, encoders = [], {}
    for event in train(prepared, tmp_path / "run"):
        events.append(event)
        if isinstance(event, Evaluated):
            encoders[event.step] = {key: p.clone() for key, p in prepared.model.architecture.named_parameters()}
    best = max(
        step for step in (2, 4) if any(isinstance(e, Evaluated) and e.step == step and e.is_best for e in events)
    )
    for key, value in encoders[best].items():
        assert torch.equal(value, encoders[6][key]), key
        assert torch.equal(value, encoders[8][key]), key
    rates = {event.step: event.lr for event in events if isinstance(event, Stepped)}
    lr = prepared.config.optimizer.lr
    assert rates[4] == pytest.approx(lr / 3)  # four steps, one of warm-up: 1, 1, 2/3, 1/3
    assert rates[5] == pytest.approx(0.1 * lr)
    tasks = [set(event.losses) for event in events if isinstance(event, Stepped)]
    assert tasks == [{"same", "near"}] * 4 + [{"tone"}] * 4


@pytest.mark.parametrize(
    "stop_after", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)]
)
def test_a_staged_run_resumes_bit_by_bit_before_at_and_after_the_change(files, tmp_path, stop_after):
    from mtlcli.runs import checkpoint

    list(train(set_up(staged(files)), tmp_path / "whole"))
    done = 0

    def stop():
        nonlocal done
        done += 1
        return done == stop_after

    list(train(set_up(staged(files)), tmp_path / "broken", stop=stop))
    found = inspect_folder(tmp_path / "broken", resume=True, overwrite=False).checkpoint
    assert found is not None
    assert found.step == stop_after
    list(train(set_up(staged(files)), tmp_path / "broken", resume_from=found))
    ends = []
    for name in ("whole", "broken"):
        last, _ = checkpoint.latest(tmp_path / name / "checkpoints")
        ends.append({**last.tensors("model"), **last.tensors("plugins")})
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key
    results = [json.loads((tmp_path / name / "results.json").read_text())["tasks"] for name in ("whole", "broken")]
    assert results[0] == results[1]


def test_an_encoder_frozen_whole_runs_without_dropout_and_one_in_part_with_it(files):
    model = set_up(staged(files)).model.train()
    assert [module.training for module in (model.architecture, *model.heads)] == [True] * 4
    model.freeze(("encoder",))
    assert [module.training for module in (model.architecture.encoder, *model.heads)] == [False, True, True, True]
    model.eval()
    model.train()  # as after an evaluation
    assert not model.architecture.encoder.training and model.heads[0].training
    model.freeze(("embeddings",))
    assert model.architecture.encoder.training


def test_a_part_that_the_model_does_not_have_is_refused(files):
    config = small_config(files, scheduler={"name": "stages", "stages": [{"freeze": ["layer.7"]}]})
    with pytest.raises(MtlError, match=r'stages.0.freeze: no part "layer.7" with trainable parameters'):
        set_up(config)
    config = small_config(files, scheduler={"name": "stages", "stages": [{"freeze": ["encoder", "heads"]}]})
    with pytest.raises(MtlError, match=r"stages.0.freeze: encoder, heads leaves no trainable parameter"):
        set_up(config)


def test_an_epoch_that_ends_a_stage_is_news_of_that_stage():
    stages = Stages(
        toy.facts(2),
        stages=[{"steps": 2, "scheduler": "worst-task"}, {"steps": 2, "scheduler": "worst-task"}],
    )
    heard = []
    for number in range(2):
        stages._at(number).on_epoch = lambda result, number=number: heard.append(
            (number, result.epoch, dict(result.losses))
        )
    stages.on_step(
        StepResult(2, torch.tensor([0]), torch.ones(1), torch.ones(1), None, None)
    )  # the last of the first stage
    stages.on_epoch(EpochResult(0, {0: 0.5, 1: 2.0}))
    assert heard == [(0, 0, {0: 0.5, 1: 2.0})]


def test_results_at_the_end_of_a_stage_are_news_of_that_stage_and_those_after_of_the_next():
    stages = Stages(toy.facts(2), stages=[{"steps": 2}, {"epochs": 2, "steps_per_epoch": 3}])
    heard = []
    for number in range(2):
        inner = stages._at(number)
        inner.on_epoch = lambda result, number=number: heard.append((number, "epoch", result.epoch))
        inner.on_evaluation = lambda result, number=number: heard.append((number, "step", result.step))
    for step, epoch in ((2, 0), (5, 1), (8, 2)):
        stages.on_step(StepResult(step, torch.tensor([0]), torch.ones(1), torch.ones(1)))
        stages.on_epoch(EpochResult(epoch, {0: 0.5}))
        stages.on_evaluation(EvaluationResult(step, {0: 0.5}, {0: {}}))
    assert heard == [
        (0, "epoch", 0), (0, "step", 2), (1, "epoch", 0), (1, "step", 3), (1, "epoch", 1), (1, "step", 6),
    ]  # fmt: skip
