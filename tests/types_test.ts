/**
 * Checks the types when the file is compiled, so that there is little to run.
 *
 * @module
 */

import { assertEquals, assertInstanceOf } from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  run,
  sleep,
  spawn,
  spawnLater,
  type Wait,
} from "../mod.ts";

/** True if two types are the same. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends
  (<T>() => T extends B ? 1 : 2) ? true : false;

/** Compiles only if the type is `true`. */
function assertType<_ extends true>(): void {}

const count = () => 42;

Deno.test("Greenlet.get() has the type of the body's result", async () => {
  const plain = spawn(count);
  const later = spawnLater(0, async () => await plain.get());
  const generator = spawn(function* () {
    return yield* later.get();
  });
  const results = [plain.get(), later.get(), generator.get()] as const;
  assertType<Same<typeof results[0], Wait<number>>>();
  assertType<Same<typeof results[1], Wait<number>>>();
  assertType<Same<typeof results[2], Wait<number>>>();
  // A type that is wanted at another call does not change it.
  const wanted: Promise<number> = spawn(count).get();
  assertEquals([await wanted, ...await Promise.all(results)], [42, 42, 42, 42]);
});

Deno.test("Greenlet.get() has the type of a kill as well where it is asked for", async () => {
  const g = spawn(async () => {
    await sleep(60_000);
    return 42;
  });
  g.kill(undefined, { block: false });
  const result = await g.get<GreenletExit>();
  assertType<Same<typeof result, number | GreenletExit>>();
  assertInstanceOf(result, GreenletExit);
  const timed = g.get<GreenletExit>({ timeout: 1 });
  assertType<Same<typeof timed, Wait<number | GreenletExit>>>();
  await timed;
});

Deno.test("Greenlet<T> can be used as a Greenlet<T | GreenletExit>", async () => {
  const g: Greenlet<number | GreenletExit> = spawn(count);
  const result = await g.get();
  assertType<Same<typeof result, number | GreenletExit>>();
  assertEquals(result instanceof GreenletExit ? "killed" : result, 42);
});

Deno.test("run() has the type of the function's result, and of a kill where it is asked for", async () => {
  const result = await run(count);
  assertType<Same<typeof result, number>>();
  const promised = await run(async (ms: number) => {
    await sleep(ms);
    return "slept";
  }, 0);
  assertType<Same<typeof promised, string>>();
  const killable = await run<[], number, GreenletExit>(count);
  assertType<Same<typeof killable, number | GreenletExit>>();
  assertEquals([result, promised, killable], [42, "slept", 42]);
});
