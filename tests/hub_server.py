"""A stand-in for the Hugging Face Hub, with the requests of a push, which keeps what is committed."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

from huggingface_hub import constants

LARGEST_REGULAR = 20_000
"""Bytes above which a file goes to the storage of large files."""


class Hub:
    """What the server has: files by branch, large files by sha256, and the requests. Answers can be changed by path."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.created: dict[str, Any] = {}
        self.status: dict[str, int] = {}  # by part of the path: this status in place of an answer
        self.silent_seconds = 0.0
        self.broken_uploads = 0
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(404, {})

    def do_PUT(self) -> None:
        body = self.body()
        if self.hub.broken_uploads:
            self.hub.broken_uploads -= 1
            self.answer(503, {})
            return
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != digest:
            self.answer(400, {})
            return
        self.hub.large[digest] = body
        self.answer(200, {})

    def do_POST(self) -> None:
        body = self.body()
        hub, path = self.hub, self.path
        hub.requests.append(path)
        time.sleep(hub.silent_seconds)
        for part, status in hub.status.items():
            if part in path:
                self.answer(status, {"error": "no", "url": f"{hub.address}/me/name"})
                return
        if path == "/api/repos/create":
            hub.created = json.loads(body)
            name = "/".join(filter(None, (hub.created.get("organization") or "me", hub.created["name"])))
            self.answer(200, {"url": f"{hub.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/branch/" in path:
            self.answer(200, {})
        elif "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > LARGEST_REGULAR else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{hub.address}/large/{entry['oid']}", "header": {}}}}
                for entry in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            tree = hub.files.setdefault(path.rpartition("/")[2], {})
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    tree[value["path"]] = hub.large[value["oid"]]
            self.answer(
                200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.address}/me/name/commit/{'0' * 40}"}
            )
        else:
            self.answer(404, {})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status: int, content: Any) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run the server while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that has not waited for the answer
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        # The library reads the environment when it is imported, perhaps by a test that forbids the network.
        with mock.patch.object(constants, "HF_HUB_OFFLINE", False):
            yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
