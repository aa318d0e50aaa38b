"""Whether the Hugging Face Hub can be reached, and the switches that keep it offline."""

import os
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

PROBE_SECONDS = 5.0
"""Seconds to wait for any answer of the hub before it counts as unreachable."""


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids network access."""
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return switch.upper() in ("1", "ON", "YES", "TRUE")


def hub_answers(endpoint: str | None = None) -> bool:
    """Return whether the hub can be reached within PROBE_SECONDS; False at once in offline mode."""
    if offline():
        return False
    url = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer: list[bool] = []
    # A thread, because neither a host name lookup nor an answer that arrives byte by byte can be given a time limit.
    thread = threading.Thread(target=lambda: answer.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answer and answer[0])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True  # any HTTP status is an answer
    except (OSError, ValueError, HTTPException):
        return False
