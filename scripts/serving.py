"""What the judges of `stairwell serve` share: a server of their own, and what /proc and /metrics say of it. Standard library only.

The program is $STAIRWELL, or target/release/stairwell. Servers listen on 127.0.0.1 alone, on a free port.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from recording import ROOT, TARGET

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"


def program():
    """The path of the program under test."""
    path = Path(os.environ.get("STAIRWELL", TARGET / "release" / "stairwell"))
    if not path.exists():
        sys.exit(f"{path} is missing: cargo build --release --features full, or set STAIRWELL")
    return str(path)


class Server:
    """A process that serves."""

    def __init__(self, *flags):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        command = [program(), "serve", "--port", "0", *map(str, flags)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url.startswith("http://"):
            self.process.wait(10)
            sys.exit(f"the server did not start: {self.errors()}")
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def errors(self):
        """All of its standard error."""
        return Path(self.log.name).read_text(errors="replace")

    def get(self, path, body=None, key=None):
        """A JSON answer, to a POST if there is a body."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def metrics(self):
        """Each sample of /metrics without buckets, by its name and labels, without the prefix."""
        text = urllib.request.urlopen(self.url + "/metrics", timeout=60).read().decode()
        found = re.findall(r"^stairwell:(\w+(?:\{[^}]*\})?) (\S+)$", text, re.M)
        return {name: float(value) for name, value in found if "_bucket" not in name}

    def load(self):
        """Running requests, waiting requests, used tokens."""
        load = self.get("/v1/loads")["loads"][0]
        return [load[key] for key in ("num_running_reqs", "num_waiting_reqs", "num_used_tokens")]

    def proc(self):
        """Resident bytes, threads and open descriptors."""
        folder = Path(f"/proc/{self.process.pid}")
        status = (folder / "status").read_text()
        number = lambda name: int(re.search(rf"{name}:\s+(\d+)", status)[1])
        return number("VmRSS") * 1024, number("Threads"), len(os.listdir(folder / "fd"))

    def cpu(self):
        """Seconds of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, timeout=40):
        """Its exit status after SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextlib.contextmanager
def serving(*flags):
    """A server that must end well, without a panic in its log."""
    server = Server(*flags)
    try:
        yield server
    finally:
        status = server.stop()
    if status or "panicked" in server.errors():
        sys.exit(f"the server ended with {status}:\n{server.errors()[-2000:]}")
