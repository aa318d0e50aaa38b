"""`mtl train`, `mtl eval` and `mtl predict` in several processes: the same files, once, and the ways in which runs end."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from mtlcli.runs import checkpoint
from processes import ended, recipe, same_numbers, start, together
from small import write_files

MTL = ["-m", "mtlcli"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def train(
    path: str, output: Path, size: int, *flags: str, code: int = 0, **environment: str
) -> list[tuple[int, str, str]]:
    ends = together([*MTL, "train", "--config", path, "--output", str(output), *flags], size, **environment)
    assert [found for found, _, _ in ends] == [code] * size, ends
    return ends


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    """The same run in one process and in two, both stopped never."""
    folder = tmp_path_factory.mktemp("runs")
    path = recipe(files, folder)
    train(path, folder / "one", 1, MTL_RANKS="off")
    ends = train(path, folder / "two", 2)
    return folder, ends


@pytest.mark.slow
def test_two_processes_write_the_run_of_one_and_only_the_first_speaks(runs):
    folder, ends = runs
    same_numbers(folder / "two", folder / "one")
    assert "saved in" in ends[0][1] + ends[0][2] and ends[1][1:] == ("", "")
    names = [sorted(path.name for path in (folder / run).rglob("*") if path.name != ".lock") for run in ("one", "two")]
    assert names[0] == names[1]
    assert json.loads((folder / "two" / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_predictions_and_metrics_are_those_of_one_process_byte_for_byte(runs, tmp_path):
    folder, _ = runs
    texts = tmp_path / "texts.txt"
    texts.write_text(
        "".join(f"the small cat sees house number {number} {'tree ' * (number % 7)}\n" for number in range(700))
    )
    found = []
    for size in (1, 3):
        environment = {"MTL_RANKS": "off"} if size == 1 else {}
        output = tmp_path / f"{size}.jsonl"
        ends = together(
            [*MTL, "predict", str(folder / "one"), str(texts), "-t", "tone", "-o", str(output)], size, **environment
        )
        assert all(code == 0 for code, _, _ in ends), ends
        of_eval = together([*MTL, "eval", str(folder / "one"), "--json", "-q"], size, **environment)
        assert all(code == 0 for code, _, _ in of_eval), of_eval
        assert all(out == "" for _, out, _ in of_eval[1:])
        found.append((output.read_bytes(), of_eval[0][1]))
    assert found[0] == found[1]
    assert len(found[0][0].splitlines()) == 700
    piped = together([*MTL, "predict", str(folder / "one"), "-t", "tone"], 2)[0]
    assert piped[0] == 2 and "use one process" in piped[2]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(files, runs, tmp_path):
    folder, _ = runs
    path = recipe(files, tmp_path, save_every=1)
    output = tmp_path / "run"
    stopped_and_saved(["train", "--config", path, "--output", str(output)], output, 2, after=2)
    stopped_and_saved(["train", "--resume", "--output", str(output)], output, 1, after=6)
    together([*MTL, "train", "--resume", "--output", str(output)], 3)
    same_numbers(output, folder / "one")
    assert (output / "results.json").is_file()


def stopped_and_saved(arguments: list[str], output: Path, size: int, after: int) -> None:
    """Start, send SIGUSR1 to the last process once there is a checkpoint behind step `after`, and wait for the end of all."""
    environment = {"MTL_RANKS": "off"} if size == 1 else {}
    running = start([*MTL, *arguments, "-q"], size, **environment)
    deadline = time.monotonic() + 120
    while not any(step > after for step in checkpoint.steps(output / "checkpoints")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in running), ended(running, 1)
        time.sleep(0.01)
    running[-1].send_signal(signal.SIGUSR1)
    ends = ended(running)
    # torchrun takes any other code for a failure.
    assert {code for code, _, _ in ends} == ({0} if size > 1 else {128 + signal.SIGUSR1}), ends
    assert re.search(r"stopped and saved after step (\d+)", ends[0][1] + ends[0][2]), ends


@pytest.mark.slow
def test_a_process_that_is_killed_ends_a_run_whose_encoder_is_divided(files, tmp_path):
    """FSDP gathers the layers by calls of its own."""
    path = recipe(files, tmp_path, save_every=1, steps=4000, sharding="full")
    output = tmp_path / "run"
    running = start([*MTL, "train", "--config", path, "--output", str(output), "-q"], 2, python=[sys.executable])
    while not checkpoint.steps(output / "checkpoints"):
        assert all(process.poll() is None for process in running)
        time.sleep(0.05)
    running[1].kill()
    try:
        text = running[0].communicate(timeout=60)[1]
    finally:
        running[0].kill()
    ended([running[1]])
    assert running[0].returncode == 1
    assert re.search(r"error: process 1 \(.*\) ended or does not answer at step [\d,]+", text), text
    assert "Traceback" not in text, text


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_hangs_ends_the_others_with_a_line_that_names_it(files, tmp_path, number, lost):
    path = recipe(files, tmp_path, save_every=1, steps=4000)
    output = tmp_path / "run"
    command = [*MTL, "train", "--config", path, "--output", str(output), "-q"]
    running = start(command, 3, python=[sys.executable], MTL_STEP_SECONDS="5")
    while not checkpoint.steps(output / "checkpoints"):
        assert all(process.poll() is None for process in running)
        time.sleep(0.05)
    running[lost].send_signal(number)
    begin = time.monotonic()
    survivors = [process for rank, process in enumerate(running) if rank != lost]
    try:
        texts = [process.communicate(timeout=60)[1] for process in survivors]
    finally:
        for process in running:
            process.kill()
    assert time.monotonic() - begin < 60
    ended([running[lost]])
    assert [process.returncode for process in survivors] == [1, 1]
    for text in texts:
        assert re.search(rf"error: process {lost} \(.*\) ended or does not answer at step [\d,]+", text), texts
        assert "Traceback" not in text and text.count("\n") == 1, texts


@pytest.mark.slow
def test_a_restarted_command_resumes_its_run(files, runs, tmp_path):
    folder, _ = runs
    path = recipe(files, tmp_path, save_every=1)
    output = tmp_path / "run"
    running = start([*MTL, "train", "--config", path, "--output", str(output), "-q"], 2)
    while not any(step > 3 for step in checkpoint.steps(output / "checkpoints")):
        assert all(process.poll() is None for process in running)
        time.sleep(0.01)
    for process in running:
        process.kill()
    ended(running)
    train(path, output, 2, TORCHELASTIC_RESTART_COUNT="1")
    same_numbers(output, folder / "one")
    assert len((output / "command.txt").read_text().splitlines()) == 2


@pytest.mark.slow
def test_what_several_processes_cannot_do_is_one_line(files, tmp_path):
    path = recipe(files, tmp_path, batch_size=2)
    ends = train(path, tmp_path / "a", 3, code=2)
    assert "training.batch_size: found 2 rows for 3 processes" in "".join(error for *_, error in ends)
    assert sum(error.count("error:") for *_, error in ends) == 1
    path = recipe(files, tmp_path)
    ends = train(path, tmp_path / "b", 2, "--set", "regularizers=representation-alignment", code=2)
    assert "representation-alignment compares a batch with earlier ones" in ends[0][2] + ends[1][2]
    assert not (tmp_path / "b").exists()
    pair_mix = "tasks.same.head={name: pair-mix, triplet_loss: 1}"
    ends = train(path, tmp_path / "c", 2, "--set", pair_mix, "--set", "tasks.same.encoding=bi", code=2)
    assert "tasks.same.head: remembers earlier batches with these options" in ends[0][2] + ends[1][2]
    ends = together([*MTL, "study", "--config", path], 2)
    assert ends[0][0] == 2 and "runs in one process" in ends[0][2] and ends[1][2] == ""


@pytest.mark.slow
def test_a_process_with_other_rows_is_named(files, tmp_path):
    places = [write_files(tmp_path / "first"), write_files(tmp_path / "second", rows=41)]
    values = yaml.safe_load(Path(recipe(files, tmp_path)).read_text())
    for task in values["tasks"].values():
        task.update({split: Path(task[split]).name for split in ("train", "dev")})
    for place in places:
        (place / "recipe.yaml").write_text(yaml.safe_dump(values))
    running = start(
        [*MTL, "train", "--config", "recipe.yaml", "--output", str(tmp_path / "run"), "-q"], 2, folders=places
    )
    ends = ended(running)
    text = ends[0][2] + ends[1][2]
    assert [code for code, _, _ in ends] == [2, 2], ends
    assert re.fullmatch(r"error: process 1 \(.*\): rows of \w+.train: not the same as in process 0; .*\n", text), ends


@pytest.mark.slow
def test_processes_of_srun_find_each_other(files, tmp_path):
    path = recipe(files, tmp_path, steps=2)
    ends = together([*MTL, "train", "--config", path, "--output", str(tmp_path / "run"), "-q"], 2, starter="slurm")
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
