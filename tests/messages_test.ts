/**
 * What a person meets who uses the library for the first time: messages of wrong arguments and of
 * time limits.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  Condition,
  type Greenlet,
  joinAll,
  patch,
  Pool,
  Queue,
  select,
  sleep,
  spawn,
  subprocess,
  wait,
  withTimeout,
} from "../mod.ts";
import { waitThatThrew } from "../_hub/stacks.ts";
import { Failures, runScript, testBoth } from "./_bodies.ts";
import { childrenEnded } from "./_processes.ts";

/** Values that can't be converted to a string. */
const UNPRINTABLE: unknown[] = [
  Object.create(null),
  {
    toString() {
      throw new Error("toString() was called");
    },
  },
];

/** Calls with a wrong argument, which stands in the message. */
const WRONG: Record<string, (value: unknown) => unknown> = {
  withTimeout: (value) => withTimeout(value as number, () => 1),
  sleep: (value) => sleep(value as number),
  joinAll: (value) => joinAll([value as Greenlet]),
  wait: (value) => wait([value as Greenlet]),
  "Pool.map": (value) => new Pool(1).map(() => 1, value as number[]),
  "Pool.add": (value) => new Pool(1).add(value as Greenlet),
  "patch of a part": (value) => patch({ net: value as boolean }),
  "patch of an option": (value) =>
    patch({ http: { killOnDisconnect: value as boolean } }),
  "Greenlet.join": (value) =>
    spawn(() => {}).join({ timeout: value as number }),
  Condition: (value) => new Condition(value as never),
};

async function messageOf(call: () => unknown): Promise<string> {
  try {
    await call();
  } catch (error) {
    assert(error instanceof TypeError, String(error));
    return error.message;
  }
  throw new Error("Nothing was thrown");
}

Deno.test("A message about a wrong argument names a function, and does not contain its source", async () => {
  for (const [name, call] of Object.entries(WRONG)) {
    const message = await messageOf(() => call(sleep));
    assert(message.endsWith("received function sleep"), `${name}: ${message}`);
    const unnamed = await messageOf(() => call((() => () => 1)()));
    assert(unnamed.endsWith("function without a name"), `${name}: ${unnamed}`);
  }
});

Deno.test("A message about a wrong argument tells its type if it can't be shown", async () => {
  for (const [name, call] of Object.entries(WRONG)) {
    for (const value of UNPRINTABLE) {
      const message = await messageOf(() => call(value));
      assert(
        message.endsWith("received a value of type object"),
        `${name}: ${message}`,
      );
    }
    const message = await messageOf(() => call(Symbol("odd")));
    assert(message.endsWith("received Symbol(odd)"), `${name}: ${message}`);
  }
});

testBoth("select() that times out is named by the wait that has failed", {
  async async(queue: Queue<number>) {
    await select({ item: () => queue.get(), tick: () => sleep(60_000) }, {
      timeout: 1,
    });
  },
  *generator(queue: Queue<number>) {
    yield* select({ item: () => queue.get(), tick: () => sleep(60_000) }, {
      timeout: 1,
    });
  },
}, async (body) => {
  using failures = new Failures();
  const greenlet = spawn(body, new Queue<number>());
  await greenlet.join();
  assertEquals(failures.errors, [greenlet.exception]);
  assertEquals(
    waitThatThrew(greenlet.exception),
    "select of Queue.get(), sleep(60000)",
  );
});

Deno.test("TimeoutExpired names the program and the limit", async () => {
  const error = await assertRejects(
    () => subprocess.run("sleep", ["1000"], { timeout: 1 }),
    subprocess.TimeoutExpired,
  );
  await childrenEnded();
  assertEquals(String(error), 'TimeoutExpired: "sleep" timed out after 1 ms');
});

Deno.test("LoopExit that ends a program shows the waits, and no line of the library", async () => {
  const { err, code } = await runScript(
    "await run(async function main() { await new Queue().get(); });",
  );
  assertEquals(code, 1);
  assert(err.includes("main> waits in Queue.get()"), err);
  assert(!err.includes("new LoopExit"), err);
  assert(!err.includes("deadlock.ts"), err);
});
