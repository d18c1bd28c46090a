// Runs a test program that was compiled for WebAssembly: node wasi.mjs PROGRAM ARGUMENTS...
// It sees the whole file system, for the fixtures.
import { readFile } from "node:fs/promises";
import { argv, cwd, env, exit } from "node:process";
import { WASI } from "node:wasi";

const wasi = new WASI({
  version: "preview1",
  args: argv.slice(2),
  env: { ...env, PWD: cwd() },
  preopens: { "/": "/" },
});
const program = await WebAssembly.compile(await readFile(argv[2]));
exit(wasi.start(await WebAssembly.instantiate(program, wasi.getImportObject())));
