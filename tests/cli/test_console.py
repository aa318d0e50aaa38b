"""The mixing plan on a terminal: it fits 80 columns, and its columns are explained once."""

from dataclasses import replace

import pytest

from mtlcli.cli import console
from mtlcli.training.plan import Plan, TaskPlan

QUORA = TaskPlan(
    name="quora", rows=283003, dev_rows=40429, batch_size=16, batches_per_step=1.25, share=0.951, passes=12.5, truncated=4021,
    texts=283003, encoding="cross", head="pair-compare", parameters=770,
)  # fmt: skip
PLAN = Plan(
    tasks=(QUORA, replace(QUORA, name="similarity", encoding="bi", head="cosine", rows=10)), steps=3, steps_per_epoch=3,
    epoch_ends=(3,), scheduler="round-robin", balancer="equal", encoder="tiny", encoder_parameters=400_000, device="cpu",
    precision="fp32", rows_buffer_bytes=0, forward_passes=0, backward_passes=0, first_step=0, batches_per_step=2.5, notes=(), warnings=(),
)  # fmt: skip


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function that prints the plan on 80 columns and returns its lines."""

    def show() -> list[str]:
        monkeypatch.setenv("COLUMNS", "80")
        console.show_plan(PLAN)
        return capsys.readouterr().out.splitlines()

    return show


def test_the_table_of_the_plan_fits_80_columns_and_breaks_no_number(shown):
    lines = shown()
    table = lines[1 : next(index for index, line in enumerate(lines) if line.startswith("  batch size:"))]
    assert max(map(len, table)) <= 80
    row = next(line for line in table if line.startswith("quora"))
    assert row.split() == ["quora", "cross,", "283003", "40429", "16", "1.25", "95.1", "%", "12.50", "4021"]
    assert "pair-compare" in "\n".join(table)


def test_every_column_is_explained_below_the_table_the_first_time_only(shown):
    first, second = shown(), shown()
    for column, meaning in console.PLAN_COLUMNS.items():
        assert f"  {column}: {meaning}" in first
    assert second == [line for line in first if not line.startswith("  ") or ":" not in line]
    assert len(first) - len(second) == len(console.PLAN_COLUMNS)


def test_the_explained_columns_are_those_of_the_table(shown):
    words = set(" ".join(shown()).replace(":", " ").split())
    for column in console.PLAN_COLUMNS:
        assert set(column.split()) <= words


def test_without_a_cache_folder_the_columns_are_explained_every_time(shown, monkeypatch):
    monkeypatch.setenv("MTL_CACHE", "")
    assert shown() == shown()
