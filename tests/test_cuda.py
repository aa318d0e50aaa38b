"""The same run on a GPU: everything large stays there, and the numbers are those of the CPU."""

from pathlib import Path

import pytest
import torch

from mtlcli.config.layers import Layer, read_recipe
from mtlcli.config.resolve import resolve
from mtlcli.evaluation.evaluate import evaluate
from mtlcli.merging.fisher import fisher_information
from mtlcli.merging.rows import read_rows
from mtlcli.registry import FAMILIES
from mtlcli.runs.saved_model import load_run
from mtlcli.training.events import Finished, Stepped
from mtlcli.training.loop import train
from mtlcli.training.passes import TaskLoss
from mtlcli.training.setup import set_up
from small import small_config, write_files

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


ROOT = Path(__file__).parent.parent
KINDS = ("tagging", "reading", "ratings", "multi-label", "several-columns")
"""Examples that together have every kind of task."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["equal", "uncertainty+pcgrad"])
def test_every_kind_of_task_has_the_losses_of_the_cpu(name, method, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")  # where the paths of the recipes begin
    losses = []
    for device in ("cpu", "cuda"):
        flags = Layer({"training": {"device": device, "precision": "fp32"}, "balancer": method})
        recipe = ROOT / "examples" / f"{name}.yaml"
        run, combined = step(resolve([read_recipe(recipe), flags]))
        losses.append(combined.losses.cpu())
        for index in range(len(run.model.names)):
            batch = run.train[index].next().to(run.device)
            with torch.no_grad():
                decoded = run.model.decode(index, run.model(index, batch), batch)
            assert len(decoded) == batch.count
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(FAMILIES["architectures"].built_in))
def test_every_architecture_has_the_losses_of_the_cpu(files, name):
    losses = []
    for device in ("cpu", "cuda"):
        run, combined = step(small_config(files, architecture=name, training={"device": device, "precision": "fp32"}))
        run.optimizer.step()
        losses.append(combined.losses.cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


def test_fisher_information_is_that_of_the_cpu(files, tmp_path):
    list(train(set_up(small_config(files, training={"steps": 2})), tmp_path / "run"))
    found = []
    for device in ("cpu", "cuda"):
        run, _ = load_run(tmp_path / "run")
        rows = read_rows(run.config, run.facts, run.encoder, "train")
        found.append(fisher_information(run.model, rows, rows=3, seed=1, device=torch.device(device)))
    for name, values in found[0].items():
        torch.testing.assert_close(found[1][name].cpu(), values, rtol=1e-3, atol=1e-3)


def step(config):
    run = set_up(config)
    run.model.eval()  # dropout draws other numbers on a GPU
    batches = [TaskLoss(task, (source.next().to(run.device),)) for task, source in enumerate(run.train)]
    return run, run.engine.run(batches)


def test_a_step_on_the_gpu_is_the_step_on_the_cpu(files):
    method = {"gradient_regularizer": "pcgrad"}
    on_cpu, cpu = step(small_config(files, **method))
    on_gpu, gpu = step(small_config(files, training={"device": "cuda", "precision": "fp32"}, **method))
    torch.testing.assert_close(gpu.losses.cpu(), cpu.losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gpu.gram, cpu.gram, rtol=1e-3, atol=1e-6)
    for first, second in zip(on_gpu.model.shared_parameters(), on_cpu.model.shared_parameters(), strict=True):
        if second.grad is not None:
            torch.testing.assert_close(first.grad.cpu(), second.grad, rtol=1e-3, atol=1e-5)


def test_rows_and_gradients_stay_on_the_gpu(files):
    run, _ = step(small_config(files, training={"device": "cuda"}, gradient_regularizer="pcgrad"))
    assert run.engine.rows.is_cuda
    assert all(p.grad is None or p.grad.is_cuda for p in run.model.parameters())


@pytest.mark.parametrize("method", ["equal", "uncertainty+pcgrad", "tchebycheff"])
def test_a_run_ends_on_the_gpu_in_the_precision_it_chooses(files, tmp_path, method):
    run = set_up(small_config(files, training={"device": "auto"}, balancer=method))
    assert run.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
    end = list(train(run, tmp_path / "run"))[-1]
    assert isinstance(end, Finished) and end.why == "finished"


def test_what_a_frozen_encoder_makes_of_texts_stays_on_the_gpu(files, tmp_path):
    stages = [{"epochs": 3, "freeze": ["encoder"], "tasks": ["tone", "same"]}]
    training = {"device": "cuda", "precision": "fp32", "steps": None, "steps_per_epoch": None}
    run = set_up(small_config(files, training=training, scheduler={"name": "stages", "stages": stages}))
    for event in train(run, tmp_path / "run"):
        if isinstance(event, Stepped):
            assert len(run.kept.train) == 2
            assert all(state.is_cuda for one in run.kept.train.values() for state in one.states)
    assert isinstance(event, Finished) and event.why == "finished"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_of_one_text_are_constant_on_the_gpu(files, tmp_path, precision):
    list(train(set_up(small_config(files, training={"steps": 2})), tmp_path / "run"))
    rows = "".join(f"the big cat\ta dog\t{score}\n" for score in range(1, 6))
    (tmp_path / "rows.tsv").write_text("sentence1\tsentence2\tscore\n" + rows)
    tasks = [("near", [str(tmp_path / "rows.tsv")])]
    results = evaluate(tmp_path / "run", tasks, device="cuda", precision=precision, resamples=50).results
    for name in ("pearson", "spearman"):
        found = results["near"]["dev"][name]
        assert (found.value, found.low, found.high, found.degenerate) == (0.0, 0.0, 0.0, "predictions are constant")
