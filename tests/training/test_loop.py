"""A whole run: what it leaves behind, that it goes on exactly, and how it fails."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlcli import registry
from mtlcli.config.changes import check_unchanged
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.config.schema import Config
from mtlcli.errors import MtlError
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.metrics.accuracy import Accuracy
from mtlcli.plugin import EpochResult, EvaluationResult, StepResult
from mtlcli.runs import checkpoint
from mtlcli.runs.folder import inspect_folder
from mtlcli.runs.saved_model import load_run
from mtlcli.training.dry_run import dry_run
from mtlcli.training.events import Evaluated, Finished, Notice, Started, Stepped
from mtlcli.training.loop import train
from mtlcli.training.setup import TrainingRun, set_up
from small import small_config, small_values, write_files
from trained import trained


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


def run(config: Config, folder: Path, stop_after: int | None = None, resume: bool = False, **more):
    """All events of a run; it is asked to stop after a step."""
    found = inspect_folder(folder, resume=resume, overwrite=False).checkpoint
    prepared = set_up(
        config, encoder_from=found.folder / "encoder" if found else None, first_step=found.step if found else 0
    )
    events = []
    seen = 0

    def stop() -> bool:
        return seen == stop_after

    for event in train(prepared, folder, resume_from=found, stop=stop, **more):
        events.append(event)
        if isinstance(event, Stepped):
            seen = event.step
    return prepared, events


def losses(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    place, _ = checkpoint.latest(folder / "checkpoints")
    parts = ("model", "optimizer", "plugins", "random")
    return {f"{part}/{key}": value for part in parts for key, value in place.tensors(part).items()}


def test_a_run_leaves_all_that_the_readme_promises(files, tmp_path):
    _, events = run(small_config(files), tmp_path / "run", command="mtl train")
    folder = tmp_path / "run"
    for name in (
        "config.yaml",
        "command.txt",
        "environment.json",
        "train.log",
        "metrics.jsonl",
        "results.json",
        "run.json",
        "heads.safetensors",
    ):
        assert (folder / name).is_file(), name
    assert {path.name for path in (folder / "predictions").iterdir()} == {
        f"{t}.dev.jsonl" for t in ("tone", "same", "near")
    }
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert [event.step for event in events if isinstance(event, Stepped)] == list(range(1, 13))
    assert [event.step for event in events if isinstance(event, Evaluated)] == [4, 8, 12]
    results = json.loads((folder / "results.json").read_text())
    assert set(results["tasks"]["tone"]["dev"]) == {"accuracy", "macro-f1"}
    assert results["tasks"]["near"]["dev"]["pearson"]["n"] == 14
    assert not list(folder.rglob("*.p*kl")) and not list(folder.rglob("*.pt")) and not list(folder.glob(".*"))


def test_the_encoder_of_a_run_loads_in_transformers_and_gives_the_same_vectors(files, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    run(small_config(files), tmp_path / "run")
    saved, _ = load_run(tmp_path / "run")
    model = AutoModel.from_pretrained(tmp_path / "run" / "encoder").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "run" / "encoder")("the big cat sees a dog", return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs).last_hidden_state
        ours = saved.encoder.model(**inputs).last_hidden_state
    assert torch.equal(found, ours)


@pytest.mark.parametrize("scheduler", ["round-robin", "proportional"])
def test_a_run_stopped_and_resumed_is_the_unbroken_run_bit_by_bit(files, tmp_path, scheduler):
    method = {"balancer": "uncertainty+pcgrad"} if scheduler == "round-robin" else {"balancer": "uncertainty"}
    config = lambda: small_config(files, scheduler=scheduler, **method)  # noqa: E731
    run(config(), tmp_path / "whole")
    _, first = run(config(), tmp_path / "broken", stop_after=5)
    assert first[-1].why == "interrupted"
    _, second = run(config(), tmp_path / "broken", resume=True)
    assert any(isinstance(event, Notice) and "after step 5" in event.text for event in second)
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    whole, broken = last_tensors(tmp_path / "whole"), last_tensors(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    exported = [load_file(tmp_path / one / "encoder" / "model.safetensors") for one in ("whole", "broken")]
    assert all(torch.equal(value, exported[1][key]) for key, value in exported[0].items())


def test_lines_written_after_the_checkpoint_are_not_written_twice(files, tmp_path):
    folder = tmp_path / "run"
    run(small_config(files), folder, stop_after=5)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 6}) + "\n" + '{"kind": "st')
    run(small_config(files), folder, resume=True)
    assert [line["step"] for line in losses(folder) if line["kind"] == "step"] == list(range(1, 13))


def test_resuming_passes_over_a_damaged_checkpoint(files, tmp_path):
    folder = tmp_path / "run"
    config = small_config(files, training={"save_every": 1, "keep_last": 3})
    run(config, folder, stop_after=5)
    path = folder / "checkpoints" / "step-5" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    found, skipped = checkpoint.latest(folder / "checkpoints")
    assert found.step == 4
    assert "model.safetensors is not as it was written" in skipped[0]
    (folder / "checkpoints" / "step-4" / "manifest.json").unlink()
    (folder / "checkpoints" / "step-3" / "state.json").write_text("")
    with pytest.raises(MtlError, match="no undamaged checkpoint"):
        inspect_folder(folder, resume=True, overwrite=False)


def test_a_folder_with_something_in_it_is_neither_resumed_nor_replaced_by_accident(files, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MtlError, match=r"--resume .* --overwrite"):
        inspect_folder(tmp_path, resume=False, overwrite=False)
    with pytest.raises(MtlError, match="not a run folder"):
        inspect_folder(tmp_path, resume=False, overwrite=True)
    assert inspect_folder(tmp_path / "new", resume=True, overwrite=False).checkpoint is None


def test_resuming_on_other_rows_is_refused(files, tmp_path):
    own = write_files(tmp_path / "own")
    run(small_config(own), tmp_path / "run", stop_after=3)
    path = own / "tone-train.tsv"
    path.write_text(path.read_text().replace("cat", "dog", 1))
    with pytest.raises(MtlError, match=r"rows of tone.train have changed"):
        run(small_config(own), tmp_path / "run", resume=True)


def test_resuming_with_another_method_is_refused_with_the_difference(files):
    with pytest.raises(MtlError, match=r"balancer\.name: was 'equal', now 'uncertainty'"):
        check_unchanged(small_config(files), small_config(files, balancer="uncertainty"))
    assert check_unchanged(small_config(files), small_config(files, training={"patience": 3})) != []


def test_a_task_that_is_left_out_on_resuming_is_one_line(files):
    fewer = small_config(files)
    del fewer.tasks["same"]
    with pytest.raises(MtlError) as caught:
        check_unchanged(small_config(files), fewer)
    assert caught.value.lines == (
        "--resume: tasks.same: was removed; give the old value, or start over with --overwrite",
    )
    with pytest.raises(MtlError, match=r"^--resume: tasks\.same: was added; [^\n]*$"):
        check_unchanged(fewer, small_config(files))


def test_a_run_without_a_dev_file_is_evaluated_on_held_out_rows(files, tmp_path):
    values = small_values(files)
    for task in values["tasks"].values():
        task["dev"] = "25%"
    _, events = run(resolve([Layer(values)]), tmp_path / "run")
    results = events[-1].results
    assert (
        results["tone"]["dev"]["accuracy"].n == 10 and results["same"]["dev"]["accuracy"].n == 12
    )  # of 40 and 50 rows
    assert load_run(tmp_path / "run")[0].record["config"]["tasks"]["tone"]["dev"] == "25%"
    measured = evaluate(tmp_path / "run", splits=["train", "dev"], resamples=10)
    assert measured["tone"]["dev"]["accuracy"].value == pytest.approx(results["tone"]["dev"]["accuracy"].value)
    assert measured["tone"]["train"]["accuracy"].n == 30
    whole = evaluate(tmp_path / "run", [("tone", [str(files / "tone-train.tsv")])], splits=["dev"], resamples=10)
    assert whole["tone"]["dev"]["accuracy"].n == 40


def test_a_longer_run_may_be_resumed(files, tmp_path):
    run(small_config(files), tmp_path / "run")
    longer = small_config(files, training={"steps": 16})
    _, events = run(longer, tmp_path / "run", resume=True)
    assert [event.step for event in events if isinstance(event, Stepped)] == [13, 14, 15, 16]


REQUIRED = {"static": {"weights": {}}, "epoch-sigmoid": {"start": {}}}
"""Options that have no default."""


def required(name: str) -> dict:
    """The same for every method; a teacher is heard, but has no say."""
    if name == "distill-anneal":
        return {"teachers": {"tone": str(trained())}, "mode": "fixed", "weight": 1.0}
    return REQUIRED.get(name, {})


def all_balancers() -> list[str]:
    return [f"balancer:{name}" for name in registry.FAMILIES["balancers"].built_in] + [
        f"gradient_regularizer:{name}" for name in registry.FAMILIES["gradient_regularizers"].built_in
    ]


@pytest.mark.parametrize("method", all_balancers())
def test_every_tensor_that_can_learn_moves_in_one_step(files, method):
    family, name = method.split(":")
    choice = {"name": name, **required(name)}
    prepared = set_up(small_config(files, **{family: choice}))
    before = {key: value.clone() for key, value in prepared.model.named_parameters()}
    step_once(prepared)
    still = [key for key, value in prepared.model.named_parameters() if torch.equal(value, before[key])]
    # the pooler of BERT is not what heads read, and a key's bias cancels in the softmax
    assert [key for key in still if ".pooler." not in key and not key.endswith("key.bias")] == []
    learned = [p for p in prepared.balancer.parameters() if p.requires_grad]
    assert all(parameter.abs().max() > 0 for parameter in learned)


def step_once(prepared: TrainingRun) -> None:
    from mtlcli.training.optimizer import set_rates
    from mtlcli.training.passes import TaskLoss

    prepared.engine.run([TaskLoss(task, (batches.next(),)) for task, batches in enumerate(prepared.train)])
    set_rates(prepared.optimizer, 1.0)
    prepared.optimizer.step()


@pytest.mark.parametrize("method", all_balancers())
def test_one_task_alone_is_plain_training_with_every_method(files, tmp_path, method):
    family, name = method.split(":")
    only = {"tone": small_config(files).plain()["tasks"]["tone"]}
    choice = {"name": name, **required(name)}
    if registry.load(f"{family}s", name, "test").native_scale == "own" and family == "gradient_regularizer":
        choice["scale"] = "mean"  # the direction is that of plain training in every scale, the length in this one
    steps = {"steps": 3, "steps_per_epoch": 3, "batch_size": 8, "device": "cpu"}
    run(_only(files, only, steps), tmp_path / "plain")
    still = {"balancer_lr": 1e-9}  # what a balancer learns would change the weight of its only task
    run(_only(files, only, steps, optimizer=still, **{family: choice}), tmp_path / "method")
    first, second = last_tensors(tmp_path / "plain"), last_tensors(tmp_path / "method")
    for key, value in first.items():
        # The gradient of a key's bias is 0 but for rounding, which Adam scales up to whole steps.
        if key.startswith("model/") and not key.endswith("key.bias"):
            torch.testing.assert_close(value, second[key], rtol=1e-5, atol=1e-6, msg=key)


def _only(files: Path, tasks: dict, steps: dict, **sections) -> Config:
    from mtlcli.config.layers import Layer
    from mtlcli.config.resolve import resolve
    from small import small_values

    return resolve([Layer({**small_values(files), "tasks": tasks, "training": steps, **sections})])


BF16_HERE = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not BF16_HERE, reason="this CPU has no bf16"))]
)
def test_attention_is_in_plain_operations_only_in_bf16_on_a_cpu_and_the_folder_knows_nothing_of_it(
    files, tmp_path, precision
):
    prepared = set_up(small_config(files, training={"steps": 1, "precision": precision}))
    chosen = prepared.model.architecture.encoder.config._attn_implementation
    assert (chosen == "eager") == (precision == "bf16")
    list(train(prepared, tmp_path / "run"))
    assert "attn" not in (tmp_path / "run" / "encoder" / "config.json").read_text().replace("attention", "")
    assert load_run(tmp_path / "run")[0].model.architecture.encoder.config._attn_implementation == "sdpa"


def test_a_head_starts_from_the_same_weights_whatever_other_tasks_there_are(files):
    alone = set_up(_only(files, {"same": small_config(files).plain()["tasks"]["same"]}, {"steps": 2}))
    together = set_up(small_config(files))
    first, second = alone.model.heads[0].out.weight, together.model.heads[1].out.weight
    assert torch.equal(first, second)


def test_a_loss_that_is_not_finite_stops_with_task_step_and_rows(files, tmp_path):
    with pytest.raises(MtlError) as caught:
        _run_with_poison(files, tmp_path / "run", on_nan="stop")
    text = str(caught.value)
    assert "step 3: same: loss nan" in text
    assert "same-train.tsv:" in text
    assert "no checkpoint is saved yet: start over with a lower --lr" in text and "--resume" not in text


def test_a_loss_that_is_not_finite_names_the_checkpoint_that_can_be_resumed(files, tmp_path):
    with pytest.raises(MtlError, match=r"the checkpoint of step 4 can be resumed \(--resume\)"):
        _run_with_poison(files, tmp_path / "run", on_nan="stop", at=(6,))
    _, events = run(small_config(files, training={"on_nan": "skip"}), tmp_path / "run", resume=True)
    assert next(event.step for event in events if isinstance(event, Stepped)) == 5


def test_a_step_that_is_not_finite_may_be_left_out_and_poisons_nothing(files, tmp_path):
    prepared, events = _run_with_poison(files, tmp_path / "run", on_nan="skip")
    skipped = [event.step for event in events if isinstance(event, Stepped) and event.skipped]
    assert skipped == [3]
    assert all(torch.isfinite(value).all() for value in prepared.model.state_dict().values())
    assert json.loads((tmp_path / "run" / "results.json").read_text())["skipped_steps"] == 1


def test_ten_bad_steps_in_a_row_stop_even_the_patient(files, tmp_path):
    with pytest.raises(MtlError, match="10 steps in a row"):
        _run_with_poison(files, tmp_path / "run", on_nan="skip", at=range(1, 100))


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_an_evaluation_that_is_not_finite_is_an_error_and_never_the_best(files, tmp_path, on_nan):
    with pytest.raises(
        MtlError, match=r"^step 8: same: the model's output is NaN or infinite.*keeps the model of step 4$"
    ):
        _run_with_bad_weights(files, tmp_path / "run", {"on_nan": on_nan}, at=8)
    assert load_run(tmp_path / "run")[0].record["step"] == 4
    assert not (tmp_path / "run" / "results.json").exists()


def test_bad_weights_are_an_error_without_dev_rows_too(files, tmp_path):
    with pytest.raises(MtlError, match=r"^step 12: weights of the model are NaN or infinite; training has diverged"):
        _run_with_bad_weights(files, tmp_path / "run", {}, at=12, dev=False)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_metric_that_is_not_finite_is_an_error(files, tmp_path, monkeypatch):
    monkeypatch.setattr(Accuracy, "score", lambda self, totals: totals[:, 0] * math.nan)
    with pytest.raises(
        MtlError, match=r"^step 4: tone: accuracy on dev is nan; start again with a lower learning rate"
    ):
        run(small_config(files), tmp_path / "run")


def _run_with_bad_weights(files, folder, training, *, at, dev=True):
    """Make the weights of a head NaN when a step has ended."""
    config = small_config(files, training=training)
    if not dev:
        for task in config.tasks.values():
            task.dev = None
    prepared = set_up(config)
    for event in train(prepared, folder):
        if isinstance(event, Stepped) and event.step == at:
            with torch.no_grad():
                for parameter in prepared.model.heads[1].parameters():
                    parameter.fill_(math.nan)


def _run_with_poison(files, folder, *, on_nan, at=(3,)):
    config = small_config(files, training={"on_nan": on_nan})
    prepared = set_up(config)
    head, calls = prepared.model.heads[1], []
    plain = head.loss

    def poisoned(output, gold):
        if prepared.model.training:
            calls.append(0)
        return plain(output, gold) * (math.nan if prepared.model.training and len(calls) in at else 1.0)

    head.loss = poisoned
    return prepared, list(train(prepared, folder))


def test_patience_ends_the_run_and_the_best_weights_are_kept(files, tmp_path):
    config = small_config(files, training={"steps": 40, "steps_per_epoch": 2, "patience": 2})
    _, events = run(config, tmp_path / "run")
    scores = [event.score for event in events if isinstance(event, Evaluated)]
    best = max(range(len(scores)), key=lambda index: (scores[index], -index))
    end = events[-1]
    assert end.why == "patience" and len(scores) == best + 3
    assert end.best_step == 2 * (best + 1) and end.score == scores[best]
    saved, _ = load_run(tmp_path / "run")
    assert saved.record["step"] == end.best_step


def test_the_selected_metric_may_be_one_of_one_task(files, tmp_path):
    config = small_config(files, training={"steps": 8, "select_by": "near.spearman"})
    _, events = run(config, tmp_path / "run")
    found = [event for event in events if isinstance(event, Evaluated)]
    assert all(event.score == event.metrics["near"]["spearman"] for event in found)


def test_a_metric_that_is_not_there_is_refused_before_training(files):
    with pytest.raises(MtlError, match=r'found "near.accuracy"'):
        set_up(small_config(files, training={"select_by": "near.accuracy"}))


def test_a_run_without_any_dev_rows_keeps_its_last_weights(files, tmp_path):
    tasks = small_config(files).plain()["tasks"]
    for task in tasks.values():
        del task["dev"]
    prepared, events = run(_only(files, tasks, {"steps": 3, "batch_size": 8, "device": "cpu"}), tmp_path / "run")
    assert events[-1].best_step is None
    assert load_run(tmp_path / "run")[0].record["step"] == 3
    assert any("no dev rows" in warning for warning in prepared.plan.warnings)


def test_news_reaches_every_plugin_with_state(files, tmp_path):
    heard: list = []
    config = small_config(files)
    prepared = set_up(config)
    for name, plugin in prepared.plugins().items():
        for kind in ("on_step", "on_epoch", "on_evaluation"):
            setattr(plugin, kind, lambda result, name=name: heard.append((name, result)))
    list(train(prepared, tmp_path / "run"))
    of_balancer = [result for name, result in heard if name == "balancer"]
    assert sum(isinstance(result, StepResult) for result in of_balancer) == 12
    assert [result.epoch for result in of_balancer if isinstance(result, EpochResult)] == [0, 1, 2]
    evaluations = [result for result in of_balancer if isinstance(result, EvaluationResult)]
    assert [result.step for result in evaluations] == [4, 8, 12]
    assert set(evaluations[0].losses) == {0, 1, 2}


def test_checking_runs_every_task_and_writes_nothing(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = set_up(small_config(files, gradient_regularizer="pcgrad"))
    found = dry_run(prepared)
    assert [one.task for one in found] == ["tone", "same", "near"]
    assert [one.texts for one in found] == [8, 8, 16]
    assert all(math.isfinite(one.loss) for one in found)
    assert list(tmp_path.iterdir()) == []


def test_memory_of_the_rows_is_in_the_plan(files):
    plain, surgery = set_up(small_config(files)).plan, set_up(small_config(files, gradient_regularizer="pcgrad")).plan
    assert plain.rows_buffer_bytes == 0
    assert surgery.rows_buffer_bytes == 3 * 4 * surgery.encoder_parameters


def test_the_plan_counts_what_the_run_then_does(files, tmp_path):
    prepared, _ = run(small_config(files, scheduler="proportional"), tmp_path / "run")
    steps = [line for line in losses(tmp_path / "run") if line["kind"] == "step"]
    for task in prepared.plan.tasks:
        visits = sum(f"train/{task.name}/loss" in line for line in steps)
        assert task.share == pytest.approx(visits / 12)
