// Compiles every contract of this folder with the solc that package-lock.json pins, and prints one JSON object
// {"<path of the artifact, relative to artifacts/>": "<its text>"} on standard output. `cargo xtask contracts` runs it
// with the folder that holds `node_modules` as the only argument; it reads sources and writes nothing.

import { compile, compiler, input, settings } from "./compiler.mjs";

const packages = process.argv[2] ?? import.meta.dirname;

// Artifacts of `src` are the product; those of `test` are hostile peers that the tests meet.
const folders = { src: "", test: "test/" };

const asked = input(Object.keys(folders), {
  "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "evm.deployedBytecode.immutableReferences"],
});
const output = compile(packages, asked);
// Warning 2394 says that transient storage can surprise; the reentrancy guard is the use it calls safe.
// What the compiler says about sources of the pinned packages is not for us to mend, unless it is an error.
const isOurs = ({ severity, sourceLocation }) => severity === "error" || !sourceLocation?.file.startsWith("@");
const complaints = (output.errors ?? []).filter((complaint) => complaint.errorCode !== "2394" && isOurs(complaint));
if (complaints.length > 0) {
  for (const complaint of complaints) console.error(complaint.formattedMessage);
  process.exit(1);
}

const artifacts = {};
for (const path of Object.keys(asked.sources)) {
  const folder = path.split("/")[0];
  for (const [contractName, contract] of Object.entries(output.contracts[path] ?? {})) {
    const { bytecode, deployedBytecode } = contract.evm;
    // Interfaces, libraries of internal functions and abstract contracts have no code of their own to deploy.
    const isDeployable = bytecode.object !== "" && path.endsWith(`/${contractName}.sol`) && !path.includes("/libraries/");
    if (!isDeployable) continue;
    const artifact = {
      contractName,
      compiler: { solc: compiler(packages).version(), settings },
      abi: contract.abi,
      bytecode: `0x${bytecode.object}`,
      deployedBytecode: `0x${deployedBytecode.object}`,
      // Where the constructor writes its immutables: byte offsets in deployedBytecode, grouped by variable.
      immutableReferences: Object.values(deployedBytecode.immutableReferences),
    };
    artifacts[`${folders[folder]}${contractName}.json`] = `${JSON.stringify(artifact, null, 2)}\n`;
  }
}
process.stdout.write(JSON.stringify(artifacts));
