"""What several tests need: the real data where it is, small runs, and no cache or plugins of the machine."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: the tests run in two processes, on models that one core suits
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A shell that starts the tests in the background ignores the signals of Ctrl-C, and its processes inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


def real_data() -> Path | None:
    """The folder of third-party data: MTL_DATA, or one called `data` beside the checkout that holds the CS224N files."""
    if "MTL_DATA" in os.environ:
        return Path(os.environ["MTL_DATA"])
    found = [*ROOT.parent.glob("data/cs224n"), *ROOT.parent.glob("*/data/cs224n")]
    return found[0].parent if found else None


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of third-party data; the test is skipped where there is none."""
    found = real_data()
    if found is None or not (found / "cs224n" / "ids-sst-train.csv").is_file():
        pytest.skip("the third-party data folder is not here; set MTL_DATA to it")
    return found


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token caches go into the test's own folder."""
    monkeypatch.setenv("MTL_CACHE", str(tmp_path / "cache"))
