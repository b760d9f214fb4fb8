// Makes a bare test chain (anvil, hardhat) look like Hearth's embedded one, and puts a token of tests on it.
//
// Code is placed at the canonical x402 addresses, because every client signs for those and for no others. Multicall3 is
// placed too, since the facilitator of the x402 SDK reads through it. A chain that has the code from its genesis is left
// as it is: give no setCode.
//
// Configuration: { rpc, artifacts: "contracts/artifacts", key, mint: [{ to, amount }], setCode?: "anvil_setCode" }
// Prints: { chainId, token, name, version, settlement, collector }
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { configuration, emit, load } from "./outside.mjs";

const { createPublicClient, createWalletClient, encodeAbiParameters, http } = load("viem");
const { privateKeyToAccount } = load("viem/accounts");

const SETTLEMENT = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003";
const COLLECTOR = "0x4020806089470a89826cB9fB1f4059150b550004";
const MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11";

const config = configuration();
const account = privateKeyToAccount(config.key);
const reader = createPublicClient({ transport: http(config.rpc), pollingInterval: 50 });
const chainId = await reader.getChainId();
const chain = { id: chainId, name: "test", nativeCurrency: { name: "coin", symbol: "C", decimals: 18 }, rpcUrls: { default: { http: [config.rpc] } } };
const writer = createWalletClient({ account, chain, transport: http(config.rpc) });

const artifact = (name) => JSON.parse(readFileSync(join(config.artifacts, `${name}.json`), "utf8"));

async function deploy(data) {
  const hash = await writer.sendTransaction({ data });
  const receipt = await reader.waitForTransactionReceipt({ hash, timeout: 30_000 });
  if (receipt.status !== "success") throw new Error(`a deployment reverted: ${hash}`);
  return receipt.contractAddress;
}

async function place(address, creation) {
  if (await reader.getCode({ address })) return;
  const copy = await deploy(creation);
  const code = await reader.getCode({ address: copy });
  await reader.request({ method: config.setCode, params: [address, code] });
}

// viem ships Multicall3's creation code for chains that lack it, but does not export it by name.
const { multicall3Bytecode } = load(join(dirname(load.resolve("viem")), "constants", "contracts.js"));

if (config.setCode) {
  await place(SETTLEMENT, artifact("Settlement").bytecode);
  const argument = encodeAbiParameters([{ type: "address" }], [SETTLEMENT]).slice(2);
  await place(COLLECTOR, artifact("Collector").bytecode + argument);
  await place(MULTICALL3, multicall3Bytecode);
}

const dollar = artifact("TestDollar");
const token = await deploy(dollar.bytecode);
for (const { to, amount } of config.mint ?? []) {
  const hash = await writer.writeContract({ address: token, abi: dollar.abi, functionName: "mint", args: [to, BigInt(amount)] });
  await reader.waitForTransactionReceipt({ hash, timeout: 30_000 });
}
const domain = await reader.readContract({ address: token, abi: dollar.abi, functionName: "eip712Domain" });
emit({ chainId, token, name: domain[1], version: domain[2], settlement: SETTLEMENT, collector: COLLECTOR });
