/**
 * Runs the suite again and again beside four busy processes, which shows the tests that
 * depend on how fast the machine is.
 *
 * ```sh
 * deno task test:load      # 20 times
 * deno task test:load 3 tests/queue_test.ts
 * ```
 *
 * Ends with status 1 if any run fails.
 *
 * @module
 */

import {
  endOnSignals,
  failureReport,
  parseArgs,
  runSuite,
  summary,
  time,
} from "./_suite.ts";

/** Takes a whole core until the pipe to its standard input breaks. */
const BUSY = `
  Deno.stdin.read(new Uint8Array(1)).then(() => Deno.exit());
  for (;;) {
    const start = performance.now();
    while (performance.now() - start < 50);
    await new Promise((resolve) => setTimeout(resolve));
  }
`;

/** Starts a busy process. It ends with the block, or with this process, however that ends. */
function startBusy(): Disposable {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["eval", "-q", BUSY],
    stdin: "piped",
  }).spawn();
  return { [Symbol.dispose]: () => process.kill("SIGKILL") };
}

endOnSignals();
const args = [...Deno.args];
const index = args.findIndex((arg) => /^[1-9]\d*$/.test(arg));
const times = index < 0 ? 20 : Number(args.splice(index, 1)[0]);
const { flags, files } = parseArgs(args);

const start = performance.now();
const failures = new Map<string, number>();
let failedRuns = 0;
{
  using stack = new DisposableStack();
  for (let i = 0; i < 4; i++) stack.use(startBusy());
  for (let run = 1; run <= times; run++) {
    const start = performance.now();
    const outcome = await runSuite({ flags, files });
    if (outcome.failed > 0) {
      failedRuns++;
      console.log(failureReport(outcome));
      for (const name of outcome.failures) {
        failures.set(name, (failures.get(name) ?? 0) + 1);
      }
    }
    console.log(`Run ${run}: ${summary(outcome, performance.now() - start)}`);
  }
}
console.log();
for (const [name, count] of [...failures].sort(([, a], [, b]) => b - a)) {
  console.log(`Failed ${count} of ${times} times: ${name}`);
}
console.log(
  `${failedRuns} of ${times} runs failed, in ${
    time(performance.now() - start)
  }`,
);
Deno.exit(failedRuns === 0 ? 0 : 1);
