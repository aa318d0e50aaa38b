"""Check whether the Hugging Face Hub can be reached, or whether the environment disables it."""

import os
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

PROBE_SECONDS = 5.0
"""Seconds to wait for an answer before the Hub counts as unreachable."""


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE disables requests to the Hub."""
    switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return switch.upper() in ("1", "ON", "YES", "TRUE")


def hub_answers(endpoint: str | None = None) -> bool:
    """Return whether the Hub can be reached within PROBE_SECONDS; False without a request if the environment disables it."""
    if offline():
        return False
    url = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer: list[bool] = []
    # In a thread, because urllib's timeout bounds neither a DNS lookup nor a response that arrives byte by byte.
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
        return True  # even an error status is an answer
    except (OSError, ValueError, HTTPException):
        return False
