"""Import what takes long, and fork a process for every client: server.py SOCKET, until the standard input ends."""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress

import scipy.optimize  # noqa: F401
import torch
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401


def main(path: str) -> None:
    """Accept clients, each in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the server does not wait for the processes of clients
    gc.collect()
    gc.freeze()  # so that collections in the processes do not copy the pages of all modules
    with socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
        server.bind(path)
        server.listen(64)
        selector.register(server, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    return
                client, _ = server.accept()
                if os.fork() == 0:
                    server.close()
                    serve(client)
                client.close()


def serve(client: socket.socket) -> None:
    """Start the process of a client and tell it how the process ends. End the process where the client is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(client, 16, 3)
    text = b""
    while len(text) < int(length):
        text += client.recv(int(length) - len(text))
    child = os.fork()
    if child == 0:
        client.close()
        os._exit(run(json.loads(text.decode("utf-8", "surrogatepass")), descriptors))
    for descriptor in (*descriptors, 0, 1, 2):
        os.close(descriptor)
    ended = os.pidfd_open(child)
    client.sendall(f"{child}\n".encode())
    with selectors.DefaultSelector() as selector:
        for source in (client, ended):
            selector.register(source, selectors.EVENT_READ)
        if all(key.fileobj is client for key, _ in selector.select()):  # nothing else comes from a client than its end
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def run(request: dict, descriptors: list[int]) -> int:
    """Run the command of a client in this process, as `python` would; return the exit code."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    open_streams()
    first, *rest = request["command"]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = ["" if first in ("-m", "-c") else os.path.dirname(first), *paths]
    if first == "-m":
        return exit_code(lambda: run_module(rest))
    if first == "-c":
        return exit_code(lambda: run_code(rest))
    return exit_code(lambda: run_script([first, *rest]))


def open_streams() -> None:
    """Replace the standard streams of the server by those of the client, in UTF-8 and buffered as Python does."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def run_module(arguments: list[str]) -> None:
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def run_code(arguments: list[str]) -> None:
    code, *rest = arguments
    sys.argv = ["-c", *rest]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(code, "<string>", "exec"), module.__dict__)


def run_script(arguments: list[str]) -> None:
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def exit_code(program: Callable[[], None]) -> int:
    """Run a program and return the exit code that the interpreter would give."""
    code: object = 0
    try:
        program()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = 120 if code in (None, 0) else code
    return code if isinstance(code, int) else 0 if code is None else 1


if __name__ == "__main__":
    main(sys.argv[1])
