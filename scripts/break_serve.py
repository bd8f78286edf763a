"""Tries to break `stairwell serve` in ways that are nobody's client's: raw sockets, signals, floods, and bodies made to be slow.

    python3 scripts/break_serve.py [PART…]              # default: all parts; standard library only

Parts: framing, fields, salts, signals, timeouts, held, ipv6, pool, connections, bodies, halfopen. Bounds on time are for an idle machine with two cores;
`PATIENCE=3` multiplies them.

Last run on 30 November 2026, on two cores that compiled something else meanwhile: all parts. It found bodies
that kept everybody waiting for 16 s (a million small messages), salts that /generate ignored, and compressed bodies that were "not JSON".
"""

import contextlib
import gzip
import json
import os
import signal
import socket
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from serving import Server, serving

PATIENCE = float(os.environ.get("PATIENCE", 1))
COMPLETIONS = "/v1/completions"
SMALL = {"prompt": "Once", "max_tokens": 3, "temperature": 0}
LONG_ANSWER = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "stream": True}


def post(body, path=COMPLETIONS, more="", close=True):
    """The bytes of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    last = "Connection: close\r\n" if close else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{last}{more}\r\n"
    return head.encode() + data


def get(path, host="localhost", method="GET"):
    """The bytes of a GET."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def connect(server):
    address = (server.host.strip("[]"), server.port)
    return socket.create_connection(address, timeout=60 * PATIENCE)


def rest(sock):
    """All until the server closes."""
    out = b""
    with sock, contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            out += piece
    return out


def ask(server, data):
    """The whole answer to bytes."""
    sock = connect(server)
    sock.sendall(data)
    return rest(sock)


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def refused(server, body, code, **how):
    """An error in JSON with this status."""
    answer = ask(server, post(body, **how))
    assert status(answer) == code and b'{"error":{"message":' in answer, (body if len(str(body)) < 300 else "", code, answer[:500])


def framing(_):
    with serving() as server:
        answers = ask(server, post(SMALL, close=False) * 3 + post(SMALL))
        assert answers.count(b"HTTP/1.1 200 OK") == 4, "four requests in one packet"
        streams = ask(server, post(SMALL | {"stream": True}, close=False) * 2 + post(SMALL))
        assert (streams.count(b"HTTP/1.1 200 OK"), streams.count(b"[DONE]")) == (3, 2)
        for path, code in [("/", 200), ("/health", 200), ("/v1/models", 200), ("/metrics", 200), (COMPLETIONS, 405), ("/nowhere", 404)]:
            answer = ask(server, get(path, method="HEAD"))
            assert status(answer) == code and answer.endswith(b"\r\n\r\n"), (path, answer)
        data = json.dumps(SMALL).encode()
        head, expects = post(SMALL)[: -len(data)], b"Expect: 100-continue\r\n\r\n"
        with connect(server) as sock:
            sock.sendall(head[:-2] + expects)
            assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
            sock.sendall(data)
            assert status(sock.recv(100)) == 200
        huge = head.replace(b"Content-Length: %d" % len(data), b"Content-Length: 1000000000")
        assert status(ask(server, huge[:-2] + expects)) == 413, "a body that is too large isn't asked for"
        refused(server, gzip.compress(data), 415, more="Content-Encoding: gzip\r\n")
        chunked = head.replace(b"Content-Length: %d" % len(data), b"Transfer-Encoding: chunked\r\nTrailer: X-A")
        chunk = b"%x;a=b\r\n%s\r\n0\r\n" % (len(data), data)
        assert status(ask(server, chunked + chunk + b"X-A: b\r\n\r\n")) == 200
        many = b"".join(b"X-%d: b\r\n" % i for i in range(100_000))
        for wrong in [chunk + many + b"\r\n", b"zz\r\nfoo\r\n0\r\n\r\n", b"fffffffffffffffff\r\n" + data]:
            assert status(ask(server, chunked + wrong)) == 400
        assert status(ask(server, head[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + data)) == 400
        assert status(ask(server, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")) == 431
        assert status(ask(server, get("/v1/models/%FF%00"))) == 404
        assert status(ask(server, get("http://evil.example/health"))) == 403
        assert status(ask(server, get("/health"))) == 200


def fields(_):
    with serving() as server:
        for more in [{"chat_template": "{{ 1 }}"}, {"grammar": 'root ::= "a"'}, {"allowed_token_ids": [5]}, {"bad_words": ["a"]}, {"cache_salt": ""}]:
            refused(server, SMALL | more, 400)
        refused(server, SMALL | {"cache_salt": "a/b"}, 400)
        refused(server, {"tokens": [1] * 300_000}, 400, path="/detokenize")
        count = lambda **more: server.get("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]} | more)["count"]
        plain = count()
        for trick in [{"messages": []}, {"tokenize": False}, {"chat_template": "{{ 1 }}"}, {"bos_token": "X"}, {"loop": 5}, {"raise_exception": 1}, {"namespace": 1}]:
            assert count(chat_template_kwargs=trick) == plain, trick


def salts(_):
    text = "Once upon a time there was a little dog who lived in a house with a girl. " * 6
    cached = lambda server, key=None, **more: server.get(COMPLETIONS, {"prompt": text, "max_tokens": 1} | more, key)["usage"][
        "prompt_tokens_details"
    ]["cached_tokens"]
    with serving() as server:
        found = [cached(server, **more) for more in [{}, {}, {"cache_salt": "a"}, {"cache_salt": "a"}, {"cache_salt": "b"}]]
        assert [bool(n) for n in found] == [False, True, False, True, False], found
        native = lambda: server.get("/generate", {"text": text, "cache_salt": "c", "sampling_params": {"max_new_tokens": 1}})["meta_info"]["cached_tokens"]
        assert not native() and native(), "/generate heeds the salt"
    with serving("--api-key", "one", "--api-key", "two") as server:
        asked = [("one", {}), ("one", {}), ("two", {}), ("two", {"cache_salt": "x"}), ("one", {"cache_salt": "x"}), ("one", {"cache_salt": "x"})]
        found = [cached(server, key, **more) for key, more in asked]
        assert [bool(n) for n in found] == [False, True, False, False, False, True], found


def signals(_):
    for first, second, code in [(signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGINT, signal.SIGTERM, 130), (signal.SIGINT, None, 0)]:
        server = Server()
        sock = connect(server)
        sock.sendall(post(LONG_ANSWER))
        sock.recv(100)
        server.process.send_signal(first)
        time.sleep(0.05)
        if second:
            began = time.monotonic()
            server.process.send_signal(second)
        else:
            assert rest(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "the stream goes on to its end"
        assert server.process.wait(40) == code, (first, second)
        assert not second or time.monotonic() - began < 0.5 * PATIENCE


def timeouts(_):
    with serving("--request-timeout", "0.3", "--max-num-seqs", "1") as server:
        answer = ask(server, post(LONG_ANSWER | {"stream": False}))
        assert status(answer) == 500 and b"deadline" in answer, answer
        assert ask(server, post(LONG_ANSWER)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: ask(server, post(LONG_ANSWER | {"stream": False})), range(4)))
        assert {status(answer) for answer in answers} == {500}, "the time in the queue counts"
        time.sleep(0.3)
        assert server.load() == [0, 0, 0]


def held(report):
    """Clients that read nothing: the engine sleeps, others have their seats, and the deadline ends the held requests."""

    def silent(server):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60 * PATIENCE)
        sock.connect((server.host, server.port))
        sock.sendall(post(LONG_ANSWER | {"n": 4, "max_tokens": 1900, "logprobs": 20}))
        assert sock.recv(100)
        return sock

    def busy(server):
        """Processors that it takes."""
        before = server.cpu()
        time.sleep(0.5)
        return 2 * (server.cpu() - before)

    timeout = 15 * PATIENCE
    with serving("--max-num-seqs", 8, "--request-timeout", timeout) as server:
        began, socks = time.monotonic(), [silent(server) for _ in range(2)]
        while (load := busy(server)) > 0.05:
            assert time.monotonic() - began < timeout, f"{load} processors are busy for nobody"
        report(f"held after {time.monotonic() - began:.1f} s, with {load:.2f} processors busy")
        assert server.load()[:2] == [8, 0]
        assert status(ask(server, post(SMALL | {"n": 8}))) == 200, "others have their seats"
        while server.load() != [0, 0, 0]:
            assert time.monotonic() - began < timeout + 3 * PATIENCE, "the deadline of a held request"
            time.sleep(0.1)
        for sock in socks:
            answer = rest(sock)
            assert b"deadline" in answer and answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), answer[-300:]


def ipv6(_):
    for host in ["::1", "[::1]"]:
        with serving("--host", host) as server:
            assert server.url.startswith("http://[::1]:") and server.get("/v1/models")["data"]
            for name, code in [("[::1]", 200), (f"[::1]:{server.port}", 200), ("localhost", 200), ("[::2]", 403), ("evil.example", 403)]:
                assert status(ask(server, get("/v1/models", name))) == code, name


def pool(_):
    """Thirty-two samples in a pool for two of them are those of a pool that has room for all."""
    prompts = ["Once upon a time", "The dog", "A girl named Lily had", "One day the sun"]
    body = {"prompt": prompts, "n": 8, "max_tokens": 200, "temperature": 0.9, "seed": 11, "ignore_eos": True, "return_token_ids": True}
    ids = lambda server, **more: [choice["token_ids"] for choice in server.get(COMPLETIONS, body | more)["choices"]]
    with serving("--dtype", "f32") as server:
        roomy = ids(server)
        assert [ids(server, prompt=prompt, n=1)[0] for prompt in prompts] == roomy[::8]
    for flags in [[], ["--preemption", "swap"], ["--no-prefix-cache"], ["--max-batched-tokens", 16]]:
        with serving("--dtype", "f32", "--max-kv-tokens", 512, *flags) as server:
            assert ids(server) == roomy, flags
            assert server.metrics()["num_preemptions_total"] > 50
            many = ask(server, post({"prompt": prompts * 2, "n": 128, "max_tokens": 2}))
            assert status(many) == 200 and many.count(b'"index"') == 1024
            refused(server, {"prompt": [1] * 600, "max_tokens": 3}, 400)
            assert server.load() == [0, 0, 0]


class Others:
    """While it is open: health and short requests, one after the other, with their times in seconds."""

    def __init__(self, server):
        self.server, self.over = server, threading.Event()
        self.times = {"health": [], "requests": []}
        asks = {"health": get("/health"), "requests": post(SMALL | {"max_tokens": 1})}
        self.threads = [threading.Thread(target=self.watch, args=pair) for pair in asks.items()]

    def watch(self, name, data):
        while not self.over.is_set():
            began = time.monotonic()
            assert status(ask(self.server, data)) == 200
            self.times[name].append(time.monotonic() - began)
            time.sleep(0.005)

    def __enter__(self):
        [thread.start() for thread in self.threads]
        return self

    def __exit__(self, *_):
        self.over.set()
        [thread.join() for thread in self.threads]

    def worst(self):
        """The 99th percentile of each, in milliseconds."""
        return {name: round(1e3 * sorted(times)[int(len(times) * 0.99)], 1) for name, times in self.times.items()}


def connections(report):
    with serving("--max-queued-requests", 4000) as server:
        socks = [connect(server) for _ in range(1000)]
        with Others(server) as others:
            for i, sock in enumerate(socks):
                sock.sendall(post({"prompt": str(i), "max_tokens": 8, "stream": bool(i % 2)}))
            answers = [rest(sock) for sock in socks]
        assert all(status(answer) == 200 and b'"choices"' in answer for answer in answers)
        report(f"1,000 connections, 99th percentiles in ms: {others.worst()}")
        assert others.worst()["health"] < 50 * PATIENCE


def large(size=30 << 20):
    """Bodies of 30 MB, each slow in its own way, with the path."""
    repeated = lambda before, part, after: before + part * (size // len(part)) + after
    yield "text", COMPLETIONS, json.dumps({"prompt": "a" * size}).encode()
    yield "ids", COMPLETIONS, repeated(b'{"prompt":[', b"1,", b"1]}")
    yield "messages", "/v1/chat/completions", repeated(b'{"messages":[', b'{"role":"user","content":"a"},', b"0]}")
    yield "lists in an unknown field", COMPLETIONS, repeated(b'{"x":[', b"[],", b'0],"prompt":"a"}')
    yield "members", COMPLETIONS, b"{" + b",".join(b'"k%d":1' % i for i in range(size // 12)) + b',"prompt":"a"}'
    yield "escapes", COMPLETIONS, repeated(b'{"prompt":"', b"\\u00e9", b'"}')
    yield "prompts", COMPLETIONS, repeated(b'{"prompt":[', b'"a",', b'"a"]}')
    yield "stop strings", COMPLETIONS, repeated(b'{"prompt":"a","stop":[', b'"a",', b'"a"]}')
    yield "tokens", "/detokenize", repeated(b'{"tokens":[', b"300,", b"300]}")
    yield "text to tokenize", "/tokenize", repeated(b'{"prompt":"', b"once upon ", b'"}')
    yield "brackets", COMPLETIONS, b"[" * size


def bodies(report):
    with serving() as server:
        ask(server, post(SMALL))
        idle = server.proc()[0]
        for name, path, data in large():
            with Others(server) as others, ThreadPoolExecutor(2) as pool:
                answers = list(pool.map(lambda _: ask(server, post(data, path)), range(2)))
            assert {status(answer) for answer in answers} <= {200, 400}, (name, answers[0][:300])
            more = (server.proc()[0] - idle) >> 20
            report(f"30 MB of {name}: {status(answers[0])}, others' 99th percentiles in ms: {others.worst()}, {more} MiB more")
            assert others.worst()["health"] < 200 * PATIENCE and more < 800, name


def halfopen(report):
    def speed(server, streams=4):
        """Tokens a second."""
        began = time.monotonic()
        with ThreadPoolExecutor(streams) as pool:
            answers = list(pool.map(lambda _: ask(server, post(LONG_ANSWER)), range(streams)))
        assert all(answer.count(b"data: ") >= 1000 for answer in answers)
        return streams * LONG_ANSWER["max_tokens"] / (time.monotonic() - began)

    with serving() as server:
        speed(server)
        ratios = []
        for _ in range(5):
            alone, socks = speed(server), [connect(server) for _ in range(500)]
            for i, sock in enumerate(socks):
                sock.sendall([b"", b"POST /v1/completions HTTP/1.1\r\nHost: l", post(SMALL)[:-5]][i % 3])
            ratios.append(speed(server) / alone)
            [sock.close() for sock in socks]
        report(f"500 half-open sockets: {[round(ratio, 2) for ratio in ratios]} of the speed without")
        assert statistics.median(ratios) >= 0.95 / PATIENCE


def main():
    parts = {part.__name__: part for part in (framing, fields, salts, signals, timeouts, held, ipv6, pool, connections, bodies, halfopen)}
    for name in sys.argv[1:] or parts:
        parts[name](lambda line: print(f"     {line}", flush=True))
        print(f"ok   {name}", flush=True)


if __name__ == "__main__":
    main()
