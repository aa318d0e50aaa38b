"""`mtl merge`."""

from mtlcli.runs.merge_record import read_merge_record


def test_the_coefficients_and_results_are_shown(mtl, run, tmp_path):
    folder = tmp_path / "merged"
    code, out, err = mtl("merge", run, "--method", "ties", "--weights", "1", "-o", folder)
    assert code == 0
    trials = [line for line in err.splitlines() if line.startswith("scaling ")]
    assert trials[0].startswith("scaling 0.4, weights 1: ") and len(trials) == 11
    lines = [" ".join(line.split()) for line in out.splitlines()]
    record = read_merge_record(folder)
    assert lines[0] == f"ties, scaling {record.scaling:g}, the best of 11 on dev"
    assert lines[1] == "run weight heads"
    assert "tone, stars, same, near" in " ".join(lines)
    assert any(line.startswith("tone dev accuracy") for line in lines)
    assert lines[-1] == f"saved in {folder}"
    assert (folder / "command.txt").read_text().startswith("mtl merge ")


def test_quiet_prints_the_results_alone(mtl, run, tmp_path):
    code, out, err = mtl("merge", run, "-q", "-o", tmp_path / "merged")
    assert code == 0 and all(line.startswith("warning: same dev: ") for line in err.splitlines())
    assert "saved in" not in out and "weight" not in out and "accuracy" in out


def error(ended) -> str:
    assert (ended.code, ended.out) == (2, "")
    return ended.err


def test_mistakes_are_one_line_each(mtl, run, tmp_path):
    place = ("-o", tmp_path / "merged")
    assert error(mtl("merge", run, *place, "--method", "tie")) == (
        'error: --method: found "tie"; expected one of average, task-arithmetic, ties, dare, fisher; did you mean "ties"?\n'
    )
    assert error(mtl("merge", run, *place, "--weights", "1;2")) == (
        "error: --weights 1;2: expected numbers with commas between them, such as 0.7,0.3\n"
    )
    assert error(mtl("merge", run, *place, "--density", "0.5", "--seed", "3")) == (
        "error: --density: average has no such option; it is for ties\n"
        "error: --seed: average has no such option; it is for dare, fisher\n"
    )
    assert error(mtl("merge", run, *place, "--head", "tone", "--head", "near=a", "--head", "near=b")) == (
        "error: --head tone: expected TASK=RUN, such as sst=runs/a\n"
        "error: --head near=b: the task near is named twice; give one run\n"
    )
    assert not (tmp_path / "merged").exists()
