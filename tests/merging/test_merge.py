"""Runs merged into a run folder, and what other parts of mtlcli make of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mtlcli
from merging_runs import continued
from mtlcli import registry
from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.data.batches import collate
from mtlcli.errors import MtlError
from mtlcli.evaluation.table import read
from mtlcli.files import load_tensors
from mtlcli.inference.predictor import open_run
from mtlcli.merging.configuration import merged_config
from mtlcli.merging.fisher import fisher_information
from mtlcli.merging.merge import MergeSettings, merge_runs
from mtlcli.merging.merger import METHODS, Options
from mtlcli.merging.rows import read_rows
from mtlcli.merging.sources import Source, Sources
from mtlcli.report.run_files import RunFiles
from mtlcli.report.sections import one_run, overview
from mtlcli.runs.ensemble import EnsembleMember
from mtlcli.runs.merge_record import read_merge_record
from mtlcli.runs.saved_model import load_run
from mtlcli.runs.seeds import Group, write_group
from trained import copy_of, other, trained

WEIGHTS = "encoder/model.safetensors"


def merged(output: Path, *runs: Path, **settings):
    return merge_runs(runs, output, MergeSettings(device="cpu", **settings))


def error_of(output: Path, *runs: Path, **settings) -> str:
    with pytest.raises(MtlError) as caught:
        merged(output, *runs, **settings)
    assert not (output / "run.json").exists()
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_run_has_all_heads_and_is_used_like_any_run(tmp_path, first, second, method):
    fixed = {"weights": (1.0, 1.0), "scaling": 0.5 if method in ("task-arithmetic", "ties", "dare") else None}
    folder = merged(tmp_path / "merged", first, second, method=method, options=Options(fisher_rows=3), **fixed).folder
    evaluation = mtlcli.evaluate(folder, split="dev", device="cpu", resamples=10)
    assert list(evaluation.results) == ["tone", "stars", "near"]
    results = mtlcli.Run(folder).results
    assert results["stars"]["pearson"].value == evaluation["stars"]["dev"]["pearson"].value
    predictor = mtlcli.load(folder, device="cpu")
    assert set(predictor.predict([("a fine lamp", "a poor pie")])) == {"near"}
    assert set(predictor.predict(["a fine lamp"])) == {"tone", "stars"}
    assert read([folder])[0].runs[0].keys() >= {("tone", "accuracy"), ("near", "pearson")}
    assert mtlcli.compare(first, folder, resamples=20).compared
    assert open_run(folder).title == "merged" and open_run(first).title == "step 5"
    record = read_merge_record(folder)
    assert record is not None and record.method == method and [run.weight for run in record.runs] == [1.0, 1.0]


def test_the_average_is_that_of_the_files(tmp_path, first, second):
    folder = merged(tmp_path / "merged", first, second, weights=(3.0, 1.0)).folder
    a, b, average = (load_tensors(run / WEIGHTS) for run in (first, second, folder))
    for name, value in average.items():
        torch.testing.assert_close(value, 0.75 * a[name] + 0.25 * b[name])
    heads = load_tensors(folder / "heads.safetensors")
    theirs = load_tensors(first / "heads.safetensors") | load_tensors(second / "heads.safetensors")
    theirs |= load_tensors(first / "heads.safetensors")  # `tone` of the first run
    assert heads.keys() == theirs.keys() and all(torch.equal(heads[name], theirs[name]) for name in heads)


@pytest.mark.parametrize("method", METHODS)
def test_one_run_is_given_back(tmp_path, first, method):
    scaling = 1.0 if method in ("task-arithmetic", "ties", "dare") else None
    options = Options(density=1.0, drop_rate=0.0, fisher_rows=2)
    folder = merged(tmp_path / "merged", first, method=method, scaling=scaling, options=options).folder
    ours, theirs = load_tensors(folder / WEIGHTS), load_tensors(first / WEIGHTS)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert mtlcli.Run(folder).results["tone"]["accuracy"] == mtlcli.Run(first).results["tone"]["accuracy"]


def test_coefficients_are_chosen_by_the_score_on_dev(tmp_path, first, second):
    result = merged(tmp_path / "merged", first, second, method="task-arithmetic", select_by="near.pearson")
    record = result.record
    assert len(record.trials) == 10 + 2 * 6
    assert record.score == max(trial.score for trial in record.trials)
    assert record.score == pytest.approx(result.results["near"]["dev"]["pearson"].value)
    best = next(trial for trial in record.trials if trial.score == record.score)
    assert (best.scaling, best.weights) == (record.scaling, tuple(run.weight for run in record.runs))


def test_merging_twice_gives_the_same_files(tmp_path, first, second):
    settings = {"method": "dare", "weights": (1.0, 1.0), "scaling": 0.5, "options": Options(drop_rate=0.5)}
    one = merged(tmp_path / "one", first, second, **settings).folder
    same = merged(tmp_path / "same", first, second, **settings).folder
    assert (one / WEIGHTS).read_bytes() == (same / WEIGHTS).read_bytes()


def test_head_names_the_run_of_a_common_task(tmp_path, first, second):
    folder = merged(tmp_path / "merged", first, second, weights=(1.0, 1.0), heads={"tone": second}).folder
    heads, theirs = load_tensors(folder / "heads.safetensors"), load_tensors(second / "heads.safetensors")
    assert all(torch.equal(heads[name], theirs[name]) for name in theirs)
    assert error_of(tmp_path / "x", first, second, heads={"near": first}).startswith(
        f"--head near={first}: expected one of"
    )
    assert error_of(tmp_path / "x", first, second, heads={"tones": first}) == (
        '--head tones: no run has such a task; did you mean "tone"?'
    )


def test_a_folder_of_seeds_stands_for_its_runs(tmp_path, first, second):
    for seed, run in ((1, first), (2, second)):
        shutil.copytree(run, tmp_path / "group" / f"seed-{seed}")
    write_group(Group(tmp_path / "group", (1, 2)))
    record = merged(tmp_path / "merged", tmp_path / "group", weights=(1.0, 1.0)).record
    assert [run.folder for run in record.runs] == ["../group/seed-1", "../group/seed-2"]


def test_a_run_without_dev_rows_needs_its_coefficients(tmp_path, first):
    files = trained().parent / "files"
    tasks = {"near": {"kind": "pair-regression", "train": str(files / "near-train.tsv")}}
    run = continued(tmp_path / "run", start=trained(), tasks=tasks)
    assert error_of(tmp_path / "x", run, method="ties") == (
        "no task has dev rows to choose --scaling by; give them: --scaling"
    )
    folder = merged(tmp_path / "merged", run, method="ties", scaling=1.0).folder
    assert mtlcli.Run(folder).results == {}
    assert set(mtlcli.load(folder, device="cpu").predict([("a fine lamp", "a poor pie")])) == {"near"}


def test_a_report_says_how_a_run_was_merged(tmp_path, first, second):
    run = RunFiles(merged(tmp_path / "merged", first, second, method="ties", scaling=1.0, weights=(1.0, 2.0)).folder)
    page = one_run(run, [], "").html()
    assert "Merged by ties, scaling 1 (density 0.2), from the start init:" in page and "Mixing plan" not in page
    assert "merge by ties" in overview([run]).html()


def test_tasks_of_other_folders_of_data_name_their_files(tmp_path):
    for folder, name in (("a", "ids-sst-train.csv"), ("a", "ids-sst-dev.csv")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text("")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / mtlcli_files("quora")["train"]).write_text("")
    sst = source(tmp_path, "sst", data=str(tmp_path / "a"))
    quora = source(tmp_path, "quora", data=str(tmp_path / "b"))
    config = merged_config(Sources((sst, quora), {"sst": 0, "quora": 1}, ()), "mean")
    assert config.data is None
    assert config.tasks["sst"].train == str(tmp_path / "a" / "ids-sst-train.csv")
    assert config.tasks["sst"].dev == str(tmp_path / "a" / "ids-sst-dev.csv")
    assert config.tasks["quora"].train == str(tmp_path / "b" / mtlcli_files("quora")["train"])
    assert config.tasks["quora"].dev is None
    same = merged_config(Sources((sst, sst), {"sst": 0}, ()), "mean")
    assert (same.data, same.tasks["sst"].train) == (str(tmp_path / "a"), None)
    made_up = source(tmp_path, "quora", sample=True)
    with pytest.raises(MtlError, match="the rows of quora come from another place than those of the other runs"):
        merged_config(Sources((sst, made_up), {"sst": 0, "quora": 1}, ()), "mean")


def mtlcli_files(kind: str) -> dict[str, str]:
    return registry.load("tasks", kind, "tasks").files


def source(folder: Path, task: str, **place) -> Source:
    record = EnsembleMember(folder / task, {}, "", ())
    return Source(record, resolve([Layer({"tasks": [task], **place})]))


def test_a_run_starts_from_a_merged_one_with_its_heads(tmp_path, first, second):
    folder = merged(tmp_path / "merged", first, second, weights=(1.0, 1.0)).folder
    after = continued(tmp_path / "after", "tone", "near", start=folder)
    notes = json.loads((after / "plan.json").read_text())["notes"]
    assert f"starts from {folder}: the encoder and the heads of tone, near" in notes


def test_a_merged_run_is_not_resumed(tmp_path, first):
    folder = merged(tmp_path / "merged", first).folder
    with pytest.raises(MtlError, match="was merged, not trained; train a new run from it with --init"):
        mtlcli.train(output=folder, resume=True)
    assert (folder / "run.json").is_file()


# What is refused


def test_runs_of_another_encoder_are_refused(tmp_path, first):
    message = error_of(tmp_path / "x", first, other())
    assert message == f"{other()}: encoder.max_length is 24, and 32 in {first}; runs to merge have to share it"


def test_runs_of_another_start_are_refused(tmp_path, first):
    stranger = continued(tmp_path / "stranger", "near", start=first)
    message = error_of(tmp_path / "x", first, stranger, weights=(1.0, 1.0))
    assert message == (
        f"{stranger}: started from other weights (init: {first}) than {first} (init: {trained()}); only runs that started from the "
        "same encoder can be merged"
    )


def test_start_names_an_encoder_that_is_gone(tmp_path, first):
    origin = copy_of(trained(), tmp_path)
    run = continued(tmp_path / "continued", "near", start=origin)
    shutil.rmtree(origin)
    message = error_of(tmp_path / "x", first, run, weights=(1.0, 1.0))
    assert message.startswith(f"{run}: its start: {origin}: there is no such run folder")
    assert message.endswith("name the encoder that all runs started from with --start")
    record = merged(tmp_path / "merged", first, run, weights=(1.0, 1.0), start=str(trained())).record
    assert record.start == str(trained())


def test_a_tiny_start_is_made_again_from_the_texts(tmp_path):
    folder = merged(tmp_path / "merged", trained(), method="task-arithmetic", scaling=0.0).folder
    start, run = load_tensors(folder / WEIGHTS), load_tensors(trained() / WEIGHTS)
    assert start.keys() == run.keys() and any(not torch.equal(start[name], run[name]) for name in run)
    again = merged(tmp_path / "again", trained(), method="task-arithmetic", scaling=1.0).folder
    assert all(torch.equal(value, run[name]) for name, value in load_tensors(again / WEIGHTS).items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1.0,)}, "--weights: found 1; expected 2, one for each run in their order"),
        ({"weights": (1.0, -1.0)}, "--weights: average needs weights from 0, one of them above 0"),
        ({"scaling": 0.5}, "--scaling: average has no scaling coefficient; remove it"),
        (
            {"method": "ties", "options": Options(density=0.0)},
            "--density: found 0; expected a share above 0 and up to 1",
        ),
        (
            {"method": "dare", "options": Options(drop_rate=1.0)},
            "--drop-rate: found 1; expected a share from 0 to below 1",
        ),
        ({"method": "ties", "scaling": float("nan")}, "--scaling: found nan; expected a finite number"),
        ({"select_by": "tone.f1"}, '--select-by: found "tone.f1"'),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, first, second, settings, message):
    assert error_of(tmp_path / "x", first, second, **settings).startswith(message)


def test_one_run_twice_and_an_unfinished_one_are_refused(tmp_path, first):
    assert error_of(tmp_path / "x", first, first) == f"{first}: the run is named twice; name it once"
    unfinished = copy_of(first, tmp_path)
    (unfinished / "results.json").unlink()
    assert error_of(tmp_path / "x", unfinished).startswith(f"{unfinished}: the run has not finished; resume it first")


def test_a_run_is_replaced_only_with_overwrite(tmp_path, first, second):
    folder = copy_of(first, tmp_path)
    with pytest.raises(MtlError) as caught:
        merged(folder, second)
    assert str(caught.value) == f"--output: {folder} is not empty: add --overwrite to replace the run in it"
    with pytest.raises(MtlError, match="is one of the runs to merge"):
        merge_runs([folder], folder, MergeSettings(device="cpu"), overwrite=True)
    merge_runs([second], folder, MergeSettings(device="cpu"), overwrite=True)
    assert not (folder / "checkpoints").exists() and not (folder / "plan.json").exists()
    assert list(mtlcli.Run(folder).results) == ["tone", "near"]


# Fisher information


BIAS = "encoder.layer.0.output.dense.bias"


def information_of(run: Path, task: str) -> tuple[dict[str, torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
    """The information of all training rows, and of each row its outputs and their derivatives (outputs, dim) by one bias."""
    saved, _ = load_run(run)
    rows = {task: read_rows(saved.config, saved.facts, saved.encoder, "train")[task]}
    tokenized = rows[task].tokenized["train"]
    values = fisher_information(saved.model, rows, rows=len(tokenized), seed=1, device=torch.device("cpu"))
    bias, index, derivatives = dict(saved.model.architecture.encoder.named_parameters())[BIAS], saved.task(task), []
    for row in range(len(tokenized)):
        output = saved.model(index, collate(tokenized, index, np.array([row]))).reshape(-1)
        slopes = [torch.autograd.grad(value, bias, retain_graph=True)[0] for value in output]
        derivatives.append((output.detach(), torch.stack(slopes)))
    return values, derivatives


def test_information_of_classes_is_the_mean_over_rows_and_classes_of_squared_gradients(first):
    values, derivatives = information_of(first, "tone")
    expected = torch.zeros_like(values[BIAS])
    for output, slopes in derivatives:
        p = output.softmax(0)
        for label in range(len(p)):
            # d log p(y) / d theta = d z_y / d theta - sum_c p_c d z_c / d theta
            expected += p[label] * (slopes[label] - p @ slopes).square()
    torch.testing.assert_close(values[BIAS] / values[BIAS].sum(), expected / expected.sum(), rtol=1e-3, atol=1e-5)


def test_information_of_scores_is_the_squared_gradient_of_the_score(first):
    values, derivatives = information_of(first, "stars")
    expected = sum(slopes[0].square() for _, slopes in derivatives)
    torch.testing.assert_close(values[BIAS] / values[BIAS].sum(), expected / expected.sum(), rtol=1e-3, atol=1e-5)


def test_information_has_a_mean_of_1_and_is_0_for_words_that_do_not_occur(first):
    run, _ = load_run(first)
    rows = {"tone": read_rows(run.config, run.facts, run.encoder, "train")["tone"]}
    values = fisher_information(run.model, rows, rows=2, seed=1, device=torch.device("cpu"))
    mean = sum(value.double().sum() for value in values.values()) / sum(value.numel() for value in values.values())
    assert float(mean) == pytest.approx(1, rel=1e-4)
    words = values["embeddings.word_embeddings.weight"].sum(-1)
    assert (words == 0).any() and (words > 0).any()
    again = fisher_information(run.model, rows, rows=2, seed=1, device=torch.device("cpu"))
    assert all(torch.equal(values[name], again[name]) for name in values)
