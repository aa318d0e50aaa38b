"""Change files that carry a checksum, as nobody but their writer does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtlcli.files import SEAL, seal


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a sealed JSON file and seal it again."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[SEAL]
    change(content)
    path.write_text(json.dumps({**content, SEAL: seal(content)}), encoding="utf-8")
