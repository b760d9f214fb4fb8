// A paid server made of npm express and @x402/express, unmodified, with the SDK's facilitator in the same process:
// what `hearth pay` buys from, and what a stranger's service looks like from our side.
//
// Configuration: { rpc, key, payTo, authorizerKey, token, name, version, amount, port?, withdrawDelay?, directory? }
//   key sends transactions; payTo receives; authorizerKey signs claims and refunds; directory keeps channels in files.
// Prints { ready: url }. Paid: GET and POST /paid (batch-settlement), /once (exact), /either (both), /less?charge=N
// (batch-settlement, charges N atomic units), /fails (a handler that answers 500). Not paid, for the test:
// POST /control/claim -> { claims, settle }.
import { configuration, emit, load } from "./outside.mjs";

const express = load("express");
const { paymentMiddleware, setSettlementOverrides, x402ResourceServer } = load("@x402/express");
const { x402Facilitator } = load("@x402/core/facilitator");
const { toFacilitatorEvmSigner } = load("@x402/evm");
const exactFacilitator = load("@x402/evm/exact/facilitator");
const batchFacilitator = load("@x402/evm/batch-settlement/facilitator");
const exactServer = load("@x402/evm/exact/server");
const batchServer = load("@x402/evm/batch-settlement/server");
const { FileChannelStorage } = load("@x402/evm/batch-settlement/server/file-storage");
const { createWalletClient, http, publicActions } = load("viem");
const { privateKeyToAccount } = load("viem/accounts");

const config = configuration();

async function wallet() {
  const account = privateKeyToAccount(config.key);
  const transport = http(config.rpc);
  const id = await createWalletClient({ transport }).extend(publicActions).getChainId();
  const chain = { id, name: "test", nativeCurrency: { name: "coin", symbol: "C", decimals: 18 }, rpcUrls: { default: { http: [config.rpc] } } };
  const client = createWalletClient({ account, chain, transport, pollingInterval: 50 }).extend(publicActions);
  return { network: `eip155:${id}`, signer: toFacilitatorEvmSigner(Object.assign(client, { address: account.address })) };
}

const { network, signer } = await wallet();
const facilitator = new x402Facilitator();
facilitator.register(network, new exactFacilitator.ExactEvmScheme(signer));
facilitator.register(network, new batchFacilitator.BatchSettlementEvmScheme(signer));
// The resource server asks a facilitator for what it supports as it would over HTTP, with a promise.
const local = {
  verify: (...call) => facilitator.verify(...call),
  settle: (...call) => facilitator.settle(...call),
  getSupported: async () => facilitator.getSupported(),
};

const batch = new batchServer.BatchSettlementEvmScheme(config.payTo, {
  receiverAuthorizerSigner: privateKeyToAccount(config.authorizerKey),
  withdrawDelay: config.withdrawDelay ?? 86400,
  ...(config.directory ? { storage: new FileChannelStorage({ directory: config.directory }) } : {}),
});
const resources = new x402ResourceServer(local).register(network, batch).register(network, new exactServer.ExactEvmScheme());

const offer = (scheme) => ({
  scheme,
  network,
  payTo: config.payTo,
  maxTimeoutSeconds: 120,
  price: { amount: config.amount, asset: config.token, extra: { name: config.name, version: config.version } },
});
const channel = { accepts: [offer("batch-settlement")], description: "paid by voucher" };
const once = { accepts: [offer("exact")], description: "paid by one transfer" };
const either = { accepts: [offer("batch-settlement"), offer("exact")], description: "paid either way" };
const routes = { "/paid": channel, "/less": channel, "/fails": channel, "/once": once, "/either": either };

const app = express();
app.use(express.json());
app.post("/control/claim", async (_request, response) => {
  response.json(await batch.createChannelManager(local, network, config.token).claimAndSettle());
});
app.use(paymentMiddleware(routes, resources));
const answer = (request, response) => response.json({ paid: request.path, body: request.body ?? null });
for (const path of ["/paid", "/once", "/either"]) app.all(path, answer);
app.all("/less", (request, response) => {
  setSettlementOverrides(response, { amount: request.query.charge });
  answer(request, response);
});
app.all("/fails", (_request, response) => response.status(500).json({ error: "this handler always fails" }));

const listener = app.listen(config.port ?? 0, "127.0.0.1", () => {
  emit({ ready: `http://127.0.0.1:${listener.address().port}`, network });
});
