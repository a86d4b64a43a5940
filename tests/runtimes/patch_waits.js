/**
 * Calls that patch() makes cooperative in any runtime with the modules of Node: prints how a
 * kill ends each, which has to be the same everywhere.
 *
 *     node patch_waits.js <folder of the modules> <.ts or .js>
 */

import events from "node:events";
import http from "node:http";
import timers from "node:timers/promises";
import { killEach, turn } from "./_kills.js";

const [folder, extension] = process.argv.slice(2);
const { spawn } = await import(`${folder}/gevent${extension}`);
const { patch } = await import(`${folder}/monkey${extension}`);

const FOREVER = 1_000_000;
let requested = () => {};
const server = http.createServer((request, response) => {
  response.on("error", () => {});
  if (request.url === "/body") response.write("the beginning of a body");
  requested();
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}`;

const patched = patch();
const request = () => new Promise((resolve) => requested = resolve);

/** Calls that never end, and what tells that each has begun. */
const calls = {
  "new Promise": [
    () => new Promise((resolve) => setTimeout(resolve, FOREVER)),
    turn,
  ],
  fetch: [() => fetch(url), request],
  "response.text": [async () => (await fetch(`${url}/body`)).text(), turn],
  "http.get": [
    () =>
      new Promise((resolve, reject) =>
        http.get(url, resolve).on("error", reject)
      ),
    request,
  ],
  "events.once": [() => events.once(new events.EventEmitter(), "never"), turn],
  "timers.setTimeout": [() => timers.setTimeout(FOREVER), turn],
};
await killEach(spawn, calls);
patched[Symbol.dispose]?.();
server.closeAllConnections();
server.close();
