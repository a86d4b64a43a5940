/**
 * What the program's own objects throw while a body ends: getters, `then` methods, proxies.
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import * as core from "../../greenlet.ts";
import {
  getCurrent,
  getHub,
  GreenletExit,
  sleep,
  spawn,
  spawnRaw,
  until,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

/** Results that a body can't be followed in, as asking for `then` or calling it throws. */
const refusals: Record<string, () => object> = {
  "a then() that throws": () => ({
    then() {
      throw new Error("refused");
    },
  }),
  "a getter `then` that throws": () => ({
    get then(): unknown {
      throw new Error("refused");
    },
  }),
};

for (const [what, make] of Object.entries(refusals)) {
  testBoth(`Greenlet.get() throws the error of ${what}`, {
    async async() {
      await sleep(0);
      return make();
    },
    *generator() {
      yield* sleep(0);
      return make();
    },
  }, async (body) => {
    const greenlet = spawn(body);
    await assertRejects(() => greenlet.get(), Error, "refused");
    assert(greenlet.dead);
  });

  Deno.test(`Greenlet.get() throws the error of ${what}, plain body`, async () => {
    const greenlet = spawn(make);
    await assertRejects(() => greenlet.get(), Error, "refused");
    assert(greenlet.dead);
  });

  Deno.test(`spawnRaw() reports the error of ${what}, and the greenlet ends`, async () => {
    using failures = new Failures();
    const greenlet = spawnRaw(make);
    assert(await getHub().join());
    assert(greenlet.dead);
    assertEquals(failures.errors.map(String), ["Error: refused"]);
  });

  testBoth(`withTimeout() throws the error of ${what}`, {
    async async() {
      await withTimeout(1e9, make);
    },
    *generator() {
      yield* withTimeout(1e9, make);
    },
  }, async (body) => {
    await assertRejects(() => spawn(body).get(), Error, "refused");
  });
}

/** A value of which every question throws a `TypeError`. */
function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

testBoth("Greenlet.exception is a revoked proxy that the body has thrown", {
  async async(error: unknown) {
    await sleep(0);
    throw error;
  },
  *generator(error: unknown) {
    yield* sleep(0);
    throw error;
  },
}, async (body) => {
  using failures = new Failures();
  const error = revoked();
  const greenlet = spawn(body, error);
  await greenlet.join();
  assertStrictEquals(greenlet.exception, error);
  await settle();
  assertStrictEquals(failures.errors[0], error);
});

testBoth("Greenlet.kill() ends a greenlet with a revoked proxy", {
  async async() {
    await sleep(1e9);
  },
  *generator() {
    yield* sleep(1e9);
  },
}, async (body) => {
  using _failures = new Failures();
  for (const isHeld of [false, true]) {
    const error = revoked();
    const greenlet = spawn(body);
    if (!isHeld) await settle();
    await greenlet.kill(error);
    assertStrictEquals(greenlet.exception, error);
  }
});

testBoth("withTimeout() throws a revoked proxy that its function has thrown", {
  async async(error: unknown) {
    await withTimeout(1e9, async () => {
      await sleep(0);
      throw error;
    });
  },
  *generator(error: unknown) {
    yield* withTimeout(1e9, function* () {
      yield* sleep(0);
      throw error;
    });
  },
}, async (body) => {
  using _failures = new Failures();
  const error = revoked();
  const greenlet = spawn(body, error);
  await greenlet.join();
  assertStrictEquals(greenlet.exception, error);
});

Deno.test("spawnRaw() ends a greenlet that throws a revoked proxy", async () => {
  using failures = new Failures();
  const error = revoked();
  const greenlet = spawnRaw(() => {
    throw error;
  });
  assert(await getHub().join());
  assert(greenlet.dead);
  assertStrictEquals(failures.errors[0], error);
});

Deno.test("Greenlet.get() throws a TypeError when the body has returned a revoked proxy", async () => {
  // As an async function does, which looks for `then`.
  await assertRejects(() => spawn(revoked).get(), TypeError);
});

Deno.test("until() throws a TypeError for a revoked proxy", async () => {
  await assertRejects(async () => await until(revoked()), TypeError);
});

Deno.test("Greenlet.switch() of the core passes a revoked proxy on", () => {
  const main = core.getCurrent();
  const proxy = revoked();
  const failing = new core.Greenlet(function* () {
    assertStrictEquals(yield* main.switch(), proxy);
    throw new Error("own");
  });
  failing.switch();
  assertThrows(() => failing.switch(proxy), Error, "own");
  assert(failing.dead);
  assertStrictEquals(core.getCurrent(), main);
  assertStrictEquals(getCurrent(), main);
});

Deno.test("Greenlet.throw() of the core throws a revoked proxy in the body and in its parent", () => {
  const main = core.getCurrent();
  const proxy = revoked();
  const thrownBy = (attempt: () => unknown) => {
    try {
      attempt();
    } catch (error) {
      return error;
    }
  };
  const waiting = new core.Greenlet(function* () {
    yield* main.switch();
  });
  waiting.switch();
  assertStrictEquals(thrownBy(() => waiting.throw(proxy)), proxy);
  assertStrictEquals(thrownBy(() => waiting.throw(proxy)), proxy);
  assertStrictEquals(core.getCurrent(), main);
  const plain = new core.Greenlet(() => 1);
  assertStrictEquals(thrownBy(() => plain.throw(proxy)), proxy);
  assertStrictEquals(core.getCurrent(), main);
});

Deno.test("Greenlet.value is the GreenletExit of a kill although the body has thrown errors in a circle", async () => {
  const exit = new GreenletExit();
  const greenlet = spawn(async () => {
    try {
      await sleep(1e9);
    } catch (error) {
      const outer = new Error("outer", { cause: error });
      const circle = new AggregateError([outer]);
      circle.errors.unshift(circle);
      throw circle;
    }
  });
  await settle();
  await greenlet.kill(exit);
  assertInstanceOf(greenlet.value, GreenletExit);
});
