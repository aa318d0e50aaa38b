"""Read event files as TensorBoard does."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def events(folder: Path) -> Iterator[Any]:
    """The events of all files of a folder in the order of their names. A record is a length, its checksum, the data, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("*.tfevents.*")):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            (length,) = struct.unpack("<Q", raw[at : at + 8])
            yield Event.FromString(raw[at + 12 : at + 12 + length])
            at += 16 + length


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag. The start of a session drops what came before with its step or a later one."""
    from tensorboardX.proto.event_pb2 import SessionLog

    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def texts(folder: Path) -> dict[str, str]:
    """Texts by tag."""
    return {
        value.tag: value.tensor.string_val[0].decode()
        for event in events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "tensor"
    }
