// The pinned compiler, what it is asked to compile, and where it finds what our sources import: shared by compile.mjs
// and solc.mjs, so that what is analyzed is what is deployed. Reads sources and writes nothing.

import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

// Why these settings: docs/adr/0008-contracts.md.
export const settings = {
  evmVersion: "cancun",
  viaIR: true,
  optimizer: { enabled: true, runs: 1_000_000 },
  metadata: { bytecodeHash: "none" },
};

// Returns the compiler of `packages`, the folder that holds node_modules.
export function compiler(packages) {
  return createRequire(join(packages, "node_modules", "any.js"))("solc");
}

// Returns the compiler's input for every source of these folders; `outputs` names what is asked of each contract.
export function input(folders, outputs) {
  const sources = {};
  for (const folder of folders) {
    for (const name of readdirSync(join(here, folder), { recursive: true }).sort()) {
      if (name.endsWith(".sol")) {
        sources[`${folder}/${name}`] = { content: readFileSync(join(here, folder, name), "utf8") };
      }
    }
  }
  return { language: "Solidity", sources, settings: { ...settings, outputSelection: { "*": outputs } } };
}

// Returns the compiler's output for `input`, with imports taken from `packages`.
export function compile(packages, input) {
  const readImport = (path) => {
    try {
      return { contents: readFileSync(join(packages, "node_modules", path), "utf8") };
    } catch (error) {
      return { error: String(error) };
    }
  };
  return JSON.parse(compiler(packages).compile(JSON.stringify(input), { import: readImport }));
}
