"""A `python` whose processes begin as copies of one that has imported what most of them need.

That is torch above all: an import takes longer than most of what tests let a process do.

`warm_python` is the path of it. It takes `-c CODE`, `-m MODULE` or a file, with arguments, as Python does, in the current folder and
environment, and whatever descriptors it is given; `warm_processes` has also those processes begin so that a run starts. Not for tests
of what is imported, of signals, or of memory. This file is also the server that the copies are made by.
"""

from __future__ import annotations

import array
import atexit
import fcntl
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import socket
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

PRELOADED = (
    "torch._dynamo",
    "timm",
    "open_clip",
    "xarray",
    "sklearn.linear_model",
    "matplotlib.pyplot",
    "ipykernel.kernelapp",
    "diagnostics.cli.main",
    "diagnostics.runs.job",
    "diagnostics.runs.comparison",
    "diagnostics.runs.processes.workers",
)
FLAGS = ("-B", "-P", "-u")
"""Of Python's own, what says nothing to a process that has begun already."""
CLIENT = """#!{python} -SE
import array, json, os, socket, sys
def is_handed(number):
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
# The three streams, and what was handed over beyond them: Python's own descriptors are not inherited.
numbers = [number for number in map(int, os.listdir("/proc/self/fd")) if is_handed(number)]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([numbers, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    server.sendmsg([len(asked).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))])
    server.sendall(asked)
    status = int(server.recv(16) or 1)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def begin(folder: Path) -> Iterator[Path]:
    """The path of the warm `python` in a folder; its server runs until the generator is closed."""
    address, client = folder / "socket", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    command = [sys.executable, __file__, str(address)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    yield client
    server.kill()
    server.wait()


def serve(address: str) -> None:
    """Take what is asked for, and let a copy of this process do each."""
    # Its own folder, which Python put first.
    del sys.path[0]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        for name in PRELOADED:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
        print("listening", flush=True)
        # What is there now would be copied as soon as a copy collects garbage.
        gc.freeze()
        # Its copies are waited for by nobody.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        # Until whoever began it is gone.
        while 0 not in select.select([server, 0], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                watch(connection)
            connection.close()


def watch(connection: socket.socket) -> None:
    """Lets a copy do what is asked for, and says how it ended; it ends with whoever asked."""
    size, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(32 * array.array("i").itemsize))
    streams = array.array("i", ancillary[0][2]).tolist()
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += connection.recv(1 << 16)
    child = os.fork()
    if child == 0:
        connection.close()
        # As long as an import takes Python's own end, in which it frees all modules.
        os._exit(perform(streams, *json.loads(asked)))
    for stream in (*streams, 0, 1):
        os.close(stream)
    ready, _, _ = select.select([connection, handle := os.pidfd_open(child)], [], [])
    if handle not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if handle in ready:
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def perform(
    streams: list[int], numbers: list[int], arguments: list[str], folder: str, environment: dict[str, str]
) -> int:
    """As if Python had been started so, to the end; the status."""
    atexit._clear()
    # First out of the way: one may have the number that another is to get.
    apart = [fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 1 + max(*streams, *numbers)) for stream in streams]
    for stream in streams:
        os.close(stream)
    for number, stream in zip(numbers, apart, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (open(number, "w" if number else "r") for number in range(3))  # noqa: SIM115  (for good)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.chdir(folder)
    os.environ.clear()
    # A kernel would look for its parent, which is another one here.
    os.environ.update({name: value for name, value in environment.items() if name != "JPY_PARENT_PID"})
    sys.path[:0] = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry not in sys.path]
    status = 0
    try:
        run(arguments)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def run(arguments: list[str]) -> None:
    """Code, a module or a file, with the arguments behind it, as Python takes them."""
    how, *rest = itertools.dropwhile(FLAGS.__contains__, arguments)
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [how, *rest]
        sys.path.insert(0, str(Path(how).parent))
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
