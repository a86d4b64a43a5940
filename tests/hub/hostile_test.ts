/**
 * Values and objects of the program that answer no question, or throw when they are asked.
 */

import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import * as core from "../../greenlet.ts";
import {
  abortedBy,
  AsyncResult,
  Condition,
  DummySemaphore,
  Event,
  formatRunInfo,
  Greenlet,
  Group,
  HttpServer,
  iwait,
  joinAll,
  kill,
  killAll,
  listen,
  monkey,
  nursery,
  onSignal,
  patch,
  Pool,
  Queue,
  select,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  subprocess,
  transfer,
  wait,
  withSignal,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

/** Makes a proxy that was revoked: any use of it throws. */
function revoked<T extends object>(target: T): T {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

// deno-lint-ignore no-explicit-any
type Wrong = any;

const idle = () => {};

/** Calls that take a function. */
const functions: Record<string, (value: Wrong) => unknown> = {
  "spawn()": (value) => spawn(value),
  "spawnLater()": (value) => spawnLater(1, value),
  "spawnRaw()": (value) => spawnRaw(value),
  "withTimeout()": (value) => withTimeout(1, value),
  "withSignal()": (value) => withSignal(value),
  "nursery()": (value) => nursery(value),
  "onSignal()": (value) => onSignal("SIGUSR2", value),
  "Pool.apply()": (value) => new Pool(1).apply(value),
  "Pool.map()": (value) => new Pool(1).map(value, [1]),
  "Pool.imap()": (value) => new Pool(1).imap(value, [1]),
  "Greenlet.addSpawnCallback()": (value) => Greenlet.addSpawnCallback(value),
};

/** Calls that take an iterable. */
const iterables: Record<string, (value: Wrong) => unknown> = {
  "joinAll()": (value) => joinAll(value),
  "killAll()": (value) => killAll(value),
  "wait()": (value) => wait(value),
  "iwait()": (value) => iwait(value),
  "new Queue()": (value) => new Queue(null, value),
  "new Group()": (value) => new Group(value),
  "Pool.map()": (value) => new Pool(1).map(idle, value),
  "Group.imap()": (value) => new Group().imap(idle, value),
};

/** Calls that take an object of a certain class. */
const instances: Record<string, (value: Wrong) => unknown> = {
  "joinAll() of one": (value) => joinAll([value]),
  "killAll() of one": (value) => killAll([value]),
  "kill()": (value) => kill(value),
  "abortedBy(), the signal": (value) => abortedBy(value, new Greenlet(idle)),
  "abortedBy(), the greenlet": (value) =>
    abortedBy(new AbortController().signal, value),
  "new Condition()": (value) => new Condition(value),
  "Group.add()": (value) => new Group().add(value),
  "select()": (value) => select(value),
  "select(), an alternative": (value) => select([value]),
  "patch()": (value) => patch(value),
  "patch(), the options of a part": (value) => patch({ http: value }),
  "listen()": (value) => listen(value),
  "new HttpServer()": (value) => new HttpServer(value, () => new Response()),
  "AsyncResult.linked()": (value) => new AsyncResult().linked(value),
  "parent of the core": (value) => new core.Greenlet(idle, value),
  "transfer()": (value) => transfer(value, []),
  "transfer(), the list": (value) => transfer({}, value),
  "subprocess.run()": (value) => subprocess.run(value),
  "subprocess.run(), the arguments": (value) => subprocess.run("true", value),
  "monkey.patchItem()": (value) => monkey.patchItem(value, "a", 1),
  "monkey.patchItem(), the name": (value) =>
    monkey.patchItem({ a: 1 }, value, 1 as never),
  "monkey.getOriginal()": (value) => monkey.getOriginal(value, "a" as never),
  "monkey.isPatched()": (value) => monkey.isPatched(value),
  "Greenlet.name": (value) => new Greenlet(idle).name = value,
};

/** Calls that take options. */
const optional: Record<string, (value: Wrong) => unknown> = {
  "Event.wait()": (value) => new Event().wait(value),
  "Queue.get()": (value) => new Queue(null, [1]).get(value),
  "Greenlet.join()": (value) => new Greenlet(idle).join(value),
  "Greenlet.kill()": (value) => new Greenlet(idle).kill(undefined, value),
  "Group.kill()": (value) => new Group().kill(value),
  "joinAll()": (value) => joinAll([], value),
  "select()": (value) => select([() => sleep(0)], value),
  "DummySemaphore.acquire()": (value) => new DummySemaphore().acquire(value),
  "DummySemaphore.wait()": (value) => new DummySemaphore().wait(value),
};

/** Asserts that a call throws an error that says what is wanted. */
function assertRefused(call: () => unknown): void {
  const error = assertThrows(call, TypeError);
  assert(/^Cannot .* received .*[^.]$/s.test(error.message), error.message);
}

for (
  const [what, calls, target] of [
    ["function", functions, idle],
    ["iterable", iterables, []],
    ["object", instances, {}],
    ["set of options", optional, {}],
  ] as const
) {
  for (const [name, call] of Object.entries(calls)) {
    Deno.test(`${name} names what it wants when a ${what} is a revoked proxy`, () =>
      assertRefused(() => call(revoked(target))));
  }
}

for (const [name, call] of Object.entries(optional)) {
  Deno.test(`${name} refuses options that are a number or an array`, () => {
    assertRefused(() => call(5));
    assertRefused(() => call([]));
  });
}

for (const name of ["new Queue()", "new Group()"]) {
  Deno.test(`${name} names what it wants when it gets no iterable`, () => {
    for (const value of [5, null, 1n, {}, Symbol("no"), idle]) {
      assertRefused(() => iterables[name]!(value));
    }
  });
}

Deno.test("AsyncResult.linked() refuses what is no source, and stays as it is", () => {
  const result = new AsyncResult();
  for (const value of [5, null, undefined, {}, []]) {
    assertRefused(() => result.linked(value as Wrong));
  }
  assertEquals(result.ready(), false);
});

Deno.test("monkey.isPatched() and monkey.getOriginal() refuse names of any kind", () => {
  for (const value of [1n, Object.create(null), null, undefined, [], {}]) {
    assertRefused(() => monkey.isPatched(value));
    assertRefused(() => monkey.getOriginal({}, value as never));
    assertRefused(() => monkey.patchItem({}, value, 1 as never));
  }
});

Deno.test("Greenlet.name refuses an object that is no string, and keeps the name", () => {
  const greenlet = new Greenlet(idle);
  greenlet.name = "mine";
  assertRefused(() => greenlet.name = Object.create(null));
  assertEquals(greenlet.name, "mine");
});

Deno.test("spawn() shows a bigint and an empty array as such when it refuses them", () => {
  for (const [value, text] of [[5n, "5n"], [[], "[]"]]) {
    const error = assertThrows(() => spawn(value as Wrong), TypeError);
    assert(error.message.endsWith(`received ${text}`), error.message);
  }
});

testBoth("Greenlet.kill() throws a revoked function into the body", {
  async: () => sleep(1e6),
  *generator() {
    yield* sleep(1e6);
  },
}, async (body) => {
  using failures = new Failures();
  const greenlet = spawn(body);
  await sleep(0);
  const error = revoked(idle);
  await greenlet.kill(error);
  assertStrictEquals(greenlet.exception, error);
  await settle();
  assertEquals(failures.errors.length, 1);
});

Deno.test("AsyncResult.setException() and the core's throw() take a revoked function", () => {
  const error = revoked(idle);
  const result = new AsyncResult();
  result.setException(error);
  assertStrictEquals(result.exception, error);
  const greenlet = new core.Greenlet(function* (): Generator<Wrong, Wrong> {
    try {
      yield* greenlet.parent!.switch();
    } catch (thrown) {
      return thrown === error;
    }
  });
  greenlet.switch();
  assertEquals(greenlet.throw(error).value, true);
});

for (
  const [what, args] of [["a number", 5], ["a revoked proxy", revoked([])]]
) {
  Deno.test(`Greenlet.start() of a subclass whose arguments are ${what} fails the greenlet`, async () => {
    class Job extends Greenlet {
      override args = args as Wrong;
    }
    const job = new Job(() => 1);
    job.start();
    await assertRejects(() => job.get(), TypeError);
    assert(job.dead);
    const later = new Job(() => 1);
    later.startLater(0);
    await assertRejects(() => later.get(), TypeError);
  });
}

/** A promise that `Promise.resolve()` can't take. */
function unreadable(): Promise<number> {
  return Object.defineProperty(Promise.resolve(4), "constructor", {
    get() {
      throw new Error("refused");
    },
  });
}

Deno.test("Greenlet.get() throws the error of a promise whose constructor can't be read", async () => {
  await assertRejects(() => spawn(unreadable).get(), Error, "refused");
  const pool = new Pool(1);
  await assertRejects(() => pool.apply(unreadable), Error, "refused");
  await assertRejects(() => pool.map(unreadable, [1]), Error, "refused");
  assertEquals(pool.freeCount(), 1);
});

Deno.test("spawnRaw() ends a greenlet whose promise has a constructor that can't be read", async () => {
  using failures = new Failures();
  const greenlet = spawnRaw(unreadable);
  await settle();
  assert(greenlet.dead);
  assertEquals(failures.errors.map(String), ["Error: refused"]);
});

testBoth(
  "Greenlet.waitsIn and formatRunInfo() name a greenlet whose toString() throws",
  {
    async: (greenlet: Greenlet) => joinAll([greenlet]),
    *generator(greenlet: Greenlet) {
      return yield* joinAll([greenlet]);
    },
  },
  async (body) => {
    class Silent extends Greenlet {
      override toString(): string {
        throw new Error("refused");
      }
    }
    const silent = Silent.spawn(() => sleep(1e6));
    const waiting = spawn(body as (greenlet: Greenlet) => Wrong, silent);
    await sleep(0);
    assert(waiting.waitsIn!.startsWith("join"));
    const lines = formatRunInfo().split("\n");
    assert(lines.some((line) => line.includes("a value of type object")));
    await killAll([waiting, silent]);
  },
);
