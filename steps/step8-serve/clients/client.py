"""A client with openai-python: `pip install openai`, then `python steps/step8-serve/clients/client.py http://127.0.0.1:8000`."""

import os
import sys

from openai import BadRequestError, OpenAI

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key=os.environ.get("STAIRWELL_API_KEY", "none"))
model = client.models.list().data[0].id
print("model:", model)

answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
whole = answer.choices[0].text
print("whole:", whole)

pieces = []
with client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True) as stream:
    for chunk in stream:
        pieces.append(chunk.choices[0].text)
print("streamed:", "|".join(pieces))
assert "".join(pieces) == whole, "a stream has the text of the whole answer"

messages = [{"role": "user", "content": "Tell me a story about a dog."}]
options = {"include_usage": True}
with client.chat.completions.create(model=model, messages=messages, max_tokens=200, stream=True, stream_options=options) as chat:
    for chunk in chat:
        if chunk.choices and chunk.choices[0].delta.content:
            print("chat:", chunk.choices[0].delta.content)
            break
# Here the connection is closed in the middle of the answer, and the server takes the request back.

try:
    client.completions.create(model=model, prompt="Once upon a time", n=0)
except BadRequestError as error:
    print("refused:", error.status_code, error.param)
else:
    sys.exit("n = 0 was accepted")
