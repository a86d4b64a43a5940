/**
 * Makes the tests that a package's client stays usable after random interrupts, and that no
 * greenlet gets the reply of another.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { joinAll, patch, spawn, withTimeout } from "../../mod.ts";
import { Failures } from "../_bodies.ts";
import { test, withSeeds } from "../_random.ts";
import { turns } from "../_waits.ts";
import { arrive } from "../patch/_stops.ts";

/** How many greenlets each test interrupts at least. */
export const KILLS = Number(Deno.env.get("GEVENT_PACKAGE_KILLS") ?? 100);

/** How many greenlets share a client at a time. */
const AT_A_TIME = 25;

/** Asks a server for its reply to a number, which is that number. */
export type Ask = (number: number) => PromiseLike<unknown>;

/**
 * Makes the test of a client.
 *
 * @param open Makes the client outside greenlets, and closes it by the stack.
 * @param reason Why the test is skipped, if it is.
 */
export function testKills(
  name: string,
  open: (stack: AsyncDisposableStack) => Ask | Promise<Ask>,
  reason: string | null = null,
): void {
  const title =
    `${name} is usable after random kills and timeouts, and no reply is mixed up`;
  test(title, () =>
    withSeeds(async (next) => {
      using failures = new Failures();
      using _ = patch();
      {
        await using stack = new AsyncDisposableStack();
        const ask = await open(stack);
        let number = 0;
        let interrupted = 0;

        /** Asks once; counts whether it was interrupted. */
        const once = async (limit: number): Promise<void> => {
          const wanted = number++;
          let isAnswered = false;
          try {
            await withTimeout(limit, async () => {
              assertEquals(Number(await ask(wanted)), wanted);
              isAnswered = true;
            }, { value: undefined });
          } finally {
            if (!isAnswered) interrupted++;
          }
        };

        while (interrupted < KILLS) {
          const greenlets = Array.from(
            { length: AT_A_TIME },
            () => spawn(once, next() < 0.3 ? next() * 5 : Infinity),
          );
          for (const greenlet of greenlets) {
            await turns(Math.floor(next() * 3));
            if (next() < 0.5) greenlet.kill(undefined, { block: false });
          }
          await joinAll(greenlets, { raiseError: true });
        }
        // All of its connections serve.
        const last = Array.from(
          { length: AT_A_TIME },
          () => spawn(once, Infinity),
        );
        await joinAll(last, { raiseError: true });
      }
      await arrive();
      assertEquals(failures.errors, []);
    }), reason);
}
