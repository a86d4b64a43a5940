/**
 * Stops an ordinary async function that waits at an `await`.
 *
 * The function awaits a promise that settles in 100 seconds, and holds a resource all that
 * time. Nothing in the language can stop it: `Promise.race` would only ignore its result. As a
 * greenlet under `patch()` it can be killed or timed out, and its `finally` runs at once.
 *
 *     deno run -q -P=none examples/await_horizon.ts
 */

import { patch, sleep, spawn, Timeout, withTimeout } from "@gevent/gevent";

using _ = patch();

/** Takes no signal, and knows nothing of this library. */
async function holdResource() {
  console.log("resource acquired");
  try {
    await new Promise((resolve) => setTimeout(resolve, 100_000));
  } finally {
    console.log("resource released");
  }
}

const greenlet = spawn(holdResource);
await sleep(50);
let start = performance.now();
await greenlet.kill();
console.log(`killed in ${elapsed()} ms`);

start = performance.now();
try {
  await withTimeout(50, holdResource);
} catch (error) {
  if (!(error instanceof Timeout)) throw error;
  console.log(`${error.message}, and it took ${elapsed()} ms`);
}

function elapsed() {
  return (performance.now() - start).toFixed(1);
}
