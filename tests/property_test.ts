/**
 * Random programs against what must always hold; see `_programs.ts`.
 *
 * Run by `deno task test` from a fixed seed, and by `deno task test:long` in great number.
 * The environment may say otherwise:
 *
 * - `GEVENT_PROPERTY_RUNS`: how many programs each test runs
 * - `GEVENT_PROPERTY_SEED`: where they begin; what a failure prints as `seed`
 * - `GEVENT_PROPERTY_PATH`: goes to one failure at once; what it prints as `path`
 *
 * A fault that they have found is kept as a test of its own, at the end.
 *
 * @module
 */

import { type Program, programs, runProgram, type Theme } from "./_programs.ts";
import { assert, assertGreater, assertRejects } from "@std/assert";
import fc from "fast-check";
import {
  Condition,
  GreenletExit,
  idle,
  Lock,
  Pool,
  sleep,
  spawn,
} from "../mod.ts";

function number(name: string): number | null {
  const value = Deno.env.get(name) ?? "";
  if (value === "") return null;
  if (/^-?\d+$/.test(value)) return Number(value);
  throw new TypeError(`${name} must be an integer: received ${value}`);
}

const RUNS = number("GEVENT_PROPERTY_RUNS");
const SEED = number("GEVENT_PROPERTY_SEED") ?? 20261124;
const PATH = Deno.env.get("GEVENT_PROPERTY_PATH") || null;

/** Runs so many programs, unless the environment says otherwise. */
async function hold(
  test: Deno.TestContext,
  themes: Theme[],
  run: (program: Program) => Promise<void> = runProgram,
  runs = RUNS ?? 500,
): Promise<void> {
  let ran = 0;
  const property = fc.asyncProperty(programs(...themes), (program) => {
    ran++;
    return run(program);
  });
  const result = await fc.check(property, {
    seed: SEED,
    numRuns: runs,
    ...(PATH === null ? {} : { path: PATH }),
  });
  assertGreater(ran, 0, "no program was run");
  if (RUNS !== null) console.log(`${ran} programs: ${test.name}`);
  if (!result.failed) return;
  throw new Error(
    `${(result.errorInstance as Error)?.message}\nin ${
      JSON.stringify(result.counterexample?.[0])
    }\nTo run it again: GEVENT_PROPERTY_SEED=${result.seed} GEVENT_PROPERTY_PATH=${result.counterexamplePath} deno task test tests/property_test.ts --filter "${test.name}"`,
    { cause: result.errorInstance },
  );
}

Deno.test("Queue loses no item, whichever greenlet is killed", (t) =>
  hold(t, ["queues"]));

Deno.test("Semaphore loses no permit, and Lock has one owner, whichever greenlet is killed", (t) =>
  hold(t, ["locks"]));

Deno.test("Event wakes all waiters, and keeps none", (t) =>
  hold(t, ["events"]));

Deno.test("Pool runs no more than its size, each item once, and no item in vain", (t) =>
  hold(t, ["pools"]));

Deno.test("nursery() is outlived by no greenlet, whichever greenlet is killed", (t) =>
  hold(t, ["nurseries"]));

const everything: Theme[] = [
  "queues",
  "locks",
  "events",
  "pools",
  "nurseries",
];

Deno.test("Greenlet: all kinds of random programs keep all rules", (t) =>
  hold(t, everything));

Deno.test("Greenlet: all that is random holds in real time", (t) =>
  hold(t, everything, (program) => runProgram(program, false), 15));

Deno.test("Condition.wait() that ends without the lock releases no lock of another greenlet", async () => {
  const lock = new Lock();
  const condition = new Condition(lock);
  const { promise, resolve } = Promise.withResolvers<void>();
  const waiter = spawn(async () => {
    using _ = await condition.acquire();
    await condition.wait();
  });
  await idle();
  const holder = spawn(async () => {
    using _ = await lock.acquire();
    await promise;
    return lock.locked();
  });
  await idle();
  await waiter.kill(undefined, { grace: 0 });
  assert(waiter.value as unknown instanceof GreenletExit);
  assert(lock.locked());
  resolve();
  assert(await holder.get());
  assert(!lock.locked());
});

Deno.test("Pool.imap() ends for a greenlet that was killed before it calls next()", async () => {
  const pool = new Pool(1);
  const { promise, resolve } = Promise.withResolvers<void>();
  const consumer = spawn(async () => {
    const results = pool.imap(sleep, [60_000]);
    await promise;
    for await (const _ of results);
  });
  await idle();
  consumer.kill(undefined, { block: false });
  resolve();
  await consumer.join();
  assert(await pool.join({ timeout: 10_000 }));
});

Deno.test("Pool.map() throws the error by which a call of it was killed", async () => {
  const pool = new Pool(1);
  const mapping = spawn(async () => {
    await assertRejects(() => pool.map(sleep, [60_000]), RangeError, "no");
    throw new RangeError("as it was");
  });
  mapping.linkException(() => {});
  await idle();
  for (const call of pool) call.kill(new RangeError("no"), { block: false });
  await assertRejects(() => mapping.get(), RangeError, "as it was");
});
