/**
 * Which frames errors have: the first one is the line of the user that has begun the wait.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  AsyncResult,
  Channel,
  Empty,
  Full,
  LoopExit,
  Queue,
  select,
  ShutDown,
  sleep,
  spawn,
  Timeout,
  trackSpawns,
  until,
  type Wait,
  withTimeout,
} from "../mod.ts";
import { printError } from "../_hub/print.ts";
import { runScript } from "./_bodies.ts";

const full = () => new Queue<number>(1, [1]);

/** A call that fails. */
type Failing = () => Wait<unknown>;

/** A greenlet that does not end. */
const held = spawn(sleep, Infinity);

/** What fails, with which error: each with a wait, or at once. */
const CALLS: [name: string, type: new () => Error, call: Failing][] = [
  ["Queue.get()", Empty, () => new Queue().get({ timeout: 1 })],
  ["Queue.get()", Empty, () => new Queue().get({ block: false })],
  ["Queue.peek()", Empty, () => new Queue().peek({ timeout: 1 })],
  ["Queue.peek()", Empty, () => new Queue().peek({ block: false })],
  ["Queue.put()", Full, () => full().put(2, { timeout: 1 })],
  ["Queue.put()", Full, () => full().put(2, { block: false })],
  ["Queue.getNowait()", Empty, () => new Queue().getNowait() as Wait<1>],
  ["Queue.peekNowait()", Empty, () => new Queue().peekNowait() as Wait<1>],
  ["Queue.putNowait()", Full, () => full().putNowait(2)! as Wait<1>],
  ["Channel.get()", Empty, () => new Channel().get({ timeout: 1 })],
  ["Channel.get()", Empty, () => new Channel().get({ block: false })],
  ["Channel.put()", Full, () => new Channel().put(1, { block: false })],
  ["Channel.getNowait()", Empty, () => new Channel().getNowait() as Wait<1>],
  ["Channel.putNowait()", Full, () => new Channel().putNowait(1)! as Wait<1>],
  ["Queue.get(), shut down", ShutDown, () => {
    const queue = new Queue();
    spawn(() => queue.shutdown());
    return queue.get();
  }],
  ["Queue.put(), shut down", ShutDown, () => {
    const queue = full();
    spawn(() => queue.shutdown());
    return queue.put(2);
  }],
  ["Queue.get(), shut down before", ShutDown, () => {
    const queue = new Queue();
    queue.shutdown();
    return queue.get();
  }],
  ["AsyncResult.get()", Timeout, () => new AsyncResult().get({ timeout: 1 })],
  ["AsyncResult.get()", Timeout, () => new AsyncResult().get({ block: false })],
  [
    "AsyncResult.getNowait()",
    Timeout,
    () => new AsyncResult().getNowait() as Wait<1>,
  ],
  ["Greenlet.get()", Timeout, () => held.get({ timeout: 1 })],
  ["Greenlet.get()", Timeout, () => held.get({ block: false })],
  [
    "select()",
    Timeout,
    () => select({ item: () => new Queue().get() }, { timeout: 1 }),
  ],
  ["Timeout.start()", Timeout, () => {
    Timeout.start(1);
    return new Queue().get();
  }],
  ["Timeout.start() and until()", Timeout, () => {
    Timeout.start(1);
    return until(new Promise(() => {}));
  }],
  ["withTimeout()", Timeout, () =>
    withTimeout(1, async function inner() {
      await sleep(Infinity);
    })],
  ["withTimeout(), generator", Timeout, () =>
    withTimeout(1, function* inner() {
      yield* sleep(Infinity);
    })],
];

/** The frames of an error that have a place, those of the library named as such. */
function framesOf(error: Error): string[] {
  const root = new URL("..", import.meta.url).href;
  return error.stack!.split("\n").filter((line) => /:\d+:\d+\)?$/.test(line))
    .map((line) => line.replace(root, ""));
}

async function inAsync(call: Failing): Promise<unknown> {
  return await call();
}

function* inGenerator(call: Failing): Generator<unknown, unknown, unknown> {
  return yield* call();
}

for (const [name, type, call] of CALLS) {
  const title = `${type.name} of ${name} (call ${
    CALLS.findIndex((one) => one[2] === call)
  })`;
  Deno.test(`${title} has the frames of the user, with trackSpawns()`, async () => {
    using _ = trackSpawns();
    const bodies = [
      spawn(async function asyncBody() {
        return await inAsync(call);
      }),
      spawn(function* generatorBody() {
        return yield* inGenerator(call);
      }),
    ];
    for (const body of bodies) {
      const error = await body.get().then(
        () => assert(false),
        (error: unknown) => error as Error,
      );
      assert(error instanceof type, String(error));
      const frames = framesOf(error);
      assertMatch(frames[0] ?? "none", /tests\/stacks_test\.ts:/, error.stack);
    }
    // The body of `withTimeout` is the innermost that waits.
    const caller = name.startsWith("withTimeout") ? /inner/ : /asyncBody/;
    assertMatch(
      bodies[0]!.exception instanceof Error ? bodies[0]!.exception.stack! : "",
      caller,
    );
  });
}

Deno.test("hub.handleError() prints the user's frames only, and names the wait", async () => {
  const { err } = await runScript(
    `
    async function reader() { await new Queue().get({ timeout: 1 }); }
    function* generator() { yield* new Queue().get({ timeout: 1 }); }
    function plain() { throw new Error("no", { cause: new Error("inner") }); }
    for (const run of [reader, generator, plain]) await spawn(run).join();
    await sleep(1);
    `,
    () => {},
    ["--no-check"],
  );
  assertMatch(err, /: reader> failed with Empty in Queue\.get\(\)\n/);
  assertMatch(err, /: generator> failed with Empty in Queue\.get\(\)\n/);
  assertMatch(err, /: plain> failed with Error\n/);
  assert(!/_hub\/|greenlet\.ts:/.test(err), err);
});

Deno.test("hub.handleError() leaves the stack of what it prints as it is", () => {
  const error = new Error("no");
  const frozen = Object.freeze(new Error("frozen"));
  const { stack } = error;
  using _ = quietConsole();
  printError("test", error);
  printError("test", frozen);
  assertEquals(error.stack, stack);
});

function quietConsole(): Disposable {
  const { error } = console;
  console.error = () => {};
  return {
    [Symbol.dispose]() {
      console.error = error;
    },
  };
}

Deno.test("LoopExit has the frames of the function of run(), with trackSpawns()", async () => {
  const { out } = await runScript(
    `
    using _ = trackSpawns();
    await run(async function main() {
      try { await new Queue().get(); } catch (error) {
        console.log(error.stack.split("\\n    at ").slice(1).join("|"));
      }
    });
    `,
    () => {},
    ["--no-check"],
  );
  assertMatch(out[0] ?? "", /^async (Greenlet\.)?main /);
  assertEquals(new LoopExit("x").name, "LoopExit");
});
