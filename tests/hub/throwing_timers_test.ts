/** Code of the program that throws while a timer is told. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { sleep, spawn, Timeout, withTimeout } from "../../mod.ts";
import { startTimer } from "../../_hub/timers.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

/** Can't be made without an argument. */
class StatusError extends Error {
  constructor(response: { status: number }) {
    super(`Status ${response.status}`);
  }
}

const START = { error: StatusError };

testBoth(
  "Timeout throws what the class of its error throws when that is made",
  {
    async async() {
      using _ = Timeout.start(1, START);
      await sleep(1e9);
    },
    *generator() {
      using _ = Timeout.start(1, START);
      yield* sleep(1e9);
    },
  },
  async (body) => {
    const greenlet = spawn(body);
    await assertRejects(() => greenlet.get(), TypeError, "status");
    // Timers go on.
    await sleep(1);
  },
);

Deno.test("startTimer() tells the other timers when one of them throws, and the hub is told", async () => {
  using failures = new Failures();
  const error = new Error("told");
  let told = 0;
  startTimer(1, {
    expired() {
      throw error;
    },
  });
  startTimer(1, {
    expired() {
      told++;
    },
  });
  await sleep(1);
  await assertRejects(
    async () => await withTimeout(1, () => sleep(1e9)),
    Timeout,
  );
  await settle();
  assertEquals(told, 1);
  assertEquals(failures.errors, [error]);
  assert(await withTimeout(1e9, () => true));
});
