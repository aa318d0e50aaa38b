"""The Python API: the same code as the commands, typed results, and errors that name the row."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mtlcli
import preloaded
from mtlcli.config.layers import dump
from mtlcli.errors import MtlError
from mtlcli.training.events import Evaluated, Finished, Ready, Started, Stepped
from small import small_config, small_values, write_files
from trained import copy_of, other, trained

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def model() -> mtlcli.Predictor:
    return mtlcli.load(trained())


def values(files: Path, **training: object) -> dict:
    """The small run of 4 steps."""
    recipe = small_values(files)
    recipe["training"] |= {"steps": 4, "steps_per_epoch": 2, **training}
    return recipe


def test_importing_mtlcli_imports_nothing_heavy_and_offers_every_name():
    script = (
        "import sys, time; start = time.process_time(); import mtlcli; print(time.process_time() - start < 0.1)\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pydantic', 'typer') if name in sys.modules])\n"
        "print(sorted(set(mtlcli.__all__) - set(dir(mtlcli))))\n"
        "from mtlcli import Run, train; print(train.__module__, 'torch' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["True", "[]", "[]", "mtlcli.api True"]
    assert all(getattr(mtlcli, name) is not None for name in mtlcli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        mtlcli.tain  # noqa: B018


# Configuration


def test_a_configuration_is_a_file_a_mapping_or_a_resolved_one(files, tmp_path):
    recipe = values(files)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    from_values = mtlcli.load_config(recipe)
    assert mtlcli.load_config(tmp_path / "recipe.yaml") == from_values
    assert mtlcli.load_config(str(tmp_path / "recipe.yaml")) == from_values
    assert mtlcli.load_config(from_values) == from_values
    assert mtlcli.load_config(**recipe) == from_values


def test_keyword_sections_win_key_by_key_and_leave_the_callers_dict_alone(files):
    recipe = values(files)
    before = json.dumps(recipe)
    config = mtlcli.load_config(
        recipe, training={"steps": 9}, balancer="uncertainty+pcgrad", tasks={"tone": {"max_rows": 5}}
    )
    assert (config.training.steps, config.training.batch_size, config.tasks["tone"].max_rows) == (9, 8, 5)
    assert (config.balancer.name, config.gradient_regularizer.name) == ("uncertainty", "pcgrad")
    assert list(config.tasks) == ["tone", "same", "near"]
    assert json.dumps(recipe) == before


def test_paths_and_tuples_are_taken_as_python_has_them(files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    task = {"kind": "classification", "train": Path("tone-train.tsv"), "labels": ("bad", "good")}
    config = mtlcli.load_config({"tasks": {"tone": task}})
    assert (config.tasks["tone"].train, config.tasks["tone"].labels) == (str(files / "tone-train.tsv"), ["bad", "good"])
    assert list(mtlcli.load_config({"tasks": ("sst", "sts"), "sample": True}).tasks) == ["sst", "sts"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trainning": {}}, 'trainning: unknown key; did you mean "training"?'),
        ({"training": {"epoch": 3}}, 'training.epoch: unknown key; did you mean "epochs"?'),
        ({"balancer": "pcgrd"}, 'balancer: unknown balancer "pcgrd"; did you mean "pcgrad"?'),
    ],
)
def test_a_wrong_key_is_named_with_what_was_meant(files, sections, message):
    with pytest.raises(MtlError) as caught:
        mtlcli.load_config(values(files), **sections)
    assert message in str(caught.value)


# Training


def test_train_is_the_run_of_the_command(files, tmp_path, monkeypatch):
    from mtlcli.cli import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(values(files)))
    events = []
    run = mtlcli.train(recipe, output=tmp_path / "api", on_event=events.append)
    monkeypatch.setattr(sys, "argv", ["mtl", "train", "-c", str(recipe), "-o", str(tmp_path / "cli"), "-q"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    names = ("config.yaml", "plan.json", "predictions/tone.dev.jsonl")
    assert all((tmp_path / "api" / name).read_text() == (tmp_path / "cli" / name).read_text() for name in names)
    assert run.results == mtlcli.Run(tmp_path / "cli").results
    assert [type(event) for event in events[:3]] == [Ready, Started, Stepped]
    assert isinstance(events[-1], Finished) and sum(isinstance(event, Evaluated) for event in events) == 2
    assert run.results["tone"] == events[-1].results["tone"]["dev"]


def test_a_run_is_a_path_with_results_and_configuration(files, tmp_path):
    run = mtlcli.train(values(files), output=tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "results.json").read_text())["tasks"]["tone"]["dev"]["accuracy"]
    accuracy = mtlcli.Run(str(tmp_path / "run")).results["tone"]["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.n) == tuple(
        stored[key] for key in ("value", "low", "high", "n")
    )
    assert run.finished and Path(run) == tmp_path / "run" == run.folder
    assert run.config == mtlcli.load_config(values(files))
    assert repr(run) == f"Run('{tmp_path / 'run'}', finished=True)"
    with pytest.raises(MtlError, match=r"--resume .* --overwrite"):
        mtlcli.train(values(files), output=run)


def test_an_interrupt_stops_after_the_step_saves_and_returns_an_unfinished_run(files, tmp_path):
    def press(event):
        if isinstance(event, Stepped) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    run = mtlcli.train(values(files), output=tmp_path / "run", on_event=press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not run.finished
    with pytest.raises(MtlError, match="is not finished"):
        _ = run.results
    steps = []
    again = mtlcli.train(output=run, resume=True, on_event=lambda event: steps.append(getattr(event, "lr", None)))
    assert len([lr for lr in steps if lr is not None]) == 1
    whole = mtlcli.train(values(files), output=tmp_path / "whole")
    assert again.finished and again.results == whole.results


def test_a_second_interrupt_and_one_before_the_first_step_raise(files, tmp_path, monkeypatch):
    def press_twice(event):
        if isinstance(event, Stepped):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        mtlcli.train(values(files), output=tmp_path / "run", on_event=press_twice)

    def interrupted(*arguments, **more):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("mtlcli.training.run.set_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mtlcli.train(values(files), output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_training_outside_the_main_thread_needs_no_signals(files, tmp_path):
    from threading import Thread

    thread = Thread(target=mtlcli.train, args=(values(files, steps=1),), kwargs={"output": tmp_path / "run"})
    thread.start()
    thread.join()
    assert mtlcli.Run(tmp_path / "run").finished


def test_a_resumed_run_may_be_longer_but_of_no_other_method(files, tmp_path):
    run = mtlcli.train(values(files), output=tmp_path / "run")
    assert mtlcli.train(output=run, resume=True, training={"steps": 5}).finished
    assert json.loads((run.folder / "results.json").read_text())["steps"] == 5
    with pytest.raises(MtlError, match=r"balancer\.name: was 'equal', now 'uncertainty'"):
        mtlcli.train(output=run, resume=True, balancer="uncertainty")


def test_a_finished_run_without_checkpoints_is_left_alone(files, tmp_path):
    import shutil

    run = mtlcli.train(values(files), output=tmp_path / "run")
    shutil.rmtree(run.folder / "checkpoints")
    before = (run.folder / "results.json").stat().st_mtime_ns
    assert mtlcli.train(output=run, resume=True).finished
    assert (run.folder / "results.json").stat().st_mtime_ns == before
    with pytest.raises(MtlError, match="has no checkpoint to resume from"):
        mtlcli.train(output=run, resume=True, training={"steps": 5})
    assert (run.folder / "results.json").stat().st_mtime_ns == before


# Prediction


def by_command(tmp_path: Path, run: Path, table: str, task: str) -> list[dict]:
    (tmp_path / "in.tsv").write_text(table)
    command = [*preloaded.python(), "-m", "mtlcli", "predict", str(run), str(tmp_path / "in.tsv"), "--task", task, "-q"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line)[task] for line in ended.stdout.splitlines()]


def test_texts_are_predicted_as_by_the_command(model, tmp_path):
    texts = ["the lovely lamp", "the poor ferry", "a violin and a dreary pie"]
    from_command = by_command(tmp_path, model.folder, "sentence\n" + "\n".join(texts) + "\n", "tone")
    predictions = model.predict(texts, task="tone")
    assert [prediction.label for prediction in predictions] == [row["label"] for row in from_command]
    for prediction, row in zip(predictions, from_command, strict=True):
        assert prediction.probabilities == pytest.approx(row["probabilities"], abs=1e-6)
        assert prediction.score is None
    assert model.predict([{"sentence": text, "more": 1} for text in texts], "tone") == predictions


@pytest.mark.slow
def test_pairs_are_tuples_lists_or_mappings(model, tmp_path):
    pairs = [("the lamp", "the superb lamp"), ("a pie", "the awful stool")]
    table = "sentence1\tsentence2\n" + "\n".join("\t".join(pair) for pair in pairs) + "\n"
    scores = [row["score"] for row in by_command(tmp_path, model.folder, table, "near")]
    predictions = model.predict(pairs, "near")
    assert [prediction.score for prediction in predictions] == pytest.approx(scores, abs=1e-6)
    assert model.predict(map(list, pairs), "near") == predictions
    assert model.predict([{"sentence1": a, "sentence2": b} for a, b in pairs], "near") == predictions


def test_without_a_task_every_task_that_can_read_the_rows_is_in_a_dict(model):
    texts, pairs = ["the lovely lamp", "a pie"], [("the lamp", "a lamp")]
    assert {task: len(rows) for task, rows in model.predict(texts).items()} == {"tone": 2, "stars": 2}
    assert {task: len(rows) for task, rows in model.predict(pairs).items()} == {"same": 1, "near": 1}
    assert list(model.predict([{"sentence": "a", "sentence1": "b", "sentence2": "c"}])) == [
        "tone",
        "stars",
        "same",
        "near",
    ]
    assert model.predict(texts)["tone"] == model.predict(texts, "tone")


def test_no_rows_are_no_predictions(model):
    assert model.predict([], "tone") == []
    assert model.predict([]) == {"tone": [], "stars": [], "same": [], "near": []}
    assert model.encode([]).shape == (0, 32)


def test_order_and_number_stay_in_several_windows_and_any_batch(model):
    texts = [f"the {'lovely ' * (index % 7)}lamp {index}" for index in range(150)]
    plain = [model.predict([text], "stars")[0].score for text in texts[:5]]
    for batch_size in (None, 1, 64):
        predictions = model.predict(iter(texts), "stars", batch_size=batch_size)
        assert len(predictions) == 150
        assert [prediction.score for prediction in predictions[:5]] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "task", "message"),
    [
        ("a text", "tone", "texts: found a text; expected a list of rows"),
        (["a"], "tune", 'task: the run has no task "tune"; did you mean "tone"?'),
        (["a", ("b", "c")], "tone", "texts[1]: found a pair of texts; expected a text"),
        (["a"], "near", "texts[0]: found a text; expected a pair of texts"),
        ([("a", "b"), ("a", "b", "c")], "near", "texts[1]: found 3 texts; expected a pair of texts"),
        (["a", None], "tone", "texts[1]: found NoneType None; expected a text"),
        (["a", float("nan")], None, "texts[1]: found float nan; expected a text"),
        ([("a", None)], "near", "texts[0]: found NoneType None; expected a text"),
        ([{"text": "a"}], "tone", "texts[0]: found a mapping with text; expected a mapping with the columns sentence"),
        ([{"sentence": "a"}, "b"], "tone", "texts[1]: found a text; expected a mapping with the columns sentence"),
        ([{"sentence": "a"}, {"sentence": 3}], "tone", 'texts[1]["sentence"]: found int 3; expected a text'),
        (["a\ud800"], "tone", "texts[0]: found a lone surrogate at character 1"),
        ([3], None, "texts[0]: found int 3; expected a text or a mapping with sentence for tone or"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_named_by_its_index(model, texts, task, message):
    with pytest.raises(MtlError) as caught:
        model.predict(texts, task)
    assert message in str(caught.value)


def test_a_batch_of_no_rows_is_refused(model):
    with pytest.raises(MtlError, match="batch_size: found 0; expected a number from 1"):
        model.predict(["a"], "tone", batch_size=0)


def test_an_ensemble_predicts_and_has_no_single_encoding(tmp_path, model):
    from mtlcli.runs.ensemble import choose, write

    runs = [trained(), other()]
    write(choose(runs, {}), tmp_path / "both")
    both = mtlcli.load(tmp_path / "both")
    text = ["the lovely lamp"]
    parts = [mtlcli.load(run).predict(text, "tone")[0].probabilities["good"] for run in runs]
    assert both.predict(text, "tone")[0].probabilities["good"] == pytest.approx(sum(parts) / 2, abs=1e-6)
    with pytest.raises(MtlError, match="ensemble of 2 encoders"):
        both.encode(text)


# Encodings


def as_sentence_transformers(folder: Path, texts: list[str]) -> np.ndarray:
    """The vectors by the files that sentence-transformers reads, computed with transformers alone, text by text."""
    from transformers import AutoModel, AutoTokenizer

    modes = json.loads((folder / "1_Pooling" / "config.json").read_text())
    length = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in texts:
        inputs = tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            tokens = encoder(**inputs).last_hidden_state[0]
        ways = {
            "pooling_mode_cls_token": tokens[0], "pooling_mode_mean_tokens": tokens.mean(0), "pooling_mode_max_tokens": tokens.amax(0)
        }  # fmt: skip
        (vector,) = [vector for mode, vector in ways.items() if modes[mode]]
        vectors.append(vector.numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_encodings_are_those_of_sentence_transformers(files, tmp_path, pooling):
    run = mtlcli.train(values(files), encoder={"pooling": pooling}, output=tmp_path / "run")
    texts = ["the big cat", "a dog", "the small red house sees a green tree " * 12, ""]
    vectors = run.load().encode(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (4, 16)
    np.testing.assert_allclose(vectors, as_sentence_transformers(run.folder / "encoder", texts), atol=1e-5)
    np.testing.assert_allclose(run.load().encode(iter(texts), batch_size=1), vectors, atol=1e-5)


def test_another_layer_is_pooled_where_the_run_reads_one(files, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    run = mtlcli.train(values(files), encoder={"layer": 1}, output=tmp_path / "run")
    folder = run.folder / "encoder"
    inputs = AutoTokenizer.from_pretrained(folder)("the big cat", return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(**inputs, output_hidden_states=True).hidden_states
    vector = run.load().encode(["the big cat"])[0]
    np.testing.assert_allclose(vector, states[1][0].mean(0).numpy(), atol=1e-5)
    assert not np.allclose(vector, states[2][0].mean(0).numpy(), atol=1e-3)


def test_only_texts_have_encodings(model):
    with pytest.raises(MtlError, match=r"texts\[1\]: found tuple .* expected a text"):
        model.encode(["a", ("b", "c")])


# Evaluation and comparison


@pytest.mark.slow
def test_evaluate_and_compare_return_what_the_commands_print(tmp_path):
    files = trained().parent / "files"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = copy_of(trained(), tmp_path / "a"), copy_of(other(), tmp_path / "b")
    evaluation = mtlcli.evaluate(first, split="test", tasks=["tone"], resamples=100)
    command = [
        *preloaded.python(),
        "-m",
        "mtlcli",
        "eval",
        str(first),
        "--split",
        "test",
        "-t",
        "tone",
        "--resamples",
        "100",
    ]
    printed = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    estimate = evaluation["tone"]["test"]["accuracy"]
    assert printed["tasks"]["tone"]["test"]["accuracy"]["low"] == estimate.low
    on_file = mtlcli.evaluate(first, tasks={"tone": files / "tone-test.tsv"}, resamples=100)
    assert on_file["tone"]["dev"]["accuracy"].value == estimate.value
    compared = mtlcli.compare(mtlcli.Run(first), second, tasks=["tone"], metrics=["accuracy"], resamples=200).compared
    dev = [mtlcli.Run(run).results["tone"]["accuracy"].value for run in (first, second)]
    assert compared[0].difference.value == pytest.approx(dev[1] - dev[0])


# Documents


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "examples" / "python.py").read_text()
    assert text.count("# %%") >= 8
    runpy.run_path(str(ROOT / "examples" / "python.py"))
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("step ") for line in lines) == 3
    assert "(2, 32) float32" in lines


@pytest.mark.slow
def test_the_snippets_of_the_guide_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 9
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets, start=1):
        exec(compile(snippet, f"docs/python.md, snippet {number}", "exec"), names)
    documented = set(re.findall(r"\| `(\w+)\(", text))
    assert documented == {"load_config", "train", "load", "evaluate", "compare"}


def test_small_config_is_what_load_config_resolves(files):
    assert mtlcli.load_config(small_values(files)) == small_config(files)
