// What every script of this folder starts with: its configuration, its output, and the pinned packages.
//
// The packages are not beside the scripts: they are installed once, from the lock file, into a cache folder that
// HEARTH_OUTSIDE names. ES imports do not look there, so `load` resolves through that folder's package.json.
// A script speaks JSON, one value a line, on standard output; anything else a program prints goes to standard error.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const folder = process.env.HEARTH_OUTSIDE;
if (!folder) {
  console.error("HEARTH_OUTSIDE is not set: it names the folder with node_modules, which `cargo xtask test` installs.");
  process.exit(2);
}

/** Loads one of the pinned packages by its usual name. */
export const load = createRequire(join(folder, "package.json"));

/** Writes one line of output; bigints become decimal strings, as everywhere in x402. */
export function emit(value) {
  process.stdout.write(`${JSON.stringify(value, (_, v) => (typeof v === "bigint" ? v.toString() : v))}\n`);
}

/** The configuration: the first argument, as JSON or as @file. */
export function configuration() {
  const argument = process.argv[2];
  if (!argument) {
    console.error("usage: node SCRIPT.mjs '{json}' | @file.json");
    process.exit(2);
  }
  return JSON.parse(argument.startsWith("@") ? readFileSync(argument.slice(1), "utf8") : argument);
}

/** Waits until a predicate holds, at most `timeout_ms`; `what` names what was waited for. */
export async function until(what, timeout_ms, predicate) {
  const deadline_ms = Date.now() + timeout_ms;
  for (;;) {
    const value = await predicate();
    if (value) return value;
    if (Date.now() > deadline_ms) throw new Error(`waited ${timeout_ms} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
