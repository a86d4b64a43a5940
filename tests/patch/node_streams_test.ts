import { assert, assertEquals, assertRejects } from "@std/assert";
import stream, { PassThrough, Readable, Writable } from "node:stream";
import consumers from "node:stream/consumers";
import promises from "node:stream/promises";
import { createRequire } from "node:module";
import { patch, sleep, spawn } from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { test } from "../_random.ts";
import { interruptInEveryWay } from "./_interrupted.ts";

const required = createRequire(import.meta.url)("stream") as typeof stream;

/** Streams that were made, and have to be destroyed when the loop has ended. */
let made: Readable[] = [];

/** Makes a stream with one chunk, and no end. */
function stalled(): Readable {
  const readable = new Readable({ read() {}, objectMode: true });
  readable.push("a chunk");
  made.push(readable);
  return readable;
}

function destroyed(): void {
  made.forEach((one) => assert(one.destroyed));
  made = [];
}

test("for await over a stream of node:stream ends with its greenlet, and destroys the stream", async () => {
  using _ = patch();
  await interruptInEveryWay(() => {
    const readable = stalled();
    return async () => {
      for await (const chunk of readable) assertEquals(chunk, "a chunk");
    };
  }, () => {
    // Those of a greenlet that has not begun
    made = made.filter((one) => one.destroyed || one.listenerCount("readable"));
    destroyed();
  });
});

test("the functions that read a whole stream end with their greenlet", async () => {
  using _ = patch();
  const calls: ((readable: Readable) => Promise<unknown>)[] = [
    (readable) => consumers.text(readable),
    (readable) => readable.toArray(),
    (readable) => readable.forEach(() => {}),
  ];
  for (const call of calls) {
    const readable = stalled();
    const greenlet = spawn(() => call(readable));
    await settle();
    await greenlet.kill(undefined, { grace: Infinity });
    await settle();
    assert(readable.destroyed, String(call));
  }
  made = [];
});

test("Readable.iterator() with destroyOnReturn: false loses no chunk when it is interrupted", async () => {
  using _ = patch();
  const readable = new Readable({ read() {} });
  readable.setEncoding("utf8");
  const got: unknown[] = [];
  const loop = async () => {
    for await (
      const chunk of readable.iterator({ destroyOnReturn: false })
    ) got.push(chunk);
  };
  const killed = spawn(loop);
  await settle();
  readable.push("first");
  await settle();
  await killed.kill();
  readable.push("second");
  await settle();
  const other = spawn(loop);
  await settle();
  readable.push("third");
  readable.push(null);
  await other.join();
  assertEquals(got.join(), "first,second,third");
});

test("for await over a stream keeps a chunk that comes before the interrupt", async () => {
  using _ = patch();
  const readable = new Readable({ read() {} });
  const got: unknown[] = [];
  const greenlet = spawn(async () => {
    for await (const chunk of readable) {
      got.push(String(chunk));
      if (got.length === 1) greenlet.throw(new Error("Between two chunks"));
    }
  });
  greenlet.linkException(() => {});
  await settle();
  readable.push("first");
  await greenlet.join();
  assertEquals(got, ["first"]);
  assert(readable.destroyed);
});

/** Every way to the way(). */
const ways = {
  "stream/promises": () => promises,
  "stream.promises": () => stream.promises,
  "require('stream').promises": () => required.promises,
};

for (const [name, way] of Object.entries(ways)) {
  // Taken before patch(), for comparison.
  const { pipeline, finished } = way();
  const originals = { pipeline, finished };

  test(`pipeline() of ${name} ends with its greenlet, and destroys its streams`, async () => {
    using _ = patch();
    await interruptInEveryWay(() => {
      const readable = stalled();
      const through = new PassThrough({ objectMode: true });
      made.push(through);
      return () =>
        way().pipeline(
          readable,
          through,
          new Writable({
            objectMode: true,
            write: (_chunk, _, done) => done(),
          }),
        );
    }, async () => {
      await settle();
      made = made.filter((one) => one.destroyed);
      assert(
        made.length === 0 || made.length === 2,
        Deno.inspect(made.map((one) => one.constructor.name)),
      );
      made = [];
    });
    await spawn(async () => {
      const abort = new AbortController();
      const aborted = way().pipeline(stalled(), new PassThrough(), {
        signal: abort.signal,
      });
      abort.abort();
      assertEquals(
        (await assertRejects(() => aborted) as Error).name,
        "AbortError",
      );
      const chunks: unknown[] = [];
      await way().pipeline(
        ["1", "2"],
        async function* (source) {
          for await (const chunk of source) yield `${chunk}!`;
        },
        async (source: AsyncIterable<string>) => {
          for await (const chunk of source) chunks.push(chunk);
        },
      );
      assertEquals(chunks, ["1!", "2!"]);
    }).get();
    made = [];
  });

  test(`finished() of ${name} ends with its greenlet, and leaves no listener`, async () => {
    using _ = patch();
    const readable = stalled();
    const before = readable.eventNames().length;
    await interruptInEveryWay(
      () => () => way().finished(readable),
      () => assertEquals(readable.eventNames().length, before),
    );
    assert(!readable.destroyed);
    const greenlet = spawn(async () => {
      await way().finished(readable);
      await sleep(0);
      return "over";
    });
    await settle();
    readable.resume();
    readable.push(null);
    assertEquals(await greenlet.get(), "over");
    made = [];
  });

  Deno.test(`the functions of ${name} are restored`, () => {
    {
      using _ = patch();
      new PassThrough();
      assert(way().pipeline !== originals.pipeline);
      assertEquals(way().pipeline.length, originals.pipeline.length);
      assertEquals(way().finished.name, "finished");
    }
    assert(way().pipeline === originals.pipeline);
    assert(way().finished === originals.finished);
  });
}
