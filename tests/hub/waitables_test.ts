/** Objects of the program that `wait`, `joinAll` and `iwait` wait for. */

import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import {
  Event,
  iwait,
  joinAll,
  sleep,
  spawn,
  wait,
  type Waitable,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

const FOREVER = 1e9;

/** Tells at once that it is ready. */
class Ready implements Waitable {
  links = 0;

  rawlink(link: (source: Ready) => unknown): void {
    this.links++;
    link(this);
  }

  unlink(): void {
    this.links--;
  }
}

/** Is never ready, and can't be unlinked. */
class Stuck implements Waitable {
  readonly error = new Error("stuck");

  rawlink(): void {}

  unlink(): void {
    throw this.error;
  }
}

const WAITING = {
  async async(
    objects: Waitable[],
    options: { timeout?: number; count?: number },
  ) {
    return await wait(objects, options);
  },
  *generator(
    objects: Waitable[],
    options: { timeout?: number; count?: number },
  ) {
    return yield* wait(objects, options);
  },
};

testBoth(
  "wait() counts objects that are ready when they are linked",
  WAITING,
  async (body) => {
    const [a, b] = [new Ready(), new Ready()];
    assertEquals(await spawn(body, [a, b], { timeout: FOREVER }).get(), [a, b]);
  },
);

testBoth(
  "wait() leaves no link when an object is ready before the others are linked",
  WAITING,
  async (body) => {
    const ready = new Ready();
    const event = new Event();
    const options = { count: 1, timeout: FOREVER };
    assertEquals(await spawn(body, [ready, event], options).get(), [ready]);
    assertEquals(event.linkCount(), 0);
  },
);

testBoth(
  "wait() reports an unlink() that throws, and unlinks the others",
  WAITING,
  async (body) => {
    using failures = new Failures();
    const stuck = new Stuck();
    const event = new Event();
    assertEquals(await spawn(body, [stuck, event], { timeout: 0 }).get(), []);
    assertEquals(event.linkCount(), 0);
    const killed = spawn(body, [stuck, event], {});
    await settle();
    assertEquals(event.linkCount(), 1);
    await killed.kill();
    assert(killed.successful());
    assertEquals(event.linkCount(), 0);
    await settle();
    assertEquals(failures.errors, [stuck.error, stuck.error]);
    assertStrictEquals(failures.contexts[0], stuck);
  },
);

Deno.test("joinAll() and iwait() report an unlink() that throws", async () => {
  using failures = new Failures();
  const stuck = new Stuck();
  const event = new Event();
  const one = spawn(sleep, 0);
  assertEquals(await joinAll<Waitable>([stuck, one, event], { count: 1 }), [
    one,
  ]);
  for await (const _ of iwait<Waitable>([stuck, spawn(sleep, 0), event])) break;
  assertEquals(event.linkCount(), 0);
  await settle();
  assertEquals(failures.errors, [stuck.error, stuck.error]);
});

Deno.test("wait() takes an object without unlink()", async () => {
  using failures = new Failures();
  const never = { rawlink() {} } as unknown as Waitable;
  assertEquals(await wait([never], { timeout: 0 }), []);
  assertEquals(failures.errors, []);
});
