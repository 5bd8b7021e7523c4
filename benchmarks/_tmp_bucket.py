"""A run into a bucket beside the same run into a folder: moto on this machine, in a process of its own.

fracast on 300 Lorenz series with its controls, extracted and measured. Two figures: the CPU time of the run alone, and with that of
moto, which one core that does both would wait for.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import diagnostics as dx

from _common import SMALLEST, cpu, finish, verdict

ENCODER = "objectives:lorenz-forecast" if SMALLEST else "fracast"
DATA = "lorenz?n=60" if SMALLEST else "lorenz?n=300"
ROUNDS = 1
OPTIONS: dict[str, Any] = {"measures": "linear_probe", "controls": not SMALLEST, "watch": dx.silent}


def served(port: int) -> subprocess.Popen[bytes]:
    """moto, once it answers, with a bucket."""
    code = f"from moto.server import main; main(['-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    for _ in range(600):
        try:
            url = f"http://127.0.0.1:{port}/benchmark"
            urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
            return server
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError("moto does not answer")


def cpu_of(process: int) -> float:
    """CPU seconds of another process so far."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_REGION": "us-east-1"}
    os.environ.update({**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    server = served(port)
    try:
        with tempfile.TemporaryDirectory() as folder:

            def call(out: str) -> tuple[float, float, float]:
                """CPU seconds of the run, those of moto, and wall seconds."""
                start, before, theirs = time.perf_counter(), cpu(), cpu_of(server.pid)
                dx.run(encoder, data, out=out, **OPTIONS)
                return cpu() - before, cpu_of(server.pid) - theirs, time.perf_counter() - start

            encoder, data = dx.build("encoder", ENCODER), dx.build("dataset", DATA)
            pass
            calls = [(call(f"{folder}/{i}"), call(f"s3://benchmark/{i}")) for i in range(ROUNDS)]
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    local, own = min(each[0] for each, _ in calls), min(each[0] for _, each in calls)
    both = min(each[0] + each[1] for _, each in calls)
    for here, there in calls:
        print(f"a folder: {here[0]:.1f} CPU-s, {here[2]:.1f} s; a bucket: {there[0]:.1f} CPU-s and {there[1]:.1f} of moto, {there[2]:.1f} s")  # fmt: skip
    finish(
        verdict("a run into a bucket to one into a folder, CPU time", own / local, 1.2),
        verdict("the same with moto's", both / local, 1.2),
    )


if __name__ == "__main__":
    main()
