"""Small runs with a common start, for merging."""

from pathlib import Path

import pytest

from merging_runs import pair


@pytest.fixture
def first() -> Path:
    """A run with `tone` and `stars`; tests leave it alone."""
    return pair()[0]


@pytest.fixture
def second() -> Path:
    """A run with `tone` and `near`, from the same start; tests leave it alone."""
    return pair()[1]
