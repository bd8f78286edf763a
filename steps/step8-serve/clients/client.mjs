// A client with openai-node: `npm install openai`, then `node steps/step8-serve/clients/client.mjs http://127.0.0.1:8000`.
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.argv[2]}/v1`,
  apiKey: process.env.STAIRWELL_API_KEY ?? "none",
});
const model = (await client.models.list()).data[0].id;
console.log("model:", model);

const request = { model, prompt: "Once upon a time", max_tokens: 12, temperature: 0 };
const whole = (await client.completions.create(request)).choices[0].text;
console.log("whole:", whole);

const pieces = [];
for await (const chunk of await client.completions.create({ ...request, stream: true })) {
  pieces.push(chunk.choices[0].text);
}
console.log("streamed:", pieces.join("|"));
assert.equal(pieces.join(""), whole, "a stream has the text of the whole answer");

const messages = [{ role: "user", content: "Tell me a story about a dog." }];
const chat = await client.chat.completions.create({ model, messages, max_tokens: 200, stream: true });
for await (const chunk of chat) {
  const text = chunk.choices[0]?.delta?.content;
  if (text) {
    console.log("chat:", text);
    break; // closes the connection, and the server takes the request back
  }
}

const refused = await client.completions.create({ ...request, n: 0 }).catch((error) => error);
assert(refused instanceof OpenAI.BadRequestError, `n = 0: ${refused}`);
console.log("refused:", refused.status, refused.param);
