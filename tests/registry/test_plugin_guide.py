"""docs/plugins.md names every field that a plugin receives, and every family with its base class."""

import dataclasses
import re
from pathlib import Path

import pytest

from mtlcli import registry
from mtlcli.architectures.base import ArchitectureFacts, Inputs
from mtlcli.balancers.base import BatchLosses
from mtlcli.encoders.base import EncoderFacts
from mtlcli.facts import RunFacts, TaskFacts
from mtlcli.heads.base import EncoderOutput, HeadFacts
from mtlcli.plugin import EpochResult, EvaluationResult, ProbeResult, SetupContext, StepResult
from mtlcli.regularizers.base import Forward
from mtlcli.schedulers.base import Candidates, Position
from mtlcli.trackers.base import TrackedRun

GUIDE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
RECORDS = [
    TaskFacts, RunFacts, HeadFacts, ArchitectureFacts, EncoderFacts, SetupContext, StepResult, EpochResult, EvaluationResult,
    ProbeResult, Position, BatchLosses, Forward, Inputs, EncoderOutput, Candidates,
    TrackedRun,
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_row_of_a_record_names_exactly_its_fields(record):
    row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{record.__name__}` |"))
    named = {re.match(r"\w+", code)[0] for code in re.findall(r"`([^`]+)`", row.split(" | ")[2])}
    public = {name for name in vars(record) if not name.startswith("_")}
    fields = {field.name for field in dataclasses.fields(record)}
    assert fields <= named
    assert named <= fields | public | {"TaskFacts", "MultiTaskModel", "Classes", "Score"}


def test_the_table_of_families_holds_every_family_with_its_base_and_group():
    for family in registry.FAMILIES.values():
        assert f"| {family.name.replace('_', ' ')} | `mtlcli.{family.name}` | `{family.base}` |" in GUIDE
