/** Callbacks of the program that fail in ways of their own. */

import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { Greenlet, sleep, spawn, Timeout, until, Waiter } from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

const refuse = () => Promise.reject(new Error("refused"));
const refuseLater = async () => {
  await sleep(0);
  throw new Error("refused");
};
const forever = new Promise<void>(() => {});

for (
  const [when, fail] of Object.entries({
    "at once": refuse,
    later: refuseLater,
  })
) {
  testBoth(`until() reports onInterrupt when its promise rejects ${when}`, {
    async async() {
      await until(forever, fail);
    },
    *generator() {
      yield* until(forever, fail);
    },
  }, async (body) => {
    using failures = new Failures();
    const greenlet = spawn(body);
    await settle();
    await greenlet.kill();
    assert(greenlet.successful());
    await settle();
    assertEquals(failures.errors.map(String), ["Error: refused"]);
    assertStrictEquals(failures.contexts[0], fail);
  });

  testBoth(`Waiter.get() reports undo when its promise rejects ${when}`, {
    async async() {
      await new Waiter(fail).get();
    },
    *generator() {
      yield* new Waiter(fail).get();
    },
  }, async (body) => {
    using failures = new Failures();
    const greenlet = spawn(body);
    await settle();
    await greenlet.kill();
    await settle();
    assertEquals(failures.errors.map(String), ["Error: refused"]);
  });

  Deno.test(`Greenlet.rawlink() reports a link when its promise rejects ${when}`, async () => {
    using failures = new Failures();
    const greenlet = spawn(() => 1);
    greenlet.rawlink(fail);
    greenlet.rawlink({ linked: fail });
    await greenlet.join();
    await settle();
    assertEquals(failures.errors.map(String), [
      "Error: refused",
      "Error: refused",
    ]);
  });

  Deno.test(`Greenlet.link() reports an object when its promise rejects ${when}`, async () => {
    using failures = new Failures();
    const greenlet = spawn(() => 1);
    greenlet.link({ linked: fail });
    await greenlet.join();
    await settle();
    assertEquals(failures.errors.map(String), ["Error: refused"]);
  });
}

Deno.test("Greenlet.rawlink() does not call then() of what a link returns", async () => {
  let called = false;
  const greenlet = spawn(() => 1);
  // Such as a query that is sent when it is awaited.
  greenlet.rawlink(() => ({ then: () => called = true }));
  await greenlet.join();
  await settle();
  assert(!called);
});

testBoth("Timeout throws itself when its option `error` is undefined", {
  async async() {
    const timeout = Timeout.start(1, { error: undefined });
    try {
      await sleep(1e9);
    } catch (error) {
      return error === timeout;
    }
  },
  *generator() {
    const timeout = Timeout.start(1, { error: undefined });
    try {
      yield* sleep(1e9);
    } catch (error) {
      return error === timeout;
    }
  },
}, async (body) => {
  assert(await spawn(body).get());
});

Deno.test("Greenlet.kill() throws a GreenletExit when `error` is undefined", async () => {
  const greenlet = new Greenlet(sleep, 1e9);
  await greenlet.kill(undefined);
  assert(greenlet.successful());
});
