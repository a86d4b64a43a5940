import {
  assert,
  assertEquals,
  assertFalse,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { monkey, patch } from "../mod.ts";
import * as namespace from "../mod.ts";

const { getOriginal, isPatched, patchItem, patchModule } = monkey;

/** The properties that `patch()` replaces and that are there from the start. */
const PATCHED = [
  [globalThis, "timers", "setTimeout"],
  [globalThis, "timers", "setInterval"],
  [globalThis, "timers", "clearTimeout"],
  [globalThis, "timers", "clearInterval"],
  [Deno, "net", "connect"],
  [Deno, "net", "listen"],
] as const;

function descriptors(): (PropertyDescriptor | undefined)[] {
  return PATCHED.map(([object, , name]) =>
    Object.getOwnPropertyDescriptor(object, name)
  );
}

function values(): unknown[] {
  return PATCHED.map(([object, , name]) =>
    (object as unknown as Record<string, unknown>)[name]
  );
}

Deno.test("patch() replaces every part, and its disposal restores them to the letter", () => {
  const before = descriptors();
  const originals = values();
  {
    using _ = patch();
    assert(isPatched("timers"));
    assert(isPatched("net"));
    const replacements = values();
    for (const [i, replacement] of replacements.entries()) {
      assert(replacement !== originals[i], PATCHED[i]![2]);
    }
  }
  assertFalse(isPatched("timers"));
  assertFalse(isPatched("net"));
  assertEquals(values(), originals);
  for (const [i, descriptor] of descriptors().entries()) {
    for (const key of ["get", "set", "value"] as const) {
      assertStrictEquals(descriptor![key], before[i]![key]);
    }
    assertEquals(descriptor, before[i]);
  }
});

Deno.test("patch() keeps name, length and own properties of what it replaces", () => {
  const originals = values() as ((...args: never[]) => unknown)[];
  using _ = patch();
  for (const [i, value] of values().entries()) {
    const replacement = value as typeof originals[number];
    const original = originals[i]!;
    assertEquals(replacement.name, original.name);
    assertEquals(replacement.length, original.length);
    for (const key of Reflect.ownKeys(original)) {
      if (key === "prototype") continue;
      assertEquals(
        Object.getOwnPropertyDescriptor(replacement, key),
        Object.getOwnPropertyDescriptor(original, key),
        `${PATCHED[i]![2]}: ${String(key)}`,
      );
    }
  }
  for (const [i, [object, , name]] of PATCHED.entries()) {
    assert(Object.keys(object).includes(name));
    assertStrictEquals(getOriginal(object, name as never), originals[i]);
  }
});

Deno.test("patch() patches once, however often it is called", () => {
  const originals = values();
  const first = patch();
  const replacements = values();
  const second = patch();
  assertEquals(values(), replacements);
  first[Symbol.dispose]();
  assertEquals(values(), replacements);
  assert(isPatched("net"));
  second[Symbol.dispose]();
  assertEquals(values(), originals);
  assertFalse(isPatched("net"));
});

Deno.test("patch() counts each disposal once", () => {
  const originals = values();
  using first = patch();
  {
    using second = patch();
    second[Symbol.dispose]();
    second[Symbol.dispose]();
    assert(isPatched("timers"));
  }
  assert(isPatched("timers"));
  first[Symbol.dispose]();
  assertEquals(values(), originals);
  using _ = patch();
  first[Symbol.dispose]();
  assert(isPatched("timers"));
});

Deno.test("patch() leaves out the parts that are false", () => {
  const [setTimeout, , , , connect] = values();
  using timers = patch({ net: false });
  assert(isPatched("timers"));
  assertFalse(isPatched("net"));
  assert(values()[0] !== setTimeout);
  assertStrictEquals(values()[4], connect);
  {
    using _ = patch({ timers: false, net: true });
    assert(isPatched("net"));
    assert(values()[4] !== connect);
    timers[Symbol.dispose]();
    assertFalse(isPatched("timers"));
    assert(isPatched("net"));
    assertStrictEquals(values()[0], setTimeout);
  }
  assertFalse(isPatched("net"));
  {
    using _ = patch({ timers: false, net: false });
    assertFalse(isPatched("net"));
    assertFalse(isPatched("timers"));
  }
});

Deno.test("patch() refuses an unknown part and patches nothing then", () => {
  const originals = values();
  for (const name of ["timer", "toString", "__proto__", ""]) {
    const error = assertThrows(
      () => patch({ ["net"]: true, [name]: true }),
      TypeError,
      "must be one of timers, net",
    );
    assert(error.message.includes(JSON.stringify(name)));
    assertEquals(values(), originals);
    assertThrows(() => isPatched(name as "net"), TypeError, "must be one of");
  }
});

Deno.test("patch() restores what it has replaced when it fails halfway", () => {
  const originals = values();
  const { listen } = Deno;
  // Something that can't be replaced, as it were.
  const { defineProperty } = Reflect;
  const { defineProperty: objectDefine } = Object;
  function refuse<R>(define: (...args: never[]) => R, result: () => R) {
    return ((...args: unknown[]) =>
      args[0] === Deno && args[1] === "listen" &&
        (args[2] as PropertyDescriptor).value !== listen
        ? result()
        : Reflect.apply(define, undefined, args)) as never;
  }
  try {
    Reflect.defineProperty = refuse(defineProperty, () => false);
    Object.defineProperty = refuse(objectDefine, () => {
      throw new TypeError("Cannot redefine property");
    });
    assertThrows(() => patch(), TypeError);
  } finally {
    Reflect.defineProperty = defineProperty;
    Object.defineProperty = objectDefine;
  }
  assertEquals(values(), originals);
  assertFalse(isPatched("timers"));
  assertFalse(isPatched("net"));
});

Deno.test("patch() needs no permission", async () => {
  const library = new URL("../mod.ts", import.meta.url).href;
  const script = `
    import { patch, spawn, withTimeout } from ${JSON.stringify(library)};
    const options = { hostname: "127.0.0.1", port: 1 };
    const message = (error) => error.name + ": " + error.message;
    const before = await Deno.connect(options).catch(message);
    {
      using _ = patch();
      patch()[Symbol.dispose]();
      const pause = () => new Promise((r) => setTimeout(r, 100_000));
      await withTimeout(1, pause, { value: "late" }).then(console.log);
      console.log(await Deno.connect(options).catch(message) === before);
      const connect = () => Deno.connect(options).catch(message);
      console.log(await spawn(connect).get() === before);
    }
    console.log(before.split(":")[0]);
    const names = ["net", "env", "read", "write", "run", "sys", "ffi"];
    for (const name of names) {
      const { state } = await Deno.permissions.query({ name });
      if (state === "granted") console.log("granted", name);
    }
  `;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-config", "-q", "--ext=js", "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  const writer = process.stdin.getWriter();
  await writer.write(new TextEncoder().encode(script));
  await writer.close();
  const { stdout, stderr, code } = await process.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals(text(stderr), "");
  assertEquals(text(stdout), "late\ntrue\ntrue\nNotCapable\n");
  assertEquals(code, 0);
});

Deno.test("patchItem() replaces a property and puts it back", () => {
  const object = { hello: () => "hello" };
  const before = Object.getOwnPropertyDescriptor(object, "hello");
  {
    using _ = patchItem(object, "hello", () => "bonjour");
    assertEquals(object.hello(), "bonjour");
  }
  assertEquals(Object.getOwnPropertyDescriptor(object, "hello"), before);
});

Deno.test("patchItem() restores in any order", () => {
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [
    2,
    1,
    0,
  ]];
  for (const order of orders) {
    const object = { value: "original" };
    const left = new Map<number, Disposable>();
    for (const i of [0, 1, 2]) {
      left.set(i, patchItem(object, "value", `replacement ${i}`));
      assertEquals(object.value, `replacement ${i}`);
    }
    for (const i of order) {
      left.get(i)![Symbol.dispose]();
      left.get(i)![Symbol.dispose]();
      left.delete(i);
      const last = [...left.keys()].at(-1);
      assertEquals(
        object.value,
        last === undefined ? "original" : `replacement ${last}`,
        `order ${order}`,
      );
      assertEquals(getOriginal(object, "value"), "original");
    }
  }
});

Deno.test("patchItem() knows a new original after all was restored", () => {
  const object = { value: 1 };
  const first = patchItem(object, "value", 2);
  first[Symbol.dispose]();
  object.value = 3;
  using _ = patchItem(object, "value", 4);
  first[Symbol.dispose]();
  assertEquals(object.value, 4);
  assertEquals(getOriginal(object, "value"), 3);
});

Deno.test("patchItem() replaces an accessor by a value and brings the accessor back", () => {
  let calls = 0;
  let kept = "kept";
  const object = {
    get value(): string {
      calls++;
      return kept;
    },
    set value(value: string) {
      kept = value;
    },
  };
  const before = Object.getOwnPropertyDescriptor(object, "value")!;
  {
    using _ = patchItem(object, "value", "replacement");
    assertEquals(object.value, "replacement");
    assertEquals(calls, 0);
    assertEquals(getOriginal(object, "value"), "kept");
    assertEquals(calls, 1);
  }
  const after = Object.getOwnPropertyDescriptor(object, "value")!;
  assertStrictEquals(after.get, before.get);
  assertStrictEquals(after.set, before.set);
  object.value = "changed";
  assertEquals(kept, "changed");
});

Deno.test("patchItem() leaves an inherited property to be inherited again", () => {
  class Parent {
    method() {
      return "inherited";
    }
  }
  class Child extends Parent {}
  const child = new Child();
  {
    using _ = patchItem(Child.prototype, "method", () => "replaced");
    assertEquals(child.method(), "replaced");
    assertEquals(new Parent().method(), "inherited");
    assertEquals(
      getOriginal(Child.prototype, "method").call(child),
      "inherited",
    );
  }
  assertEquals(child.method(), "inherited");
  assertFalse(Object.hasOwn(Child.prototype, "method"));
});

Deno.test("patchItem() adds a property that was not there, and removes it", () => {
  const object: { added?: number } = {};
  const symbol = Symbol("added");
  {
    using _1 = patchItem(object, "added", 1);
    using _2 = patchItem(object, symbol, 2);
    assertEquals(object.added, 1);
    assertEquals((object as Record<symbol, unknown>)[symbol], 2);
    assertEquals(getOriginal(object, "added"), undefined);
  }
  assertEquals(Reflect.ownKeys(object), []);
});

Deno.test("patchItem() patches functions and their statics", () => {
  class Clock {
    static now() {
      return 1;
    }
  }
  {
    using _ = patchItem(Clock, "now", () => 2);
    assertEquals(Clock.now(), 2);
    assertFalse(Object.keys(Clock).includes("now"));
  }
  assertEquals(Clock.now(), 1);
});

Deno.test("patchItem() replaces a constant that is configurable and restores it", () => {
  const object = Object.defineProperty({} as { value: number }, "value", {
    value: 1,
    writable: false,
    enumerable: false,
    configurable: true,
  });
  const before = Object.getOwnPropertyDescriptor(object, "value");
  {
    using _ = patchItem(object, "value", 2);
    assertEquals(object.value, 2);
  }
  assertEquals(Object.getOwnPropertyDescriptor(object, "value"), before);
});

Deno.test("patchItem() replaces a property of a sealed object, as it can be changed", () => {
  const object = Object.seal({ value: 1 });
  {
    using _ = patchItem(object, "value", 2);
    assertEquals(object.value, 2);
    assertEquals(getOriginal(object, "value"), 1);
  }
  assertEquals(object.value, 1);
  assert(Object.isSealed(object));
});

Deno.test("patchItem() refuses what is read-only, and says so", () => {
  const constant = Object.defineProperty({}, "value", { value: 1 });
  const objects: [object, string][] = [
    [Object.freeze({ value: 1 }), "value"],
    [Object.preventExtensions({}), "value"],
    [constant, "value"],
    [namespace, "spawn"],
    [Object.defineProperty({}, "value", { get: () => 1 }), "value"],
    [new Proxy({}, { defineProperty: () => false }), "value"],
  ];
  for (const [object, name] of objects) {
    const value = Reflect.get(object, name);
    assertThrows(
      () => patchItem(object, name as never, 2 as never),
      TypeError,
      `Cannot patch item ${name} as the property is read-only`,
    );
    assertStrictEquals(Reflect.get(object, name), value);
    // Nothing of the attempt is remembered.
    assertStrictEquals(getOriginal(object, name as never), value as never);
  }
});

Deno.test("patchItem() refuses anything but an object", () => {
  for (const value of [null, undefined, 1, "text", true, Symbol("s")]) {
    const error = assertThrows(
      () => patchItem(value as never, "name", 1 as never),
      TypeError,
      "Cannot patch item name as 'object' must be an object or a function",
    );
    const shown = value === "text" ? '"text"' : String(value);
    assert(error.message.endsWith(`received ${shown}`));
    assertThrows(() => patchModule(value as never, {} as never), TypeError);
    assertThrows(() => patchModule({}, value as never), TypeError);
    assertThrows(() => getOriginal(value as never, "name"), TypeError);
  }
});

Deno.test("patchModule() replaces several properties and puts them back", () => {
  const { stringify, parse } = JSON;
  const symbol = Symbol("symbol");
  {
    using _ = patchModule(
      JSON,
      {
        stringify: () => "patched",
        parse: () => "patched as well",
        [symbol]: 1,
      } as Partial<typeof JSON>,
    );
    assertEquals(JSON.stringify({}), "patched");
    assertEquals(JSON.parse("{}"), "patched as well");
    assertEquals(Reflect.get(JSON, symbol), 1);
    assertStrictEquals(getOriginal(JSON, "parse"), parse);
  }
  assertStrictEquals(JSON.stringify, stringify);
  assertStrictEquals(JSON.parse, parse);
  assertFalse(Reflect.has(JSON, symbol));
});

Deno.test("patchModule() replaces all or nothing", () => {
  const target = Object.defineProperty(
    { a: 1, b: 1, c: 1 },
    "b",
    { value: 1, writable: false, configurable: false },
  );
  assertThrows(
    () => patchModule(target, { a: 2, b: 2, c: 2 }),
    TypeError,
    "patch item b",
  );
  assertEquals([target.a, target.b, target.c], [1, 1, 1]);
});

Deno.test("patchModule() takes a module's namespace for the replacements", () => {
  const target = { spawn: null, sleep: null };
  {
    using _ = patchModule(target, namespace as never);
    assertStrictEquals(target.spawn, namespace.spawn as never);
    assertStrictEquals(target.sleep, namespace.sleep as never);
    assertEquals(String(target), "[object Object]");
  }
  assertEquals(target, { spawn: null, sleep: null });
});

Deno.test("patchModule() nests in any order with patchItem()", () => {
  const target = { a: 1, b: 1 };
  const module = patchModule(target, { a: 2, b: 2 });
  const item = patchItem(target, "a", 3);
  module[Symbol.dispose]();
  assertEquals(target, { a: 3, b: 1 });
  item[Symbol.dispose]();
  assertEquals(target, { a: 1, b: 1 });
});

Deno.test("getOriginal() gives what is there when nothing was replaced", () => {
  const object = Object.create({ inherited: 1 });
  object.own = 2;
  assertEquals(getOriginal(object, "own"), 2);
  assertEquals(getOriginal(object, "inherited"), 1);
  assertEquals(getOriginal(object, "missing"), undefined);
});

Deno.test("getOriginal() asks an inherited accessor about the object itself", () => {
  class Named {
    #name = "name";
    get name() {
      return this.#name;
    }
  }
  const object = new Named();
  using _ = patchItem(object, "name", "replaced");
  assertEquals(object.name, "replaced");
  assertEquals(getOriginal(object, "name"), "name");
});

Deno.test("getOriginal() sees through a replacement in the prototype", () => {
  class Socket {
    read() {
      return "original";
    }
  }
  const socket = new Socket();
  using _ = patchItem(Socket.prototype, "read", () => "replaced");
  assertEquals(socket.read(), "replaced");
  assertEquals(getOriginal(socket, "read").call(socket), "original");
});

Deno.test("patch() stacks with patchItem() of the same property", () => {
  const { setTimeout } = globalThis;
  const before = patchItem(globalThis, "setTimeout", (() => 1) as never);
  const all = patch();
  const after = patchItem(globalThis, "setTimeout", (() => 2) as never);
  assertStrictEquals(getOriginal(globalThis, "setTimeout"), setTimeout);
  all[Symbol.dispose]();
  assertEquals(globalThis.setTimeout(() => {}), 2 as never);
  after[Symbol.dispose]();
  assertEquals(globalThis.setTimeout(() => {}), 1 as never);
  before[Symbol.dispose]();
  assertStrictEquals(globalThis.setTimeout, setTimeout);
});

Deno.test("patch() refuses anything but an object as options, before it patches anything", () => {
  for (const options of [null, true, "timers", 1]) {
    assertThrows(
      () => patch(options as never),
      TypeError,
      "must be an object: received",
    );
  }
  for (const value of [0, 1, "no", null, {}]) {
    assertThrows(
      () => patch({ net: true, timers: value as never }),
      TypeError,
      "'timers' must be a boolean: received",
    );
  }
  assertFalse(isPatched("net"));
  using _ = patch({ net: undefined as never, timers: false });
  assert(isPatched("net"));
  assertFalse(isPatched("timers"));
});
