// A payer made of npm @x402/fetch and @x402/evm, unmodified, driven one step at a time.
//
// The argument configures the client; each line of standard input is one step, each line of standard output is what it
// saw. Between two lines the test may restart the server, move the chain, or look at money, so that one client lives
// through all of it. tests/outside/README.md describes the configuration and the steps; python/pay.py takes the same.
import { createInterface } from "node:readline";
import { configuration, emit, load } from "./outside.mjs";

const { x402Client, wrapFetchWithPayment } = load("@x402/fetch");
const { decodePaymentRequiredHeader, decodePaymentResponseHeader, decodePaymentSignatureHeader } = load("@x402/core/http");
const { toClientEvmSigner } = load("@x402/evm");
const { ExactEvmScheme } = load("@x402/evm/exact/client");
const batch = load("@x402/evm/batch-settlement/client");
const { FileClientChannelStorage } = load("@x402/evm/batch-settlement/client/file-storage");
const { appendPaymentIdentifierToExtensions } = load("@x402/extensions/payment-identifier");
const { createPublicClient, http } = load("viem");
const { privateKeyToAccount } = load("viem/accounts");

const config = configuration();
let chainReads = 0;

function signer() {
  const account = privateKeyToAccount(config.key);
  if (!config.rpc) return account;
  const fetchFn = (...request) => {
    chainReads += 1;
    return fetch(...request);
  };
  return toClientEvmSigner(account, createPublicClient({ transport: http(config.rpc, { fetchFn }) }));
}

/** The client's own storage, seen through: the SDK reads and writes it, the test looks at it, saves and restores it. */
class WatchedStorage {
  constructor(inner) {
    this.inner = inner;
    this.last = undefined;
    this.saved = new Map();
  }
  get(key) {
    this.last = key;
    return this.inner.get(key);
  }
  set(key, value) {
    this.last = key;
    return this.inner.set(key, value);
  }
  delete(key) {
    this.last = key;
    return this.inner.delete(key);
  }
  async view() {
    if (this.last === undefined) return null;
    const record = await this.inner.get(this.last);
    return { channelId: this.last, ...record };
  }
  async save(name) {
    const record = await this.inner.get(this.last);
    this.saved.set(name, record === undefined ? undefined : structuredClone(record));
  }
  async restore(name) {
    const record = this.saved.get(name);
    await (record === undefined ? this.inner.delete(this.last) : this.inner.set(this.last, structuredClone(record)));
  }
}

const storage = new WatchedStorage(
  config.directory ? new FileClientChannelStorage({ directory: config.directory }) : new batch.InMemoryClientChannelStorage(),
);

const scheme = new batch.BatchSettlementEvmScheme(signer(), {
  storage,
  ...(config.salt ? { salt: config.salt } : {}),
  ...(config.voucherKey ? { voucherSigner: privateKeyToAccount(config.voucherKey) } : {}),
});

function client(paymentId) {
  const network = config.network ?? "eip155:*";
  const made = new x402Client();
  const schemes = config.schemes ?? ["batch-settlement"];
  if (schemes.includes("batch-settlement")) made.register(network, scheme);
  if (schemes.includes("exact")) made.register(network, new ExactEvmScheme(signer()));
  made.setSpendControls(config.spendControls ?? { allowedAssets: true });
  if (paymentId) {
    made.onBeforePaymentCreation(async ({ paymentRequired }) => {
      if (paymentRequired.extensions) appendPaymentIdentifierToExtensions(paymentRequired.extensions, paymentId);
    });
  }
  return made;
}

/** A fetch that notes each request: what was paid with, and what came back. */
function watchedFetch(log) {
  return async (...input) => {
    const request = new Request(...input);
    const header = request.headers.get("PAYMENT-SIGNATURE");
    const payment = header ? decodePaymentSignatureHeader(header) : undefined;
    const entry = { method: request.method, sent: payment ? summary(payment) : null };
    log.push(entry);
    const response = await fetch(request);
    entry.status = response.status;
    const required = response.headers.get("PAYMENT-REQUIRED");
    if (required) entry.required = decodePaymentRequiredHeader(required);
    const settled = response.headers.get("PAYMENT-RESPONSE");
    if (settled) entry.response = decodePaymentResponseHeader(settled);
    return response;
  };
}

function summary(payment) {
  const { payload, accepted } = payment;
  return {
    scheme: accepted.scheme,
    type: payload.type ?? "authorization",
    maxClaimableAmount: payload.voucher?.maxClaimableAmount,
    deposit: payload.deposit?.amount,
    amount: payload.amount ?? payload.authorization?.value,
    paymentId: payment.extensions?.["payment-identifier"]?.info?.id,
  };
}

async function request(step, report) {
  const log = [];
  const pay = wrapFetchWithPayment(watchedFetch(log), client(step.paymentId));
  const outcome = {};
  try {
    const init = { method: step.method ?? (step.body === undefined ? "GET" : "POST"), headers: step.headers ?? {} };
    if (step.body !== undefined) {
      init.body = typeof step.body === "string" ? step.body : JSON.stringify(step.body);
      init.headers = { "content-type": "application/json", ...init.headers };
    }
    const response = await pay(step.url, init);
    outcome.status = response.status;
    outcome.body = step.do === "stream" ? await read(response, report) : await response.text();
  } catch (error) {
    outcome.error = error.message;
  }
  return { ...outcome, ...trace(log) };
}

function trace(log) {
  const last = log.at(-1);
  return {
    requests: log.length,
    sent: log.map((entry) => entry.sent),
    statuses: log.map((entry) => entry.status),
    errors: log.map((entry) => entry.required?.error ?? null),
    response: last?.response ?? null,
    required: last?.status === 402 ? (last.required ?? null) : null,
  };
}

/** Reads a stream and says, when its first bytes are here, that they are: the test then lets the server go on. */
async function read(response, report) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body) {
    if (text === "") report({ first: decoder.decode(chunk) });
    text += decoder.decode(chunk, { stream: true });
  }
  return text;
}

async function refund(step) {
  const log = [];
  const outcome = {};
  try {
    const options = { fetch: watchedFetch(log), ...(step.amount ? { amount: step.amount } : {}) };
    outcome.refund = await scheme.refund(step.url, options);
  } catch (error) {
    outcome.error = error.message;
  }
  return { ...outcome, ...trace(log) };
}

async function perform(step, report) {
  switch (step.do) {
    case "call":
    case "stream":
      return request(step, report);
    case "parallel":
      return { calls: await Promise.all(Array.from({ length: step.n }, () => request(step, report))) };
    case "refund":
      return refund(step);
    case "forget":
      await storage.save("forgotten");
      await storage.delete(storage.last);
      return {};
    case "save":
      await storage.save(step.name);
      return {};
    case "restore":
      await storage.restore(step.name);
      return {};
    default:
      throw new Error(`unknown step: ${step.do}`);
  }
}

emit({ ready: privateKeyToAccount(config.key).address });
let number = 0;
for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim() === "") continue;
  const step = JSON.parse(line);
  number += 1;
  const readsBefore = chainReads;
  const result = await perform(step, (event) => emit({ step: number, do: step.do, ...event }));
  emit({ step: number, do: step.do, ...result, chainReads: chainReads - readsBefore, channel: await storage.view(), done: true });
}
