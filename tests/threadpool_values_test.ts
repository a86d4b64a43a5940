import {
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { ThreadPool } from "../mod.ts";

Deno.test("ThreadPool refuses what gets into no other process as it is, at the call, and keeps its worker", async () => {
  await using pool = new ThreadPool(1);
  const pid = await pool.apply(() => Deno.pid);
  const shared = new SharedArrayBuffer(4);
  const exception = new DOMException("Gone", "AbortError");
  for (
    const [value, name] of [
      [new Blob(["x"]), "Blob"],
      [new File(["x"], "x"), "File"],
      [exception, "DOMException"],
      [shared, "SharedArrayBuffer"],
      [new Int32Array(shared), "SharedArrayBuffer"],
      [new Map([["a", [{ b: new Set([new Blob([])]) }]]]), "Blob"],
    ] as const
  ) {
    const error = assertThrows(
      () => pool.apply((value: unknown) => value, value),
      DOMException,
      `${name} can't be sent to another process`,
    );
    assertEquals(error.name, "DataCloneError");
  }
  for (
    const f of [
      () => new Blob(["x"]),
      () => [new SharedArrayBuffer(4)],
      () => ({ reason: new DOMException("Gone", "AbortError") }),
    ]
  ) {
    const error = await assertRejects(
      () => pool.apply<[], unknown>(f),
      DOMException,
      "can't be sent to another process",
    );
    assertEquals(error.name, "DataCloneError");
  }
  assertEquals(await pool.apply(() => Deno.pid), pid);

  const values = [
    [1, , "a", null, undefined, -0, NaN, 2n ** 70n],
    { a: { b: new Date(0) } },
    new Map([[1, new Set([/x/g])]]),
    [Object(1n), new Number(1), new String("a"), new Boolean(false)],
    [new Uint8Array([1, 2]), new ArrayBuffer(2), new Float64Array(1)],
    [new RangeError("r")],
  ];
  for (const value of values) {
    assertEquals(
      await pool.apply((value: unknown) => value, value),
      structuredClone(value),
    );
  }
  const circle: { self?: object } = {};
  circle.self = circle;
  const copy = await pool.apply((value: typeof circle) => value, circle);
  assertEquals(copy.self, copy);
});

for (const isolate of ["process", "thread"] as const) {
  Deno.test(`ThreadPool.apply() takes functions and errors of every form, ${isolate}`, async () => {
    await using pool = new ThreadPool(1, { isolate });
    const object = {
      get x() {
        return 1;
      },
      set y(value: number) {
        if (value !== 2) throw new RangeError("Not 2");
      },
      [Symbol.iterator]() {
        return 3;
      },
      async *[Symbol.asyncIterator]() {},
      "a b"() {
        return 4;
      },
    };
    const property = (name: string) =>
      Object.getOwnPropertyDescriptor(object, name)!;
    assertEquals(await pool.apply(property("x").get!), 1);
    assertEquals(await pool.apply(property("y").set!, 2), undefined);
    assertEquals(await pool.apply(object[Symbol.iterator]), 3);
    assertEquals(await pool.apply(object["a b"]), 4);
    class Private {
      static #value = 5;
      static read() {
        return this.#value;
      }
    }
    await assertRejects(
      async () => await pool.apply(Private.read),
      SyntaxError,
      "Private field '#value' must be declared",
    );

    const error = await assertRejects(
      async () =>
        await pool.apply(() => {
          throw new SuppressedError(
            new RangeError("later"),
            new TypeError("first", { cause: 1 }),
            "both",
          );
        }),
      SuppressedError,
      "both",
    );
    assertInstanceOf(error.error, RangeError);
    assertInstanceOf(error.suppressed, TypeError);
    assertEquals(error.suppressed.cause, 1);
    assertEquals(Object.keys(error), []);
  });
}

for (const isolate of ["process", "thread"] as const) {
  Deno.test(`ThreadPool takes no message of the program's for an answer, ${isolate}`, async () => {
    await using pool = new ThreadPool(1, { isolate });
    const odd = async () => {
      const { default: process } = await import("node:process");
      const post: typeof process.send = Reflect.get(globalThis, "postMessage");
      const send = post ?? process.send!.bind(process);
      const messages = [["value", "odd"], ["value", 0, "odd"], ["error", 0]];
      for (const message of [...messages, ["ready"], "value", null]) {
        send(message);
      }
      await new Promise((resolve) => setTimeout(resolve, 0));
      return "real";
    };
    const answers = [pool.apply(odd), pool.apply(() => "next")];
    assertEquals(await Promise.all(answers), ["real", "next"]);
  });
}

Deno.test("ThreadPool.import() calls nothing when its object is printed or written as JSON", async () => {
  await using pool = new ThreadPool(1);
  const work = pool.import<Record<string, never>>("data:text/javascript,");
  assertThrows(() => String(work), TypeError);
  assertThrows(() => Number(work), TypeError);
  assertEquals(JSON.stringify(work), "{}");
  assertEquals(await work, work);
  assertEquals([pool.busy, pool.waiting], [0, 0]);
});
