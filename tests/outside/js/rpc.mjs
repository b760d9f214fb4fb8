// viem, ethers and cast against one JSON-RPC URL: what wallets and libraries do all day must work.
//
// Configuration: { rpc, artifacts: "contracts/artifacts", key, poor?: true }
//   key sends the transactions; poor says that it holds no native coin, as on a chain where gas is free.
// Prints { check, ok, error? } for each check, then { done, passed, failed }; exits with 1 if any failed.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { configuration, emit, load, until } from "./outside.mjs";

const viem = load("viem");
const { privateKeyToAccount, generatePrivateKey } = load("viem/accounts");
const ethers = load("ethers");

const config = configuration();
const dollar = JSON.parse(readFileSync(join(config.artifacts, "TestDollar.json"), "utf8"));
const account = privateKeyToAccount(config.key);
const other = privateKeyToAccount(generatePrivateKey()).address;
const WAIT_MS = 20_000;
let passed = 0;
const failed = [];

async function check(name, body) {
  try {
    await body();
    passed += 1;
    emit({ check: name, ok: true });
  } catch (error) {
    failed.push(name);
    emit({ check: name, ok: false, error: String(error?.message ?? error).slice(0, 600) });
  }
}

async function viemChecks() {
  const transport = viem.http(config.rpc, { retryCount: 0 });
  const reader = viem.createPublicClient({ transport, pollingInterval: 50 });
  const id = await reader.getChainId();
  const chain = { id, name: "test", nativeCurrency: { name: "coin", symbol: "C", decimals: 18 }, rpcUrls: { default: { http: [config.rpc] } } };
  const writer = viem.createWalletClient({ account, chain, transport });
  const mined = (hash) => reader.waitForTransactionReceipt({ hash, timeout: WAIT_MS });
  let token;
  let minted;
  const contract = () => ({ address: token, abi: dollar.abi });
  const mint = async (value) => mined(await writer.writeContract({ ...contract(), functionName: "mint", args: [other, value] }));

  await check("viem: chain id, net version and client version agree", async () => {
    assert.equal(Number(await reader.request({ method: "net_version" })), id);
    assert.notEqual(await reader.request({ method: "web3_clientVersion" }), "");
  });
  await check("viem: balance and nonce of an account", async () => {
    const balance = await reader.getBalance({ address: account.address });
    assert.ok(config.poor ? balance === 0n : balance > 0n, `balance ${balance}`);
    assert.equal(await reader.getBalance({ address: other }), 0n);
    assert.equal(await reader.getTransactionCount({ address: other }), 0);
  });
  await check("viem: fees are estimated", async () => {
    const fees = await reader.estimateFeesPerGas();
    assert.ok(fees.maxFeePerGas >= fees.maxPriorityFeePerGas);
    const history = await reader.getFeeHistory({ blockCount: 2, rewardPercentiles: [50] });
    assert.equal(history.baseFeePerGas.length, history.gasUsedRatio.length + 1);
    assert.ok((await reader.getGasPrice()) >= 0n);
  });
  await check("viem: a contract is deployed", async () => {
    const receipt = await mined(await writer.deployContract({ abi: dollar.abi, bytecode: dollar.bytecode }));
    assert.equal(receipt.status, "success");
    token = receipt.contractAddress;
    assert.ok((await reader.getCode({ address: token })).length > 1000);
    assert.equal(await reader.getCode({ address: other }), undefined);
  });
  await check("viem: a contract is written, and its event is in the receipt", async () => {
    minted = await mint(700n);
    assert.equal(minted.status, "success");
    const [event] = viem.parseEventLogs({ abi: dollar.abi, logs: minted.logs, eventName: "Transfer" });
    assert.equal(event.args.value, 700n);
    assert.equal(event.args.to.toLowerCase(), other.toLowerCase());
    assert.equal(await reader.readContract({ ...contract(), functionName: "balanceOf", args: [other] }), 700n);
  });
  await check("viem: the state of an earlier block can be read", async () => {
    const earlier = { blockNumber: minted.blockNumber - 1n };
    assert.equal(await reader.readContract({ ...contract(), functionName: "balanceOf", args: [other], ...earlier }), 0n);
  });
  await check("viem: logs are found by address, event, topic and range", async () => {
    const event = viem.getAbiItem({ abi: dollar.abi, name: "Transfer" });
    const range = { fromBlock: minted.blockNumber, toBlock: "latest" };
    const found = await reader.getLogs({ address: token, event, args: { to: other }, ...range });
    assert.equal(found.length, 1);
    assert.equal(found[0].transactionHash, minted.transactionHash);
    assert.deepEqual(await reader.getLogs({ address: token, event, args: { to: token }, ...range }), []);
    assert.equal((await reader.getLogs({ blockHash: minted.blockHash, address: token })).length, 1);
  });
  await check("viem: events are watched through a filter", async () => {
    const seen = [];
    const unwatch = reader.watchContractEvent({ ...contract(), eventName: "Transfer", poll: true, onLogs: (logs) => seen.push(...logs) });
    try {
      let value = 0n;
      await until("an event", WAIT_MS, async () => {
        value += 1n;
        await mint(value);
        return seen.length > 0;
      });
    } finally {
      unwatch();
    }
    assert.equal(seen[0].eventName, "Transfer");
  });
  await check("viem: raw filters of logs and of blocks report what is new, once", async () => {
    const logs = await reader.request({ method: "eth_newFilter", params: [{ address: token, fromBlock: "latest" }] });
    const blocks = await reader.request({ method: "eth_newBlockFilter" });
    const receipt = await mint(5n);
    const found = await reader.request({ method: "eth_getFilterChanges", params: [logs] });
    assert.ok(found.some((log) => log.transactionHash === receipt.transactionHash));
    assert.deepEqual(await reader.request({ method: "eth_getFilterChanges", params: [logs] }), []);
    assert.ok((await reader.request({ method: "eth_getFilterChanges", params: [blocks] })).includes(receipt.blockHash));
    assert.equal(await reader.request({ method: "eth_uninstallFilter", params: [logs] }), true);
    await assert.rejects(reader.request({ method: "eth_getFilterChanges", params: [logs] }));
  });
  await check("viem: a block by number and by hash is the same, with and without its transactions", async () => {
    const byHash = await reader.getBlock({ blockHash: minted.blockHash, includeTransactions: true });
    const byNumber = await reader.getBlock({ blockNumber: minted.blockNumber });
    assert.equal(byHash.hash, byNumber.hash);
    assert.ok(byHash.transactions.some((tx) => tx.hash === minted.transactionHash));
    assert.ok(byNumber.transactions.includes(minted.transactionHash));
    const parent = await reader.getBlock({ blockHash: byHash.parentHash });
    assert.equal(parent.number, byHash.number - 1n);
    assert.ok((await reader.getBlockNumber({ cacheTime: 0 })) >= byHash.number);
  });
  await check("viem: a transaction by hash is as it was sent", async () => {
    const transaction = await reader.getTransaction({ hash: minted.transactionHash });
    assert.equal(transaction.from.toLowerCase(), account.address.toLowerCase());
    assert.equal(transaction.blockHash, minted.blockHash);
    assert.equal(transaction.chainId, id);
    await assert.rejects(reader.getTransaction({ hash: viem.keccak256("0x01") }), { name: "TransactionNotFoundError" });
    await assert.rejects(reader.getTransactionReceipt({ hash: viem.keccak256("0x01") }), { name: "TransactionReceiptNotFoundError" });
  });
  await check("viem: gas is estimated, and enough", async () => {
    const call = { ...contract(), functionName: "mint", args: [other, 3n] };
    const gas = await reader.estimateContractGas({ ...call, account });
    const receipt = await mined(await writer.writeContract({ ...call, gas }));
    assert.equal(receipt.status, "success");
    assert.ok(receipt.gasUsed <= gas);
  });
  for (const type of ["eip1559", "eip2930", "legacy"]) {
    await check(`viem: a transaction of type ${type}`, async () => {
      const data = viem.encodeFunctionData({ abi: dollar.abi, functionName: "mint", args: [other, 1n] });
      const hash = await writer.sendTransaction({ to: token, data, type, ...(type === "eip2930" ? { accessList: [] } : {}) });
      assert.equal((await mined(hash)).status, "success");
      assert.equal((await reader.getTransaction({ hash })).type, type);
    });
  }
  await check("viem: a revert comes back with its custom error and arguments", async () => {
    const call = { ...contract(), account, functionName: "transfer", args: [other, 10n ** 30n] };
    await assert.rejects(reader.simulateContract(call), (error) => {
      const revert = error.walk((cause) => cause instanceof viem.ContractFunctionRevertedError);
      assert.equal(revert.data.errorName, "ERC20InsufficientBalance");
      assert.equal(revert.data.args[2], 10n ** 30n);
      return true;
    });
    await assert.rejects(reader.estimateContractGas(call), /ERC20InsufficientBalance/);
  });
  await check("viem: a transaction that reverts is mined as such", async () => {
    const data = viem.encodeFunctionData({ abi: dollar.abi, functionName: "transfer", args: [other, 10n ** 30n] });
    const receipt = await mined(await writer.sendTransaction({ to: token, data, gas: 100_000n }));
    assert.equal(receipt.status, "reverted");
    assert.deepEqual(receipt.logs, []);
  });
  await check("viem: a nonce that was used is refused, and the reason is recognised", async () => {
    const sending = writer.sendTransaction({ to: other, value: 0n, nonce: 0, gas: 21_000n });
    await assert.rejects(sending, (error) => Boolean(error.walk((cause) => cause.name === "NonceTooLowError")));
  });
  await check("viem: storage is read", async () => {
    const slots = await Promise.all([0n, 1n, 2n, 3n].map((slot) => reader.getStorageAt({ address: token, slot: viem.toHex(slot) })));
    for (const slot of slots) assert.match(slot, /^0x[0-9a-f]{64}$/);
    assert.ok(slots.some((slot) => BigInt(slot) > 0n), "the total supply stands in one of the first slots");
  });
  await check("viem: a batch of requests is answered in one reply", async () => {
    const batched = viem.createPublicClient({ transport: viem.http(config.rpc, { batch: true, retryCount: 0 }) });
    const answers = await Promise.all([batched.getChainId(), batched.getBlockNumber(), batched.getBalance({ address: other })]);
    assert.equal(answers[0], id);
  });
  await check("viem: an unknown method and bad parameters are errors with their codes", async () => {
    await assert.rejects(reader.request({ method: "eth_noSuchMethod" }), (error) => error.code === -32601);
    await assert.rejects(reader.request({ method: "eth_getBalance", params: ["nonsense", "latest"] }), (error) => error.code === -32602);
  });
  return token;
}

async function ethersChecks() {
  const provider = new ethers.JsonRpcProvider(config.rpc, undefined, { pollingInterval: 50 });
  const wallet = new ethers.NonceManager(new ethers.Wallet(config.key, provider));
  let token;

  await check("ethers: network, block number and fee data, in one batch", async () => {
    const [network, number, fees] = await Promise.all([provider.getNetwork(), provider.getBlockNumber(), provider.getFeeData()]);
    assert.ok(network.chainId > 0n && number >= 0 && fees.gasPrice >= 0n);
  });
  await check("ethers: a contract is deployed, written and read", async () => {
    token = await new ethers.ContractFactory(dollar.abi, dollar.bytecode, wallet).deploy();
    await token.waitForDeployment();
    const receipt = await (await token.mint(other, 900n)).wait(1, WAIT_MS);
    assert.equal(receipt.status, 1);
    assert.equal(await token.balanceOf(other), 900n);
    assert.equal(token.interface.parseLog(receipt.logs[0]).args.value, 900n);
  });
  await check("ethers: events of the past are queried, and new ones are heard", async () => {
    assert.equal((await token.queryFilter(token.filters.Transfer(null, other), 0)).length, 1);
    const heard = [];
    await token.on("Transfer", (_from, _to, value) => heard.push(value));
    try {
      await until("the event of a mint of 8", WAIT_MS, async () => {
        await (await token.mint(other, 8n)).wait(1, WAIT_MS);
        return heard.includes(8n);
      });
    } finally {
      await token.removeAllListeners();
    }
  });
  await check("ethers: a revert is decoded by static call, by estimate and by receipt", async () => {
    const named = (error) => error.code === "CALL_EXCEPTION" && error.revert?.name === "ERC20InsufficientBalance";
    await assert.rejects(token.transfer.staticCall(other, 10n ** 30n), named);
    // An estimate is not decoded by ethers: it hands on the bytes, which must be the error's.
    const selector = token.interface.getError("ERC20InsufficientBalance").selector;
    await assert.rejects(token.transfer.estimateGas(other, 10n ** 30n), (error) => error.data.startsWith(selector));
    const sent = await token.transfer(other, 10n ** 30n, { gasLimit: 100_000n });
    await assert.rejects(sent.wait(1, WAIT_MS), { code: "CALL_EXCEPTION" });
  });
  await check("ethers: legacy and EIP-1559 transactions", async () => {
    for (const type of [0, 2]) {
      const sent = await token.mint(other, 1n, { type });
      await sent.wait(1, WAIT_MS);
      assert.equal((await provider.getTransaction(sent.hash)).type, type);
    }
  });
  await check("ethers: blocks with their transactions, logs, code and storage", async () => {
    const receipt = await (await token.mint(other, 2n)).wait(1, WAIT_MS);
    const block = await provider.getBlock(receipt.blockNumber, true);
    assert.equal(block.hash, receipt.blockHash);
    assert.ok(block.prefetchedTransactions.some((tx) => tx.hash === receipt.hash));
    const address = await token.getAddress();
    assert.equal((await provider.getLogs({ address, fromBlock: receipt.blockNumber })).length, 1);
    assert.ok((await provider.getCode(address)).length > 1000);
    assert.match(await provider.getStorage(address, 2), /^0x[0-9a-f]{64}$/);
  });
  provider.destroy();
}

/** The program itself, not the wrapper that npm puts in .bin, so that nothing stands between it and its exit code. */
function castProgram() {
  const scope = join(dirname(load.resolve("viem/package.json")), "..", "@foundry-rs");
  const platform = readdirSync(scope).find((name) => name.startsWith("cast-"));
  return join(scope, platform, "bin", "cast");
}

async function castChecks(token) {
  const run = promisify(execFile);
  const cast = async (...words) => (await run(castProgram(), [...words, "--rpc-url", config.rpc], { timeout: WAIT_MS })).stdout.trim();
  const send = (...words) => cast("send", ...words, "--private-key", config.key, "--json");
  const word = (text) => BigInt(text.split(" ")[0]);
  let receipt;

  await check("cast: chain id, block number, gas price, client", async () => {
    assert.ok(Number(await cast("chain-id")) > 0);
    assert.ok(Number(await cast("block-number")) > 0);
    assert.ok(BigInt(await cast("gas-price")) >= 0n);
    assert.notEqual(await cast("client"), "");
  });
  await check("cast: send, then receipt, tx and call", async () => {
    const before = word(await cast("call", token, "balanceOf(address)(uint256)", other));
    receipt = JSON.parse(await send(token, "mint(address,uint256)", other, "41"));
    assert.equal(receipt.status, "0x1");
    assert.equal(JSON.parse(await cast("receipt", receipt.transactionHash, "--json")).blockHash, receipt.blockHash);
    assert.equal(JSON.parse(await cast("tx", receipt.transactionHash, "--json")).hash, receipt.transactionHash);
    assert.equal(word(await cast("call", token, "balanceOf(address)(uint256)", other)), before + 41n);
  });
  await check("cast: a legacy transaction", async () => {
    assert.equal(JSON.parse(await send(token, "mint(address,uint256)", other, "1", "--legacy")).status, "0x1");
  });
  await check("cast: block, logs, code, storage, balance, nonce", async () => {
    assert.equal(JSON.parse(await cast("block", receipt.blockHash, "--json")).number, receipt.blockNumber);
    const logs = await cast("logs", "--address", token, "--from-block", receipt.blockNumber, "--to-block", receipt.blockNumber, "--json");
    assert.equal(JSON.parse(logs).length, 1);
    assert.ok((await cast("code", token)).length > 1000);
    assert.match(await cast("storage", token, "2"), /^0x[0-9a-f]{64}$/);
    assert.equal(await cast("balance", other), "0");
    assert.ok(Number(await cast("nonce", account.address)) > 0);
  });
  await check("cast: estimate, and a revert with its reason", async () => {
    assert.ok(Number(await cast("estimate", token, "mint(address,uint256)", other, "1")) > 21_000);
    await assert.rejects(cast("call", token, "transfer(address,uint256)", other, "1"), /revert/i);
  });
}

const token = await viemChecks();
await ethersChecks();
await castChecks(token);
emit({ done: true, passed, failed });
process.exit(failed.length === 0 ? 0 : 1);
