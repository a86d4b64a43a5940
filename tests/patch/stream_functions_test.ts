/**
 * The functions of a stream, which wait: whichever greenlet is interrupted, the stream
 * stays whole.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  getCurrent,
  getHub,
  Greenlet,
  greenlet as core,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { test, testRandomly, tick } from "../_random.ts";
import { dawdle, pieces, Received, sources } from "./_streams.ts";
import { Gate, Interrupts, when } from "../_waits.ts";

/** Longer than any test. */
const LONG = 100_000_000;

/** Reads a stream to its end, under a time limit for each read, or for each few. */
async function readInTime(
  stream: ReadableStream<Uint8Array>,
  received: Received,
  next: () => number,
): Promise<void> {
  const reader = stream.getReader();
  while (!received.ended) {
    using timeout = Timeout.start(next());
    try {
      while (!received.ended) received.take(await reader.read());
    } catch (error) {
      if (error !== timeout) throw error;
      received.note();
    }
  }
}

for (const [name, source] of Object.entries(sources)) {
  testRandomly(
    `Reads of ${name} lose nothing when they are interrupted in the greenlet that has made the stream`,
    async (next) => {
      using _ = patch();
      const length = 700;
      const everyone = Array.from({ length: 24 }, () =>
        spawn(async () => {
          const received = new Received();
          const stream = source(length, next, received);
          // Some are asked before they are read.
          if (next() < 0.5) await sleep(next());
          await readInTime(stream, received, next);
          assertEquals(received.length, length);
          return received.count;
        }));
      let interrupts = 0;
      for (const greenlet of everyone) interrupts += await greenlet.get();
      assertGreaterOrEqual(interrupts, 300);
    },
  );

  testRandomly(
    `Reads of ${name} go on when the greenlet that has made the stream is killed`,
    async (next) => {
      using _ = patch();
      const length = 500;
      await Promise.all(Array.from({ length: 20 }, async () => {
        const made = Promise.withResolvers<ReadableStream<Uint8Array>>();
        const maker = spawn(async () => {
          made.resolve(source(length, next));
          await sleep(LONG);
        });
        const reader = (await made.promise).getReader();
        if (next() < 0.5) await tick(next() * 3);
        await maker.kill();
        const received = new Received();
        while (!received.ended) received.take(await reader.read());
        assertEquals(received.length, length);
      }));
    },
  );
}

testRandomly(
  "Writes to a stream are whole when they are interrupted in the greenlet that has made it",
  async (next) => {
    using _ = patch();
    const makers = Array.from({ length: 8 }, () =>
      spawn(async () => {
        const received = new Received();
        const sink = new WritableStream<Uint8Array>({
          start: () => dawdle(next),
          async write(value) {
            await dawdle(next, received);
            received.take({ value, done: false });
          },
          async close() {
            await dawdle(next);
            received.ended = true;
          },
        }, { highWaterMark: 1 + Math.floor(next() * 2) });
        const transform = new TransformStream<Uint8Array, Uint8Array>({
          start: () => dawdle(next),
          async transform(chunk, controller) {
            await dawdle(next);
            controller.enqueue(chunk);
          },
          flush: () => dawdle(next),
        });
        const piping = spawn(() => transform.readable.pipeTo(sink));
        const writer = transform.writable.getWriter();
        const inTime = async (run: () => Promise<void>) => {
          using timeout = Timeout.start(next());
          try {
            await run();
          } catch (error) {
            if (error !== timeout) throw error;
            received.note();
          }
        };
        for (const piece of pieces(1000, next)) {
          let isBegun = false;
          while (!isBegun) {
            await inTime(async () => {
              const before = writer.desiredSize!;
              const writing = writer.write(piece);
              // Not if an error was due.
              isBegun = writer.desiredSize! < before;
              await writing;
            });
          }
        }
        await inTime(() => writer.close());
        // Chunks that are still on their way are not interrupted any more.
        await received.patiently(() => piping.get());
        return received;
      }));
    for (const maker of makers) {
      const received = await maker.get();
      assert(received.ended);
      assertEquals(received.length, 1000);
      assertGreaterOrEqual(received.count, 10);
    }
  },
);

test("The functions of a stream run outside greenlets, and keep their own context", async () => {
  using _ = patch();
  const storage = new AsyncLocalStorage<string>();
  const seen: unknown[] = [];
  const see = async () => {
    seen.push(getCurrent(), storage.getStore());
    await sleep(0);
    seen.push(getCurrent(), storage.getStore());
  };
  await storage.run("mine", () =>
    spawn(async () => {
      const source = new ReadableStream<number>({
        start: see,
        async pull(controller) {
          await see();
          controller.enqueue(1);
          controller.close();
        },
      });
      const transform = new TransformStream<number, number>({
        async transform(chunk, controller) {
          await see();
          controller.enqueue(chunk);
        },
        flush: see,
      });
      const sink = new WritableStream({ write: see, close: see });
      await source.pipeThrough(transform).pipeTo(sink);
      await new ReadableStream({ cancel: see }).cancel();
      await new WritableStream({ abort: see }).abort();
      assert(getCurrent() !== getHub());
    }).get());
  assertEquals(seen.length, 8 * 4);
  for (let i = 0; i < seen.length; i += 2) {
    assertStrictEquals(seen[i], getHub());
    assertEquals(seen[i + 1], "mine");
  }
});

/** A chain of streams whose functions all wait, and log which of them have ended. */
class Chain {
  readonly log: unknown[];
  /** Opened when it waits. */
  readonly waits = new Gate();

  constructor(log: unknown[]) {
    this.log = log;
  }

  async wait(name: string): Promise<void> {
    this.waits.open();
    try {
      await new Promise((resolve) => setTimeout(resolve, LONG));
    } finally {
      this.log.push(name);
    }
  }

  /** A chain that is stuck in its first link, or in its last. */
  make(stuckAt: "source" | "start" | "transform"): ReadableStream<number> {
    const { log } = this;
    const waits = (name: string) =>
      stuckAt === name ? this.wait(name) : Promise.resolve();
    async function* generate() {
      try {
        await waits("source");
        for (let n = 0;; n++) yield n;
      } finally {
        log.push("generator");
      }
    }
    return (ReadableStream.from(generate()) as ReadableStream<number>)
      .pipeThrough(
        new TransformStream<number, number>({
          start: () => waits("start"),
          async transform(chunk, controller) {
            await waits("transform");
            controller.enqueue(chunk);
          },
        }),
      );
  }
}

for (const stuckAt of ["source", "start", "transform"] as const) {
  for (
    const [name, use] of Object.entries({
      "for await": async (stream: ReadableStream) => {
        for await (const _chunk of stream);
      },
      "pipeTo()": (stream: ReadableStream) =>
        stream.pipeTo(new WritableStream()),
      "cancel() with what has interrupted a read": async (
        stream: ReadableStream,
      ) => {
        const reader = stream.getReader();
        try {
          await reader.read();
        } catch (error) {
          await reader.cancel(error);
          throw error;
        }
      },
    })
  ) {
    test(`Functions of streams that wait (${stuckAt}) end with the stream at once by ${name}, when that is killed`, async () => {
      using _ = patch();
      for (const madeBy of ["itself", "another"]) {
        const log: unknown[] = [];
        const chain = new Chain(log);
        const another = spawn(() => chain.make(stuckAt));
        const stream = await another.get();
        const own = new Chain(log);
        const greenlet = spawn(() =>
          use(madeBy === "itself" ? own.make(stuckAt) : stream)
        );
        await (madeBy === "itself" ? own : chain).waits.opened;
        await settle();
        assertEquals(log, []);
        await greenlet.kill();
        assertInstanceOf(greenlet.value, GreenletExit);
        await settle();
        assert(log.includes(stuckAt), log.join());
        assert(log.includes("generator"), log.join());
        if (madeBy === "itself") await stream.cancel(greenlet.value);
        await settle();
      }
    });
  }
}

/** A source that waits for its second chunk, which is asked for beforehand. */
class Ahead {
  readonly log: unknown[] = [];
  /** Opened when it waits. */
  readonly waits = new Gate();
  #count = 0;

  async pull(controller: ReadableStreamDefaultController): Promise<void> {
    if (++this.#count > 1) {
      this.waits.open();
      await new Chain(this.log).wait("pull");
    }
    controller.enqueue(this.#count);
  }

  cancel(reason: unknown): void {
    this.log.push(reason);
  }
}

for (
  const [name, use] of Object.entries({
    "a loop": async (stream: ReadableStream) => {
      for await (const _chunk of stream) await sleep(LONG);
    },
    "a loop in a loop": async (stream: ReadableStream) => {
      for await (const _chunk of stream) {
        for await (const _chunk of ReadableStream.from([1])) await sleep(LONG);
      }
    },
    "a loop in withTimeout()": (stream: ReadableStream) =>
      withTimeout(LONG, async () => {
        for await (const _chunk of stream) await sleep(LONG);
      }),
    "a loop of a generator": async (stream: ReadableStream) => {
      async function* generate() {
        for await (const chunk of stream) yield chunk;
      }
      for await (const _chunk of generate()) await sleep(LONG);
    },
    "a loop of a stream that loops": async (stream: ReadableStream) => {
      async function* generate() {
        for await (const chunk of stream) yield [chunk, await sleep(LONG)];
      }
      for await (const _chunk of ReadableStream.from(generate()));
    },
    "cancel() in finally": async (stream: ReadableStream) => {
      const reader = stream.getReader();
      try {
        await reader.read();
        await sleep(LONG);
      } finally {
        await sleep(0);
        await reader.cancel();
      }
    },
  })
) {
  test(`Functions of streams that wait end at once with the greenlet that waits for something else (${name})`, async () => {
    using _ = patch();
    const source = new Ahead();
    const greenlet = spawn(() => use(new ReadableStream(source)));
    await source.waits.opened;
    await settle();
    assertEquals(source.log, []);
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
    await settle();
    assertEquals(source.log, [greenlet.value, "pull"]);
  });
}

test("Functions of a stream that wait end with a loop that a Timeout ends, and not with a loop that is left later", async () => {
  using _ = patch();
  await spawn(async () => {
    const source = new Ahead();
    using timeout = new Timeout(1);
    const error = await assertRejects(async () => {
      for await (const _chunk of new ReadableStream(source)) {
        await source.waits.opened;
        timeout.start();
        await sleep(LONG);
      }
    });
    assertStrictEquals(error, timeout);
    await settle();
    assertEquals(source.log, [timeout, "pull"]);
    const reasons: unknown[] = [];
    const another: UnderlyingDefaultSource = {
      pull: (controller) => controller.enqueue(1),
      cancel: (reason) => void reasons.push(reason),
    };
    for await (const _chunk of new ReadableStream(another)) break;
    {
      // It ends in a foreign wait, and so is never thrown.
      using timeout = Timeout.start(1);
      await when(() => !timeout.pending);
    }
    await new ReadableStream(another).cancel();
    assertEquals(reasons, [undefined, undefined]);
  }).get();
});

test("ReadableStream.pipeTo() that is killed ends a write that waits at once, unless it is to leave the sink", async () => {
  using _ = patch();
  for (const preventAbort of [false, true]) {
    const log: unknown[] = [];
    const begun = new Gate();
    const mayEnd = new Gate();
    const greenlet = spawn(async () => {
      const sink = new WritableStream({
        async write() {
          begun.open();
          try {
            await until(mayEnd.opened);
            log.push("written");
          } catch (error) {
            log.push(error);
          }
        },
      });
      await ReadableStream.from([1]).pipeTo(sink, { preventAbort });
    });
    await begun.opened;
    await greenlet.kill();
    await settle();
    assertEquals(log, preventAbort ? [] : [greenlet.value]);
    mayEnd.open();
    await settle();
    assertEquals(log, preventAbort ? ["written"] : [greenlet.value]);
  }
});

test("A greenlet to which a stream's function switches is a greenlet of its own", async () => {
  using _ = patch();
  const log: string[] = [];
  await spawn(async () => {
    const stream = new ReadableStream({
      async pull(controller) {
        const raw: core.Greenlet = new core.Greenlet(function* () {
          log.push(`raw ${getCurrent() === raw}`);
          yield* sleep(1);
          log.push(`raw ${getCurrent() === raw}`);
        });
        raw.switch();
        const another: Greenlet = new Greenlet(async () => {
          log.push(`async ${getCurrent() === another}`);
          await sleep(LONG);
        });
        another.switch();
        assertStrictEquals(getCurrent(), getHub());
        await another.kill();
        assertInstanceOf(another.value, GreenletExit);
        const value = await withTimeout(2, function* () {
          yield* sleep(LONG);
        }, { value: "late" });
        controller.enqueue(value);
        controller.close();
      },
    });
    for await (const value of stream) log.push(value);
  }).get();
  assertEquals(log, ["raw true", "async true", "raw true", "late"]);
});

test("Functions of a stream that wait end with it at once when the reader of its branches is killed", async () => {
  using _ = patch();
  for (const type of [undefined, "bytes"] as const) {
    const log: string[] = [];
    const pulled = new Gate();
    const branches = await spawn(() => {
      const stream = new ReadableStream({
        type: type as "bytes",
        async pull() {
          pulled.open();
          try {
            await new Promise((resolve) => setTimeout(resolve, LONG));
          } finally {
            log.push("source");
          }
        },
      });
      const [one, rest] = stream.tee();
      return [one, ...rest.tee()];
    }).get();
    const readers = branches.map((branch) =>
      spawn(async () => {
        for await (const _chunk of branch);
      })
    );
    await pulled.opened;
    for (const reader of readers) {
      await settle();
      assertEquals(log, []);
      await reader.kill();
    }
    await settle();
    assertEquals(log, ["source"]);
  }
});

for (const by of ["writer", "stream"] as const) {
  test(`WritableStream.abort() in an interrupted greenlet ends the stream's own waits at once (by the ${by})`, async () => {
    using _ = patch();
    let count = 0;
    const stuck = ["start", "write", "close"];
    for (const stuckAt of [...stuck, ...stuck]) {
      const hasReason = ++count <= stuck.length;
      const log: string[] = [];
      const isStuck = new Gate();
      const wait = async (name: string) => {
        if (name !== stuckAt) return;
        isStuck.open();
        try {
          await new Promise((resolve) => setTimeout(resolve, LONG));
        } finally {
          log.push(name);
        }
      };
      const greenlet = spawn(async () => {
        const stream = new WritableStream({
          start: () => wait("start"),
          write: () => wait("write"),
          close: () => wait("close"),
        });
        const writer = stream.getWriter();
        try {
          await writer.write(1);
          await writer.close();
        } catch (error) {
          if (by === "stream") writer.releaseLock();
          await (by === "stream" ? stream : writer)
            .abort(...hasReason ? [error] : []);
          throw error;
        }
      });
      await isStuck.opened;
      await settle();
      assertEquals(log, []);
      await greenlet.kill();
      assertInstanceOf(greenlet.value, GreenletExit);
      assertEquals(log, [stuckAt]);
    }
  });
}

test("WritableStream.abort() that fails, or is called for another reason, leaves the stream's own waits alone", async () => {
  using _ = patch();
  const log: unknown[] = [];
  const exit = new GreenletExit();
  const begun = new Gate();
  const mayEnd = new Gate();
  const stream = await spawn(() =>
    new WritableStream({
      async write() {
        begun.open();
        await until(mayEnd.opened);
        log.push("written");
      },
    })
  ).get();
  const writer = stream.getWriter();
  const greenlet = spawn(async () => {
    await writer.write(1);
  });
  await begun.opened;
  await greenlet.kill(exit);
  await assertRejects(() => stream.abort(exit), TypeError, "locked");
  const aborting = writer.abort(new Error("mine"));
  await settle();
  assertEquals(log, []);
  mayEnd.open();
  await aborting;
  assertEquals(log, ["written"]);
});

test("ReadableStream.cancel() for another reason leaves the waits of the stream's functions alone", async () => {
  using _ = patch();
  const log: string[] = [];
  const begun = new Gate();
  const mayEnd = new Gate();
  await spawn(async () => {
    const stream = new ReadableStream({
      async pull() {
        begun.open();
        await until(mayEnd.opened);
        log.push("pulled");
      },
    });
    await begun.opened;
    await stream.cancel(new Error("mine"));
  }).get();
  await settle();
  assertEquals(log, []);
  mayEnd.open();
  await settle();
  assertEquals(log, ["pulled"]);
});

test("ReadableStream.pipeThrough() and tee() of streams made before patch() are whole", async () => {
  const interrupts = new Interrupts();
  const make = () => {
    let n = 0;
    return new ReadableStream<number>({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        await interrupts.more(1);
        if (++n === 3) controller.close();
        else controller.enqueue(n);
      },
    }, { highWaterMark: 0 });
  };
  const transform = new TransformStream<number, number>({
    async transform(chunk, controller) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      await interrupts.more(1);
      controller.enqueue(chunk);
    },
  });
  const streams = [make(), make()] as const;
  using _ = patch();
  for (
    const read of [
      () => streams[0].pipeThrough(transform),
      () => streams[1].tee()[0],
    ]
  ) {
    const got: unknown[] = [];
    const before = interrupts.count;
    await spawn(async () => {
      const reader = read().getReader();
      for (let isOver = false; !isOver;) {
        using timeout = Timeout.start(1);
        try {
          const { value, done } = await reader.read();
          isOver = done;
          got.push(value);
        } catch (error) {
          if (error !== timeout) throw error;
          interrupts.note();
        }
      }
    }).get();
    assertEquals(got, [1, 2, undefined]);
    assertGreaterOrEqual(interrupts.count - before, 2);
  }
});

test("fetch() sends the body to its end, although its greenlet is timed out and killed when it has the answer", async () => {
  const received: string[] = [];
  await using server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    (request) => {
      const text = request.body!.pipeThrough(new TextDecoderStream());
      const answer = new ReadableStream({
        async start(controller) {
          controller.enqueue(new TextEncoder().encode("answer"));
          for await (const chunk of text) received.push(chunk);
          controller.close();
        },
      });
      return new Response(answer);
    },
  );
  using _ = patch();
  let response!: Response;
  const timedOut = new Gate();
  const mayEnd = new Gate();
  const greenlet = spawn(async () => {
    let n = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        if (n > 1) await until(mayEnd.opened);
        controller.enqueue(new TextEncoder().encode(`${n}`));
        if (++n === 5) controller.close();
      },
    });
    const { port } = server.addr;
    const url = `http://127.0.0.1:${port}/`;
    response = await fetch(url, { method: "POST", body });
    using timeout = Timeout.start(2);
    assertStrictEquals(await assertRejects(() => sleep(LONG)), timeout);
    timedOut.open();
    await sleep(LONG);
  });
  await timedOut.opened;
  await greenlet.kill();
  assert(received.join("").length < 5);
  mayEnd.open();
  assertEquals(await response.text(), "answer");
  assertEquals(received.join(""), "01234");
});

test("Methods of streams that are called on other objects fail in a greenlet as outside", async () => {
  using _ = patch();
  const { pipeThrough, pipeTo, tee } = ReadableStream.prototype;
  const { abort } = WritableStream.prototype;
  const interrupt = new GreenletExit();
  await spawn(() => sleep(LONG)).kill(interrupt);
  const cases: [(...args: never[]) => unknown, unknown[]][] = [
    [pipeTo, [new WritableStream()]],
    [pipeThrough, [new TransformStream()]],
    [tee, []],
    [abort, [interrupt]],
  ];
  const odd = [
    undefined,
    {},
    Object.create(ReadableStream.prototype),
    Object.create(WritableStream.prototype),
  ];
  for (const it of odd) {
    for (const [method, args] of cases) {
      const call = () => {
        try {
          const result = Reflect.apply(method, it, args as never[]);
          return (result as Promise<void>).catch((error) => `Later ${error}`);
        } catch (error) {
          return `At once ${error}`;
        }
      };
      assertEquals(await spawn(call).get(), await call());
    }
  }
  const stream = new ReadableStream();
  await assertRejects(
    () => spawn(() => stream.pipeTo({} as WritableStream)).get(),
    TypeError,
  );
  assert(!stream.locked);
});

test("The classes of streams look the same under patch() to a program that inspects them", async () => {
  // deno-lint-ignore no-explicit-any -- one for all
  const classes = (): Record<string, any> => ({
    ReadableStream,
    TransformStream,
    WritableStream,
  });
  const before = classes();
  {
    using _ = patch();
    for (const [name, original] of Object.entries(before)) {
      const patched = classes()[name];
      assert(patched !== original);
      assertEquals(patched.name, name);
      assertEquals(patched.length, original.length);
      assertStrictEquals(patched.prototype, original.prototype);
      await spawn(() => {
        class Own extends patched {
          readonly own = 1;
        }
        const own = new Own();
        assertEquals(own.own, 1);
        for (const stream of [new patched(), new original(), own]) {
          assertStrictEquals(
            stream.constructor,
            stream === own ? Own : patched,
          );
          assert(stream instanceof patched);
          assert(stream instanceof original);
        }
        assertEquals(messageOf(() => patched()), messageOf(() => original()));
        assertEquals(
          messageOf(() => new patched({ start: 1 })),
          messageOf(() => new original({ start: 1 })),
        );
      }).get();
    }
    const stream = await spawn(() => ReadableStream.from([1])).get();
    assert(stream instanceof before.ReadableStream);
    assertEquals(
      messageOf(() => ReadableStream.from(1 as never)),
      messageOf(() => before.ReadableStream.from(1)),
    );
  }
  assertEquals(classes(), before);
  for (const original of Object.values(before)) {
    assertStrictEquals(original.prototype.constructor, original);
  }
});

function messageOf(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return (error as Error).message;
  }
}
