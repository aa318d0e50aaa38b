"""Run a command in a process that the server forks: client.py SOCKET (-m MODULE | SCRIPT) ARGUMENT..."""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    request = {"command": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(request).encode("utf-8", "surrogatepass")
    socket.send_fds(server, [f"{len(text):16}".encode()], [0, 1, 2])
    server.sendall(text)
    answers = server.makefile("r", encoding="ascii")
    process = int(answers.readline())
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"):
        signal.signal(getattr(signal, name), lambda number, _frame: os.kill(process, number))
    code = int(answers.readline())
if code < 0:  # ended by a signal, as this process ends now
    if -code != signal.SIGKILL:  # whose action cannot be set
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
