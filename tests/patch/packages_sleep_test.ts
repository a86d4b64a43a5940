/**
 * Packages that sleep, as they come from npm: which of them stop at once when the greenlet
 * that waits in them is interrupted, and which need `until` or a signal. They are loaded
 * before `patch()` is called.
 */

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import delay, { clearDelay, createDelay } from "delay";
import pRetry from "p-retry";
import {
  getCurrent,
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  until,
  withTimeout,
} from "../../mod.ts";
import { settle } from "../_bodies.ts";

/** Longer than any test: what is still set when a test ends, the sanitizers see. */
const LONG = 100_000_000;

const failing = () => {
  throw new Error("Failed");
};
/** A patched wait. */
const pause = () => new Promise((resolve) => setTimeout(resolve, LONG));
/** The greenlet's signal, which is aborted when it is killed. */
const ownSignal = () => (getCurrent() as Greenlet).signal;

/** Waits with a signal that is aborted by any interrupt. */
function untilAborted<T>(
  run: (signal: AbortSignal) => PromiseLike<T>,
): PromiseLike<T> {
  const controller = new AbortController();
  return until(run(controller.signal), (error) => controller.abort(error));
}

/** Interrupts a wait, and tells how it ends, by the `finally` of the greenlet that waits. */
async function interrupt(
  how: string,
  wait: () => PromiseLike<unknown>,
): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const body = async () => {
    let name = "none";
    try {
      await wait();
    } catch (error) {
      name = (error as Error).name;
      throw error;
    } finally {
      resolve(name);
    }
  };
  const greenlet = spawn(async () => {
    if (how === "killed") return await body();
    await withTimeout(1, body, { value: "late" });
  });
  if (how === "killed") {
    await settle();
    greenlet.kill(undefined, { block: false, grace: LONG });
  }
  const name = await promise;
  await greenlet.join();
  return name;
}

const atOnce: Record<string, Record<string, () => PromiseLike<unknown>>> = {
  killed: {
    "delay, with the greenlet's signal": () =>
      delay(LONG, { signal: ownSignal() }),
    "p-retry in an attempt, with the greenlet's signal": () =>
      pRetry(pause, { signal: ownSignal() }),
    "p-retry between attempts, with the greenlet's signal": () =>
      pRetry(failing, { minTimeout: LONG, signal: ownSignal() }),
  },
  "timed out": {},
};
for (const cases of Object.values(atOnce)) {
  Object.assign(cases, {
    "delay, in until() with clearDelay()": () => {
      const waiting = delay(LONG);
      return until(waiting, () => clearDelay(waiting));
    },
    "delay, in until() with a signal": () =>
      untilAborted((signal) => delay(LONG, { signal })),
    "p-retry in an attempt, in until() with a signal": () =>
      untilAborted((signal) => pRetry(pause, { signal })),
    "p-retry between attempts, in until() with a signal": () =>
      untilAborted((signal) => pRetry(failing, { minTimeout: LONG, signal })),
  });
}

for (const [how, cases] of Object.entries(atOnce)) {
  for (const [name, wait] of Object.entries(cases)) {
    Deno.test(`${name}, stops at once when it is ${how}`, async () => {
      using _ = patch();
      // If it did not at once, it never would.
      const end = await interrupt(how, wait);
      assertEquals(end, how === "killed" ? "GreenletExit" : "Timeout");
      // The sanitizers tell that its timer is cleared.
    });
  }
}

for (const how of ["killed", "timed out"]) {
  Deno.test(`delay that is ${how} goes on to its end, and the next wait throws`, async () => {
    using _ = patch();
    let delayed = false;
    const end = await interrupt(how, async () => {
      await delay(10);
      delayed = true;
      await sleep(LONG);
    });
    assert(delayed);
    assertEquals(end, how === "killed" ? "GreenletExit" : "Timeout");
  });

  Deno.test(`p-retry that is ${how} in an attempt takes that for a failure, and tries again`, async () => {
    using _ = patch();
    const errors: unknown[] = [];
    const end = await interrupt(how, () =>
      pRetry(async () => {
        if (errors.length > 0) return "another attempt";
        try {
          await pause();
        } catch (error) {
          // At once.
          errors.push((error as Error).name);
          throw error;
        }
      }, { minTimeout: 10 }));
    const expected = how === "killed" ? "GreenletExit" : "Timeout";
    assertEquals(errors, [expected]);
    assertEquals(end, "none");
  });

  Deno.test(`p-retry that is ${how} in an attempt ends by an error that it is told not to retry`, async () => {
    using _ = patch();
    const end = await interrupt(how, () =>
      pRetry(pause, {
        shouldRetry: ({ error }) =>
          !["GreenletExit", "Timeout"].includes(error.name),
      }));
    assertEquals(end, how === "killed" ? "GreenletExit" : "Timeout");
  });

  Deno.test(`p-retry that is ${how} between attempts goes on, and the next attempt's wait throws`, async () => {
    using _ = patch();
    let attempts = 0;
    const end = await interrupt(how, () =>
      pRetry(async () => {
        if (++attempts === 1) throw new Error("Failed");
        await sleep(LONG);
      }, { minTimeout: 10, retries: 1 }));
    assertEquals(attempts, 2);
    assertEquals(end, how === "killed" ? "GreenletExit" : "Timeout");
  });
}

Deno.test("delay that is made of the runtime's own timers is delayed as before", async () => {
  using _ = patch();
  const made = createDelay({ setTimeout, clearTimeout });
  const value = await spawn(async () => [
    await delay(1, { value: "one" }),
    await made(1, { value: "two" }),
    await pRetry((attempt) => {
      if (attempt < 3) throw new Error("Failed");
      return attempt;
    }, { minTimeout: 1 }),
  ]).get();
  assertEquals(value, ["one", "two", 3]);
});

Deno.test("p-retry of 100 greenlets, killed wherever they are: no attempt begins after the end", async () => {
  using _ = patch();
  const began = new Map<number, number>();
  let running = 0;
  const greenlets = Array.from(
    { length: 100 },
    (_, i) =>
      spawn(() =>
        untilAborted((signal) =>
          pRetry(async (attempt) => {
            began.set(i, attempt);
            running++;
            try {
              await delay(i % 7);
              await sleep(i % 5);
              throw new Error("Failed");
            } finally {
              running--;
            }
          }, { signal, minTimeout: 1, factor: 1, retries: Infinity })
        )
      ),
  );
  await sleep(20);
  for (const greenlet of greenlets) {
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
  }
  const attempts = new Map(began);
  // An attempt that was killed in its delay goes on to the end of that.
  while (running > 0) await sleep(1);
  await sleep(10);
  assertEquals(began, attempts);
});
