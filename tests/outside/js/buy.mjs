// Asks models that are sold: npm `openai`, unmodified, whose `fetch` is npm @x402/fetch's, unmodified too.
//
// One JSON argument: {"url", "key", "network", "model", "salt"}. Prints one JSON line for each check: {"check", "value"},
// where the value has what was said, how many tokens it took, and for each HTTP request what was paid with (`sent`) and
// what the reply stated (`stated`). python/buy.py takes the same and prints the same.
import { configuration, emit, load } from "./outside.mjs";

const { OpenAI } = load("openai");
const { x402Client, wrapFetchWithPayment } = load("@x402/fetch");
const { decodePaymentResponseHeader, decodePaymentSignatureHeader } = load("@x402/core/http");
const batch = load("@x402/evm/batch-settlement/client");
const { privateKeyToAccount } = load("viem/accounts");

const { url, key, network, model, salt } = configuration();
const scheme = new batch.BatchSettlementEvmScheme(privateKeyToAccount(key), { salt });
const client = new x402Client().register(network, scheme);
client.setSpendControls({ allowedAssets: true });

let log = [];
async function watched(...input) {
  const request = new Request(...input);
  const header = request.headers.get("PAYMENT-SIGNATURE");
  const entry = { sent: header ? decodePaymentSignatureHeader(header).payload.type : null };
  log.push(entry);
  const response = await fetch(request);
  const settled = response.headers.get("PAYMENT-RESPONSE");
  entry.status = response.status;
  entry.stated = settled ? decodePaymentResponseHeader(settled).extra.chargedAmount : null;
  return response;
}

const openai = new OpenAI({
  baseURL: `${url}/v1`,
  apiKey: "none",
  fetch: wrapFetchWithPayment(watched, client),
  maxRetries: 0,
});

function report(check, value) {
  emit({ check, value: { ...value, requests: log } });
  log = [];
}

const talk = { model, messages: [{ role: "user", content: "What is a hearth?" }], max_tokens: 16 };
const count = (usage) => [usage.prompt_tokens, usage.completion_tokens];

async function whole(check) {
  const { choices, usage } = await openai.chat.completions.create(talk);
  report(check, { text: choices[0].message.content, tokens: count(usage) });
}

await whole("whole");
await whole("again");
const together = await Promise.all([1, 2, 3].map(() => openai.chat.completions.create(talk)));
report("together", { tokens: together.map(({ usage }) => count(usage)) });
let text = "";
let usage;
for await (const chunk of await openai.chat.completions.create({
  ...talk,
  stream: true,
  stream_options: { include_usage: true },
})) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
report("stream", { text, tokens: count(usage) });

const story = { model, messages: [{ role: "user", content: "Tell me a long story." }], max_tokens: 400, stream: true };
const long = await openai.chat.completions.create(story);
let pieces = 0;
for await (const chunk of long) {
  if (chunk.choices[0]?.delta?.content && ++pieces === 3) break;
}
report("left", { pieces });
await whole("after");

try {
  await openai.chat.completions.create({ ...talk, model: "nobody" });
} catch (error) {
  report("no model", { code: error.code, status: error.status });
}
