/**
 * Runs the tests as `deno test` does, in less time: several files at once, each in a process
 * of its own. Takes the flags of `deno test` and the paths of test files.
 *
 * ```sh
 * deno task test
 * deno task test --filter=Queue tests/queue_test.ts
 * ```
 *
 * As with `deno test --parallel`, `DENO_JOBS` sets how many run at a time.
 *
 * @module
 */

import {
  endOnSignals,
  failureReport,
  parseArgs,
  runSuite,
  summary,
} from "./_suite.ts";

endOnSignals();
const jobs = Number(Deno.env.get("DENO_JOBS"));
const start = performance.now();
const outcome = await runSuite({
  ...parseArgs(Deno.args),
  ...jobs >= 1 ? { jobs } : {},
  print: console.log,
});
if (outcome.failed > 0) console.log(`\n${failureReport(outcome)}`);
console.log(`\n${summary(outcome, performance.now() - start)}`);
Deno.exit(outcome.failed === 0 ? 0 : 1);
