"""openai-python's newest client as a judge of `stairwell serve`: whatever it sends is answered as OpenAI's documents say.

    python3 -m venv target/judges/openai && target/judges/openai/bin/pip install openai jsonschema
    target/judges/openai/bin/python scripts/judge_openai.py [SCHEMAS.json]

Every body and every chunk is checked against OpenAI's published schemas if their file is there (default: ../shared/check/openai_schemas.json); without
it the script says so and checks the rest.

Last run on 30 November 2026 with openai 3.57.0: all hold; 209 bodies and chunks are valid by OpenAI's schemas.
"""

import asyncio
import copy
import json
import sys
from pathlib import Path

import httpx2 as httpx
import openai
from recording import ROOT
from serving import serving

USER = [{"role": "user", "content": "Tell me a story."}]
PROMPT = "Once upon a time"


def nullable(schema):
    """OpenAPI 3.0's `nullable` as JSON Schema has it: the published document uses it, and 3.1 ignores it."""
    if isinstance(schema, list):
        return [nullable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {key: nullable(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [rest, {"type": "null"}]} if schema.get("nullable") is True else rest


class Schemas:
    """Validates answers; counts them."""

    def __init__(self, path):
        self.schemas, self.checked = None, 0
        if path.exists():
            self.schemas = nullable(json.loads(path.read_text())["components"]["schemas"])
            self.allow()
        else:
            print(f"SKIPPED: no schemas at {path}")

    def allow(self):
        """Allows what OpenAI's own answers have and its schema forbids: null reasons in chunks of completions, null logprobs in echoes."""
        or_null = lambda schema: {"anyOf": [schema, {"type": "null"}]}
        choice = self.schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
        for part in choice["logprobs"]["anyOf"]:
            for key in ("token_logprobs", "top_logprobs") if "properties" in part else ():
                part["properties"][key]["items"] = or_null(part["properties"][key]["items"])
        chunk = copy.deepcopy(self.schemas["CreateCompletionResponse"])
        reason = chunk["properties"]["choices"]["items"]["properties"]
        reason["finish_reason"] = or_null(reason["finish_reason"])
        self.schemas["Chunk"] = chunk

    def check(self, name, value):
        """Stops with what is wrong."""
        if self.schemas is None:
            return
        import jsonschema

        whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": self.schemas}}
        wrong = [e.message[:200] for e in jsonschema.Draft202012Validator(whole).iter_errors(value)]
        assert not wrong, (name, wrong[:3], value)
        self.checked += 1


def recorder(schemas, client):
    """An HTTP client whose answers are checked as they come over the wire."""

    def check(response):
        response.read()
        path, kind = response.request.url.path, response.headers.get("content-type", "")
        if not path.startswith("/v1/"):
            return
        if response.status_code >= 400:
            schemas.check("ErrorResponse", response.json())
        elif kind.startswith("text/event-stream"):
            lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
            assert lines[-1] == "[DONE]", lines[-1]
            name = "CreateChatCompletionStreamResponse" if "chat" in path else "Chunk"
            for line in lines[:-1]:
                schemas.check(name, json.loads(line))
        else:
            names = {"/v1/models": "ListModelsResponse", "/v1/completions": "CreateCompletionResponse"}
            name = names.get(path, "CreateChatCompletionResponse" if "chat" in path else "Model")
            schemas.check(name, response.json())

    async def check_async(response):
        await response.aread()
        check(response)

    hook = check_async if client is httpx.AsyncClient else check
    return client(event_hooks={"response": [hook]}, timeout=60)


def models(client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["stairwell-demo"] and listed[0].object == "model", listed
    assert client.models.retrieve("stairwell-demo").id == "stairwell-demo"


def chat(client):
    whole = client.chat.completions.create(model="stairwell-demo", messages=USER, temperature=0, max_tokens=24)
    text = whole.choices[0].message.content
    assert text and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    options = {"include_usage": True}
    ask = dict(model="stairwell-demo", messages=USER, temperature=0, max_tokens=24)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=options))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == text
    assert all(c.usage is None for c in chunks[:-1])
    with client.chat.completions.stream(model="stairwell-demo", messages=USER, temperature=0, max_tokens=24) as stream:
        for _ in stream:
            pass
        assert stream.current_completion_snapshot.choices[0].message.content == text
    several = client.chat.completions.create(**ask | dict(n=4, temperature=1, seed=7)).choices
    assert [c.index for c in several] == [0, 1, 2, 3] and len({c.message.content for c in several}) == 4


def chat_logprobs(client):
    ask = dict(model="stairwell-demo", messages=USER, temperature=0, max_tokens=16, logprobs=True, top_logprobs=5)
    choice = client.chat.completions.create(**ask).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode().startswith(choice.message.content)
    assert all(len(t.top_logprobs) == 5 and t.top_logprobs[0].logprob == t.logprob for t in tokens)
    chunks = [c.choices[0] for c in client.chat.completions.create(**ask, stream=True)]
    streamed = [t for c in chunks if c.logprobs for t in c.logprobs.content]
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in tokens]


def completions(client):
    ask = dict(model="stairwell-demo", prompt=PROMPT, temperature=0, max_tokens=20)
    text = client.completions.create(**ask).choices[0].text
    assert "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True)) == text
    ids = client.post("/../tokenize", body={"prompt": PROMPT}, cast_to=object)["tokens"]
    assert client.completions.create(**ask | dict(prompt=ids)).choices[0].text == text
    word = text.split()[3]
    stopped = client.completions.create(**ask, stop=[word, "~"]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.text == text[: text.index(word)], (stopped, text)
    pair = client.completions.create(**ask | dict(prompt=[PROMPT, "The dog"], n=2, temperature=1, seed=3)).choices
    assert [c.index for c in pair] == [0, 1, 2, 3]
    echo = client.completions.create(**ask | dict(max_tokens=0), echo=True, logprobs=1).choices[0]
    assert echo.text == PROMPT and echo.logprobs.token_logprobs[0] is None
    assert all(lp < 0 for lp in echo.logprobs.token_logprobs[1:])
    again = [client.completions.create(**ask | dict(temperature=1, seed=seed)).choices[0].text for seed in (5, 5, 6)]
    assert again[0] == again[1] != again[2], again
    biased = client.completions.create(**ask | dict(max_tokens=3), logit_bias={str(ids[0]): 100}).choices[0].text
    assert biased == client.post("/../detokenize", body={"tokens": ids[:1] * 3}, cast_to=object)["prompt"], biased


def errors(client, locked):
    def raised(kind, call, **ask):
        try:
            call(model="stairwell-demo", **ask)
        except kind as error:
            assert type(error) is kind, error
            return error
        raise AssertionError(f"{kind.__name__} expected for {ask}")

    complete = client.completions.create
    bad = [dict(n=0), dict(temperature=-1), dict(top_p=2), dict(max_tokens=-1), dict(stop=[""]), dict(logprobs=99), dict(prompt=[])]
    for wrong in bad + [dict(logit_bias={"1": 101}), dict(best_of=3), dict(suffix="x"), dict(stream_options={"include_usage": True})]:
        error = raised(openai.BadRequestError, complete, **dict(prompt=PROMPT) | wrong)
        assert error.param and error.type == "invalid_request_error", error
    for more in [dict(tools=[{"type": "function", "function": {"name": "f"}}]), dict(response_format={"type": "json_object"}), dict(top_logprobs=2)]:
        assert raised(openai.BadRequestError, client.chat.completions.create, messages=USER, **more).param in more
    too_long = raised(openai.BadRequestError, complete, prompt=[1] * 5000)
    assert too_long.code == "context_length_exceeded" and "5000" in too_long.message, too_long
    unknown = raised(openai.NotFoundError, lambda **_: complete(model="gpt-5", prompt=PROMPT))
    assert unknown.code == "model_not_found", unknown
    raised(openai.NotFoundError, lambda **_: client.models.retrieve("gpt-5"))
    raised(openai.NotFoundError, lambda **_: client.embeddings.create(model="stairwell-demo", input="x"))
    assert raised(openai.AuthenticationError, locked.with_options(api_key="wrong").completions.create, prompt=PROMPT).code == "invalid_api_key"
    assert locked.completions.create(model="stairwell-demo", prompt=PROMPT, max_tokens=2).choices
    raised(openai.PermissionDeniedError, lambda **_: locked.post("/../flush_cache", cast_to=object))


async def many(server, schemas):
    """64 chats at a time, each as it is alone."""
    client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", http_client=recorder(schemas, httpx.AsyncClient), max_retries=0)

    async def ask(i):
        return (await client.completions.create(model="stairwell-demo", prompt=f"{PROMPT} {i}", temperature=0, max_tokens=12)).choices[0].text

    alone = [await ask(i) for i in range(8)]
    crowd = await asyncio.gather(*(ask(i % 8) for i in range(64)))
    assert crowd == alone * 8
    stream = await client.completions.create(model="stairwell-demo", prompt=f"{PROMPT} 0", temperature=0, max_tokens=12, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == alone[0]


async def retries():
    """A queue of two, thirty requests at a time: the client's own retries finish the job."""
    with serving("--max-queued-requests", 2, "--max-num-seqs", 2) as server:
        client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=30, timeout=120)
        ask = lambda i: client.completions.create(model="stairwell-demo", prompt=f"{i}", max_tokens=30)
        answers = await asyncio.gather(*(ask(i) for i in range(30)))
        assert len([a for a in answers if a.choices[0].finish_reason]) == 30


def main():
    path = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT.parent / "shared" / "check" / "openai_schemas.json")
    schemas = Schemas(path)
    connect = lambda server, key: openai.OpenAI(
        base_url=server.url + "/v1", api_key=key, http_client=recorder(schemas, httpx.Client), max_retries=0
    )
    with serving("--dtype", "f32") as server, serving("--api-key", "secret", "--admin-api-key", "root") as locked:
        client = connect(server, "none")
        for judge in (models, chat, chat_logprobs, completions):
            judge(client)
            print(f"ok {judge.__name__}")
        errors(client, connect(locked, "secret"))
        print("ok errors")
        asyncio.run(many(server, schemas))
        print("ok many")
    asyncio.run(retries())
    print(f"ok retries\nopenai {openai.__version__}: all hold; {schemas.checked} bodies and chunks are valid by OpenAI's schemas")


if __name__ == "__main__":
    main()
