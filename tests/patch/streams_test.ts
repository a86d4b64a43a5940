import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  getCurrent,
  getHub,
  type Greenlet,
  GreenletExit,
  joinAll,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { settle, testBoth } from "../_bodies.ts";
import { test, testRandomly, tick } from "../_random.ts";
import { readIsOver } from "./socket_suite.ts";
import { bytesIn, dawdle, pieces, Received, sources } from "./_streams.ts";
import { Gate, Interrupts, when } from "../_waits.ts";

/** Longer than any test. */
const LONG = 100_000_000;

/** A stream that a test feeds. */
class Feed<T = unknown> {
  controller!: ReadableStreamDefaultController<T>;
  /** The reason it was cancelled with. */
  readonly cancelled: unknown[] = [];
  readonly stream: ReadableStream<T>;

  constructor(strategy: QueuingStrategy<T> = {}) {
    this.stream = new ReadableStream<T>({
      start: (controller) => {
        this.controller = controller;
      },
      cancel: (reason) => {
        this.cancelled.push(reason);
      },
    }, strategy);
  }
}

/** A stream of bytes that a test feeds. */
function byteFeed(autoAllocateChunkSize?: number): {
  stream: ReadableStream<Uint8Array<ArrayBuffer>>;
  controller: ReadableByteStreamController;
} {
  let controller!: ReadableByteStreamController;
  const stream = new ReadableStream({
    type: "bytes",
    start(it) {
      controller = it;
    },
    ...autoAllocateChunkSize === undefined ? {} : { autoAllocateChunkSize },
  });
  return { stream, controller };
}

/** Calls something that waits, and is interrupted. */
async function inVain(call: () => Promise<unknown>): Promise<void> {
  const result = await spawn(() => withTimeout(1, call, { value: "late" }))
    .get();
  assertEquals(result, "late");
}

/** Has a greenlet call something. */
function inGreenlet<T>(call: () => Promise<T>): Promise<T> {
  return spawn(call).get() as Promise<T>;
}

/** Two ends of a connection, as made outside greenlets. */
class Pair implements Disposable {
  private constructor(
    readonly listener: Deno.Listener,
    readonly conn: Deno.Conn,
    readonly peer: Deno.Conn,
  ) {}

  static async open(): Promise<Pair> {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    const [peer, conn] = await Promise.all([
      listener.accept(),
      Deno.connect({ port }),
    ]);
    return new Pair(listener, conn, peer);
  }

  [Symbol.dispose](): void {
    this.listener[Symbol.dispose]();
    for (const conn of [this.conn, this.peer]) {
      try {
        conn.close();
      } catch (error) {
        // By the stream that was cancelled.
        if (!(error instanceof Deno.errors.BadResource)) throw error;
      }
    }
  }
}

/** True if the other end was closed, as far as this end knows. */
async function seesEnd(conn: Deno.Conn): Promise<boolean> {
  try {
    const buffer = new Uint8Array(1000);
    while (await conn.read(buffer) !== null);
  } catch (error) {
    assertInstanceOf(error, Deno.errors.ConnectionReset);
  }
  return true;
}

const bytes = (...values: number[]) => Uint8Array.from(values);
const encoder = new TextEncoder();

/** A stream that has nothing but these chunks. */
function streamOf<T>(...chunks: T[]): ReadableStream<T> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
}

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const chunks: T[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

// As before

/** Describes the outcome of a call. */
async function outcome(call: () => unknown): Promise<string> {
  let promise: unknown;
  try {
    promise = call();
  } catch (error) {
    return `throws ${error}`;
  }
  try {
    return `gives ${Deno.inspect(await promise)}`;
  } catch (error) {
    return `rejects with ${error}`;
  }
}

function released(): ReadableStreamDefaultReader {
  const reader = new ReadableStream().getReader();
  reader.releaseLock();
  return reader;
}

function releasedByob(): ReadableStreamBYOBReader {
  const reader = new ReadableStream({ type: "bytes" }).getReader({
    mode: "byob",
  });
  reader.releaseLock();
  return reader;
}

function byob(): ReadableStreamBYOBReader {
  return new ReadableStream({ type: "bytes" }).getReader({ mode: "byob" });
}

function locked(): ReadableStream {
  const stream = new ReadableStream();
  stream.getReader();
  return stream;
}

function lockedWritable(): WritableStream {
  const stream = new WritableStream();
  stream.getWriter();
  return stream;
}

function errored(): ReadableStream {
  return new ReadableStream({
    start(controller) {
      controller.error(new RangeError("errored"));
    },
  });
}

async function closedWriter(): Promise<WritableStreamDefaultWriter> {
  const writer = new WritableStream().getWriter();
  await writer.close();
  return writer;
}

function releasedWriter(): WritableStreamDefaultWriter {
  const writer = new WritableStream().getWriter();
  writer.releaseLock();
  return writer;
}

/** The methods and getters that are patched, of which the object is `undefined` or odd. */
const methods: [object, string][] = [
  [ReadableStreamDefaultReader.prototype, "read"],
  [ReadableStreamDefaultReader.prototype, "cancel"],
  [ReadableStreamDefaultReader.prototype, "closed"],
  [ReadableStreamBYOBReader.prototype, "read"],
  [ReadableStreamBYOBReader.prototype, "cancel"],
  [ReadableStreamBYOBReader.prototype, "closed"],
  [ReadableStream.prototype, "cancel"],
  [ReadableStream.prototype, "pipeTo"],
  [Object.getPrototypeOf(new ReadableStream().values()), "next"],
  [Object.getPrototypeOf(new ReadableStream().values()), "return"],
  [WritableStreamDefaultWriter.prototype, "write"],
  [WritableStreamDefaultWriter.prototype, "close"],
  [WritableStreamDefaultWriter.prototype, "abort"],
  [WritableStreamDefaultWriter.prototype, "closed"],
  [WritableStreamDefaultWriter.prototype, "ready"],
  [WritableStream.prototype, "close"],
  [WritableStream.prototype, "abort"],
];

/** Each wrong call, and some right ones with a simple outcome. */
const calls: Record<string, () => unknown> = {
  "read, released": () => released().read(),
  "read, closed": () => streamOf().getReader().read(),
  "read, errored": () => errored().getReader().read(),
  "read, a chunk": () => streamOf(1).getReader().read(),
  "cancel, released": () => released().cancel(),
  "closed, released": () => released().closed,
  "closed": () => streamOf().getReader().closed,
  "BYOB read, no view": () => byob().read(undefined!),
  "BYOB read, odd view": () => byob().read({} as never),
  "BYOB read, empty view": () => byob().read(bytes()),
  "BYOB read, detached view": () => {
    const view = bytes(1);
    structuredClone(view, { transfer: [view.buffer] });
    return byob().read(view);
  },
  "BYOB read, min 0": () => byob().read(bytes(1), { min: 0 }),
  "BYOB read, min 2": () => byob().read(bytes(1), { min: 2 }),
  "BYOB read, odd options": () => byob().read(bytes(1), 1 as never),
  "BYOB read, released": () => releasedByob().read(bytes(1)),
  "BYOB cancel, released": () => releasedByob().cancel(),
  "BYOB cancel": () => byob().cancel("why"),
  "cancel, locked": () => locked().cancel(),
  "cancel, errored": () => errored().cancel(),
  "cancel": () => new ReadableStream().cancel("why"),
  "pipeTo, nowhere": () => (new ReadableStream().pipeTo as () => unknown)(),
  "pipeTo, of nothing": () =>
    (ReadableStream.prototype.pipeTo as () => unknown).call(streamOf()),
  "pipeTo, odd": () => streamOf().pipeTo({} as never),
  "pipeTo, odd options": () =>
    streamOf().pipeTo(new WritableStream(), 1 as never),
  "pipeTo, null options": () =>
    streamOf().pipeTo(new WritableStream(), null as never),
  "pipeTo, odd signal": () =>
    streamOf().pipeTo(new WritableStream(), { signal: 1 as never }),
  "pipeTo, locked": () => locked().pipeTo(new WritableStream()),
  "pipeTo, to locked": () => streamOf().pipeTo(lockedWritable()),
  "pipeTo, errored": () => errored().pipeTo(new WritableStream()),
  "pipeTo, aborted": () =>
    streamOf().pipeTo(new WritableStream(), {
      signal: AbortSignal.abort(new RangeError("aborted")),
    }),
  "pipeTo": () => streamOf(1).pipeTo(new WritableStream()),
  "next": () => streamOf(1).values().next(),
  "next, closed": () => streamOf().values().next(),
  "next, errored": () => errored().values().next(),
  "next, after return": async () => {
    const iterator = streamOf(1, 2).values();
    return [await iterator.return!("why"), await iterator.next()];
  },
  "write, released": () => releasedWriter().write(1),
  "write, closed": async () => (await closedWriter()).write(1),
  "write": () => new WritableStream().getWriter().write(1),
  "write, failing": () =>
    new WritableStream({ write: () => Promise.reject("no") }).getWriter()
      .write(1),
  "close, released": () => releasedWriter().close(),
  "close, closed": async () => (await closedWriter()).close(),
  "close, locked": () => lockedWritable().close(),
  "close": () => new WritableStream().close(),
  "abort, released": () => releasedWriter().abort(),
  "abort, locked": () => lockedWritable().abort(),
  "abort": () => new WritableStream().abort("why"),
  "ready": () => new WritableStream().getWriter().ready,
  "ready, released": () => releasedWriter().ready,
  "closed, of a writer": async () => (await closedWriter()).closed,
  ...Object.fromEntries(
    methods.flatMap(([prototype, name]) =>
      [undefined, null, 1, {}].map((self) => [
        `${Deno.inspect(prototype)} ${name}, of ${Deno.inspect(self)}`,
        () => {
          const { value, get } = Object.getOwnPropertyDescriptor(
            prototype,
            name,
          )!;
          return Reflect.apply(value ?? get, self, []);
        },
      ])
    ),
  ),
};

test("patch() leaves the errors and the results of streams as they are, in greenlets as well", async () => {
  for (const [name, call] of Object.entries(calls)) {
    const before = await outcome(call);
    using _ = patch();
    assertEquals(await outcome(call), before, name);
    assertEquals(await inGreenlet(() => outcome(call)), before, name);
  }
});

test("patch() leaves the order of callbacks outside greenlets as it is", async () => {
  const program = async () => {
    const log: string[] = [];
    const note = (name: string) => () => void log.push(name);
    const clock = async () => {
      for (let i = 0; i < 12; i++) {
        await null;
        log.push(`${i}`);
      }
    };
    const reader = streamOf(1, 2).getReader();
    const feed = new Feed<number>();
    const waiting = feed.stream.getReader();
    const loop = streamOf(1).values();
    const { stream, controller } = byteFeed();
    const view = stream.getReader({ mode: "byob" });
    const writer = new WritableStream({}, { highWaterMark: 1 }).getWriter();
    const ticking = clock();
    const all = [
      reader.read().then(note("read")),
      waiting.read().then(note("waiting read")),
      loop.next().then(note("next")),
      loop.next().then(note("next at the end")),
      view.read(bytes(0)).then(note("byob read")),
      writer.ready.then(note("ready")),
      writer.write(1).then(note("write")),
      writer.ready.then(note("ready again")),
      writer.close().then(note("close")),
      writer.closed.then(note("closed")),
      streamOf(1).cancel().then(note("cancel")),
      streamOf(1).pipeTo(new WritableStream()).then(note("pipeTo")),
      streamOf(1).values().return!().then(note("return")),
    ];
    feed.controller.enqueue(1);
    controller.enqueue(bytes(1));
    await Promise.all([...all, ticking]);
    return log;
  };
  const before = await program();
  using _ = patch();
  assertEquals(await program(), before);
});

test("patch() leaves the iterators of streams in their family", () => {
  const family = Object.getPrototypeOf(
    Object.getPrototypeOf((async function* () {}).prototype),
  );
  using _ = patch();
  const iterator = new ReadableStream().values();
  const prototype = Object.getPrototypeOf(iterator);
  assertStrictEquals(Object.getPrototypeOf(prototype), family);
  assertEquals(Object.keys(prototype), ["next", "return"]);
  assertStrictEquals(
    ReadableStream.prototype.values,
    ReadableStream.prototype[Symbol.asyncIterator],
  );
  return Promise.resolve();
});

test("patch() restores the doors of streams to the letter", () => {
  const descriptors = () =>
    methods.map(([prototype, name]) =>
      Object.getOwnPropertyDescriptor(prototype, name)!
    );
  const before = descriptors();
  {
    using _ = patch();
    for (const [i, { value, get }] of descriptors().entries()) {
      const original = before[i]!.value ?? before[i]!.get;
      const replacement = value ?? get;
      assert(replacement !== original, methods[i]![1]);
      assertEquals(replacement.name, original.name);
      assertEquals(replacement.length, original.length);
    }
    using _without = patch({ streams: false });
  }
  for (const [i, descriptor] of descriptors().entries()) {
    assertStrictEquals(descriptor.value, before[i]!.value);
    assertStrictEquals(descriptor.get, before[i]!.get);
    assertEquals(descriptor, before[i]);
  }
  return Promise.resolve();
});

// read()

testBoth(
  "ReadableStreamDefaultReader.read() can be killed at once",
  {
    async: async (reader: ReadableStreamDefaultReader, log: string[]) => {
      try {
        await reader.read();
      } finally {
        log.push("cleaned up");
      }
    },
    *generator(reader: ReadableStreamDefaultReader, log: string[]) {
      try {
        yield* until(reader.read());
      } finally {
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    using _ = patch();
    const log: string[] = [];
    const greenlet = spawn(body, new ReadableStream().getReader(), log);
    await sleep(0);
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
  },
);

testBoth(
  "ReadableStreamDefaultReader.read() that has taken a chunk keeps it",
  {
    async: async (reader: ReadableStreamDefaultReader<string>) =>
      (await reader.read()).value,
    *generator(reader: ReadableStreamDefaultReader<string>) {
      return (yield* until(reader.read())).value;
    },
  },
  async (body) => {
    using _ = patch();
    for (const isThere of [true, false]) {
      // The chunk is there when the read begins, or comes a little later.
      for (let turns = 0; turns < 12; turns++) {
        const feed = new Feed<string>();
        const reader = feed.stream.getReader();
        if (isThere) feed.controller.enqueue("chunk");
        const greenlet = spawn(body, reader);
        for (let i = 0; i < turns; i++) {
          await Promise.resolve();
          if (i === 4 && !isThere) feed.controller.enqueue("chunk");
        }
        await greenlet.kill();
        if (turns <= 4 && !isThere) feed.controller.enqueue("chunk");
        const value = greenlet.value as unknown instanceof GreenletExit
          ? (await reader.read()).value
          : greenlet.value;
        assertEquals(value, "chunk", `after ${turns} turns`);
      }
    }
  },
);

test("ReadableStreamDefaultReader.read() that is interrupted leaves the chunk, the end or the error to the next", async () => {
  using _ = patch();
  const feed = new Feed<number>();
  const reader = feed.stream.getReader();
  await inVain(() => reader.read());
  feed.controller.enqueue(1);
  assertEquals((await reader.read()).value, 1);
  await inVain(() => reader.read());
  await inVain(() => reader.read());
  feed.controller.enqueue(2);
  feed.controller.enqueue(3);
  assertEquals((await inGreenlet(() => reader.read())).value, 2);
  assertEquals((await inGreenlet(() => reader.read())).value, 3);
  await inVain(() => reader.read());
  feed.controller.close();
  const { value, done } = await inGreenlet(() => reader.read());
  assertEquals([value, done], [undefined, true]);

  const failing = new Feed();
  const last = failing.stream.getReader();
  await inVain(() => last.read());
  failing.controller.error(new RangeError("no"));
  await assertRejects(() => inGreenlet(() => last.read()), RangeError);
});

test("ReadableStreamDefaultReader.read() throws the error that is due, and asks for nothing", async () => {
  using _ = patch();
  let pulls = 0;
  const stream = new ReadableStream({
    pull() {
      pulls++;
    },
  }, { highWaterMark: 0 });
  const reader = stream.getReader();
  await settle();
  const gate = Promise.withResolvers<void>();
  const greenlet = spawn(async () => {
    await gate.promise;
    await reader.read();
  });
  await sleep(0);
  const killed = greenlet.kill();
  gate.resolve();
  await killed;
  assertEquals(pulls, 0);
});

test("ReadableStreamDefaultReader.read() keeps the order of concurrent reads", async () => {
  using _ = patch();
  for (const { stream, controller } of [byteFeed(), byteFeed(64)]) {
    const reader = stream.getReader();
    const readers = Array.from(
      { length: 6 },
      () => spawn(async () => (await reader.read()).value![0]),
    );
    await sleep(0);
    const outside = reader.read();
    // The first, one in the middle, the last of the greenlets.
    for (const i of [0, 3, 5]) await readers[i]!.kill();
    const late = spawn(async () => (await reader.read()).value![0]);
    await sleep(0);
    for (let i = 1; i <= 5; i++) controller.enqueue(bytes(i));
    assertEquals([
      await readers[1]!.get(),
      await readers[2]!.get(),
      await readers[4]!.get(),
      (await outside).value![0],
      await late.get(),
    ], [1, 2, 3, 4, 5]);
    controller.close();
    assertEquals((await reader.read()).done, true);
  }
});

/** The next readers of a stream after an interrupted one: all get "ab". */
const successors: Record<
  string,
  (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => Promise<string>
> = {
  "a reader": (stream) => text(all(stream.values())),
  "for await in a greenlet": (stream) => inGreenlet(() => text(all(stream))),
  "pipeTo": async (stream) => {
    const chunks: Uint8Array[] = [];
    await stream.pipeTo(
      new WritableStream({ write: (chunk) => void chunks.push(chunk) }),
    );
    return text(Promise.resolve(chunks));
  },
  "tee": async (stream) => {
    const [one, two] = stream.tee();
    assertEquals(await text(all(one)), "ab");
    return text(all(two));
  },
  "pipeThrough": async (stream) =>
    (await all(stream.pipeThrough(new TextDecoderStream()))).join(""),
  // The runtime would refuse the stream itself, as it was read from.
  "Response.text()": (stream) =>
    new Response(stream.pipeThrough(new TransformStream())).text(),
  "Deno.serve": async (stream) => {
    await using server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      () => new Response(stream.pipeThrough(new TransformStream())),
    );
    return await (await fetch(`http://127.0.0.1:${server.addr.port}`)).text();
  },
  "a worker": async (stream) => {
    const worker = new Worker(
      `data:text/javascript,onmessage = async ({ data }) => {
        let text = "";
        for await (const chunk of data) text += new TextDecoder().decode(chunk);
        postMessage(text);
      }`,
      { type: "module" },
    );
    const { promise, resolve } = Promise.withResolvers<string>();
    worker.onmessage = ({ data }) => resolve(data);
    worker.postMessage(stream, [stream]);
    const answer = await promise;
    worker.terminate();
    return answer;
  },
};

async function text(chunks: Promise<Uint8Array[]>): Promise<string> {
  return (await chunks).map((it) => new TextDecoder().decode(it)).join("");
}

for (const [name, successor] of Object.entries(successors)) {
  test(`ReadableStreamDefaultReader.read() that is interrupted leaves the chunk to ${name}`, async () => {
    using _ = patch();
    const feed = new Feed<Uint8Array<ArrayBuffer>>();
    const streams = [feed, byteFeed(), byteFeed(10)];
    for (const { stream, controller } of streams) {
      // Before the lock is released, and after.
      for (const isEarly of [true, false]) {
        if (isEarly !== (stream === feed.stream)) continue;
        const reader = stream.getReader();
        await inVain(() => reader.read());
        if (isEarly) controller.enqueue(encoder.encode("a"));
        await settle();
        reader.releaseLock();
        if (!isEarly) controller.enqueue(encoder.encode("a"));
      }
      controller.enqueue(encoder.encode("b"));
      controller.close();
      assertEquals(await successor(stream), "ab");
    }
  });
}

test("ReadableStreamDefaultReader.read() of a socket that is interrupted leaves the bytes", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  let reader = conn.readable.getReader();
  for (let i = 0; i < 3; i++) await inVain(() => reader.read());
  await peer.write(bytes(1, 2, 3));
  await readIsOver(conn);
  assertEquals((await inGreenlet(() => reader.read())).value, bytes(1, 2, 3));
  await inVain(() => reader.read());
  await peer.write(bytes(4, 5));
  await readIsOver(conn);
  reader.releaseLock();
  const view = conn.readable.getReader({ mode: "byob" });
  assertEquals((await view.read(bytes(0))).value, bytes(4));
  view.releaseLock();
  reader = conn.readable.getReader();
  assertEquals((await reader.read()).value, bytes(5));
  await inVain(() => reader.read());
  await peer.closeWrite();
  await readIsOver(conn);
  assertEquals((await inGreenlet(() => reader.read())).done, true);
  await reader.closed;
});

test("ReadableStreamDefaultReader.read() does not interrupt the stream's source", async () => {
  using _ = patch();
  for (const highWaterMark of [0, 1]) {
    let n = 0;
    let pulls = 0;
    const interrupts = new Interrupts();
    const stream = new ReadableStream({
      async pull(controller) {
        pulls++;
        await tick(1);
        await interrupts.more(1);
        // After the first wait as well
        await tick(1);
        pulls--;
        if (n < 3) controller.enqueue(n++);
      },
    }, { highWaterMark });
    const reader = stream.getReader();
    const got: unknown[] = [];
    await inGreenlet(async () => {
      while (got.length < 3) {
        using timeout = Timeout.start(1);
        try {
          got.push((await reader.read()).value);
        } catch (error) {
          if (error !== timeout) throw error;
          interrupts.note();
        }
      }
    });
    assertEquals(got, [0, 1, 2]);
    assertGreaterOrEqual(interrupts.count, 3);
    await interrupts.patiently(() => when(() => pulls === 0));
    await reader.cancel();
  }
});

test("ReadableStreamDefaultReader.read() of a source that reads itself keeps the chunks apart", async () => {
  using _ = patch();
  for (const isThere of [true, false]) {
    const nested: Promise<unknown>[] = [];
    let controller!: ReadableStreamDefaultController;
    const stream = new ReadableStream({
      start(it) {
        controller = it;
        if (isThere) controller.enqueue(0);
      },
      pull() {
        if (nested.length > 0) return;
        // The first is for the read that has caused this pull.
        if (!isThere) controller.enqueue(0);
        nested.push(reader.read());
      },
    }, { highWaterMark: isThere ? 1 : 0 });
    const reader = stream.getReader();
    await settle();
    assertEquals((await inGreenlet(() => reader.read())).value, 0);
    await inVain(() => reader.read());
    controller.enqueue(1);
    assertEquals(await nested[0], { value: 1, done: false });
  }
});

test("ReadableStreamDefaultReader.read() by many readers in turn is as cheap as by one", async () => {
  using _ = patch();
  let n = 0;
  const stream = new ReadableStream({
    pull(controller) {
      controller.enqueue(n++);
    },
  });
  await inGreenlet(async () => {
    for (let i = 0; i < 10_000; i++) {
      const reader = stream.getReader();
      assertEquals((await reader.read()).value, i);
      reader.releaseLock();
    }
  });
});

test("ReadableStreamDefaultReader.read() of a stream that never ends lets others run", async () => {
  using _ = patch();
  let n = 0;
  const stream = new ReadableStream({
    pull(controller) {
      controller.enqueue(n++);
    },
  });
  const reader = stream.getReader();
  const reading = spawn(async () => {
    for (;;) await reader.read();
  });
  const looping = spawn(async () => {
    for await (
      const chunk of new ReadableStream({ pull: (c) => c.enqueue(0) })
    ) {
      assertEquals(chunk, 0);
    }
  });
  // Timers go off, and the event loop turns.
  await sleep(1);
  await when(() => n >= 50);
  await joinAll([reading, looping], { timeout: 0 });
  assertFalse(reading.dead || looping.dead);
  await reading.kill();
  await looping.kill();
});

test("ReadableStreamDefaultReader.releaseLock() ends a read that waits", async () => {
  using _ = patch();
  const reader = new ReadableStream().getReader();
  const reading = spawn(() => reader.read());
  await sleep(0);
  reader.releaseLock();
  await assertRejects(() => reading.get(), TypeError, "released");
});

test("ReadableStreamDefaultReader.closed is awaited, and not begun when looked at", async () => {
  using _ = patch();
  const feed = new Feed();
  const reader = feed.stream.getReader();
  const looking = spawn(async () => {
    const { closed } = reader;
    assertStrictEquals(closed, reader.closed);
    assertInstanceOf(closed, Promise);
    await sleep(LONG);
  });
  const waiting = spawn(async () => await reader.closed);
  const both = spawn(async () => await Promise.race([reader.closed, sleep(1)]));
  await both.get();
  await waiting.kill();
  await looking.kill();
  assertInstanceOf(waiting.value, GreenletExit);
  assertInstanceOf(looking.value, GreenletExit);
  const last = spawn(async () => await reader.closed);
  // As the runtime's own code does, by what it has kept of the language's promises.
  const primordial = spawn(async () => {
    let told = false;
    const { then } = Promise.prototype;
    await Reflect.apply(then, reader.closed, [() => told = true]);
    return told;
  });
  await sleep(0);
  feed.controller.close();
  assertEquals(await last.get(), undefined);
  assertEquals(await primordial.get(), true);
});

// read(view)

test("ReadableStreamBYOBReader.read() that is interrupted leaves the bytes to the next", async () => {
  using _ = patch();
  const { stream, controller } = byteFeed();
  const reader = stream.getReader({ mode: "byob" });
  const view = bytes(0, 0, 0, 0);
  await inVain(() => reader.read(view));
  assertEquals(view.byteLength, 0, "as by any read");
  controller.enqueue(bytes(1, 2, 3));
  assertEquals(
    (await inGreenlet(() => reader.read(new Uint8Array(2)))).value,
    bytes(1, 2),
  );
  await inVain(() => reader.read(new Uint8Array(3), { min: 3 }));
  controller.enqueue(bytes(4));
  // Two bytes of three were there, and are there again.
  await inVain(() => reader.read(new Uint8Array(3), { min: 3 }));
  const next = spawn(() => reader.read(new Uint8Array(4), { min: 4 }));
  await sleep(0);
  controller.enqueue(bytes(5, 6, 7));
  assertEquals((await next.get()).value, bytes(3, 4, 5, 6));
  await inVain(() => reader.read(new Uint16Array(2), { min: 2 }));
  controller.byobRequest!.view![0] = 8;
  controller.byobRequest!.respond(1);
  assertEquals(
    (await inGreenlet(() => reader.read(new Uint16Array(2)))).value,
    new Uint16Array(bytes(7, 8).buffer),
  );
  await inVain(() => reader.read(bytes(0)));
  controller.close();
  controller.byobRequest?.respond(0);
  const { value, done } = await inGreenlet(() => reader.read(bytes(0)));
  assertEquals([value?.length, done], [0, true]);
});

/** Reads ten bytes at least, has fewer by then, and is killed. */
async function readTooFew(
  { conn, peer }: Pair,
  ...few: number[]
): Promise<void> {
  const reader = conn.readable.getReader({ mode: "byob" });
  const greenlet = spawn(() => reader.read(new Uint8Array(20), { min: 10 }));
  await peer.write(bytes(...few));
  await when(() => bytesIn(conn.readable) === few.length);
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  reader.releaseLock();
}

test("ReadableStreamBYOBReader.read() that had too few bytes when it was interrupted gives them back", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  await readTooFew(pair, 1, 2, 3, 4);
  const reader = conn.readable.getReader({ mode: "byob" });
  // At once, without waiting for more
  for (const byte of [1, 2]) {
    const { value } = await inGreenlet(() => reader.read(bytes(0)));
    assertEquals(value, bytes(byte));
  }
  // Outside greenlets as well
  assertEquals((await reader.read(bytes(0))).value, bytes(3));
  const more = spawn(() => reader.read(new Uint8Array(3), { min: 3 }));
  await settle();
  await peer.write(bytes(5, 6));
  assertEquals((await more.get()).value, bytes(4, 5, 6));
  reader.releaseLock();

  await readTooFew(pair, 7, 8);
  const [one, two] = conn.readable.tee();
  two.cancel();
  const chunks = one.getReader();
  assertEquals((await chunks.read()).value, bytes(7, 8));
  await peer.write(bytes(9));
  assertEquals((await chunks.read()).value, bytes(9));
});

test("ReadableStreamBYOBReader.read() that had too few bytes gives them back even if that was all", async () => {
  using _ = patch();
  const ways: Record<string, (stream: ReadableStream) => Promise<number[]>> = {
    "by chunks": async (stream) => [...(await all(stream))[0]],
    "by views": async (stream) => {
      const reader = stream.getReader({ mode: "byob" });
      const got: number[] = [];
      for (;;) {
        // More than there are
        const { value, done } = await reader.read(new Uint8Array(9), {
          min: 9,
        });
        got.push(...value!);
        if (done) return got;
      }
    },
    "by another that waits": async (stream) => {
      const reader = stream.getReader({ mode: "byob" });
      const { value } = await reader.read(new Uint8Array(9));
      return [...value!];
    },
  };
  for (const [name, way] of Object.entries(ways)) {
    for (const isEarly of [true, false]) {
      using pair = await Pair.open();
      await readTooFew(pair, 1, 2, 3);
      const reading = isEarly
        ? inGreenlet(() => way(pair.conn.readable))
        : null;
      await pair.peer.closeWrite();
      await readIsOver(pair.conn);
      const got = await (reading ?? way(pair.conn.readable));
      assertEquals(got, [1, 2, 3], name);
    }
  }
});

test("ReadableStreamBYOBReader.read() that has taken bytes keeps them", async () => {
  using _ = patch();
  const bodies = {
    async: async (reader: ReadableStreamBYOBReader) =>
      (await reader.read(bytes(0))).value![0],
    until: async (reader: ReadableStreamBYOBReader) =>
      (await until(reader.read(bytes(0)))).value![0],
    *generator(reader: ReadableStreamBYOBReader) {
      return (yield* until(reader.read(bytes(0)))).value![0];
    },
  };
  for (const body of Object.values(bodies)) {
    for (let turns = 0; turns < 12; turns++) {
      const { stream, controller } = byteFeed();
      controller.enqueue(bytes(1));
      const reader = stream.getReader({ mode: "byob" });
      const greenlet = spawn(body as typeof bodies.async, reader);
      for (let i = 0; i < turns; i++) await Promise.resolve();
      await greenlet.kill();
      const value = greenlet.value as unknown instanceof GreenletExit
        ? (await reader.read(bytes(0))).value![0]
        : greenlet.value;
      assertEquals(value, 1, `after ${turns} turns`);
    }
  }
});

test("ReadableStreamBYOBReader.read() keeps the order of concurrent reads", async () => {
  using _ = patch();
  const { stream, controller } = byteFeed();
  const reader = stream.getReader({ mode: "byob" });
  const readers = Array.from(
    { length: 6 },
    (_, i) =>
      spawn(async () => (await reader.read(new Uint8Array(i + 1))).value!),
  );
  await sleep(0);
  const outside = reader.read(new Uint8Array(1));
  for (const i of [0, 3, 5]) await readers[i]!.kill();
  controller.enqueue(bytes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
  assertEquals([
    await readers[1]!.get(),
    await readers[2]!.get(),
    await readers[4]!.get(),
    (await outside).value,
  ], [bytes(1, 2), bytes(3, 4, 5), bytes(6, 7, 8, 9, 10), bytes(11)]);
  assertEquals((await reader.read(new Uint8Array(5))).value, bytes(12));
});

test("ReadableStreamBYOBReader.read() that is interrupted leaves the bytes to a reader of chunks", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const byob = pair.conn.readable.getReader({ mode: "byob" });
  await inVain(() => byob.read(new Uint8Array(10)));
  await pair.peer.write(bytes(1, 2));
  await readIsOver(pair.conn);
  byob.releaseLock();
  const reader = pair.conn.readable.getReader();
  assertEquals((await inGreenlet(() => reader.read())).value, bytes(1, 2));
});

// for await

test("ReadableStreamDefaultReader.read() gets the chunk that the source made for an interrupted ReadableStreamBYOBReader.read()", async () => {
  using _ = patch();
  const inMain = <T>(run: () => Promise<T>) => run();
  for (const [i, read] of [inMain, inGreenlet, inMain, inGreenlet].entries()) {
    const autoAllocateChunkSize = i < 2 ? undefined : 16;
    for (const isKept of [false, true]) {
      const { stream, controller } = byteFeed(autoAllocateChunkSize);
      const byobReader = stream.getReader({ mode: "byob" });
      await inVain(() => byobReader.read(new Uint16Array(8), { min: 4 }));
      // Plain Deno would not give them before there are more.
      if (isKept) controller.byobRequest!.respond(1);
      byobReader.releaseLock();
      const reader = stream.getReader();
      const got: number[] = [];
      if (isKept) {
        got.push(...(await inGreenlet(() => reader.read())).value!);
      }
      const reading = read(() => reader.read());
      const behind = read(() => reader.read());
      await settle();
      const request = controller.byobRequest;
      if (request === null) {
        controller.enqueue(bytes(7, 8, 9));
      } else {
        request.view!.set([7, 8, 9]);
        request.respond(3);
      }
      got.push(...(await reading).value!);
      assertEquals(got, isKept ? [0, 7, 8, 9] : [7, 8, 9]);
      controller.enqueue(bytes(10));
      assertEquals((await behind).value, bytes(10));
    }
  }
});

test("for await of a stream can be killed at once: it cancels the stream and releases it", async () => {
  using _ = patch();
  const feed = new Feed<number>();
  const log: unknown[] = [];
  const greenlet = spawn(async () => {
    try {
      for await (const chunk of feed.stream) log.push(chunk);
    } finally {
      log.push("cleaned up");
    }
  });
  await sleep(0);
  feed.controller.enqueue(1);
  await when(() => log.length === 1);
  assert(feed.stream.locked);
  const exit = new GreenletExit("enough");
  await greenlet.kill(exit);
  assertEquals(log, [1, "cleaned up"]);
  assertEquals(feed.cancelled, [exit]);
  assertFalse(feed.stream.locked);
  assertEquals(await all(feed.stream), []);
});

test("for await of a stream that has an error due cancels the stream all the same", async () => {
  using _ = patch();
  for (const chunks of [0, 1]) {
    const feed = new Feed<number>();
    for (let i = 0; i < chunks; i++) feed.controller.enqueue(i);
    const gate = Promise.withResolvers<void>();
    let begun = 0;
    const greenlet = spawn(async () => {
      await (chunks === 0 ? gate.promise : null);
      for await (const _chunk of feed.stream) {
        begun++;
        await gate.promise;
      }
    });
    await settle();
    const killed = greenlet.kill();
    gate.resolve();
    await killed;
    await settle();
    assertEquals(begun, chunks);
    assertInstanceOf(feed.cancelled[0], GreenletExit);
    assertFalse(feed.stream.locked);
  }
});

test("for await of a stream is left by break, throw and return as ever, and by a kill with its error", async () => {
  using _ = patch();
  const ways: Record<string, (feed: Feed) => Promise<unknown>> = {
    async break(feed) {
      for await (const _chunk of feed.stream) break;
    },
    async throw(feed) {
      for await (const _chunk of feed.stream) throw new RangeError("mine");
    },
    async return(feed) {
      for await (const chunk of feed.stream) return chunk;
    },
    async kill(feed) {
      for await (const _chunk of feed.stream) await sleep(LONG);
    },
  };
  for (const [name, way] of Object.entries(ways)) {
    const feed = new Feed();
    feed.controller.enqueue(1);
    const greenlet = spawn(async () => {
      try {
        return await way(feed);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        return error.message;
      }
    });
    await settle();
    // Without grace the language's own clean-up has to do.
    if (name === "kill") await greenlet.kill(undefined, { grace: 0 });
    const result = await greenlet.get().catch((error) => error);
    if (name === "throw") assertEquals(result, "mine");
    if (name === "return") assertEquals(result, 1);
    const reason = name === "kill" ? result : undefined;
    assertEquals(feed.cancelled, [reason], name);
    assertFalse(feed.stream.locked, name);
  }
});

test("for await of values({ preventCancel: true }) releases the stream and loses no chunk", async () => {
  using _ = patch();
  for (const { stream, controller } of [byteFeed(), byteFeed(8)]) {
    const got: number[] = [];
    for (let n = 0; n < 5; n++) {
      const greenlet = spawn(async () => {
        for await (const chunk of stream.values({ preventCancel: true })) {
          got.push(chunk[0]!);
        }
      });
      await sleep(0);
      controller.enqueue(bytes(2 * n));
      await settle();
      await greenlet.kill();
      assertFalse(stream.locked);
      controller.enqueue(bytes(2 * n + 1));
    }
    controller.close();
    got.push(...(await all(stream)).map(([byte]) => byte!));
    assertEquals(got, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  }
});

testBoth(
  "next() of values({ preventCancel: true }) that has taken a chunk keeps it",
  {
    async: async (iterator: AsyncIterableIterator<string>) =>
      (await iterator.next()).value,
    *generator(iterator: AsyncIterableIterator<string>) {
      return (yield* until(iterator.next())).value;
    },
  },
  async (body) => {
    using _ = patch();
    for (const isThere of [true, false]) {
      for (let turns = 0; turns < 14; turns++) {
        const feed = new Feed<string>();
        if (isThere) feed.controller.enqueue("chunk");
        const iterator = feed.stream.values({ preventCancel: true });
        const greenlet = spawn(body, iterator as AsyncIterableIterator<string>);
        for (let i = 0; i < turns; i++) {
          await Promise.resolve();
          if (i === 4 && !isThere) feed.controller.enqueue("chunk");
        }
        await greenlet.kill();
        if (turns <= 4 && !isThere) feed.controller.enqueue("chunk");
        const isKilled = greenlet.value as unknown instanceof GreenletExit;
        // It may be dead before its first line.
        const rest = feed.stream.locked ? iterator : feed.stream.values();
        const value = isKilled ? (await rest.next()).value : greenlet.value;
        assertEquals(value, "chunk", `after ${turns} turns`);
      }
    }
  },
);

test("for await of a stream that fails ends, and the stream is released", async () => {
  using _ = patch();
  const feed = new Feed();
  const iterator = feed.stream.values();
  const loop = spawn(() => iterator.next());
  await sleep(0);
  feed.controller.error(new RangeError("no"));
  await assertRejects(() => loop.get(), RangeError);
  assertFalse(feed.stream.locked);
  assertEquals(await iterator.next(), { value: undefined, done: true });
});

test("next() that is interrupted ends its iterator", async () => {
  using _ = patch();
  for (const preventCancel of [true, false]) {
    const feed = new Feed();
    const iterator = feed.stream.values({ preventCancel });
    await inVain(() => iterator.next());
    assertEquals(await iterator.next(), { value: undefined, done: true });
    assertEquals(await inGreenlet(() => iterator.next()), {
      value: undefined,
      done: true,
    });
    assertEquals(await iterator.return!(1), { value: 1, done: true });
    assertEquals(feed.cancelled.length, preventCancel ? 0 : 1);
    assertFalse(feed.stream.locked);
  }
});

test("next() behind another that waits can be killed, and ends the loops of both", async () => {
  using _ = patch();
  const feed = new Feed<number>();
  const iterator = feed.stream.values();
  // More than that the runtime can't: it fails when two are left at the end.
  const [one, two, three] = [1, 2, 3].map(() =>
    spawn(() => all({ [Symbol.asyncIterator]: () => iterator }))
  );
  await sleep(0);
  await three!.kill();
  assertEquals([await one!.get(), await two!.get()], [[], []]);
  assertInstanceOf(feed.cancelled[0], GreenletExit);
});

test("for await of a stream that was begun before patch() can be killed", async () => {
  const feed = new Feed<number>();
  const iterator = feed.stream.values();
  const outside = iterator.next();
  using _ = patch();
  feed.controller.enqueue(1);
  assertEquals(await outside, { value: 1, done: false });
  const greenlet = spawn(() =>
    all({ [Symbol.asyncIterator]: () => iterator } as AsyncIterable<number>)
  );
  await sleep(0);
  await greenlet.kill();
  assertEquals(feed.cancelled.length, 1);
});

test("for await of a generator's stream interrupts the generator too", async () => {
  using _ = patch();
  const log: string[] = [];
  const waits = new Gate();
  const greenlet = spawn(async () => {
    async function* numbers() {
      try {
        yield 1;
        waits.open();
        await tick(LONG);
      } finally {
        log.push("source");
      }
    }
    try {
      for await (const _n of ReadableStream.from(numbers()));
    } finally {
      log.push("loop");
    }
  });
  await waits.opened;
  await settle();
  await greenlet.kill();
  assertEquals(log.toSorted(), ["loop", "source"]);
});

/** Splits text into lines. */
function lineSplitter(): TransformStream<string, string> {
  let rest = "";
  return new TransformStream({
    transform(chunk, controller) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) controller.enqueue(line);
    },
  });
}

// As code may be written that knows nothing of this library
async function readLines(
  conn: Deno.Conn,
  told: (line: string) => void,
): Promise<void> {
  const lines = conn.readable
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(lineSplitter());
  try {
    for await (const line of lines) told(line);
  } finally {
    told("cleaned up");
  }
}

testRandomly(
  "A loop over the lines of a socket can be killed at any moment, and closes the socket",
  async (next) => {
    using _ = patch();
    let lines = 0;
    for (let round = 0; round < 10; round++) {
      await Promise.all(Array.from({ length: 20 }, async () => {
        using pair = await Pair.open();
        const { conn, peer } = pair;
        const log: string[] = [];
        const greenlet = spawn(readLines, conn, (line) => log.push(line));
        const sending = spawn(async () => {
          for (let n = 0;; n++) {
            await peer.write(encoder.encode(`line ${n}\nli`));
            await peer.write(encoder.encode(`ne ${n} again\n`));
            await sleep(next() * 2);
          }
        });
        // At some moment after so many lines, and after its first.
        const enough = Math.floor(next() * 5);
        await sleep(0);
        while (log.length < enough) await tick(next());
        for (let i = 0; i < next() * 30; i++) await Promise.resolve();
        await sending.kill();
        if (next() < 0.5) await tick(next());
        await greenlet.kill();
        assertEquals(log.at(-1), "cleaned up");
        log.pop();
        for (const [i, line] of log.entries()) {
          const again = i % 2 === 1 ? " again" : "";
          assertEquals(line, `line ${Math.floor(i / 2)}${again}`);
        }
        lines += log.length;
        // It is not closed as long as our end is open.
        assert(await seesEnd(peer));
      }));
    }
    assertGreaterOrEqual(lines, 100);
  },
);

/** Streams of Deno's own, with what they come from, and whether a chunk comes by itself. */
const resources: Record<
  string,
  () => Promise<{
    stream: ReadableStream;
    isEmpty?: boolean;
    close: () => Promise<void>;
  }>
> = {
  "a body of fetch()": async () => {
    const ended = Promise.withResolvers<void>();
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      () =>
        new Response(
          new ReadableStream({
            start(controller) {
              controller.enqueue(bytes(1));
            },
            cancel: () => ended.resolve(),
          }),
        ),
    );
    const response = await fetch(`http://127.0.0.1:${server.addr.port}`);
    const close = async () => {
      await ended.promise;
      await server.shutdown();
    };
    return { stream: response.body!, close };
  },
  "the output of a child": () => {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["eval", "console.log(1); setInterval(() => {}, 1000)"],
      stdout: "piped",
      stdin: "null",
    }).spawn();
    const close = async () => {
      child.kill();
      await child.status;
    };
    return Promise.resolve({ stream: child.stdout, close });
  },
  "a socket": async () => {
    const pair = await Pair.open();
    await pair.peer.write(bytes(1));
    const close = async () => {
      assert(await seesEnd(pair.peer));
      pair[Symbol.dispose]();
    };
    return { stream: pair.conn.readable, close };
  },
  "what is compressed and decompressed": async () => {
    const pair = await Pair.open();
    const stream = pair.conn.readable
      .pipeThrough(new CompressionStream("gzip"))
      .pipeThrough(new DecompressionStream("gzip"))
      .pipeThrough(new TransformStream());
    const close = async () => {
      assert(await seesEnd(pair.peer));
      pair[Symbol.dispose]();
    };
    return { stream, isEmpty: true, close };
  },
};

for (const [name, open] of Object.entries(resources)) {
  test(`for await of ${name} can be killed at once, and ends the source underneath`, async () => {
    using _ = patch();
    const { stream, isEmpty, close } = await open();
    let chunks = 0;
    const greenlet = spawn(async () => {
      for await (const _chunk of stream) chunks++;
    });
    await settle();
    if (!isEmpty) await when(() => chunks > 0);
    // If it were not at once, it would never be.
    await greenlet.kill(undefined, { grace: LONG });
    assertFalse(stream.locked);
    await close();
  });
}

// pipeTo

test("ReadableStream.pipeTo() that is interrupted ends both ends with the error", async () => {
  using _ = patch();
  const feed = new Feed<number>();
  const written: number[] = [];
  const aborted: unknown[] = [];
  const sink = new WritableStream<number>({
    write: (chunk) => void written.push(chunk),
    abort: (reason) => void aborted.push(reason),
  });
  const greenlet = spawn(() => feed.stream.pipeTo(sink));
  await sleep(0);
  feed.controller.enqueue(1);
  await when(() => written.length === 1);
  const exit = new GreenletExit();
  await greenlet.kill(exit);
  await settle();
  assertEquals(written, [1]);
  assertEquals(feed.cancelled, [exit]);
  assertEquals(aborted, [exit]);
  assertFalse(feed.stream.locked || sink.locked);
});

test("ReadableStream.pipeTo() that is interrupted obeys its options", async () => {
  using _ = patch();
  const feed = new Feed<number>();
  const written: number[] = [];
  const aborted: unknown[] = [];
  const sink = new WritableStream<number>({
    write: (chunk) => void written.push(chunk),
    abort: (reason) => void aborted.push(reason),
  });
  const options = {
    preventCancel: true,
    preventAbort: true,
    preventClose: true,
  };
  await inVain(() => feed.stream.pipeTo(sink, options));
  await settle();
  assertFalse(feed.stream.locked || sink.locked);
  feed.controller.enqueue(1);
  const greenlet = spawn(() => feed.stream.pipeTo(sink, options));
  await when(() => written.length === 1);
  feed.controller.enqueue(2);
  feed.controller.close();
  await greenlet.get();
  assertEquals(written, [1, 2]);
  await sink.getWriter().write(3);
  assertEquals(written, [1, 2, 3]);
  assertEquals([...feed.cancelled, ...aborted], []);
});

test("ReadableStream.pipeTo() with preventCancel lets the source live", async () => {
  using _ = patch();
  let n = 0;
  let pulls = 0;
  const stream = new ReadableStream<number>({
    async pull(controller) {
      pulls++;
      await tick(2);
      controller.enqueue(n++);
      pulls--;
    },
  }, { highWaterMark: 0 });
  const written: number[] = [];
  for (let i = 0; i < 4; i++) {
    const sink = new WritableStream<number>({
      write: (chunk) => void written.push(chunk),
    });
    await inVain(() => stream.pipeTo(sink, { preventCancel: true }));
    await when(() => !stream.locked);
  }
  const reader = stream.getReader();
  do written.push((await reader.read()).value!); while (written.length < 3);
  assertEquals(written, [...written.keys()]);
  await when(() => pulls === 0);
  await reader.cancel();
});

test("ReadableStream.pipeTo() obeys its own signal, too, and whichever is first", async () => {
  using _ = patch();
  const controller = new AbortController();
  const feed = new Feed();
  const greenlet = spawn(() =>
    feed.stream.pipeTo(new WritableStream(), { signal: controller.signal })
  );
  await sleep(0);
  controller.abort(new RangeError("mine"));
  await assertRejects(() => greenlet.get(), RangeError, "mine");
  assertInstanceOf(feed.cancelled[0], RangeError);

  const other = new Feed();
  const late = new AbortController();
  const killed = spawn(() =>
    other.stream.pipeTo(new WritableStream(), { signal: late.signal })
  );
  await sleep(0);
  await killed.kill();
  late.abort(new RangeError("late"));
  assertInstanceOf(other.cancelled[0], GreenletExit);
  assertInstanceOf(killed.value, GreenletExit);
});

test("ReadableStream.pipeTo() cancels its source at once, even if the sink is stuck", async () => {
  using _ = patch();
  const feed = new Feed<number>();
  const begun = new Gate();
  const gate = new Gate();
  const aborted: unknown[] = [];
  const sink = new WritableStream<number>({
    write() {
      begun.open();
      return gate.opened;
    },
    abort: (reason) => void aborted.push(reason),
  });
  const greenlet = spawn(() => feed.stream.pipeTo(sink));
  feed.controller.enqueue(1);
  await begun.opened;
  await greenlet.kill();
  assertEquals(feed.cancelled.length, 1);
  assertEquals(aborted, []);
  gate.open();
  await when(() => aborted.length > 0);
  assertEquals(aborted.length, 1);

  // No other stream was cancelled: that call was refused.
  const other = new Feed();
  other.stream.getReader();
  const refused = spawn(async () => {
    await null;
    const piping = other.stream.pipeTo(new WritableStream());
    (getCurrent() as Greenlet).throw(new RangeError());
    await piping;
  });
  await assertRejects(() => refused.get(), RangeError);
  assertEquals(other.cancelled, []);
});

test("ReadableStream.pipeTo() from socket to socket can be killed", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const echo = spawn(() => conn.readable.pipeTo(conn.writable));
  await peer.write(bytes(1, 2));
  const buffer = new Uint8Array(10);
  assertEquals(await peer.read(buffer), 2);
  await echo.kill();
  assert(await seesEnd(peer));
});

function isClosed(file: Deno.FsFile): boolean {
  try {
    file.statSync();
    return false;
  } catch (error) {
    assertInstanceOf(error, Deno.errors.BadResource);
    return true;
  }
}

test("ReadableStream.pipeTo() from file to file is whole, or can be killed", async () => {
  using _ = patch();
  const directory = await Deno.makeTempDir();
  const data = crypto.getRandomValues(new Uint8Array(60_000));
  await Deno.writeFile(`${directory}/from`, data);
  const copy = async () => {
    const from = await Deno.open(`${directory}/from`);
    const to = await Deno.create(`${directory}/to`);
    const greenlet = spawn(() => from.readable.pipeTo(to.writable));
    await sleep(0);
    return { greenlet, files: [from, to] };
  };
  await (await copy()).greenlet.get();
  assertEquals(await Deno.readFile(`${directory}/to`), data);
  for (let i = 0; i < 10; i++) {
    const { greenlet, files } = await copy();
    for (let n = 0; n < i; n++) await tick();
    await greenlet.kill();
    await when(() => files.every(isClosed));
  }
  await Deno.remove(directory, { recursive: true });
});

// Writing

test("WritableStreamDefaultWriter.write() that is interrupted goes on, in its turn", async () => {
  using _ = patch();
  const written: number[] = [];
  const gates: (() => void)[] = [];
  const stream = new WritableStream<number>({
    async write(chunk) {
      await new Promise<void>((resolve) => gates.push(resolve));
      written.push(chunk);
    },
  });
  const writer = stream.getWriter();
  await inVain(() => writer.write(1));
  const second = spawn(() => writer.write(2));
  await inVain(() => writer.write(3));
  const closing = writer.close();
  for (let n = 1; n <= 3; n++) {
    await when(() => gates.length > 0);
    gates.shift()!();
    await settle();
    assertEquals(written.length, n);
  }
  await second.get();
  await closing;
  assertEquals(written, [1, 2, 3]);
});

test("WritableStreamDefaultWriter.write() does not interrupt the stream's sink", async () => {
  using _ = patch();
  const written: number[] = [];
  const gate = new Gate();
  const stream = new WritableStream<number>({
    async write(chunk) {
      await tick(1);
      await until(gate.opened);
      await tick(1);
      written.push(chunk);
    },
  });
  await settle();
  const writer = stream.getWriter();
  for (let n = 0; n < 3; n++) {
    const greenlet = spawn(async () => {
      using _ = Timeout.start(1);
      await writer.write(n);
    });
    await assertRejects(() => greenlet.get(), Timeout);
  }
  gate.open();
  await writer.close();
  assertEquals(written, [0, 1, 2]);
});

test("WritableStreamDefaultWriter.ready and closed are awaited, and not begun when looked at", async () => {
  using _ = patch();
  const gate = Promise.withResolvers<void>();
  const stream = new WritableStream({ write: () => gate.promise });
  const writer = stream.getWriter();
  writer.write(1);
  const looking = spawn(async () => {
    assertStrictEquals(writer.ready, writer.ready);
    assertStrictEquals(writer.closed, writer.closed);
    await sleep(LONG);
  });
  const ready = spawn(async () => await writer.ready);
  const closed = spawn(async () => await writer.closed);
  const late = spawn(async () => await writer.ready);
  await sleep(0);
  for (const greenlet of [looking, ready, closed]) {
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
  }
  gate.resolve();
  await late.get();
  // A wait that is not awaited causes no unhandled rejection.
  spawn(() => {
    void writer.closed;
    return Promise.resolve();
  });
  await sleep(0);
  await writer.abort(new RangeError("no"));
  await assertRejects(() => inGreenlet(() => writer.closed), RangeError);
});

/** Each call that gives something back. */
const endings: Record<string, (end: Ending) => () => Promise<unknown>> = {
  "WritableStreamDefaultWriter.close()": (end) => {
    const writer = sinkOf(end).getWriter();
    return () => writer.close();
  },
  "WritableStreamDefaultWriter.abort()": (end) => {
    const writer = sinkOf(end).getWriter();
    return () => writer.abort();
  },
  "WritableStream.close()": (end) => {
    const stream = sinkOf(end);
    return () => stream.close();
  },
  "WritableStream.abort()": (end) => {
    const stream = sinkOf(end);
    return () => stream.abort();
  },
  "ReadableStream.cancel()": (end) => {
    const stream = sourceOf(end);
    return () => stream.cancel();
  },
  "ReadableStreamDefaultReader.cancel()": (end) => {
    const reader = sourceOf(end).getReader();
    return () => reader.cancel();
  },
  "ReadableStreamBYOBReader.cancel()": (end) => {
    const reader = sourceOf(end, "bytes").getReader({ mode: "byob" });
    return () => reader.cancel();
  },
  "return() of an iterator": (end) => {
    const iterator = sourceOf(end).values();
    return () => iterator.return!();
  },
};

/** Takes its time to end, in waits that are patched, until it may. */
class Ending {
  readonly log: string[] = [];
  readonly mayEnd = new Gate();

  async run(): Promise<void> {
    this.log.push("begun");
    await tick(1);
    await until(this.mayEnd.opened);
    await tick(1);
    this.log.push("ended");
  }
}

function sinkOf(end: Ending): WritableStream {
  return new WritableStream({ close: () => end.run(), abort: () => end.run() });
}

function sourceOf(end: Ending, type?: "bytes"): ReadableStream {
  return new ReadableStream(
    { type, cancel: () => end.run() } as UnderlyingDefaultSource,
  );
}

for (const [name, ending] of Object.entries(endings)) {
  test(`${name} that is interrupted goes on, and is begun even if an error is due`, async () => {
    using _ = patch();
    const end = new Ending();
    const call = ending(end);
    await settle();
    await inVain(call);
    assertEquals(end.log, ["begun"]);
    end.mayEnd.open();
    await when(() => end.log.length === 2);
    assertEquals(end.log, ["begun", "ended"]);

    const again = new Ending();
    const callAgain = ending(again);
    await settle();
    const greenlet = spawn(async () => {
      try {
        await sleep(LONG);
      } finally {
        await callAgain();
      }
    });
    await sleep(0);
    await greenlet.kill(undefined, { grace: 0 });
    again.mayEnd.open();
    await when(() => again.log.length === 2);
    assertEquals(again.log, ["begun", "ended"]);
  });
}

// Restoring

test("patch() disposed of while streams are in use leaves them working", async () => {
  const restore = patch();
  const feed = new Feed<number>();
  const reader = feed.stream.getReader();
  await inVain(() => reader.read());
  const waiting = spawn(() => reader.read());
  const loopFeed = new Feed<number>();
  const loop = spawn(() => all(loopFeed.stream));
  const killedFeed = new Feed<number>();
  const killed = spawn(() => all(killedFeed.stream));
  const piped = new Feed<number>();
  const written: number[] = [];
  const piping = spawn(() =>
    piped.stream.pipeTo(
      new WritableStream({ write: (chunk) => void written.push(chunk) }),
    )
  );
  await sleep(0);
  restore[Symbol.dispose]();
  feed.controller.enqueue(1);
  feed.controller.enqueue(2);
  loopFeed.controller.enqueue(1);
  await killed.kill();
  assertEquals(killedFeed.cancelled.length, 1);
  assertEquals((await waiting.get()).value, 1);
  assertEquals((await reader.read()).value, 2);
  await settle();
  loopFeed.controller.enqueue(2);
  loopFeed.controller.close();
  assertEquals(await loop.get(), [1, 2]);
  piped.controller.enqueue(1);
  piped.controller.close();
  await piping.get();
  assertEquals(written, [1]);
});

// Torture

/** Has a greenlet do something, and interrupts it after a time. */
type Interrupter = (
  ms: number,
  received: Received,
  body: () => Promise<void>,
) => Promise<void>;

const interrupters: Interrupter[] = [
  (ms, received, body) =>
    spawn(async () => {
      using timeout = Timeout.start(ms);
      try {
        await body();
      } catch (error) {
        if (error !== timeout) throw error;
        received.note();
      }
    }).get() as Promise<void>,
  async (ms, received, body) => {
    const result = await withTimeout(ms, body, { value: "late" as const });
    if (result === "late") received.note();
  },
  async (ms, received, body) => {
    const greenlet = spawn(body) as Greenlet;
    await greenlet.join({ timeout: ms });
    await greenlet.kill(undefined, { grace: LONG });
    if (greenlet.exception !== undefined) throw greenlet.exception;
    if (greenlet.value instanceof GreenletExit) received.note();
  },
  async (_ms, received, body) => {
    const greenlet = spawn(body) as Greenlet;
    for (let i = 0; i < _ms * 5; i++) await Promise.resolve();
    await greenlet.kill(undefined, { grace: 0 });
    if (greenlet.exception !== undefined) throw greenlet.exception;
    if (greenlet.value instanceof GreenletExit) received.note();
  },
  async (ms, received, body) => {
    if (ms < 0.2) await received.patiently(body);
  },
];

function isBytes(stream: ReadableStream): boolean {
  try {
    stream.getReader({ mode: "byob" }).releaseLock();
    return true;
  } catch {
    return false;
  }
}

/** Reads a stream to its end, by whatever there is, and is interrupted all the time. */
async function readAll(
  stream: ReadableStream<Uint8Array>,
  received: Received,
  next: () => number,
  wantsMore = true,
): Promise<void> {
  const most = 1;
  const hasByob = isBytes(stream);
  while (!received.ended) {
    const interrupt =
      interrupters[Math.floor(next() * interrupters.length)] as Interrupter;
    const way = next();
    if (way < 0.2) {
      await interrupt(next() * most * 3, received, async () => {
        for await (const value of stream.values({ preventCancel: true })) {
          received.take({ value, done: false });
          received.reads++;
          if (next() < 0.2) return;
        }
        received.ended = true;
      });
      // A greenlet that was too late may still have to leave its loop.
      await received.patiently(() => when(() => !stream.locked));
      continue;
    }
    if (hasByob && way < 0.5) {
      const reader = stream.getReader({ mode: "byob" });
      while (next() < 0.9 && !received.ended) {
        received.reads++;
        await interrupt(next() * most, received, async () => {
          const size = 1 + Math.floor(next() * 50);
          const min = wantsMore ? 1 + Math.floor(next() ** 4 * size) : 1;
          const view = new Uint8Array(size);
          received.take(
            await reader.read(view, { min }) as ReadableStreamReadResult<
              Uint8Array
            >,
          );
        });
      }
      reader.releaseLock();
      continue;
    }
    const reader = stream.getReader();
    while (next() < 0.9 && !received.ended) {
      received.reads++;
      await interrupt(next() * most, received, async () => {
        received.take(await reader.read());
      });
    }
    reader.releaseLock();
  }
}

test("ReadableStreamDefaultReader.read() gets the bytes that the source read for an interrupted read into a view, and is the last", async () => {
  using _ = patch();
  const answer = Promise.withResolvers<void>();
  let pulls = 0;
  const stream = new ReadableStream({
    type: "bytes",
    async pull(controller) {
      if (++pulls > 1) return controller.close();
      await answer.promise;
      answerBy(controller, 7);
    },
  });
  const byobReader = stream.getReader({ mode: "byob" });
  await inVain(() => byobReader.read(new Uint8Array(4)));
  byobReader.releaseLock();
  await spawn(async () => {
    const reader = stream.getReader();
    const read = reader.read();
    const last = reader.read();
    answer.resolve();
    assertEquals((await read).value, Uint8Array.of(7));
    assert((await last).done);
  }).get();
});

test("ReadableStreamBYOBReader.read({ min }) asks the source once more when a read that had some bytes was interrupted", async () => {
  using _ = patch();
  const answered = Promise.withResolvers<void>();
  let pulls = 0;
  const stream = new ReadableStream({
    type: "bytes",
    async pull(controller) {
      answerBy(controller, ++pulls);
      if (pulls === 1) await answered.promise;
    },
  });
  // By then it has started.
  await settle();
  await spawn(async () => {
    const reader = stream.getReader({ mode: "byob" });
    await inVain(() => reader.read(new Uint8Array(4), { min: 2 }));
    answered.resolve();
    await settle();
    const { value } = await reader.read(new Uint8Array(4), { min: 3 });
    assertEquals(value, Uint8Array.of(1, 2, 3));
  }).get();
});

function answerBy(controller: ReadableByteStreamController, byte: number) {
  const request = controller.byobRequest!;
  const { buffer, byteOffset } = request.view!;
  new Uint8Array(buffer, byteOffset)[0] = byte;
  request.respond(1);
}

for (const [name, source] of Object.entries(sources)) {
  testRandomly(
    `Reads of ${name} lose nothing when hundreds of them are interrupted`,
    async (next) => {
      using _ = patch();
      const length = 1000;
      const everyone = await Promise.all(
        Array.from({ length: 24 }, async () => {
          const received = new Received();
          // A branch gives away the memory in which there are some bytes, and no byte of
          // that is to be had before the rest comes.
          const wantsMore = name !== "a branch of bytes";
          await readAll(
            source(length, next, received),
            received,
            next,
            wantsMore,
          );
          assertEquals(received.length, length);
          return received;
        }),
      );
      const interrupts = everyone.reduce((sum, it) => sum + it.count, 0);
      assertGreaterOrEqual(interrupts, 200);
    },
  );
}

testRandomly(
  "Reads of a socket's stream lose nothing when hundreds of them are interrupted",
  async (next) => {
    using _ = patch();
    const length = 1500;
    const everyone = await Promise.all(
      Array.from({ length: 24 }, async () => {
        using pair = await Pair.open();
        const received = new Received();
        const sending = (async () => {
          for (let piece of pieces(length, next)) {
            while (piece.length > 0) {
              piece = piece.subarray(await pair.peer.write(piece));
            }
            await dawdle(next, received);
          }
          await pair.peer.closeWrite();
        })();
        await readAll(pair.conn.readable, received, next);
        await sending;
        assertEquals(received.length, length);
        return received;
      }),
    );
    const interrupts = everyone.reduce((sum, it) => sum + it.count, 0);
    assertGreaterOrEqual(interrupts, 200);
  },
);

testRandomly(
  "Reads of greenlets that read one stream together lose nothing, and keep the order",
  async (next) => {
    using _ = patch();
    for (const { stream, controller } of [byteFeed(), byteFeed(32)]) {
      const received = new Received();
      const reader = stream.getReader();
      const work = async () => {
        while (!received.ended) {
          using timeout = Timeout.start(next());
          try {
            received.take(await reader.read());
          } catch (error) {
            if (error !== timeout) throw error;
            received.note();
          }
        }
      };
      const workers = Array.from({ length: 5 }, () => spawn(work));
      for (const piece of pieces(1500, next)) {
        controller.enqueue(piece);
        await dawdle(next, received);
      }
      controller.close();
      await joinAll(workers, { raiseError: true });
      assertEquals(received.length, 1500);
      assertGreaterOrEqual(received.count, 30);
    }
  },
);

testRandomly(
  "Writes that are interrupted at random arrive whole and in order",
  async (next) => {
    using _ = patch();
    using pair = await Pair.open();
    const received = new Received();
    const sinks = Array.from({ length: 6 }, () => {
      const received = new Received();
      const stream = new WritableStream<Uint8Array>({
        async write(value) {
          await dawdle(next, received);
          received.take({ value, done: false });
        },
      }, { highWaterMark: Math.floor(next() * 3) });
      return { received, stream };
    });
    sinks.push({ received, stream: pair.conn.writable });
    const reading = (async () => {
      for await (const value of pair.peer.readable) {
        received.take({ value, done: false });
      }
    })();
    let interrupts = 0;
    await Promise.all(sinks.map(async ({ received, stream }) => {
      const writer = stream.getWriter();
      for (const piece of pieces(1500, next)) {
        let isBegun = false;
        while (!isBegun) {
          const interrupt = interrupters[Math.floor(next() * 3)]!;
          await interrupt(next(), received, async () => {
            if (next() < 0.3) await writer.ready;
            const before = writer.desiredSize!;
            const writing = writer.write(piece);
            // Not if an error was due.
            isBegun = writer.desiredSize! < before;
            await writing;
          });
        }
      }
      await received.patiently(() => writer.close());
      if (stream === pair.conn.writable) await reading;
      assertEquals(received.length, 1500);
      interrupts += received.count;
    }));
    assertGreaterOrEqual(interrupts, 100);
  },
);

test("patch() leaves no greenlet behind in streams", async () => {
  assertEquals(await getHub().join({ timeout: 5_000 }), true);
});
