/** What `using` makes of an interrupt when a disposer fails. */

import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  Event,
  GreenletExit,
  nursery,
  Queue,
  select,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

const FOREVER = 1e9;

/** A resource that can't be disposed of. */
class Stuck implements Disposable {
  readonly error: Error;

  constructor(name: string) {
    this.error = new Error(name);
  }

  [Symbol.dispose](): void {
    throw this.error;
  }
}

const USING = {
  async async() {
    using _first = new Stuck("first");
    using _second = new Stuck("second");
    await sleep(FOREVER);
  },
  *generator() {
    using _first = new Stuck("first");
    using _second = new Stuck("second");
    yield* sleep(FOREVER);
  },
};

function namesOf(failures: Failures): string[] {
  return failures.errors.map((error) => (error as Error).message).sort();
}

testBoth(
  "Greenlet.kill() is a kill although disposers throw, and their errors are reported",
  USING,
  async (body) => {
    using failures = new Failures();
    const exit = new GreenletExit();
    const greenlet = spawn(body);
    await settle();
    await greenlet.kill(exit);
    assertStrictEquals<unknown>(greenlet.value, exit);
    await settle();
    assertEquals(namesOf(failures), ["first", "second"]);
  },
);

testBoth(
  "withTimeout() throws its Timeout although disposers throw, and their errors are reported",
  USING,
  async (body) => {
    using failures = new Failures();
    await assertRejects(async () => await withTimeout(1, body), Timeout);
    assertEquals(await withTimeout(1, body, { value: "late" }), "late");
    await settle();
    assertEquals(namesOf(failures), ["first", "first", "second", "second"]);
  },
);

testBoth(
  "nursery() throws the interrupt although disposers throw, and their errors are reported",
  USING,
  async (body) => {
    using failures = new Failures();
    const exit = new GreenletExit();
    const greenlet = spawn(() => nursery(() => body()));
    await settle();
    await greenlet.kill(exit);
    assertStrictEquals<unknown>(greenlet.value, exit);
    await settle();
    assertEquals(namesOf(failures), ["first", "second"]);
  },
);

testBoth(
  "select() reports the disposers of an alternative that loses",
  USING,
  async (body) => {
    using failures = new Failures();
    const event = new Event();
    const chosen = spawn(() =>
      select([() => event.wait(), () => withTimeout(FOREVER, body)])
    );
    await settle();
    event.set();
    assertEquals(await chosen.get(), { key: 0, value: true });
    await settle();
    assertEquals(namesOf(failures), ["first", "second"]);
  },
);

testBoth(
  "Greenlet.kill() reports nothing of disposers that the kill itself ends",
  {
    async async(queue: Queue<number>) {
      await using _ = {
        async [Symbol.asyncDispose]() {
          await queue.get();
        },
      };
      await sleep(FOREVER);
    },
    *generator(queue: Queue<number>) {
      try {
        yield* sleep(FOREVER);
      } finally {
        yield* queue.get();
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const greenlet = spawn(body, new Queue<number>());
    await settle();
    await greenlet.kill(undefined, { grace: 0 });
    assert(greenlet.successful());
    await settle();
    assertEquals(failures.errors, []);
  },
);
