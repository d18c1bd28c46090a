// Asks a running server with OpenAI's client for JavaScript.
//
// node check.mjs http://127.0.0.1:8080 MODEL
import OpenAI from "openai";

const [base, model] = process.argv.slice(2);
const expect = (condition, what) => {
  if (!condition) {
    console.error("failed:", what);
    process.exit(1);
  }
};
const refused = async (status, call) => {
  try {
    await call();
  } catch (error) {
    expect(error.status === status, `status ${error.status} instead of ${status}: ${error}`);
    return error;
  }
  expect(false, `no status ${status}`);
};

const client = new OpenAI({ baseURL: base + "/v1", apiKey: "any", maxRetries: 0 });
const ask = { model, messages: [{ role: "user", content: "Say hello." }], temperature: 0, max_tokens: 16 };

const whole = await client.chat.completions.create(ask);
const text = whole.choices[0].message.content;
expect(text && whole.usage.completion_tokens > 0, "a chat");

let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
expect(streamed === text, `the stream: ${streamed}`);

// Leaving in the middle ends the request, and the next one is answered.
const left = await client.chat.completions.create({ ...ask, max_tokens: 500, stream: true });
for await (const chunk of left) {
  if (chunk.choices[0]?.delta?.content) break;
}
const response = await client.responses.create({ model, input: "Say hello.", temperature: 0, max_output_tokens: 16 });
expect(response.output_text === text, "a response");
const vector = (await client.embeddings.create({ model, input: "one" })).data[0].embedding;
expect(vector.length > 100, "a vector");
expect((await client.models.list()).data.some((found) => found.id === model), "the model is listed");

await refused(404, () => client.chat.completions.create({ ...ask, model: "nobody" }));
const error = await refused(400, () => client.chat.completions.create({ ...ask, temperature: -1 }));
expect(error.param === "temperature", "the parameter is named");
console.log("the client for JavaScript is content");
