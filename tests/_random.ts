/**
 * Helpers for the tests of the doors of `patch()`: random numbers, time, and calls that are
 * interrupted before they can end.
 *
 * @module
 */

import { assertInstanceOf } from "@std/assert";
import { type Greenlet, GreenletExit, spawn } from "../mod.ts";
import { random } from "./_seeded.ts";
import { PATIENCE } from "./_waits.ts";

export { random };

/**
 * Makes a test that fails if it takes longer than {@linkcode PATIENCE}.
 *
 * @param reason Why it is skipped, if it is.
 */
export function test(
  name: string,
  body: () => Promise<void>,
  reason: string | null = null,
): void {
  const title = reason === null ? name : `${name} (skipped: ${reason})`;
  Deno.test(title, { ignore: reason !== null }, async () => {
    const { promise, reject } = Promise.withResolvers<never>();
    const late = new Error(`Not done in ${PATIENCE} ms`);
    const timer = setTimeout(() => reject(late), PATIENCE);
    try {
      await Promise.race([body(), promise]);
    } finally {
      clearTimeout(timer);
    }
  });
}

/**
 * Runs a function with random numbers: of the seed that `SEED` in the environment gives, or of
 * each seed that once failed, and of a new one.
 *
 * @param run The function. If it fails, the error names the seed.
 * @param failed Seeds that once failed: a fault that is mended adds its seed.
 */
export async function withSeeds(
  run: (next: () => number) => Promise<void>,
  failed: readonly number[] = [],
): Promise<void> {
  const given = Deno.env.get("SEED");
  const seeds = given === undefined
    ? [...failed, Date.now() % 1_000_000]
    : [Number(given)];
  for (const seed of seeds) {
    try {
      await run(random(seed));
    } catch (error) {
      throw new Error(`Failed with SEED=${seed}`, { cause: error });
    }
  }
}

/** A test with random numbers; see {@linkcode withSeeds}. */
export function testRandomly(
  name: string,
  body: (next: () => number) => Promise<void>,
  failed: readonly number[] = [],
): void {
  test(name, () => withSeeds(body, failed));
}

/** Waits for a timer of the runtime. Outside greenlets, `patch()` does not change it. */
export function tick(ms = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * Calls a function in a greenlet that is killed when the call has just begun, before its
 * operation can end.
 */
export async function inVain(run: () => unknown): Promise<void> {
  const greenlet = spawn(async () => {
    const promise = run();
    greenlet.kill(undefined, { block: false });
    await promise;
  }) as Greenlet;
  await greenlet.join();
  if (greenlet.exception !== undefined) throw greenlet.exception;
  assertInstanceOf(greenlet.value, GreenletExit);
}

/** Describes the outcome of a call: when it ends, in which way, and with which value. */
export async function outcome(call: () => unknown): Promise<unknown[]> {
  let result: unknown;
  try {
    result = call();
  } catch (error) {
    return ["throws", ...describe(error)];
  }
  if (!(result instanceof Promise)) return ["returns", result];
  try {
    return ["gives", await result];
  } catch (error) {
    return ["rejects", ...describe(error)];
  }
}

function describe(error: unknown): unknown[] {
  const { constructor, name, message, code } = error as Error & {
    code: unknown;
  };
  return [constructor, name, message, code];
}
