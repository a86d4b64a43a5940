// What select() takes for a record of alternatives.

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { Queue, select, sleep, spawn } from "../mod.ts";
import { testBoth } from "./_bodies.ts";

Deno.test("select() tells that it wants an object or an array, if it gets a collection or one alternative", async () => {
  const greenlet = spawn(() => {});
  const wrong: [unknown, string][] = [
    [new Map([["a", () => sleep(1)]]), "[object Map]"],
    [new Set([() => sleep(1)]), "[object Set]"],
    [() => sleep(1), "function"],
    [sleep(0), "Promise"],
    [Promise.resolve(), "Promise"],
    [greenlet, "Greenlet"],
  ];
  for (const [value, shown] of wrong) {
    const error = assertThrows(() => select(value as never), TypeError);
    assertStringIncludes(error.message, "must be in an object or an array");
    assertStringIncludes(error.message, shown);
  }
  await greenlet.join();
});

testBoth(
  "select() takes any object as a record, also with a key that promises have",
  {
    async async(alternatives: Record<string, () => PromiseLike<unknown>>) {
      return await select(alternatives);
    },
    *generator(
      alternatives: Record<string, () => PromiseLike<unknown>>,
    ): Generator<unknown, unknown> {
      return yield* select(alternatives);
    },
  },
  async (body) => {
    const then = new Queue<number>(null, [5]);
    const bare = Object.assign(Object.create(null), { then: () => then.get() });
    for (const record of [bare, { then: () => then.get() }]) {
      assertEquals(
        await spawn(() => body(record)).get(),
        { key: "then", value: 5 },
      );
      await then.put(5);
    }
  },
);
