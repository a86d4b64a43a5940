import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
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
} from "../mod.ts";
import { Failures, runScript, testBoth } from "./_bodies.ts";

/** Longer than any test. */
const LONG = 100_000_000;

/** Numbers from 0 to 1, the same for the same seed. */
function random(seed: number): () => number {
  return () => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

/** A test that is told the seed of its random numbers, and tells it when it fails. */
function testRandomly(
  name: string,
  test: (next: () => number) => Promise<void>,
): void {
  Deno.test(name, async () => {
    const seed = Number(Deno.env.get("SEED") ?? Date.now() % 1_000_000);
    try {
      await test(random(seed));
    } catch (error) {
      throw new Error(`Failed with SEED=${seed}`, { cause: error });
    }
  });
}

/** Outside greenlets, where the runtime's own timers are in force. */
function tick(ms = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Sockets of one kind. */
interface Transport {
  listen(): Deno.Listener;
  options(listener: Deno.Listener): Deno.ConnectOptions;
}

const tcp: Transport = {
  listen: () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  options(listener) {
    const { hostname, port } = listener.addr as Deno.NetAddr;
    return { hostname, port };
  },
};

const unix: Transport = {
  listen: () =>
    Deno.listen({
      transport: "unix",
      path: `${Deno.makeTempDirSync()}/socket`,
    } as never) as Deno.Listener,
  options: (listener) => listener.addr as never,
};

const transports = Object.entries(
  Deno.build.os === "windows" ? { tcp } : { tcp, unix },
);

/** Two ends of a connection, as made outside greenlets. */
class Pair implements Disposable {
  private constructor(
    readonly listener: Deno.Listener,
    readonly conn: Deno.Conn,
    readonly peer: Deno.Conn,
  ) {}

  static async open(transport: Transport = tcp): Promise<Pair> {
    const listener = transport.listen();
    const [peer, conn] = await Promise.all([
      listener.accept(),
      Deno.connect(transport.options(listener)),
    ]);
    return new Pair(listener, conn, peer);
  }

  [Symbol.dispose](): void {
    this.listener[Symbol.dispose]();
    this.conn[Symbol.dispose]();
    this.peer[Symbol.dispose]();
    removeSocket(this.listener);
  }
}

function removeSocket(listener: Deno.Listener): void {
  if (listener.addr.transport !== "unix") return;
  const { path } = listener.addr;
  Deno.removeSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Reads once, and gives the text. */
async function readText(conn: Deno.Conn, most = 100): Promise<string | null> {
  const buffer = new Uint8Array(most);
  const count = await conn.read(buffer);
  return count === null ? null : decoder.decode(buffer.subarray(0, count));
}

/** Reads and is interrupted; what it has begun goes on. */
async function readInVain(conn: Deno.Conn, most = 100): Promise<Uint8Array> {
  const buffer = new Uint8Array(most);
  const result = await spawn(() =>
    withTimeout(1, () => conn.read(buffer), { value: "late" })
  ).get();
  assertEquals(result, "late");
  return buffer;
}

async function acceptInVain(listener: Deno.Listener): Promise<void> {
  const result = await spawn(() =>
    withTimeout(1, () => listener.accept(), { value: "late" })
  ).get();
  assertEquals(result, "late");
}

/** The byte at an offset of a stream of numbered bytes. */
function byteAt(offset: number): number {
  return (offset * 31 + (offset >> 8) * 17 + (offset >> 16)) & 255;
}

/** Sends numbered bytes in random pieces with random pauses, and the end. */
async function stream(
  peer: Deno.Conn,
  length: number,
  longest: number,
  pause: number,
  next: () => number,
): Promise<void> {
  for (let sent = 0; sent < length;) {
    const size = Math.min(1 + Math.floor(next() * longest), length - sent);
    let piece = Uint8Array.from({ length: size }, (_, i) => byteAt(sent + i));
    sent += size;
    while (piece.length > 0) piece = piece.subarray(await peer.write(piece));
    if (next() < 0.8) await tick(next() * pause);
  }
  await peer.closeWrite();
}

/** What has been read, and by what it has been interrupted. */
class Received {
  length = 0;
  reads = 0;
  interrupts = 0;
  ended = false;
  /** Buffers of those who were interrupted: as they left them they must stay. */
  readonly #left: Uint8Array[] = [];

  take(buffer: Uint8Array, count: number | null): void {
    this.reads++;
    if (count === null) {
      this.ended = true;
      return;
    }
    assertGreater(count, 0);
    for (let i = 0; i < count; i++) {
      if (buffer[i] !== byteAt(this.length + i)) {
        throw new Error(
          `Byte ${this.length + i} is ${buffer[i]} and not ${
            byteAt(this.length + i)
          }`,
        );
      }
    }
    // Nor is more written than is told.
    assert(buffer.subarray(count).every((byte) => byte === 0xAA));
    this.length += count;
  }

  interrupted(buffer: Uint8Array): void {
    this.reads++;
    this.interrupts++;
    this.#left.push(buffer);
  }

  check(length: number): void {
    assert(this.ended);
    assertEquals(this.length, length);
    for (const buffer of this.#left) {
      assert(buffer.every((byte) => byte === 0xAA), "written to later");
    }
  }
}

type ReadOnce = (
  conn: Deno.Conn,
  buffer: Uint8Array,
  ms: number,
  received: Received,
) => Promise<unknown>;

/** Each reads once, for `ms` at the most. */
const readers: Record<string, ReadOnce> = {
  "Timeout.start": (conn, buffer, ms, received) =>
    spawn(async () => {
      using timeout = Timeout.start(ms);
      try {
        received.take(buffer, await conn.read(buffer));
      } catch (error) {
        if (error !== timeout) throw error;
        received.interrupted(buffer);
      }
    }).get(),
  "withTimeout": (conn, buffer, ms, received) =>
    spawn(async () => {
      const count = await withTimeout(ms, () => conn.read(buffer), {
        value: "late" as const,
      });
      if (count === "late") received.interrupted(buffer);
      else received.take(buffer, count);
    }).get(),
  "withTimeout outside greenlets": async (conn, buffer, ms, received) => {
    const count = await withTimeout(ms, () => conn.read(buffer), {
      value: "late" as const,
    });
    if (count === "late") received.interrupted(buffer);
    else received.take(buffer, count);
  },
  "kill": (conn, buffer, ms, received) =>
    readKilled(ms, buffer, received, async (take) => {
      take(await conn.read(buffer));
    }),
  "kill, generator": (conn, buffer, ms, received) =>
    readKilled(ms, buffer, received, function* (take) {
      take(yield* until(conn.read(buffer)));
    }),
  "kill without grace": (conn, buffer, ms, received) =>
    readKilled(ms, buffer, received, async (take) => {
      take(await conn.read(buffer));
    }, 0),
};

async function readKilled(
  ms: number,
  buffer: Uint8Array,
  received: Received,
  body: (take: (count: number | null) => void) => unknown,
  grace = LONG,
): Promise<void> {
  let taken = false;
  const greenlet = spawn(body, (count: number | null) => {
    taken = true;
    received.take(buffer, count);
  }) as Greenlet;
  await greenlet.join({ timeout: ms });
  await greenlet.kill(undefined, { grace });
  if (greenlet.exception !== undefined) throw greenlet.exception;
  if (!taken) received.interrupted(buffer);
}

/** Reads a stream to its end, with readers of all kinds in turn. */
async function readAll(
  conn: Deno.Conn,
  longest: number,
  ms: number,
  next: () => number,
): Promise<Received> {
  const received = new Received();
  const kinds = Object.values(readers);
  while (!received.ended) {
    const size = 1 + Math.floor(next() ** 2 * longest);
    const buffer = new Uint8Array(size).fill(0xAA);
    if (next() < 0.02) {
      received.take(buffer, await conn.read(buffer));
    } else {
      const kind = kinds[Math.floor(next() * kinds.length)]!;
      await kind(conn, buffer, next() * ms, received);
    }
  }
  return received;
}

for (const [name, transport] of transports) {
  testRandomly(
    `Conn.read() loses nothing when thousands of reads are interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      const length = 300_000;
      const all = await Promise.all(
        Array.from({ length: 12 }, async () => {
          using pair = await Pair.open(transport);
          const [received] = await Promise.all([
            readAll(pair.conn, 4000, 2.5, next),
            stream(pair.peer, length, 2500, 12, next),
          ]);
          received.check(length);
          return received;
        }),
      );
      const reads = all.reduce((sum, { reads }) => sum + reads, 0);
      const interrupts = all.reduce(
        (sum, { interrupts }) => sum + interrupts,
        0,
      );
      assertGreaterOrEqual(interrupts, 2500);
      assertGreaterOrEqual(interrupts / reads, 0.25);
    },
  );
}

testRandomly(
  "Conn.read() loses nothing when greenlets keep the event loop busy",
  async (next) => {
    using _ = patch();
    let stop = false;
    const busy = [1, 2, 3].map(() =>
      spawn(async () => {
        while (!stop) await sleep(0);
      })
    );
    const length = 30_000;
    try {
      const all = await Promise.all(
        Array.from({ length: 10 }, async () => {
          using pair = await Pair.open();
          const [received] = await Promise.all([
            readAll(pair.conn, 1000, 10, next),
            stream(pair.peer, length, 500, 10, next),
          ]);
          received.check(length);
          return received;
        }),
      );
      const interrupts = all.reduce(
        (sum, { interrupts }) => sum + interrupts,
        0,
      );
      assertGreaterOrEqual(interrupts, 100);
    } finally {
      stop = true;
      await joinAll(busy);
    }
  },
);

testRandomly(
  "Conn.read() gives greenlets that read together each byte once, in their order",
  async (next) => {
    using _ = patch();
    using pair = await Pair.open();
    const { conn, peer } = pair;
    const length = 60_000;
    const received = new Received();
    const sending = stream(peer, length, 300, 2, next);
    const work = async () => {
      while (!received.ended) {
        const buffer = new Uint8Array(1 + Math.floor(next() * 200)).fill(0xAA);
        using timeout = Timeout.start(next() * 8);
        try {
          received.take(buffer, await conn.read(buffer));
        } catch (error) {
          if (error !== timeout) throw error;
          received.interrupted(buffer);
        }
      }
    };
    await joinAll([1, 2, 3, 4, 5].map(() => spawn(work)), { raiseError: true });
    await sending;
    received.check(length);
    assertGreaterOrEqual(received.interrupts, 30);
  },
);

testBoth(
  "Conn.read() keeps what arrived before the interrupt",
  {
    async: async (conn: Deno.Conn) => {
      const buffer = new Uint8Array(10);
      const count = await conn.read(buffer);
      return decoder.decode(buffer.subarray(0, count!));
    },
    *generator(conn: Deno.Conn) {
      const buffer = new Uint8Array(10);
      const count = yield* until(conn.read(buffer));
      return decoder.decode(buffer.subarray(0, count!));
    },
  },
  async (body) => {
    using _ = patch();
    using pair = await Pair.open();
    const { conn, peer } = pair;
    // Bytes are there: the read is over as soon as it has begun.
    for (let turns = 0; turns < 12; turns++) {
      await readInVain(conn);
      await peer.write(encoder.encode("bytes"));
      await tick(2);
      const greenlet = spawn(body, conn);
      for (let i = 0; i < turns; i++) await Promise.resolve();
      await greenlet.kill();
      const text = greenlet.value as unknown instanceof GreenletExit
        ? await readText(conn)
        : greenlet.value;
      assertEquals(text, "bytes", `after ${turns} turns`);
    }
  },
);

testBoth(
  "Conn.read() can be killed at once",
  {
    async: async (conn: Deno.Conn, log: string[]) => {
      try {
        await conn.read(new Uint8Array(1));
      } finally {
        log.push("cleaned up");
      }
    },
    *generator(conn: Deno.Conn, log: string[]) {
      try {
        yield* until(conn.read(new Uint8Array(1)));
      } finally {
        log.push("cleaned up");
      }
    },
  },
  async (body) => {
    using _ = patch();
    using pair = await Pair.open();
    const log: string[] = [];
    const greenlet = spawn(body, pair.conn, log);
    await sleep(1);
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(greenlet.value as unknown, GreenletExit);
  },
);

for (const [name, transport] of transports) {
  Deno.test(`Conn.read() after an interrupted one gets its bytes, inside and outside, ${name}`, async () => {
    using _ = patch();
    using pair = await Pair.open(transport);
    const { conn, peer } = pair;
    const buffer = await readInVain(conn);
    await peer.write(encoder.encode("abcdefgh"));
    await tick(5);
    assertEquals(await readText(conn, 2), "ab");
    assertEquals(await spawn(readText, conn, 2).get(), "cd");
    assertEquals(await readText(conn), "efgh");
    await readInVain(conn);
    // The read that has been interrupted is still there when this one begins.
    const outside = readText(conn);
    await peer.write(encoder.encode("ij"));
    assertEquals(await outside, "ij");
    await readInVain(conn);
    await peer.closeWrite();
    await tick(5);
    assertEquals(await readText(conn), null);
    assertEquals(await spawn(readText, conn).get(), null);
    assertEquals(await readText(conn), null);
    assert(buffer.every((byte) => byte === 0));
  });
}

Deno.test("Conn.read() gives no more than fits, and keeps the rest", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  await readInVain(conn, 100_000);
  const sent = Uint8Array.from({ length: 100_000 }, (_, i) => byteAt(i));
  const sending = peer.write(sent).then(async (count) => {
    await peer.closeWrite();
    return count;
  });
  const received = new Received();
  await spawn(async () => {
    while (!received.ended) {
      const size = received.reads % 2 === 0 ? 3 : 70_000;
      const buffer = new Uint8Array(size).fill(0xAA);
      received.take(buffer, await conn.read(buffer));
    }
  }).get();
  received.check(await sending);
});

Deno.test("Conn.read() of nothing gives 0 and takes no byte, inside as outside", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const none = new Uint8Array(0);
  assertEquals(await conn.read(none), 0);
  assertEquals(await spawn(() => conn.read(none)).get(), 0);
  await readInVain(conn);
  assertEquals(await conn.read(none), 0);
  await peer.write(encoder.encode("x"));
  await tick(5);
  assertEquals(await spawn(() => conn.read(none)).get(), 0);
  assertEquals(await readText(conn), "x");
});

Deno.test("Conn.read() writes into a part of a buffer and nowhere else", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  await peer.write(encoder.encode("abc"));
  const all = new Uint8Array(10);
  const count = await spawn(() => conn.read(all.subarray(4, 9))).get();
  assertEquals(count, 3);
  assertEquals([...all], [0, 0, 0, 0, 97, 98, 99, 0, 0, 0]);
});

Deno.test("Conn.read() throws what was held, and takes no byte", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  await peer.write(encoder.encode("bytes"));
  const { promise, resolve } = Promise.withResolvers<void>();
  const held = new Error("held");
  const greenlet = spawn(async () => {
    await promise;
    const thrown = await conn.read(new Uint8Array(10)).catch((e) => e);
    return [thrown, await readText(conn)];
  });
  await sleep(0);
  greenlet.throw(held);
  resolve();
  assertEquals(await greenlet.get(), [held, "bytes"]);
});

Deno.test("Conn.read() ends a body that swallows its kill", async () => {
  using _ = patch();
  using failures = new Failures();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const greenlet = spawn(async () => {
    for (;;) await readText(conn).catch(() => {});
  });
  await sleep(1);
  await greenlet.kill(undefined, { grace: 5 });
  assert(greenlet.dead);
  assertEquals(failures.contexts, [greenlet]);
  await peer.write(encoder.encode("not for the dead"));
  assertEquals(await readText(conn), "not for the dead");
});

/** A connection that is broken, with a read that was interrupted before. */
async function breakAfterInterrupt(pair: Pair): Promise<void> {
  await readInVain(pair.conn);
  // A peer that is closed with bytes unread resets the connection.
  await pair.conn.write(encoder.encode("unread"));
  await tick(5);
  pair.peer.close();
  await tick(5);
}

for (const where of Deno.build.os === "linux" ? ["inside", "outside"] : []) {
  Deno.test(`Conn.read() that fails after an interrupt fails the next one, ${where}`, async () => {
    using _ = patch();
    using pair = await Pair.open(unix);
    await breakAfterInterrupt(pair);
    const read = () => readText(pair.conn);
    const failing = () => read().catch((error) => error);
    const error = await (where === "inside" ? spawn(failing).get() : failing());
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    // And then it is as after any error.
    assertEquals(await spawn(read).get(), null);
    assertEquals(await read(), null);
  });
}

for (const [name, transport] of transports) {
  for (const method of ["close", Symbol.dispose] as const) {
    Deno.test(`Conn.${String(method)}() ends reads that are pending as unpatched, ${name}`, async () => {
      async function closeWhileReading(
        start: (read: () => Promise<unknown>) => Promise<unknown>,
      ) {
        using pair = await Pair.open(transport);
        const { conn } = pair;
        const tell = (error: Error) => [error.constructor, error.message];
        const read = () => readText(conn).catch(tell);
        const reads = [start(read), start(read)];
        await tick(2);
        conn[method]();
        return [...await Promise.all(reads), await start(read)];
      }
      const unpatched = await closeWhileReading((read) => read());
      using _ = patch();
      assertEquals(await closeWhileReading((read) => read()), unpatched);
      assertEquals(
        await closeWhileReading((read) => spawn(read).get()),
        unpatched,
      );
    });

    Deno.test(`Conn.${String(method)}() after an interrupted read forgets what was kept, ${name}`, async () => {
      using _ = patch();
      for (const kept of [true, false]) {
        using pair = await Pair.open(transport);
        const { conn, peer } = pair;
        await readInVain(conn);
        if (kept) await peer.write(encoder.encode("kept"));
        await tick(2);
        conn[method]();
        await assertRejects(() => readText(conn), Deno.errors.BadResource);
        const inside = await spawn(() => readText(conn).catch((e) => e)).get();
        assertInstanceOf(inside, Deno.errors.BadResource);
        await tick(2);
      }
    });
  }
}

Deno.test("Conn.close() fails the second time, inside as outside, and Symbol.dispose does not", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn } = pair;
  await spawn(() => conn.close()).get();
  for (
    const wrap of [(f: () => unknown) => f(), (f: () => void) => spawn(f).get()]
  ) {
    const error = await (async () =>
      await wrap(() => {
        try {
          conn.close();
        } catch (error) {
          return error;
        }
      }))();
    assertInstanceOf(error, Deno.errors.BadResource);
    await wrap(() => conn[Symbol.dispose]());
  }
});

Deno.test("Conn.close() lets a connection go that had kept bytes", async () => {
  const { out, err, code } = await runScript(
    `
    const { setFlagsFromString } = await import("node:v8");
    setFlagsFromString("--expose-gc");
    const { runInNewContext } = await import("node:vm");
    const gc = runInNewContext("gc");
    using _ = patch();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const refs = [];
    for (let i = 0; i < 5; i++) {
      const conn = await Deno.connect(listener.addr);
      const peer = await listener.accept();
      const read = () => conn.read(new Uint8Array(10));
      await withTimeout(1, read, { value: 0 });
      await peer.write(new Uint8Array(5));
      await sleep(5);
      if (i % 2) await read();
      conn.close();
      peer.close();
      refs.push(new WeakRef(conn));
    }
    listener.close();
    for (let i = 0; i < 10; i++) {
      await sleep(5);
      gc();
    }
    // The last one may still be in some register.
    console.log(refs.filter((ref) => ref.deref() !== undefined).length <= 1);
  `,
  );
  assertEquals([err, out, code], ["", ["true"], 0]);
});

Deno.test("Conn in a `using` block is closed, kept bytes and all", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const greenlet = spawn(async () => {
    using mine = conn;
    await mine.read(new Uint8Array(1));
  });
  await sleep(1);
  await greenlet.kill();
  assertEquals(await readText(peer), null);
  await assertRejects(() => readText(conn), Deno.errors.BadResource);
});

for (const [name, transport] of transports) {
  testRandomly(
    `Listener.accept() loses no connection when accepts are interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      const listener = transport.listen();
      const count = 400;
      let interrupts = 0;
      const accepted: Deno.Conn[] = [];
      const clients = Promise.all(
        Array.from({ length: 20 }, async (_, i) => {
          const mine: Deno.Conn[] = [];
          for (let n = 0; n < count / 20; n++) {
            await tick(next() * 70);
            const client = await Deno.connect(transport.options(listener));
            await client.write(Uint8Array.of(i, n));
            mine.push(client);
          }
          return mine;
        }),
      );
      const take = (conn: Deno.Conn) => void accepted.push(conn);
      const kinds: ((ms: number) => Promise<unknown>)[] = [
        (ms) =>
          spawn(async () => {
            using timeout = Timeout.start(ms);
            try {
              take(await listener.accept());
            } catch (error) {
              if (error !== timeout) throw error;
              interrupts++;
            }
          }).get(),
        (ms) =>
          spawn(async () => {
            const conn = await withTimeout(ms, () => listener.accept(), {
              value: null,
            });
            if (conn === null) interrupts++;
            else take(conn);
          }).get(),
        async (ms) => {
          const before = accepted.length;
          const body = next() < 0.5
            ? async () => take(await listener.accept())
            : function* () {
              take(yield* until(listener.accept()));
            };
          const greenlet = spawn(body as () => Promise<void>);
          await greenlet.join({ timeout: ms });
          await greenlet.kill();
          if (accepted.length === before) interrupts++;
        },
        async () => take(await listener.accept()),
      ];
      while (accepted.length < count) {
        const kind = kinds[Math.floor(next() * (next() < 0.02 ? 4 : 3))]!;
        await kind(next() * 2);
      }
      const all = await clients;
      const ids = await Promise.all(accepted.map(async (conn) => {
        const id = new Uint8Array(3);
        assertEquals(await conn.read(id), 2);
        conn.close();
        return id[0]! * 1000 + id[1]!;
      }));
      assertEquals(new Set(ids).size, count);
      assertGreaterOrEqual(interrupts, 100);
      for (const client of all.flat()) client.close();
      listener.close();
      removeSocket(listener);
    },
  );

  Deno.test(`Listener.close() closes a connection that was kept, ${name}`, async () => {
    using _ = patch();
    for (const method of ["close", Symbol.dispose] as const) {
      for (const wait of [0, 5]) {
        const listener = transport.listen();
        await acceptInVain(listener);
        const conn = await Deno.connect(transport.options(listener));
        // At once, or when it was accepted for nobody.
        if (wait > 0) await tick(wait);
        listener[method]();
        const end = await readText(conn).catch((error: Error) => error);
        if (end instanceof Error) {
          assertInstanceOf(end, Deno.errors.ConnectionReset);
        } else {
          assertEquals(end, null);
        }
        conn.close();
        removeSocket(listener);
      }
    }
  });

  Deno.test(`Listener.accept() after an interrupted one gets its connection, inside and outside, ${name}`, async () => {
    using _ = patch();
    const listener = transport.listen();
    for (
      const accept of [
        () => listener.accept(),
        () => spawn(() => listener.accept()).get(),
        async () => (await listener[Symbol.asyncIterator]().next()).value,
      ] as (() => Promise<Deno.Conn>)[]
    ) {
      for (const early of [true, false]) {
        await acceptInVain(listener);
        const accepting = early ? accept() : undefined;
        const client = await Deno.connect(transport.options(listener));
        await tick(5);
        const conn = await (accepting ?? accept());
        await conn.write(encoder.encode("hello"));
        assertEquals(await readText(client), "hello");
        // The connection is as cooperative as any other.
        await readInVain(conn);
        conn.close();
        client.close();
      }
    }
    listener.close();
    removeSocket(listener);
  });

  Deno.test(`Listener iterated in a greenlet can be killed, and iterated again, ${name}`, async () => {
    using _ = patch();
    const listener = transport.listen();
    const log: string[] = [];
    const serve = async () => {
      try {
        for await (const conn of listener) {
          log.push("connection");
          conn.close();
        }
        log.push("closed");
      } finally {
        log.push("cleaned up");
      }
    };
    const connect = async () => {
      const client = await Deno.connect(transport.options(listener));
      await readText(client).catch(() => {});
      client.close();
    };
    const first = spawn(serve);
    await connect();
    await first.kill();
    assertEquals(log.splice(0), ["connection", "cleaned up"]);
    assertInstanceOf(first.value as unknown, GreenletExit);
    const second = spawn(serve);
    await connect();
    await connect();
    listener.close();
    await second.get();
    assertEquals(log, ["connection", "connection", "closed", "cleaned up"]);
    removeSocket(listener);
  });

  Deno.test(`Listener.close() ends accepts that are pending as unpatched, ${name}`, async () => {
    async function closeWhileAccepting(
      start: (accept: () => Promise<unknown>) => Promise<unknown>,
    ) {
      const listener = transport.listen();
      const tell = (error: Error) => [error.constructor, error.message];
      const accept = () => listener.accept().catch(tell);
      const accepting = start(accept);
      await tick(2);
      listener.close();
      const results = [await accepting, await start(accept)];
      removeSocket(listener);
      return results;
    }
    const unpatched = await closeWhileAccepting((accept) => accept());
    using _ = patch();
    assertEquals(await closeWhileAccepting((accept) => accept()), unpatched);
    assertEquals(
      await closeWhileAccepting((accept) => spawn(accept).get()),
      unpatched,
    );
  });
}

for (const [name, transport] of transports) {
  testRandomly(
    `Deno.connect() leaks no connection when connects are interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      const listener = transport.listen();
      const options = transport.options(listener);
      let served = 0;
      let victim: Greenlet | undefined;
      // Each connection is to be closed by the other side, used or surplus.
      const server = (async () => {
        const ends: Promise<void>[] = [];
        for await (const conn of listener) {
          served++;
          // The client is about to hear of its connection.
          const microturns = Math.floor(next() * 10);
          for (let n = 0; n < microturns; n++) await Promise.resolve();
          if (next() < 0.7) victim?.kill(undefined, { block: false });
          ends.push((async () => {
            while (await readText(conn).catch(() => null) !== null);
            conn.close();
          })());
        }
        await Promise.all(ends);
      })();
      let connected = 0;
      let interrupted = 0;
      const connect = async () => {
        const conn = await Deno.connect(options);
        connected++;
        conn.close();
      };
      const count = 300;
      for (let i = 0; i < count; i++) {
        const before = connected;
        const kind = next();
        if (kind < 0.1) {
          await spawn(() =>
            withTimeout(next() * 0.5, connect, { value: undefined })
          ).get();
        } else {
          const greenlet = spawn(
            kind < 0.3
              ? (function* () {
                const conn = yield* until(Deno.connect(options));
                connected++;
                conn.close();
              }) as unknown as () => Promise<void>
              : connect,
          );
          victim = greenlet as Greenlet;
          // Somewhere between its beginning and its end.
          if (next() < 0.7) {
            const turns = Math.floor(next() * 8);
            for (let n = 0; n < turns; n++) await tick(0);
            const microturns = Math.floor(next() * 12);
            for (let n = 0; n < microturns; n++) await Promise.resolve();
          } else {
            // When the connection is there and its greenlet about to hear of it.
            const end = performance.now() + next();
            while (performance.now() < end);
            await until(Promise.resolve());
          }
          await greenlet.kill();
        }
        if (connected === before) interrupted++;
      }
      await tick(20);
      listener.close();
      await withTimeout(5_000, () => until(server));
      removeSocket(listener);
      assertGreaterOrEqual(connected, 15);
      assertGreaterOrEqual(interrupted, 50);
      assertGreaterOrEqual(served, connected);
    },
  );

  Deno.test(`Deno.connect() closes the connection when killed at the moment it is there, ${name}`, async () => {
    using _ = patch();
    using failures = new Failures();
    const listener = transport.listen();
    let connected = 0;
    for (let microturns = 0; microturns < 16; microturns++) {
      const accepting = listener.accept();
      const greenlet = spawn(async () => {
        const conn = await Deno.connect(transport.options(listener));
        connected++;
        conn.close();
      });
      // The runtime's own promise wakes us in the same turn as the greenlet.
      const peer = await accepting;
      for (let n = 0; n < microturns; n++) await Promise.resolve();
      await greenlet.kill();
      const end = readText(peer).catch(() => null);
      assertEquals(await withTimeout(5_000, () => until(end)), null);
      peer.close();
    }
    assertEquals(failures.errors, []);
    listener.close();
    removeSocket(listener);
  });
}

Deno.test("Deno.connect() can be killed when nobody answers", async () => {
  using _ = patch();
  const listener = tcp.listen();
  // A backlog that is full lets further clients wait.
  const clients: Greenlet[] = [];
  const options = tcp.options(listener);
  for (let i = 0; i < 3; i++) {
    clients.push(spawn(async () => {
      using conn = await Deno.connect(options);
      await conn.read(new Uint8Array(1));
    }) as Greenlet);
  }
  await sleep(2);
  for (const client of clients) await client.kill();
  for (const client of clients) assertInstanceOf(client.value, GreenletExit);
  listener.close();
});

Deno.test("Deno.connect() takes a signal, as outside", async () => {
  const listener = tcp.listen();
  using _ = patch();
  const options = tcp.options(listener);
  const reason = new Error("stop");
  const aborted = { ...options, signal: AbortSignal.abort(reason) };
  for (
    const wrap of [
      (run: () => Promise<unknown>) => run(),
      (run: () => Promise<unknown>) => spawn(run).get(),
    ]
  ) {
    const connect = () => Deno.connect(aborted).catch((error) => error);
    assertStrictEquals(await wrap(connect), reason);
    const controller = new AbortController();
    const { signal } = controller;
    const late = wrap(() =>
      Deno.connect({ ...options, signal }).catch((error) => error)
    );
    if (wrap.length === 1) await Promise.resolve();
    await wrap(() => Promise.resolve(controller.abort(reason)));
    const result = await late;
    if (result instanceof Error) assertStrictEquals(result, reason);
    else (result as Deno.Conn).close();
    // A signal that is aborted later does nothing to the connection.
    const other = new AbortController();
    const conn = await wrap(() =>
      Deno.connect({ ...options, signal: other.signal })
    ) as Deno.Conn;
    other.abort();
    assertEquals(await conn.write(encoder.encode("x")), 1);
    conn.close();
  }
  listener.close();
});

for (const [name, transport] of transports) {
  testRandomly(
    `Conn.write() keeps the order when writes are interrupted, and buffers may be used again, ${name}`,
    async (next) => {
      using _ = patch();
      using pair = await Pair.open(transport);
      const { conn, peer } = pair;
      /** What was written with one byte each, how much of it at least and at most. */
      const written: { byte: number; least: number; most: number }[] = [];
      let interrupts = 0;
      const reading = (async () => {
        const runs: { byte: number; count: number }[] = [];
        const buffer = new Uint8Array(200_000);
        for (;;) {
          const count = await peer.read(buffer);
          if (count === null) return runs;
          for (let i = 0; i < count; i++) {
            const byte = buffer[i]!;
            const last = runs.at(-1);
            if (last?.byte === byte) last.count++;
            else runs.push({ byte, count: 1 });
          }
          await tick(next() * 4);
        }
      })();
      const reused = new Uint8Array(400_000);
      for (let i = 0; i < 250; i++) {
        const byte = i % 200;
        const size = 1 + Math.floor(next() ** 2 * reused.length);
        const data = reused.subarray(0, size).fill(byte);
        const ms = next() * 3;
        let count: number | undefined;
        if (next() < 0.5) {
          count = await spawn(() =>
            withTimeout(ms, () => conn.write(data), { value: undefined })
          ).get();
        } else if (next() < 0.9) {
          const greenlet = spawn(async () => {
            count = await conn.write(data);
          });
          await greenlet.join({ timeout: ms });
          await greenlet.kill();
        } else {
          count = await conn.write(data);
        }
        if (count === undefined) interrupts++;
        written.push({ byte, least: count ?? 0, most: count ?? size });
        reused.fill(255);
      }
      await conn.closeWrite();
      const runs = await reading;
      for (const { byte, least, most } of written) {
        const count = runs[0]?.byte === byte ? runs.shift()!.count : 0;
        assert(
          count >= least && count <= most,
          `${count} times ${byte}, and not ${least} to ${most}`,
        );
      }
      assertEquals(runs, []);
      assertGreaterOrEqual(interrupts, 20);
    },
  );
}

Deno.test("Conn.write() writes the part of a buffer that it is given", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const all = encoder.encode("0123456789");
  const count = await spawn(() => conn.write(all.subarray(3, 6))).get();
  assertEquals(count, 3);
  assertEquals(await readText(peer), "345");
  assertEquals(await spawn(() => conn.write(all.subarray(3, 3))).get(), 0);
});

Deno.test("Conn.write() throws what was held, and writes nothing", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const { promise, resolve } = Promise.withResolvers<void>();
  const held = new Error("held");
  const greenlet = spawn(async () => {
    await promise;
    const write = (text: string) => conn.write(encoder.encode(text));
    const thrown = await write("no").catch((error) => error);
    await write("yes");
    return thrown;
  });
  await sleep(0);
  greenlet.throw(held);
  resolve();
  assertStrictEquals(await greenlet.get(), held);
  assertEquals(await readText(peer), "yes");
});

/** What comes of a call: how it ends, at once or later, with what. */
async function outcome(call: () => unknown): Promise<unknown[]> {
  let result: unknown;
  try {
    result = call();
  } catch (error) {
    return ["throws", ...describe(error)];
  }
  if (!(result instanceof Promise)) return ["returns", result];
  try {
    return ["gives", await result];
  } catch (error) {
    return ["rejects", ...describe(error)];
  }
}

function describe(error: unknown): unknown[] {
  const { constructor, name, message, code } = error as Error & {
    code: unknown;
  };
  return [constructor, name, message, code];
}

/** Calls with odd arguments, with none, and with another `this`. */
const oddCalls: Record<
  string,
  (pair: Pair, closed: Deno.Conn) => unknown
> = Object.fromEntries([
  ...([
    undefined,
    null,
    1,
    "text",
    {},
    new Uint16Array(4),
    new DataView(new ArrayBuffer(4)),
    new ArrayBuffer(4),
    [1, 2],
    detached(),
  ] as never[]).flatMap((value, i) => {
    const name = `${i}: ${Object.prototype.toString.call(value)}`;
    return [
      [`read ${name}`, (pair: Pair) => pair.conn.read(value)],
      [`write ${name}`, (pair: Pair) => pair.conn.write(value)],
      [`connect ${name}`, () => Deno.connect(value)],
      [`listen ${name}`, () => Deno.listen(value).close()],
    ];
  }),
  ...[undefined, null, {}, 1, Deno].flatMap((value) => {
    const self = value as never;
    const name = `of ${String(value)}`;
    const bytes = () => new Uint8Array(4);
    return [
      [`read ${name}`, ({ conn }: Pair) => conn.read.call(self, bytes())],
      [`write ${name}`, ({ conn }: Pair) => conn.write.call(self, bytes())],
      [`close ${name}`, ({ conn }: Pair) => conn.close.call(self)],
      [
        `dispose ${name}`,
        ({ conn }: Pair) => conn[Symbol.dispose].call(self),
      ],
      [`accept ${name}`, ({ listener }: Pair) => listener.accept.call(self)],
      [
        `listener close ${name}`,
        ({ listener }: Pair) => listener.close.call(self),
      ],
    ] as [string, (pair: Pair) => unknown][];
  }),
  [
    "read without an argument",
    ({ conn }: Pair) => conn.read.call(conn, ...[] as never as [Uint8Array]),
  ],
  [
    "read closed",
    (_: Pair, closed: Deno.Conn) => closed.read(new Uint8Array(4)),
  ],
  [
    "write closed",
    (_: Pair, closed: Deno.Conn) => closed.write(new Uint8Array(4)),
  ],
  ["close closed", (_: Pair, closed: Deno.Conn) => closed.close()],
  ["dispose closed", (_: Pair, closed: Deno.Conn) => closed[Symbol.dispose]()],
  ["write nothing", ({ conn }: Pair) => conn.write(new Uint8Array(0))],
  ["write", ({ conn }: Pair) => conn.write(new Uint8Array(7))],
  ["read nothing", ({ conn }: Pair) => conn.read(new Uint8Array(0))],
  [
    "read closed, nothing",
    (_: Pair, closed: Deno.Conn) => closed.read(new Uint8Array(0)),
  ],
  [
    "connect refused",
    ({ refused }: Pair & { refused: number }) =>
      Deno.connect({ hostname: "127.0.0.1", port: refused }),
  ],
  [
    "connect nowhere",
    () => Deno.connect({ transport: "unix", path: "/no/such/socket" } as never),
  ],
  [
    "connect oddly",
    () => Deno.connect({ transport: "pigeon", port: 1 } as never),
  ],
  ["connect to no port", () => Deno.connect({ port: -1 })],
  ["connect to no number", () => Deno.connect({ port: "x" } as never)],
  ["connect to no host", () => Deno.connect({ hostname: "", port: 1 })],
  [
    "connect, no signal",
    ({ refused }: Pair & { refused: number }) =>
      Deno.connect(
        { hostname: "127.0.0.1", port: refused, signal: null } as never,
      ),
  ],
  ["connect, odd signal", () => Deno.connect({ port: 1, signal: {} } as never)],
  [
    "connect, number for signal",
    () => Deno.connect({ port: 1, signal: 5 } as never),
  ],
  [
    "connect, unix with odd signal",
    () =>
      Deno.connect(
        { transport: "unix", path: "/no/such/socket", signal: 5 } as never,
      ),
  ],
  [
    "connect, aborted",
    () => Deno.connect({ port: 1, signal: AbortSignal.abort() }),
  ],
  [
    "connect, aborted for a reason",
    () =>
      Deno.connect({
        port: 1,
        signal: AbortSignal.abort(new RangeError("reason")),
      }),
  ],
  [
    "connect of no this",
    ({ refused }: Pair & { refused: number }) =>
      Deno.connect.call(undefined as never, {
        hostname: "127.0.0.1",
        port: refused,
      } as never),
  ],
]);

function detached(): Uint8Array {
  const bytes = new Uint8Array(4);
  bytes.buffer.transfer();
  return bytes;
}

for (const where of ["outside", "inside"]) {
  Deno.test(`patch() leaves results and errors as they are, ${where} greenlets`, async () => {
    const closedListener = tcp.listen();
    const refused = (closedListener.addr as Deno.NetAddr).port;
    closedListener.close();
    async function callAll(wrap: (call: () => unknown) => Promise<unknown>) {
      const results = new Map<string, unknown>();
      for (const [name, call] of Object.entries(oddCalls)) {
        using pair = await Pair.open();
        using other = await Pair.open();
        other.conn.close();
        Object.assign(pair, { refused });
        results.set(name, await wrap(() => call(pair, other.conn)));
      }
      return results;
    }
    const unpatched = await callAll(outcome);
    using _ = patch();
    const patched = await callAll((call) =>
      where === "outside" ? outcome(call) : spawn(() => outcome(call)).get()
    );
    for (const [name, expected] of unpatched) {
      assertEquals(patched.get(name), expected, name);
    }
  });
}

Deno.test("patch() leaves names, lengths and kinds of the methods as they are", async () => {
  const methods = [
    ["read", (pair: Pair) => pair.conn.read],
    ["write", (pair: Pair) => pair.conn.write],
    ["close", (pair: Pair) => pair.conn.close],
    ["dispose", (pair: Pair) => pair.conn[Symbol.dispose]],
    ["accept", (pair: Pair) => pair.listener.accept],
    ["listener close", (pair: Pair) => pair.listener.close],
    ["listener dispose", (pair: Pair) => pair.listener[Symbol.dispose]],
  ] as const;
  async function look() {
    using pair = await Pair.open();
    return methods.map(([, method]) => method(pair)) as (() => unknown)[];
  }
  const originals = await look();
  const shape = (f: () => unknown) => [f.name, f.length];
  {
    using _ = patch();
    const replacements = await look();
    assertEquals(replacements.map(shape), originals.map(shape));
    for (const [i, replacement] of replacements.entries()) {
      assertFalse(replacement === originals[i], methods[i]![0]);
    }
    using pair = await Pair.open();
    assertEquals(Object.keys(pair.conn), Object.keys(pair.conn));
    for (const object of [pair.conn, pair.listener]) {
      for (const name of ["read", "accept", "close", Symbol.dispose]) {
        assertFalse(Object.hasOwn(object, name));
      }
    }
  }
  for (const [i, method] of (await look()).entries()) {
    assertStrictEquals(method, originals[i]);
  }
});

Deno.test("patch() is used by greenlets on what code outside has made, and the other way round", async () => {
  using _ = patch();
  const listener = await spawn(() => tcp.listen()).get();
  const [conn, peer] = await Promise.all([
    spawn(() => Deno.connect(tcp.options(listener))).get(),
    listener.accept(),
  ]);
  await spawn(() => conn.write(encoder.encode("from inside"))).get();
  assertEquals(await readText(peer), "from inside");
  await peer.write(encoder.encode("from outside"));
  assertEquals(await spawn(readText, conn).get(), "from outside");
  conn.close();
  await spawn(() => peer.close()).get();
  listener.close();
});

for (const [name, transport] of transports) {
  Deno.test(`patch() disposed of while reads are pending loses nothing, ${name}`, async () => {
    const restore = patch();
    using kept = await Pair.open(transport);
    using pending = await Pair.open(transport);
    using waiting = await Pair.open(transport);
    using untouched = await Pair.open(transport);
    await readInVain(kept.conn);
    await kept.peer.write(encoder.encode("kept bytes"));
    await readInVain(pending.conn);
    const reader = spawn(readText, waiting.conn);
    const victim = spawn(readText, untouched.conn);
    await tick(5);
    restore[Symbol.dispose]();

    assertEquals(await readText(kept.conn, 4), "kept");
    assertEquals(await spawn(readText, kept.conn).get(), " bytes");
    await kept.peer.write(encoder.encode("more"));
    assertEquals(await readText(kept.conn), "more");

    await pending.peer.write(encoder.encode("pending"));
    assertEquals(await readText(pending.conn), "pending");
    await waiting.peer.write(encoder.encode("waiting"));
    assertEquals(await reader.get(), "waiting");
    await waiting.peer.write(encoder.encode("then"));
    assertEquals(await readText(waiting.conn), "then");

    await victim.kill();
    assertInstanceOf(victim.value as unknown, GreenletExit);
    await untouched.peer.write(encoder.encode("not lost"));
    assertEquals(await readText(untouched.conn), "not lost");
    assertEquals(Object.keys(untouched.conn), []);

    // Once more patched and restored, while something is kept again.
    {
      using _ = patch();
      using _pair = await Pair.open(transport);
      await readInVain(kept.conn);
      await kept.peer.write(encoder.encode("again"));
      await tick(5);
    }
    assertEquals(await readText(kept.conn), "again");
  });

  Deno.test(`patch() disposed of while accepts are pending loses nothing, ${name}`, async () => {
    const restore = patch();
    const kept = transport.listen();
    const pending = transport.listen();
    const closed = transport.listen();
    const waiting = transport.listen();
    const listeners = [kept, pending, closed, waiting];
    for (const listener of [kept, pending, closed]) {
      await acceptInVain(listener);
    }
    const accepter = spawn(() => waiting.accept());
    const clients = [
      await Deno.connect(transport.options(kept)),
      await Deno.connect(transport.options(closed)),
    ];
    await tick(5);
    restore[Symbol.dispose]();
    clients.push(
      await Deno.connect(transport.options(pending)),
      await Deno.connect(transport.options(waiting)),
    );
    const conns = [
      await kept.accept(),
      await pending.accept(),
      await accepter.get(),
    ];
    closed.close();
    assertEquals(await readText(clients[1]!).catch(() => null), null);
    // What comes after is accepted as ever.
    clients.push(await Deno.connect(transport.options(kept)));
    conns.push(await kept.accept());
    for (const conn of [...conns, ...clients]) conn.close();
    for (const listener of listeners) {
      listener[Symbol.dispose]();
      removeSocket(listener);
    }
  });
}

Deno.test("patch() disposed of while a connect or a write is pending lets it end", async () => {
  const restore = patch();
  using pair = await Pair.open();
  const connecting = spawn(() => Deno.connect(tcp.options(pair.listener)));
  const writing = spawn(() => pair.conn.write(encoder.encode("written")));
  await sleep(0);
  restore[Symbol.dispose]();
  (await connecting.get()).close();
  assertEquals(await writing.get(), 7);
  assertEquals(await readText(pair.peer), "written");
  (await pair.listener.accept()).close();
});

Deno.test("patch() serves clients that come, talk, are killed and go, and leaves nothing", async () => {
  using _ = patch();
  const listener = tcp.listen();
  const handlers = new Set<Greenlet>();
  const server = spawn(async () => {
    for await (const conn of listener) {
      const handler = spawn(async () => {
        using mine = conn;
        const buffer = new Uint8Array(64);
        for (;;) {
          const count = await mine.read(buffer);
          if (count === null) return;
          await mine.write(buffer.slice(0, count));
        }
      }) as Greenlet;
      handlers.add(handler);
      handler.rawlink(() => handlers.delete(handler));
    }
  });
  let echoes = 0;
  const clients = Array.from({ length: 60 }, (_, i) =>
    spawn(async () => {
      using conn = await Deno.connect(tcp.options(listener));
      for (let n = 0; n < 20; n++) {
        await conn.write(encoder.encode(`${i} ${n}`));
        assertEquals(await readText(conn), `${i} ${n}`);
        echoes++;
      }
      if (i % 3 === 0) await conn.read(new Uint8Array(1));
    }));
  const [stuck, others] = [0, 1].map((is) =>
    clients.filter((_, i) => Number(i % 3 !== 0) === is)
  );
  await joinAll(others!, { raiseError: true });
  while (echoes < 60 * 20) await tick(1);
  for (const client of stuck!) await client.kill();
  while (handlers.size > 0) await tick(1);
  await server.kill();
  listener.close();
  assertEquals(await getHub().join({ timeout: 5_000 }), true);
});
