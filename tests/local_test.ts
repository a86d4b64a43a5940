import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertNotStrictEquals,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { clock } from "./_clock.ts";
import {
  getCurrent,
  type Greenlet,
  greenlet,
  idle,
  joinAll,
  local,
  sleep,
  spawn,
  spawnRaw,
  withTimeout,
} from "../mod.ts";
import { runScript, settle, testBoth } from "./_bodies.ts";

clock.inEachTest();

interface Mine {
  name?: string;
  count?: number;
}

testBoth("local() is each greenlet's own, across its waits", {
  async async(mine: Mine, name: string) {
    const before = mine.name;
    mine.name = name;
    for (let i = 0; i < 3; i++) {
      await sleep();
      await Promise.resolve();
      await idle();
      assertEquals(mine.name, name);
    }
    return before;
  },
  *generator(mine: Mine, name: string) {
    const before = mine.name;
    mine.name = name;
    for (let i = 0; i < 3; i++) {
      yield* sleep();
      yield* idle();
      assertEquals(mine.name, name);
    }
    return before;
  },
}, async (body) => {
  const mine = local<Mine>();
  mine.name = "main";
  const all = ["rose", "jack", "mary"].map((name) => spawn(body, mine, name));
  for (const g of all) assertEquals(await g.get(), undefined);
  assertEquals(mine.name, "main");
});

testBoth("local() is not inherited by spawned greenlets", {
  async async(mine: Mine): Promise<unknown> {
    mine.name = "parent";
    const child = spawn(() => mine.name);
    return [await child.get(), mine.name];
  },
  *generator(mine: Mine): Generator<unknown, unknown> {
    mine.name = "parent";
    const child = spawn(() => mine.name);
    return [yield* child.get(), mine.name];
  },
}, async (body) => {
  assertEquals(await spawn(body, local<Mine>()).get(), [undefined, "parent"]);
});

Deno.test("local() is main's own in each async function of main, and in callbacks", async () => {
  clock.useRealTime();
  const mine = local<Mine>();
  mine.name = "main";
  async function inner() {
    await sleep(1);
    return mine.name;
  }
  assertEquals(await inner(), "main");
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  setTimeout(() => resolve(mine.name));
  assertEquals(await promise, "main");
});

testBoth("local() is the greenlet's own inside withTimeout()", {
  async async(mine: Mine): Promise<unknown> {
    mine.name = "outer";
    const seen = [
      await withTimeout(1000, () => mine.name),
      await withTimeout(1000, async () => {
        await sleep(1);
        mine.count = 1;
        return mine.name;
      }),
      await withTimeout(1000, function* () {
        yield* sleep(1);
        mine.count!++;
        return mine.name;
      }),
    ];
    return [...seen, mine.count];
  },
  *generator(mine: Mine): Generator<unknown, unknown> {
    mine.name = "outer";
    const seen = [
      yield* withTimeout(1000, () => mine.name),
      yield* withTimeout(1000, async () => {
        await sleep(1);
        mine.count = 1;
        return mine.name;
      }),
      yield* withTimeout(1000, function* () {
        yield* sleep(1);
        mine.count!++;
        return mine.name;
      }),
    ];
    return [...seen, mine.count];
  },
}, async (body) => {
  const mine = local<Mine>();
  assertEquals(await spawn(body, mine).get(), ["outer", "outer", "outer", 2]);
  assertEquals(mine.name, undefined);
});

testBoth("local() is there in the finally of a killed body", {
  async async(mine: Mine, log: unknown[]) {
    mine.name = "own";
    try {
      await sleep(Infinity);
    } finally {
      log.push(mine.name);
    }
  },
  *generator(mine: Mine, log: unknown[]) {
    mine.name = "own";
    try {
      yield* sleep(Infinity);
    } finally {
      log.push(mine.name);
    }
  },
}, async (body) => {
  const log: unknown[] = [];
  const g = spawn(body, local<Mine>(), log);
  await settle();
  await g.kill();
  assertEquals(log, ["own"]);
});

Deno.test("local() is each core greenlet's own, too", async () => {
  const mine = local<Mine>();
  mine.name = "main";
  const seen: unknown[] = [];
  const core = new greenlet.Greenlet(function* () {
    seen.push(mine.name);
    mine.name = "core";
    yield* greenlet.getCurrent().parent!.switch();
    seen.push(mine.name);
  });
  core.switch();
  assertEquals(mine.name, "main");
  core.switch();
  spawnRaw(async () => {
    seen.push(mine.name);
    mine.name = "raw";
    await sleep();
    seen.push(mine.name);
  });
  await settle();
  assertEquals(seen, [undefined, "core", undefined, "raw"]);
});

Deno.test("local() begins with the object that init makes, once for each greenlet that looks", async () => {
  const makers: unknown[] = [];
  const mine = local(() => {
    makers.push(getCurrent());
    return { list: [] as string[] };
  });
  assertEquals(makers, []);
  const body = async (name: string) => {
    mine.list.push(name);
    await sleep();
    mine.list.push(name);
    return mine.list;
  };
  const two = [spawn(body, "a"), spawn(body, "b")];
  await spawn(() => {}).join();
  await joinAll(two);
  assertEquals(two.map((g) => g.value), [["a", "a"], ["b", "b"]]);
  assertEquals(makers.length, 2);
  assertStrictEquals(makers[0], two[0]);
  assertStrictEquals(makers[1], two[1]);
  assertEquals(mine.list, []);
});

Deno.test("local() calls init again where it has thrown", () => {
  let calls = 0;
  const mine = local(() => {
    if (++calls === 1) throw new Error("not yet");
    return { calls };
  });
  assertThrows(() => mine.calls, Error, "not yet");
  assertEquals(mine.calls, 2);
});

Deno.test("local() refuses an init that is not a function", () => {
  for (const init of [null, 1, "foo", {}]) {
    assertThrows(() => local(init as never), TypeError, "must be a function");
  }
});

Deno.test("local() can be looked through like any object", async () => {
  const mine = local<Record<string, unknown>>();
  mine.a = 1;
  mine["b"] = 2;
  assertEquals(Object.keys(mine), ["a", "b"]);
  assertEquals(Object.entries(mine), [["a", 1], ["b", 2]]);
  assertEquals({ ...mine }, { a: 1, b: 2 });
  assertEquals(JSON.stringify(mine), '{"a":1,"b":2}');
  const names = [];
  for (const name in mine) names.push(name);
  assertEquals(names, ["a", "b"]);
  assert("a" in mine);
  assert(Object.hasOwn(mine, "a"));
  assertFalse("c" in mine);
  assertEquals(Object.getOwnPropertyDescriptor(mine, "a")!.value, 1);
  const elsewhere = await spawn(() => [
    Object.keys(mine),
    "a" in mine,
    { ...mine },
    Object.getOwnPropertyDescriptor(mine, "a"),
  ]).get();
  assertEquals(elsewhere, [[], false, {}, undefined]);
});

Deno.test("local() forgets a deleted property, in one greenlet", async () => {
  const mine = local<Mine>(() => ({ name: "first" }));
  await spawn(() => {
    delete mine.name;
    assertEquals(mine.name, undefined);
    assertFalse("name" in mine);
    // A missing property can be deleted, as in JavaScript.
    assert(delete mine.count);
  }).get();
  assertEquals(mine.name, "first");
});

Deno.test("local() has the methods and accessors of a class", async () => {
  class Counter {
    count = 0;
    #secret = 42;
    static made = 0;
    constructor() {
      Counter.made++;
    }
    get double() {
      return this.count * 2;
    }
    set half(value: number) {
      this.count = value * 2;
    }
    get secret() {
      return this.#secret;
    }
    increment() {
      return ++this.count;
    }
  }
  const mine = local(() => new Counter());
  assertInstanceOf(mine, Counter);
  assertEquals(mine.increment(), 1);
  assertEquals(mine.double, 2);
  assertEquals(await spawn(() => mine.increment()).get(), 1);
  mine.half = 2;
  assertEquals(mine.count, 4);
  assertEquals(mine.secret, 42);
  assertEquals(Counter.made, 2);
  assertFalse(Object.keys(mine).includes("increment"));
  // An own property covers that of the class, until it is deleted.
  mine.increment = () => -1;
  assertEquals(mine.increment(), -1);
  assertEquals(await spawn(() => mine.increment()).get(), 1);
  delete (mine as Partial<Counter>).increment;
  assertEquals(mine.increment(), 5);
});

Deno.test("local() keeps two of them apart", () => {
  const [a, b] = [local<Mine>(), local<Mine>()];
  a.name = b.name = "same";
  b.name = "other";
  assertEquals([a.name, b.name], ["same", "other"]);
});

Deno.test("local() is copied by spread: the copy belongs to no greenlet", async () => {
  const mine = local<{ obj: { echo: string }; path: string }>();
  mine.obj = { echo: "test" };
  mine.path = "123";
  const copy = { ...mine };
  copy.path = "321";
  assertEquals(mine.path, "123");
  assertStrictEquals(copy.obj, mine.obj);
  assertNotStrictEquals<unknown>(copy, mine);
  assertEquals(await spawn(() => copy.path).get(), "321");
});

Deno.test("local() takes any own object: an array, defined properties", async () => {
  const list = local((): unknown[] => []);
  list[0] = "a";
  assertEquals(list.length, 1);
  assertEquals(Object.keys(list), ["0"]);
  assertEquals(await spawn(() => Object.keys(list)).get(), []);
  const mine = local<{ fixed?: number; seen?: number }>();
  Object.defineProperty(mine, "fixed", { value: 1, enumerable: true });
  assertEquals(mine.fixed, 1);
  assertEquals({ ...mine }, { fixed: 1 });
  assertThrows(() => mine.fixed = 2, TypeError);
  await spawn(() => {
    assertFalse("fixed" in mine);
    mine.fixed = 3;
    assertEquals(mine.fixed, 3);
  }).get();
});

Deno.test("local() has the prototype of the own object, which can be set", async () => {
  const mine = local<{ hello?: string }>();
  Object.setPrototypeOf(mine, { hello: "there" });
  assertEquals(mine.hello, "there");
  assertEquals(await spawn(() => mine.hello).get(), undefined);
});

Deno.test("local() can't be frozen for all greenlets", async () => {
  const mine = local<Mine>();
  mine.name = "main";
  assertThrows(() => Object.freeze(mine), TypeError);
  assertThrows(() => Object.preventExtensions(mine), TypeError);
  mine.count = 1;
  assertEquals({ ...mine }, { name: "main", count: 1 });
  await spawn(() => {
    mine.name = "other";
    assertEquals(Object.keys(mine), ["name"]);
  }).get();
});

// --- What is left of it

/** Runs a script that can collect garbage, by `await collect()`. */
async function runWithGc(body: string): Promise<string[]> {
  const { out, err, code } = await runScript(`
    const { setFlagsFromString } = await import("node:v8");
    setFlagsFromString("--expose-gc");
    const { runInNewContext } = await import("node:vm");
    const gc = runInNewContext("gc");
    async function collect() {
      for (let i = 0; i < 5; i++) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        gc();
      }
    }
    ${body}`);
  assertEquals([err, code], ["", 0]);
  return out;
}

Deno.test("local() frees the properties of a greenlet when that is gone", async () => {
  const out = await runWithGc(`
    const mine = local(() => ({ sentinel: { big: 1 } }));
    const references = [];
    async function body() {
      references.push(new WeakRef(mine.sentinel));
      await sleep();
      references.push(new WeakRef(mine.sentinel));
    }
    await (async () => { await spawn(body).join(); })();
    await (async () => {
      await spawn(function* () {
        references.push(new WeakRef(mine.sentinel));
        yield* sleep();
      }).join();
    })();
    mine.sentinel.big++;
    const own = new WeakRef(mine.sentinel);
    await collect();
    console.log(references.map((r) => r.deref() === undefined).join());
    console.log(own.deref() === mine.sentinel);
  `);
  assertEquals(out, ["true,true,true", "true"]);
});

Deno.test("local() frees the properties of a dead greenlet that is still referred to", async () => {
  const out = await runWithGc(`
    const mine = local(() => ({ sentinel: {} }));
    const references = [];
    const greenlets = [0, 1, 2, 3, 4].map(() => spawn(() => {
      references.push(new WeakRef(mine.sentinel));
    }));
    await joinAll(greenlets);
    await collect();
    console.log(references.filter((r) => r.deref() === undefined).length);
    console.log(greenlets.every((g) => g.dead));
  `);
  assertEquals(out, ["5", "true"]);
});

Deno.test("local() without a reference to it is freed while its greenlet runs", async () => {
  const out = await runWithGc(`
    await spawn(async () => {
      const references = [];
      for (let i = 0; i < 1000; i++) {
        const mine = local(() => ({ sentinel: {} }));
        references.push(new WeakRef(mine.sentinel));
      }
      await collect();
      console.log(references.filter((r) => r.deref() === undefined).length);
    }).join();
  `);
  assertGreaterOrEqual(Number(out[0]), 999);
});

Deno.test("local() of 1,000 greenlets at once is each one's own", async () => {
  const mine = local<{ id?: number }>();
  const all: Greenlet<boolean>[] = [];
  for (let id = 0; id < 1000; id++) {
    all.push(spawn(async () => {
      mine.id = id;
      await sleep(1);
      return mine.id === id;
    }));
  }
  await joinAll(all);
  assert(all.every((g) => g.value));
});
