/**
 * Arguments of `threadpool.ts` that can't be used, and what the errors say.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ThreadPool, transfer } from "../mod.ts";

Deno.test("ThreadPool.import() refuses a blob: URL, which no other process can load", async () => {
  const url = URL.createObjectURL(
    new Blob(["export const f = () => 5;"], { type: "text/javascript" }),
  );
  try {
    await using processes = new ThreadPool(1);
    for (const given of [url, new URL(url)]) {
      assertThrows(
        () => processes.import(given),
        TypeError,
        "Cannot import as 'url' must be one that another process can load",
      );
    }
    await using threads = new ThreadPool(1, { isolate: "thread" });
    assertEquals(await threads.import<{ f(): number }>(url).f(), 5);
  } finally {
    URL.revokeObjectURL(url);
  }
});

Deno.test("transfer() refuses what can't be moved, and names the place in the list", () => {
  const bytes = new Uint8Array(2);
  for (
    const [wrong, received] of [
      [null, "null"],
      [5, "5"],
      [undefined, "undefined"],
      ["buffer", '"buffer"'],
      [bytes, "an array of bytes or numbers, whose 'buffer' can be moved"],
      [new DataView(bytes.buffer), "an array of bytes or numbers"],
    ] as const
  ) {
    assertThrows(
      () => transfer(bytes, [bytes.buffer, wrong as never]),
      TypeError,
      `Cannot transfer as 'list[1]' must be an object that can be moved, such as an ArrayBuffer: received ${received}`,
    );
  }
  assertThrows(
    () => transfer(bytes, [, bytes.buffer] as never),
    TypeError,
    "Cannot transfer as 'list[0]' must be",
  );
  assertEquals(bytes.length, 2);
});

Deno.test("ThreadPool.apply() refuses a class at the call", async () => {
  await using pool = new ThreadPool(1);
  class Work {
    value = 5;
  }
  for (const [wrong, name] of [[Work, "Work"], [class {}, "without a name"]]) {
    assertThrows(
      () => pool.apply(wrong as never),
      TypeError,
      `Cannot call in a worker as 'f' must be a function: received class ${name}, which can only be called with new`,
    );
  }
  assertThrows(
    () => pool.apply((() => {}).bind(null)),
    TypeError,
    "received bound, which is native or bound",
  );
});

Deno.test("ThreadPool.import() does not put a whole module into an error", async () => {
  await using pool = new ThreadPool(1, { isolate: "thread" });
  const code = `export const f = () => 5; /* ${"long ".repeat(1000)}*/`;
  const work = pool.import<{ f(): number; g(): void }>(
    `data:text/javascript,${encodeURIComponent(code)}`,
  );
  const { message } = await assertRejects(() => work.g(), TypeError);
  assert(message.length < 300, message);
  assert(message.startsWith("Cannot call 'g' as data:text/javascript,export"));
  assert(message.endsWith("… exports no function of that name"), message);
  assertEquals(await work.f(), 5);
});

for (const isolate of ["process", "thread"] as const) {
  Deno.test(`ThreadPool answers although a function has replaced the way to send, ${isolate}`, async () => {
    await using pool = new ThreadPool(1, { isolate });
    const replace = () => {
      const global = globalThis as unknown as {
        postMessage: unknown;
        process: { send: unknown };
      };
      global.postMessage = () => {};
      global.process.send = null;
      return 1;
    };
    assertEquals(await pool.apply(replace), 1);
    assertEquals(await pool.apply(() => 2), 2);
    await assertRejects(
      () =>
        pool.apply(() => {
          throw new RangeError("no");
        }),
      RangeError,
      "no",
    );
  });
}
