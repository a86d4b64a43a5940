/**
 * Shows what happens to greenlets when the main function ends.
 *
 * `run(main)` ends when `main` does. It kills the greenlets that still run, and returns when
 * their `finally` blocks have run. If `main` joins its greenlets, they finish first.
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
