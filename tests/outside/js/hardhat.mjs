// A hardhat node, as a third chain beside anvil and the embedded one. It wants Node 22.
//
// Each transaction is mined at once and gas costs nothing, as on the embedded chain, so that one suite fits all three.
// Hardhat is driven through its own library, because its command line insists on a project folder of its own.
//
// Configuration: { port?, chainId? }. Prints { ready: url }.
import { configuration, emit, load } from "./outside.mjs";

const { createHardhatRuntimeEnvironment } = load("hardhat/hre");

const config = configuration();
const environment = await createHardhatRuntimeEnvironment(
  {
    networks: {
      local: {
        type: "edr-simulated",
        chainType: "l1",
        chainId: config.chainId ?? 31337,
        initialBaseFeePerGas: 0,
        gasPrice: 0,
        // A transaction that reverts is mined, as everywhere else, rather than refused when it is sent.
        throwOnTransactionFailures: false,
      },
    },
  },
  {},
  process.env.HEARTH_OUTSIDE,
);
const server = await environment.network.createServer("local", "127.0.0.1", config.port ?? 0);
const { address, port } = await server.listen();
emit({ ready: `http://${address}:${port}` });
