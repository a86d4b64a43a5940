/**
 * What a wait is in is described only when something asks for it.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import {
  AsyncResult,
  Channel,
  Event,
  joinAll,
  Queue,
  Semaphore,
  sleep,
  spawn,
  Timeout,
  until,
  type Wait,
  Waiter,
} from "../mod.ts";
import { waitThatThrew } from "../_hub/stacks.ts";
import { Failures, testBoth } from "./_bodies.ts";

/** How often any wait was asked to describe itself. */
let asked = 0;
const counted = new WeakSet<object>();

/** Counts, from now on, the calls of the methods that describe waits like this one. */
function count<W extends Wait<unknown>>(wait: W): W {
  const key = Object.getOwnPropertySymbols(wait)
    .find((symbol) => symbol.description === "waiting");
  if (key === undefined) return wait;
  for (
    let one = Reflect.get(wait, key) as object | null;
    one !== null;
    one = Object.getPrototypeOf(one)
  ) {
    const own = Object.getOwnPropertyDescriptor(one, "describe");
    if (own === undefined || counted.has(one)) continue;
    counted.add(one);
    Object.defineProperty(one, "describe", {
      ...own,
      value(...args: unknown[]) {
        asked++;
        return Reflect.apply(own.value, this, args);
      },
    });
  }
  return wait;
}

/** A greenlet that does not end. */
const held = spawn(sleep, Infinity);

const full = () => new Queue<number>(1, [1]);
const taken = () => new Semaphore(0);
const endless = () => held;

/** Waits with what describes them, as `waitsIn` gives it. */
const WAITS: [text: string | RegExp, begin: () => Wait<unknown>][] = [
  ["sleep(Infinity)", () => sleep(Infinity)],
  ["sleep(60000)", () => sleep(60_000)],
  ["Queue.get()", () => new Queue().get()],
  ["Queue.get()", () => new Queue().get({ timeout: 60_000 })],
  ["Queue.peek()", () => new Queue().peek()],
  ["Queue.put()", () => full().put(2)],
  ["Channel.get()", () => new Channel().get()],
  ["Channel.put()", () => new Channel().put(1)],
  ["Queue.join()", () => full().join()],
  ["Event.wait()", () => new Event().wait()],
  ["AsyncResult.get()", () => new AsyncResult().get()],
  ["AsyncResult.wait()", () => new AsyncResult().wait()],
  ["Semaphore.acquire()", () => taken().acquire()],
  ["Semaphore.wait()", () => taken().wait()],
  [/^join of <Greenlet "Greenlet-\d+": sleep>$/, () => endless().join()],
  [/^get of <Greenlet "Greenlet-\d+": sleep>$/, () => endless().get()],
  [/^join of <Greenlet/, () => joinAll([endless()])],
  ["Waiter.get()", () => new Waiter().get()],
  ["a foreign promise", () => until(new Promise(() => {}))],
  ["Queue.get()", () => until(new Queue().get())],
];

/** Waits that throw at their own limit. */
const LIMITED: typeof WAITS = [
  ["Queue.get()", () => new Queue().get({ timeout: 1 })],
  ["Queue.peek()", () => new Queue().peek({ timeout: 1 })],
  ["Queue.put()", () => full().put(2, { timeout: 1 })],
  ["AsyncResult.get()", () => new AsyncResult().get({ timeout: 1 })],
  [/^get of <Greenlet/, () => endless().get({ timeout: 1 })],
];

/** Waits that return at their own limit. */
const LATE: (() => Wait<unknown>)[] = [
  () => new Event().wait({ timeout: 1 }),
  () => new AsyncResult().wait({ timeout: 1 }),
  () => taken().acquire({ timeout: 1 }),
  () => taken().wait({ timeout: 1 }),
  () => endless().join({ timeout: 1 }),
  () => joinAll([endless()], { timeout: 1 }),
];

function limited(begin: () => Wait<unknown>, ms: number): Wait<unknown> {
  if (ms < Infinity) Timeout.start(ms);
  return count(begin());
}

async function inAsync(begin: () => Wait<unknown>, ms: number) {
  try {
    return await limited(begin, ms);
  } catch (error) {
    return error;
  }
}

function* inGenerator(begin: () => Wait<unknown>, ms: number) {
  try {
    return yield* limited(begin, ms);
  } catch (error) {
    return error;
  }
}

testBoth(
  "Wait is not described when it ends at a limit and nothing asks, and is when something does",
  { async: inAsync, generator: inGenerator },
  async (body) => {
    const cases = [
      ...WAITS.map((one) => [...one, 1] as const),
      ...LIMITED.map((one) => [...one, Infinity] as const),
    ];
    for (const [text, begin, ms] of cases) {
      asked = 0;
      const error = await spawn(body, begin, ms).get();
      assertEquals(asked, 0, String(text));
      const told = waitThatThrew(error);
      if (typeof text === "string") assertEquals(told, text);
      else assertMatch(told!, text);
      assertEquals(asked > 0, true);
    }
    for (const begin of LATE) {
      asked = 0;
      await spawn(body, begin, Infinity).get();
      assertEquals(asked, 0, String(begin));
    }
  },
);

Deno.test("Greenlet that has failed keeps the text of its last wait, and not what it waited for", async () => {
  using failures = new Failures();
  class Jobs extends Queue<never> {}
  const jobs = new Jobs();
  const failed = spawn(() => jobs.get({ timeout: 1 }));
  await failed.join();
  asked = 0;
  assertEquals(waitThatThrew(failed.exception), "Jobs.get()");
  assertEquals(asked, 0);
  assertEquals(failures.errors, [failed.exception]);
});
