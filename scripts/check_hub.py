"""stairwell and huggingface_hub on one cache, in both directions, against a hub on loopback that this script is.

    python3 scripts/check_hub.py target/release/stairwell

huggingface_hub is installed into target/hub, and the rest runs there. Takes about half a minute."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "hub"
REQUIREMENT = "huggingface_hub==2.4.0"
MAIN, NEXT = "1" * 40, "2" * 40


class Hub:
    """Commits of org/tiny, served as the hub serves them: small files here, large ones by a redirect to another port."""

    def __init__(self):
        self.commits, self.main, self.log, self.slow = {}, MAIN, [], 0.0
        self.servers = [self.listen(), self.listen()]
        self.endpoint = f"http://127.0.0.1:{self.servers[0].server_port}"
        self.cdn = f"http://localhost:{self.servers[1].server_port}"

    def listen(self, context=None):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            log_message = lambda self, *rest: None
            do_GET = do_HEAD = lambda handler: self.answer(handler)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *rest: None  # a client that was killed
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def answer(self, handler):
        try:
            self.route(handler, handler.path.split("?")[0])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def route(self, handler, path):
        files = self.commits[self.main]
        if handler.server is self.servers[1]:
            assert "Authorization" not in handler.headers
            return self.send_range(handler, path.lstrip("/"))
        if path.startswith("/api/models/org/tiny/tree/"):
            return self.send(handler, json.dumps([entry(*file) for file in self.commits[path.split("/")[-1]].items()]).encode())
        if path.startswith("/api/models/org/tiny"):
            return self.send(handler, json.dumps({"_id": "1", "id": "org/tiny", "modelId": "org/tiny", "sha": self.main, "siblings": []}).encode())
        revision, name = path.removeprefix("/org/tiny/resolve/").split("/", 1)
        commit = self.main if revision == "main" else revision
        body = self.commits[commit].get(name)
        if body is None:
            return self.send(handler, b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(name, body)}"'}
        if is_large(name):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(body)), "Location": f"{self.cdn}/{commit}/{name}"}
            return self.send(handler, b"", 302, headers)
        self.send(handler, body, 200, headers)

    def send(self, handler, body, status=200, headers={}):
        handler.send_response(status)
        for pair in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(*pair)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    def send_range(self, handler, path):
        commit, name = path.split("/", 1)
        body, asked = self.commits[commit][name], handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        if handler.command == "GET":
            self.log.append(start)
            for at in range(start, len(body), 1 << 18):
                time.sleep(self.slow)
                handler.wfile.write(body[at : at + (1 << 18)])


def is_large(name):
    return name.endswith(".safetensors")


def blob_id(name, body):
    return hashlib.sha256(body).hexdigest() if is_large(name) else hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def entry(name, body):
    entry = {"type": "file", "path": name, "size": len(body), "oid": blob_id("", body)}
    return entry | ({"lfs": {"oid": blob_id(name, body), "size": len(body), "pointerSize": 134}} if is_large(name) else {})


class Check:
    def __init__(self, program):
        self.program, self.hub = program, Hub()
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="check-hub-"))
        demo = ROOT / "models" / "demo"
        model = {p.name: p.read_bytes() for p in demo.iterdir() if p.suffix in (".safetensors", ".json", ".md")}
        self.hub.commits[MAIN] = model
        self.hub.commits[NEXT] = model | {"README.md": b"another", "generation_config.json": b"{}"}

    def environment(self, cache, **more):
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        own = {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.work / "home"), "HF_HUB_CACHE": str(cache)}
        kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name != "HF_TOKEN"}
        return kept | quiet | own | more

    def ours(self, cache, *args, good=True, **more):
        ran = subprocess.run([self.program, *args], env=self.environment(cache, **more), capture_output=True, text=True, timeout=60)
        assert (ran.returncode == 0) == good, ran
        return ran.stdout if good else ran.stderr

    def theirs(self, cache, code, **more):
        code = f"from huggingface_hub import *\nimport json, os\n{code}"
        ran = subprocess.run([sys.executable, "-c", code], env=self.environment(cache, **more), capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def scan(self, cache):
        """What either counts."""
        code = "i = scan_cache_dir(); print(json.dumps([i.size_on_disk, [[r.repo_id, r.size_on_disk, r.nb_files, sorted([v.commit_hash, v.size_on_disk] for v in r.revisions)] for r in i.repos], [str(w) for w in i.warnings]]))"
        size, repositories, warnings = json.loads(self.theirs(cache, code))
        listed = json.loads(self.ours(cache, "cache", "ls", "--json"))
        ours = [[r["id"], r["size_on_disk"], r["files"], [[v["commit"], v["size_on_disk"]] for v in r["revisions"]]] for r in listed["repositories"]]
        assert (listed["size_on_disk"], ours) == (size, repositories), (listed, size, repositories)
        assert not warnings and not listed["warnings"], (warnings, listed["warnings"])
        return size

    def they_read_ours(self):
        cache = self.work / "ours"
        folder = self.ours(cache, "pull", "org/tiny").strip()
        assert self.theirs(cache, 'print(snapshot_download("org/tiny", local_files_only=True))') == folder
        for name in os.listdir(folder):
            path = self.theirs(cache, f'print(hf_hub_download("org/tiny", "{name}", local_files_only=True))') if name == "config.json" else f"{folder}/{name}"
            assert pathlib.Path(path).read_bytes() == self.hub.commits[MAIN][name], name
        self.scan(cache)
        # They fetch the rest, and nothing that is there.
        before = len(self.hub.log)
        self.theirs(cache, 'snapshot_download("org/tiny")')
        assert len(self.hub.log) == before and (pathlib.Path(folder) / "README.md").is_file()
        self.scan(cache)

    def we_read_theirs(self):
        cache = self.work / "theirs"
        folder = self.theirs(cache, 'print(snapshot_download("org/tiny"))')
        assert self.ours(cache, "pull", "org/tiny", "--offline").strip() == folder
        text = self.ours(cache, "generate", "--model", "org/tiny", "--offline", "--prompt", "Once upon a time", "--max-tokens", "8", "--temperature", "0")
        assert text == self.ours(cache, "generate", "--prompt", "Once upon a time", "--max-tokens", "8", "--temperature", "0"), text
        before = len(self.hub.log)
        assert self.ours(cache, "pull", "org/tiny").strip() == folder and len(self.hub.log) == before
        assert "are right" in self.ours(cache, "cache", "verify")
        # The branch moves: the weights are shared, and either removes the old commit as the other would.
        self.hub.main = NEXT
        assert self.ours(cache, "pull", "org/tiny").strip().endswith(NEXT) and len(self.hub.log) == before
        both = self.scan(cache)
        self.ours(cache, "cache", "rm", f"org/tiny@{MAIN}")
        assert self.scan(cache) < both and "are right" in self.ours(cache, "cache", "verify")
        self.hub.main = MAIN

    def locks_are_shared(self):
        cache = self.work / "locked"
        name = "model-00001-of-00002.safetensors"
        lock = cache / ".locks" / "models--org--tiny" / f"{blob_id(name, self.hub.commits[MAIN][name])}.lock"
        code = f"from huggingface_hub.utils import WeakFileLock\nimport time\nos.makedirs({str(lock.parent)!r})\nwith WeakFileLock({str(lock)!r}):\n  print('locked', flush=True); time.sleep(3)"
        code = f"from huggingface_hub import *\nimport json, os\n{code}"
        holder = subprocess.Popen([sys.executable, "-c", code], env=self.environment(cache), stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "locked\n"
        ran = subprocess.run([self.program, "pull", "org/tiny"], env=self.environment(cache), capture_output=True, text=True, timeout=60)
        assert holder.poll() is not None or holder.wait(1) == 0
        assert ran.returncode == 0 and f"waiting for another process that fetches {name}" in ran.stderr, ran

    def killed_at_any_time(self, kills=20, size=50_000_000):
        """Every pull but the last is killed. Each goes on where the one before was."""
        cache, body = self.work / "killed", random.Random(0).randbytes(size)
        self.hub.commits[MAIN] = self.hub.commits[MAIN] | {"model.safetensors": body}
        incomplete = cache / "models--org--tiny" / "blobs" / f"{blob_id('model.safetensors', body)}.incomplete"
        length = lambda: incomplete.stat().st_size if incomplete.is_file() else 0
        self.hub.slow, at, starts = 0.005, 0, []
        for _ in range(kills):
            until, self.hub.log = at + random.randint(1, 2 * size // kills), []
            pull = subprocess.Popen([self.program, "pull", "org/tiny"], env=self.environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while length() < until and pull.poll() is None:
                time.sleep(0.002)
            pull.send_signal(signal.SIGKILL)
            if pull.wait() == 0:
                break
            self.expect_start(at)
            assert length() >= at
            at = length()
            starts.append(round(at / size, 2))
        self.hub.slow, self.hub.log = 0, []
        folder = self.ours(cache, "pull", "org/tiny").strip()
        self.expect_start(at)
        assert (pathlib.Path(folder) / "model.safetensors").read_bytes() == body
        print("   parts:", *starts)
        self.hub.commits[MAIN].pop("model.safetensors")

    def expect_start(self, at):
        """The weights were asked for from the byte on where the file ended."""
        assert at in self.hub.log or not self.hub.log, (self.hub.log, at)

    def memory(self, limit=50_000_000):
        body = random.Random(1).randbytes(50_000_000)
        self.hub.commits[MAIN] = self.hub.commits[MAIN] | {"model.safetensors": body}
        code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
        command = [sys.executable, "-c", code, self.program, "pull", "org/tiny"]
        ran = subprocess.run(command, env=self.environment(self.work / "memory"), capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran
        print(f"   peak: {int(ran.stdout) / 1e6:.1f} MB")
        assert int(ran.stdout) < limit
        self.hub.commits[MAIN].pop("model.safetensors")

    def certificates(self):
        """A hub whose certificate an own CA has signed, and one that redirects from https to http."""
        if not shutil.which("openssl"):
            return print("   skipped: there is no openssl")
        pem, key = self.work / "hub.pem", self.work / "hub.key"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", pem, *subject], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        plain = self.hub.servers[0]
        secure = self.hub.listen(context)
        self.hub.servers[0] = secure
        endpoint = f"https://localhost:{secure.server_port}"
        cache = self.work / "tls"
        assert "SSL_CERT_FILE" in self.ours(cache, "pull", "org/tiny", good=False, HF_ENDPOINT=endpoint)
        said = self.ours(cache, "pull", "org/tiny", good=False, HF_ENDPOINT=endpoint, SSL_CERT_FILE=str(pem))
        assert "https must not become http" in said, said
        cdn = self.hub.listen(context)
        self.hub.servers[1], self.hub.cdn = cdn, f"https://127.0.0.1:{cdn.server_port}"
        self.ours(cache, "pull", "org/tiny", HF_ENDPOINT=endpoint, SSL_CERT_FILE=str(pem))
        self.hub.servers[0] = plain

    def run(self):
        checks = [self.they_read_ours, self.we_read_theirs, self.locks_are_shared, self.memory, self.killed_at_any_time, self.certificates]
        for check in checks:
            start = time.time()
            check()
            print(f"{check.__name__}: ok, {time.time() - start:.1f} s", flush=True)
        shutil.rmtree(self.work)
        print(f"{len(checks)} passed, 0 failed")


def main():
    program = str(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/stairwell").resolve())
    python = VENV / "bin" / "python"
    if pathlib.Path(sys.prefix) != VENV:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT], check=True)
        os.execv(python, [str(python), __file__, program])
    Check(program).run()


main()
