"""Soaks `stairwell serve`: many short requests, of which some leave and some are wrong, and nothing may grow.

    python3 scripts/soak_serve.py [REQUESTS]            # default: 50,000; standard library only

Of all requests, 10 % leave in the middle (before, within and after their first token), and 5 % are wrong and get a 4xx; the others are chats and completions,
streamed and not, of one sample or of several. It holds if the resident memory at the end is within 5 % of that after the first thousand requests, threads
and descriptors are as many, no request runs or waits, no token is held, and the client's own counts of answers and tokens are those of /metrics.

Last run on 30 November 2026: 50,000 requests; 45.6 MB after the first thousand and 46.1 MB at the end, 4 threads and 10 descriptors both times, no token held.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter

from serving import serving

WORKERS = 24
WARM = 1000
WORDS = "once upon a time there was little girl who liked to play in the garden with her dog and mother".split()


def request(rng):
    """A path and a body."""
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))
    body = {"max_tokens": rng.randint(1, 24), "stream": rng.random() < 0.5, "temperature": rng.choice([0, 0, 1])}
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    if rng.random() < 0.05:
        body["n"] = rng.randint(2, 4)
    if rng.random() < 0.1:
        body["logprobs"] = True
    if rng.random() < 0.1:
        body["stop"] = rng.choice([" the", "a", ["dog", ". "]])
    if rng.random() < 0.5:
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": text}]}
    return "/v1/completions", body | {"prompt": text, "logprobs": 2 if body.get("logprobs") else None}


def wrong(rng):
    """A request that must be refused."""
    path, body = request(rng)
    return path, rng.choice([body | {"n": 0}, body | {"temperature": 9}, body | {"model": "other"}, body | {"stop": [""]}, [], body | {"messages": 5, "prompt": []}])


async def send(server, path, body):
    """The reader and writer of a request that is under way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return reader, writer


async def close(writer):
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


def payload(answer):
    """The body of a whole HTTP answer, out of its chunks."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, rest = body + rest[:length], rest[length + 2 :]
    return body


def outcome(answer):
    """Reasons of all choices, and usage, of a good answer."""
    body = payload(answer).decode()
    if not body.startswith("data:") and not body.startswith(":"):
        whole = json.loads(body)
        return [c["finish_reason"] for c in whole["choices"]], whole["usage"]
    lines = [line[6:] for line in body.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", lines[-1]
    chunks = [json.loads(line) for line in lines[:-1]]
    assert not any("error" in chunk for chunk in chunks), chunks
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    return reasons, chunks[-1]["usage"]


class Soak:
    """The client's counts."""

    def __init__(self, server, total):
        self.server, self.total, self.begun, self.counts = server, total, 0, Counter()
        self.warm, self.late = None, asyncio.Event()

    async def worker(self, seed):
        rng = random.Random(seed)
        while self.begun < self.total:
            self.begun += 1
            if self.begun % 5000 == 0:
                print(f"{self.begun} requests, {self.server.proc()}", flush=True)
            kind = rng.random()
            if kind < 0.10:
                await self.leave(rng)
            elif kind < 0.15:
                await self.refused(rng)
            else:
                await self.answered(rng)

    async def leave(self, rng):
        path, body = request(rng)
        reader, writer = await send(self.server, path, body | {"max_tokens": 400, "stream": rng.random() < 0.7, "stream_options": None})
        await asyncio.sleep(rng.choice([0, 0, 0.005, 0.05]))
        if rng.random() < 0.5:
            try:
                await asyncio.wait_for(reader.read(100), 0.2)
            except TimeoutError:
                pass
        await close(writer)
        self.counts["left"] += 1

    async def refused(self, rng):
        reader, writer = await send(self.server, *wrong(rng))
        answer = await reader.read()
        status = int(answer.split(b" ", 2)[1])
        assert 400 <= status < 500 and "error" in json.loads(payload(answer)), answer
        await close(writer)
        self.counts["refused"] += 1

    async def answered(self, rng):
        path, body = request(rng)
        reader, writer = await send(self.server, path, body)
        answer = await reader.read()
        await close(writer)
        assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
        reasons, usage = outcome(answer)
        assert len(reasons) == body.get("n", 1), (reasons, body)
        self.counts.update(reasons)
        self.counts["answered"] += 1
        self.counts["prompt"] += usage["prompt_tokens"] * body.get("n", 1)  # the server counts the prompt of each sample
        self.counts["output"] += usage["completion_tokens"]

    async def idle(self):
        """What /proc says once nothing runs."""
        for _ in range(100):
            if self.server.load() == [0, 0, 0]:
                break
            await asyncio.sleep(0.1)
        assert self.server.load() == [0, 0, 0], self.server.load()
        await asyncio.sleep(12)  # closed connections linger a second, and idle threads of the blocking pool ten
        return self.server.proc()

    async def run(self):
        goal, self.total = self.total, WARM
        await asyncio.gather(*(self.worker(seed) for seed in range(WORKERS)))
        before = await self.idle()
        counted = self.counts.copy()
        metrics = self.server.metrics()
        self.total, self.counts = goal, Counter()
        await asyncio.gather(*(self.worker(1000 + seed) for seed in range(WORKERS)))
        after = await self.idle()
        self.judge(before, after, metrics, self.server.metrics())
        self.counts += counted
        await self.count_exactly()

    async def count_exactly(self):
        """Five hundred answers of which none is left: all counts are equal."""
        old, kept, self.counts = self.server.metrics(), self.counts, Counter()
        rngs = [random.Random(5000 + i) for i in range(500)]
        await asyncio.gather(*(self.answered(rng) for rng in rngs))
        await self.idle()
        new = self.server.metrics()
        grew = {
            "stop": 'request_success_total{finished_reason="stop"}',
            "length": 'request_success_total{finished_reason="length"}',
            "output": "generation_tokens_total",
            "prompt": "prompt_tokens_total",
        }
        grew = {ours: new[theirs] - old[theirs] for ours, theirs in grew.items()}
        assert grew == {name: self.counts[name] for name in grew}, (grew, self.counts)
        self.counts, self.exact = kept, grew

    def judge(self, before, after, old, new):
        print(f"after {WARM}: {before}, at the end: {after} (bytes, threads, descriptors)")
        assert abs(after[0] - before[0]) <= 0.05 * before[0], "resident memory"
        assert after[1:] == before[1:], "threads and descriptors"
        grew = lambda name: new[name] - old[name]
        reasons = {r: grew(f'request_success_total{{finished_reason="{r}"}}') for r in ("stop", "length")}
        print(f"client: {dict(self.counts)}; /metrics: {reasons}, output {grew('generation_tokens_total')}, prompt {grew('prompt_tokens_total')}")
        # Requests that left in their last moment may be whole for the server; they had long outputs to come.
        for reason in reasons:
            assert 0 <= reasons[reason] - self.counts[reason] <= 2 * self.counts["left"], reason
        assert new["num_requests_running"] == new["num_requests_waiting"] == new["kv_cache_usage_perc"] == 0
        assert grew("generation_tokens_total") >= self.counts["output"] and grew("prompt_tokens_total") >= self.counts["prompt"]
        histogram = grew("e2e_request_latency_seconds_count")
        assert histogram == sum(reasons.values()), (histogram, reasons)


def main():
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    began = time.monotonic()
    # A pool that the first thousand requests fill, so that its pages are resident by then.
    with serving("--max-queued-requests", 4096, "--max-num-seqs", 24, "--max-kv-tokens", 8192) as server:
        soak = Soak(server, total)
        asyncio.run(soak.run())
    seconds = time.monotonic() - began
    print(f"{total} requests in {seconds:.0f} s ({soak.counts['left']} left, {soak.counts['refused']} refused): all holds")


if __name__ == "__main__":
    main()
