/**
 * Makes the tests that a call of a package stops at once when its greenlet is interrupted.
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
  type Greenlet,
  GreenletExit,
  patch,
  spawn,
  Timeout,
  until,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { type Body, Failures, settle } from "../_bodies.ts";
import { test } from "../_random.ts";
import { turns } from "../_waits.ts";
import { type Call, head, Site } from "./_site.ts";

/** A call of a package that is to be interrupted. */
export type Attempt = (url: string) => PromiseLike<unknown>;

/** Lets come what is on its way, by a socket as well. */
export async function arrive(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await turns(50);
    await settle();
  }
}

/** What the server does before it stalls; gives the connection that the client has to close. */
const phases: Record<string, (site: Site) => Promise<Call>> = {
  "before the headers": (site) => site.next(),
  "within the body": async (site) => {
    const call = await site.next();
    await call.send(head(100) + "half");
    await arrive();
    return call;
  },
};

/** After how long calls are timed out, in milliseconds of a clock that is moved by hand. */
const SOON = 1000;

/** What the body notes. */
class Log {
  caught: unknown = undefined;
  cleanedUp = false;
  readonly timeout = new Timeout(SOON);
}

/** The two kinds of body that make the call. */
const bodies: Record<
  string,
  (run: () => PromiseLike<unknown>, log: Log) => Body<[], void>
> = {
  "async body": (run, log) => async () => {
    log.timeout.start();
    try {
      await run();
    } catch (error) {
      log.caught = error;
      throw error;
    } finally {
      log.timeout.close();
      log.cleanedUp = true;
    }
  },
  "generator body": (run, log) =>
    function* () {
      log.timeout.start();
      try {
        yield* until(run());
      } catch (error) {
        log.caught = error;
        throw error;
      } finally {
        log.timeout.close();
        log.cleanedUp = true;
      }
    },
};

/** The ways in which a greenlet is interrupted, each with how it has to end. */
const ways: Record<
  string,
  (greenlet: Greenlet, log: Log, clock: TestClock) => Promise<void>
> = {
  async "is killed"(greenlet) {
    await greenlet.kill();
    assert(greenlet.successful());
    assertInstanceOf(greenlet.value, GreenletExit);
  },
  async "is timed out"(greenlet, log, clock) {
    await clock.advance(SOON);
    assertStrictEquals(greenlet.exception, log.timeout);
  },
  async "is thrown an error"(greenlet, log) {
    const error = new Error("The test's own");
    greenlet.throw(error);
    await greenlet.join();
    assertStrictEquals(greenlet.exception, log.caught);
    assert(isMadeOf(log.caught, error), Deno.inspect(log.caught));
  },
};

/** Whether an error is another one, or has it as a cause. */
function isMadeOf(error: unknown, of: Error): boolean {
  for (let one = error; one instanceof Error; one = one.cause) {
    if (one === of) return true;
  }
  return false;
}

/** Options of {@linkcode testStops}. */
export interface StopsOptions {
  /** The phases to test. @default {["before the headers", "within the body"]} */
  phases?: string[];
  /** Called outside greenlets when the test is over: closes a pool, for example. */
  close?: () => unknown;
}

/** Makes the tests of one call: in each phase, for each interrupt, in both kinds of body. */
export function testStops(
  symbol: string,
  attempt: Attempt,
  { phases: chosen = Object.keys(phases), close }: StopsOptions = {},
): void {
  for (const phase of chosen) {
    for (const [way, interrupt] of Object.entries(ways)) {
      for (const [kind, bodyOf] of Object.entries(bodies)) {
        test(`${symbol} stops at once when its greenlet ${way} ${phase}, ${kind}`, async () => {
          using site = new Site();
          using _ = patch();
          using clock = new TestClock();
          using failures = new Failures();
          const log = new Log();
          const body = bodyOf(() => attempt(site.url), log);
          const greenlet = spawn(body) as Greenlet;
          // The test takes the error
          greenlet.linkException(() => {});
          const call = await phases[phase]!(site);
          assert(!greenlet.dead, Deno.inspect(greenlet.exception));
          await interrupt(greenlet, log, clock);
          assert(log.cleanedUp);
          await call.gone();
          assertEquals(failures.errors, []);
          await close?.();
          await arrive();
          assertEquals(failures.errors, []);
        });
      }
    }
  }
}
