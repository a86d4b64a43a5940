/**
 * Calls of the part `node` of patch() that Bun does not have: prints how a kill ends each, which
 * has to be the same everywhere.
 *
 *     node patch_node.js <folder of the modules> <.ts or .js>
 */

import childProcess from "node:child_process";
import readline from "node:readline/promises";
import { PassThrough } from "node:stream";
import util from "node:util";
import { killEach, turn } from "./_kills.js";

const [folder, extension] = process.argv.slice(2);
const { spawn } = await import(`${folder}/gevent${extension}`);
const { patch } = await import(`${folder}/monkey${extension}`);

const patched = patch();
await killEach(spawn, {
  exec: [() => util.promisify(childProcess.exec)("sleep 1000"), turn],
  "readline.question": [
    () => readline.createInterface({ input: new PassThrough() }).question("?"),
    turn,
  ],
});
patched[Symbol.dispose]?.();
