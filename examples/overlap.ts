/**
 * Two tasks sleep at the same time, with plain `setTimeout`.
 *
 * Under `patch()` a kill or a timeout ends such a sleep. `spawn` makes each task a greenlet,
 * which has a result.
 *
 *     deno run -q -P=none examples/overlap.ts
 */

import { joinAll, patch, spawn } from "@gevent/gevent";

using _ = patch();

async function task(name: string, ms: number) {
  console.log(`${name} starts`);
  await new Promise((resolve) => setTimeout(resolve, ms));
  console.log(`${name} ends`);
  return `${name} has slept for ${ms} ms`;
}

const start = performance.now();
const tasks = [spawn(task, "one", 300), spawn(task, "two", 200)];
await joinAll(tasks);

for (const { value } of tasks) console.log(value);
console.log(`total: ${Math.round(performance.now() - start)} ms`);
