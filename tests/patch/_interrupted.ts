/**
 * Tests that calls end at once when their greenlet is interrupted.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import {
  GreenletExit,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { type Body, Failures, settle } from "../_bodies.ts";

/** Begins a call that does not end by itself. */
export type Call = () => PromiseLike<unknown>;

/** After how long calls are timed out, in milliseconds of a clock that is moved by hand. */
const SOON = 1000;

/** What the body notes. */
interface Log {
  /** Whether the call has begun. */
  called: boolean;
  caught: unknown;
}

const bodies: Record<string, (call: Call, log: Log) => Body<[], void>> = {
  async: (call, log) => async () => {
    try {
      log.called = true;
      await call();
    } catch (error) {
      log.caught = error;
      throw error;
    } finally {
      // Clean-up may wait.
      await sleep(0);
    }
  },
  generator: (call, log) =>
    function* () {
      try {
        log.called = true;
        yield* until(call() as Promise<unknown>);
      } catch (error) {
        log.caught = error;
        throw error;
      } finally {
        yield* sleep(0);
      }
    },
};

/** Interrupts a body during its call, and checks how it ends. */
type Way = (body: Body<[], void>, log: Log, clock: TestClock) => Promise<void>;

const ways: Record<string, Way> = {
  async kill(body) {
    const greenlet = spawn(body);
    await settle();
    const killed = greenlet.kill(undefined, { grace: Infinity });
    await settle();
    assert(greenlet.dead, "A kill does not end it");
    await killed;
    assertInstanceOf(greenlet.value, GreenletExit);
  },
  async "kill before the start"(body, log) {
    const greenlet = spawn(body);
    await greenlet.kill();
    assert(!log.called);
    log.caught = greenlet.value;
  },
  async timeout(body, _log, clock) {
    const greenlet = spawn(() => withTimeout(SOON, body));
    greenlet.linkException(() => {});
    await clock.advance(SOON);
    await settle();
    assertInstanceOf(greenlet.exception, Timeout);
  },
  async "nested timeouts"(body, log, clock) {
    const inner = new Timeout(SOON);
    const greenlet = spawn(() =>
      withTimeout(2 * SOON, async () => {
        inner.start();
        try {
          await body();
        } finally {
          inner.close();
        }
      })
    );
    greenlet.linkException(() => {});
    await clock.advance(SOON);
    await settle();
    assertStrictEquals(greenlet.exception, inner);
    assertStrictEquals(log.caught, inner);
  },
  async throw(body, log) {
    const error = new Error("The test's own");
    const greenlet = spawn(body);
    greenlet.linkException(() => {});
    await settle();
    greenlet.throw(error);
    await settle();
    assert(greenlet.dead, "An error does not end it");
    assertStrictEquals(greenlet.exception, error);
    assertStrictEquals(log.caught, error);
  },
  async "held interrupt"(body, log) {
    const error = new Error("Held");
    const greenlet = spawn(async () => {
      let resume = () => {};
      const foreign = new Promise<void>((resolve) => resume = resolve);
      queueMicrotask(() => {
        greenlet.throw(error);
        resume();
      });
      await foreign;
      await body();
    });
    greenlet.linkException(() => {});
    await settle();
    await settle();
    assertStrictEquals(greenlet.exception, error);
    assertStrictEquals(log.caught, error);
  },
};

/**
 * Interrupts a call in every way, in both kinds of body.
 *
 * @param begin Makes what the call needs, and returns the call.
 * @param over Called when the call was interrupted.
 */
export async function interruptInEveryWay(
  begin: () => Call | Promise<Call>,
  over: () => unknown = () => {},
): Promise<void> {
  for (const [way, interrupt] of Object.entries(ways)) {
    for (const [kind, bodyOf] of Object.entries(bodies)) {
      if (kind === "generator" && OWN_KIND.has(way)) continue;
      using failures = new Failures();
      using clock = new TestClock();
      const log: Log = { called: false, caught: undefined };
      try {
        await interrupt(bodyOf(await begin(), log), log, clock);
        assert(log.caught !== undefined);
        assertEquals(failures.errors, []);
        await over();
      } catch (error) {
        throw new Error(`${way}, ${kind} body`, { cause: error });
      }
    }
  }
}

/** The ways that run the body inside another one. */
const OWN_KIND: ReadonlySet<string> = new Set([
  "nested timeouts",
  "held interrupt",
]);
