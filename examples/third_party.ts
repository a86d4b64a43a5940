/**
 * Stops two packages from npm, which know nothing of greenlets.
 *
 * `p-retry` calls a function again when it has failed, after a pause. Here the function sleeps
 * with `delay`. Each package waits for a promise that it makes itself, so the wait is wrapped in
 * `until()`, whose callback aborts the signal that both packages take. They stop at once, and
 * leave no timer behind that would keep this program running.
 *
 *     deno run -q -P=none examples/third_party.ts
 */

import delay from "delay";
import pRetry from "p-retry";
import {
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "@gevent/gevent";

using _ = patch();

/** Retries a function that always fails, and takes longer each time. */
function poll(name: string) {
  const controller = new AbortController();
  const { signal } = controller;
  const attempt = async (attempt: number) => {
    console.log(`${name}: attempt ${attempt}`);
    await delay(attempt < 3 ? 10 : 100_000, { signal });
    throw new Error("not yet");
  };
  return until(
    pRetry(attempt, { signal, minTimeout: 10 }),
    (error) => controller.abort(error),
  );
}

async function task(name: string) {
  try {
    await poll(name);
  } finally {
    console.log(`${name}: cleaned up`);
  }
}

const greenlet = spawn(task, "one");
await sleep(100);
await greenlet.kill(); // In its third attempt

try {
  await withTimeout(25, () => task("two")); // In its first or its second
} catch (error) {
  if (!(error instanceof Timeout)) throw error;
  console.log(error.message);
}
