"""Names and numbers in metrics.jsonl."""

import io
import json
import math

import torch

from mtlcli.report.sections import _names_in
from mtlcli.training.log import _cosines, write_line


def test_pairs_of_tasks_with_underscores_have_names_of_their_own():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0]])
    cosines = _cosines(["a", "b_c", "a_b", "c"], rows @ rows.T)
    assert len(cosines) == 6  # with "_" between the tasks, (a, b_c) and (a_b, c) would be one
    assert cosines["gradients/cosine/a/b_c"] == 0.0
    assert math.isclose(cosines["gradients/cosine/a_b/c"], -math.sqrt(0.5), rel_tol=1e-6)


def test_the_report_reads_the_pairs_of_earlier_versions_too():
    assert _names_in("gradients/cosine/a_b/c") == "a_b and c"
    assert _names_in("gradients/cosine/sst_sts") == "sst and sts"


def test_a_line_is_returned_as_it_is_written():
    log = io.StringIO()
    line = write_line(log, {"kind": "step", "step": 1, "lr": 0.5, "train/sst/loss": math.nan, "skipped": True})
    assert line == json.loads(log.getvalue()) == {
        "kind": "step", "step": 1, "lr": 0.5, "train/sst/loss": None, "skipped": True,
    }  # fmt: skip
