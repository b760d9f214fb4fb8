#!/usr/bin/env -S node --stack-size=8000
// The pinned compiler as a program, as Slither starts it: `--version`, and `--standard-json` with the input on standard
// input. `--input` prints the input for the contracts of `src`. The environment variable HEARTH_SOLC names the folder that
// holds `node_modules`. It reads sources and writes nothing; `cargo xtask contracts --check` sets all of it up.

import { readFileSync } from "node:fs";
import { compile, compiler, input } from "./compiler.mjs";

const packages = process.env.HEARTH_SOLC ?? import.meta.dirname;
const asked = process.argv[2];

if (asked === "--version") {
  // What reads this looks for a line that begins with "Version: ".
  console.log(`solc, the Solidity compiler\nVersion: ${compiler(packages).version()}`);
} else if (asked === "--input") {
  const outputs = ["abi", "devdoc", "userdoc", "evm.bytecode", "evm.deployedBytecode"];
  process.stdout.write(JSON.stringify(input(["src"], { "*": outputs, "": ["ast"] })));
} else if (asked === "--standard-json") {
  process.stdout.write(JSON.stringify(compile(packages, JSON.parse(readFileSync(0, "utf8")))));
} else {
  console.error("usage: solc.mjs --version | --input | --standard-json");
  process.exit(1);
}
