"""Whether the Hugging Face Hub can be reached, and the switches that keep it offline."""

import os
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

PROBE_SECONDS = 5.0
"""How long the hub may take to answer at all before we say that it is out of reach."""


def offline() -> bool:
    """Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the hub."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def hub_answers(endpoint: str | None = None) -> bool:
    """Whether the hub can be reached, within PROBE_SECONDS. False at once where the environment says to stay offline."""
    if offline():
        return False
    url = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer: list[bool] = []
    # a thread, because looking up a host name cannot be bounded, nor an answer that comes byte by byte
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
        return True  # it answered
    except (OSError, ValueError, HTTPException):
        return False
