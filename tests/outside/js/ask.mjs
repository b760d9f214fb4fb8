// Asks a node through unmodified SDKs: npm `openai`, and `ai` with `@ai-sdk/openai-compatible`.
//
// Configuration and output are those of python/ask.py.
import { configuration, emit, load } from "./outside.mjs";

const { OpenAI, NotFoundError, APIError } = load("openai");
const { createOpenAICompatible } = load("@ai-sdk/openai-compatible");
const { generateText, streamText, generateObject, embedMany, tool, jsonSchema } = load("ai");

const { url, key, models, most } = configuration();
const messages = [{ role: "user", content: "one two three" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const talk = { model: models.talk, messages, ...(most ? { max_tokens: most } : {}) };
const answer = { model: models.talk, input: "one two three", ...(most ? { max_output_tokens: most } : {}) };
const report = (check, value) => emit({ check, value });

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const whole = await client.chat.completions.create(talk);
report("openai whole", [whole.choices[0].message.content, whole.choices[0].finish_reason]);

let text = "";
for await (const chunk of await client.chat.completions.create({ ...talk, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
report("openai stream", text);

const tools = [{ type: "function", function: { name: "weather", parameters } }];
const runner = client.chat.completions.stream({ model: models.call, messages, tools, tool_choice: "required" });
const called = await runner.finalChatCompletion();
report("openai tools in a stream", called.choices[0].message.tool_calls[0].function.name);

const response = await client.responses.create(answer);
report("openai response", response.output_text);
const steps = client.responses.stream(answer);
report("openai response stream", (await steps.finalResponse()).output_text);

if (models.embed) {
  const embedded = await client.embeddings.create({ model: models.embed, input: ["a b", "c"] });
  report("openai embeddings", [embedded.data.length, embedded.data[0].embedding.slice(0, 1)]);
}
try {
  await client.chat.completions.create({ model: models.none, messages });
} catch (error) {
  if (!(error instanceof NotFoundError)) throw error;
  report("openai no model", error.code);
}
if (models.breaks) {
  text = "";
  try {
    for await (const chunk of await client.chat.completions.create({ model: models.breaks, messages, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    report("openai broken stream", [text, error.code]);
  }
}

const provider = createOpenAICompatible({
  name: "hearth",
  baseURL: `${url}/v1`,
  apiKey: key,
  supportsStructuredOutputs: true,
});
const prompt = "one two three";
const options = { prompt, maxRetries: 0 };
const spoken = { model: provider(models.talk), ...options, ...(most ? { maxOutputTokens: most } : {}) };
const generated = await generateText(spoken);
report("ai whole", [generated.text, generated.finishReason]);

text = "";
for await (const piece of streamText(spoken).textStream) text += piece;
report("ai stream", text);

const weather = tool({ description: "tells it", inputSchema: jsonSchema(parameters) });
const asked = await generateText({
  model: provider(models.call),
  tools: { weather },
  toolChoice: "required",
  ...options,
});
report("ai tools", asked.toolCalls[0].toolName);

const place = await generateObject({ model: provider(models.json), schema: jsonSchema(parameters), ...options });
report("ai object", "city" in place.object);

if (models.embed) {
  const { embeddings } = await embedMany({ model: provider.textEmbeddingModel(models.embed), values: ["a b", "c"] });
  report("ai embeddings", embeddings.length);
}
try {
  await generateText({ model: provider(models.none), ...options });
} catch (error) {
  report("ai no model", error.statusCode);
}
