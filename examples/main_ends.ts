/**
 * The end of greenlets when the main one ends.
 *
 * `run(main)` ends when `main` does: a greenlet that still runs is killed, and the
 * `finally` blocks have run when it returns. A `main` that joins its greenlets lets them
 * finish.
 *
 *     deno run -q -P=none examples/main_ends.ts
 */

import { joinAll, run, sleep, spawn } from "@gevent/gevent";

async function task(name: string) {
  let done = 0;
  try {
    while (done < 3) {
      await sleep(100);
      done++;
    }
  } finally {
    console.log(`${name}: ${done} of 3 steps`);
  }
}

console.log("main does not join:");
await run(async () => {
  spawn(task, "task1");
  spawn(task, "task2");
  await sleep(150);
  console.log("main ends");
});

console.log("main joins:");
await run(async () => {
  await joinAll([spawn(task, "task1"), spawn(task, "task2")]);
  console.log("main ends");
});
