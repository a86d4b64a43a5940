/**
 * The suite that all kinds of sockets have to pass, and its helpers: sockets of each kind,
 * streams of numbered bytes, and readers that are interrupted.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle } from "../_bodies.ts";
import { test, testRandomly, tick } from "../_random.ts";
import { Interrupts, Operations, turns, when } from "../_waits.ts";
import { obstacle } from "../../_patch/sockets.ts";

export { test, testRandomly, tick };

/** Longer than any test. */
export const LONG = 100_000_000;

/** Sockets of one kind. */
export interface Transport {
  listen(): Deno.Listener;
  connect(listener: Deno.Listener): Promise<Deno.Conn>;
}

/** Where a listener is reached. */
export function addressOf(listener: Deno.Listener): Deno.ConnectOptions {
  const { hostname, port } = listener.addr as Deno.NetAddr;
  return { hostname, port };
}

export const tcp: Transport = {
  listen: () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  connect: (listener) => Deno.connect(addressOf(listener)),
};

export const unix: Transport = {
  listen: () =>
    Deno.listen({
      transport: "unix",
      path: `${Deno.makeTempDirSync()}/socket`,
    } as never) as Deno.Listener,
  connect: (listener) => Deno.connect(listener.addr as never),
};

/**
 * The certificates of `localhost`, and of the authority that has signed it: valid from 2020
 * to 2120.
 */
const [ca, cert, key] = ["ca.pem", "localhost.pem", "localhost.key"].map((
  name,
) => Deno.readTextFileSync(new URL(`../tls/${name}`, import.meta.url))) as [
  string,
  string,
  string,
];

export const certificate = { cert, key };
export const caCerts: string[] = [ca];

export const tls: Transport = {
  listen: () =>
    Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...certificate }),
  connect: (listener) => Deno.connectTls({ ...addressOf(listener), caCerts }),
};

/** Two ends of a connection, as made outside greenlets. */
export class Pair implements Disposable {
  private constructor(
    readonly listener: Deno.Listener,
    readonly conn: Deno.Conn,
    readonly peer: Deno.Conn,
  ) {}

  static async open(transport: Transport = tcp): Promise<Pair> {
    const listener = transport.listen();
    const [peer, conn] = await Promise.all([
      listener.accept(),
      transport.connect(listener),
    ]);
    const ends = [peer, conn] as unknown as Deno.TlsConn[];
    await Promise.all(ends.map((end) => end.handshake?.()));
    return new Pair(listener, conn, peer);
  }

  [Symbol.dispose](): void {
    this.listener[Symbol.dispose]();
    this.conn[Symbol.dispose]();
    this.peer[Symbol.dispose]();
    removeSocket(this.listener);
  }
}

export function removeSocket(listener: Deno.Listener): void {
  if (listener.addr.transport !== "unix") return;
  const { path } = listener.addr;
  Deno.removeSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
}

export const encoder = new TextEncoder();
export const decoder = new TextDecoder();

/** Reads once, and gives the text. */
export async function readText(
  conn: Deno.Conn,
  most = 100,
): Promise<string | null> {
  const buffer = new Uint8Array(most);
  const count = await conn.read(buffer);
  return count === null ? null : decoder.decode(buffer.subarray(0, count));
}

/** Reads and is interrupted; what it has begun goes on. */
export async function readInVain(
  conn: Deno.Conn,
  most = 100,
): Promise<Uint8Array> {
  const buffer = new Uint8Array(most);
  const result = await spawn(() =>
    withTimeout(1, () => conn.read(buffer), { value: "late" })
  ).get();
  assertEquals(result, "late");
  return buffer;
}

/**
 * Waits until the read is over that was interrupted: what it has brought is kept then, be it
 * the end.
 */
export async function readIsOver(conn: Deno.Conn): Promise<void> {
  await when(() => !(obstacle(conn) instanceof Deno.errors.Busy));
}

/** Watches the accepts of all listeners of a kind. */
export function watchAccepts(transport: Transport): Operations {
  const listener = transport.listen();
  listener.close();
  removeSocket(listener);
  return new Operations(Object.getPrototypeOf(listener), "accept");
}

export async function acceptInVain(listener: Deno.Listener): Promise<void> {
  const result = await spawn(() =>
    withTimeout(1, () => listener.accept(), { value: "late" })
  ).get();
  assertEquals(result, "late");
}

/** The byte at an offset of a stream of numbered bytes. */
export function byteAt(offset: number): number {
  return (offset * 31 + (offset >> 8) * 17 + (offset >> 16)) & 255;
}

/** Checks the bytes that were read, and counts the reads and interrupts. */
export class Received extends Interrupts {
  length = 0;
  reads = 0;
  ended = false;
  #reached: { length: number; resolve: () => void } | null = null;
  /** Buffers of interrupted reads, which must stay as they were left. */
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
    // No more is written than the count says.
    assert(buffer.subarray(count).every((byte) => byte === 0xAA));
    this.length += count;
    if (this.#reached !== null && this.length >= this.#reached.length) {
      this.#reached.resolve();
      this.#reached = null;
    }
  }

  /** Waits until so much was read. */
  async reach(length: number): Promise<void> {
    if (this.length >= length) return;
    await new Promise<void>((resolve) => this.#reached = { length, resolve });
  }

  interrupted(buffer: Uint8Array): void {
    this.reads++;
    this.#left.push(buffer);
    this.note();
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

/**
 * Sends numbered bytes in random pieces, and the end. Between the pieces it waits until
 * some reads have been interrupted, however fast or slow the machine is.
 */
export async function stream(
  peer: Deno.Conn,
  length: number,
  longest: number,
  received: Received,
  next: () => number,
): Promise<void> {
  for (let sent = 0; sent < length;) {
    const size = Math.min(1 + Math.floor(next() * longest), length - sent);
    let piece = Uint8Array.from({ length: size }, (_, i) => byteAt(sent + i));
    sent += size;
    while (piece.length > 0) piece = piece.subarray(await peer.write(piece));
    // Now and then the next piece comes before the last one was read.
    if (next() < 0.8) await received.reach(sent);
    await received.more(Math.floor(next() * 4));
    if (next() < 0.3) await tick(next());
  }
  await peer.closeWrite();
}

/** Reads a stream to its end, with readers of all kinds in turn. */
export async function readAll(
  conn: Deno.Conn,
  longest: number,
  ms: number,
  received: Received,
  next: () => number,
): Promise<void> {
  const kinds = Object.values(readers);
  while (!received.ended) {
    const size = 1 + Math.floor(next() ** 2 * longest);
    const buffer = new Uint8Array(size).fill(0xAA);
    if (next() < 0.02) {
      await received.patiently(async () => {
        received.take(buffer, await conn.read(buffer));
      });
    } else {
      const kind = kinds[Math.floor(next() * kinds.length)]!;
      await kind(conn, buffer, next() * ms, received);
    }
  }
}

/** True where tests are run again, with operations as another runtime may have them. */
const isRepeated = Deno.env.has("OPERATIONS");

/** The tests that connections and listeners of every kind have to pass. */
export function testSockets(name: string, transport: Transport): void {
  const connect = name === "tls" ? "Deno.connectTls()" : "Deno.connect()";
  testRandomly(
    `Conn.read() loses nothing when a thousand reads are interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      const length = 50_000;
      const all = await Promise.all(
        Array.from({ length: isRepeated ? 6 : 18 }, async () => {
          using pair = await Pair.open(transport);
          const received = new Received();
          await Promise.all([
            readAll(pair.conn, 4000, 1, received, next),
            stream(pair.peer, length, 2500, received, next),
          ]);
          received.check(length);
          return received;
        }),
      );
      const reads = all.reduce((sum, { reads }) => sum + reads, 0);
      const interrupts = all.reduce((sum, { count }) => sum + count, 0);
      assertGreaterOrEqual(interrupts, isRepeated ? 300 : 1000);
      assertGreaterOrEqual(interrupts / reads, 0.2);
    },
  );

  test(`Conn.read() after an interrupted one gets its bytes, inside and outside, ${name}`, async () => {
    using _ = patch();
    using pair = await Pair.open(transport);
    const { conn, peer } = pair;
    const buffer = await readInVain(conn);
    await peer.write(encoder.encode("abcdefgh"));
    await readIsOver(conn);
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
    await readIsOver(conn);
    assertEquals(await readText(conn), null);
    assertEquals(await spawn(readText, conn).get(), null);
    assertEquals(await readText(conn), null);
    assert(buffer.every((byte) => byte === 0));
  });

  for (const method of ["close", Symbol.dispose] as const) {
    test(`Conn.${String(method)}() ends pending reads as it does unpatched, ${name}`, async () => {
      async function closeWhileReading(
        start: (read: () => Promise<unknown>) => Promise<unknown>,
      ) {
        using pair = await Pair.open(transport);
        const { conn } = pair;
        const tell = (error: Error) => [error.constructor, error.message];
        const read = () => readText(conn).catch(tell);
        const reads = [start(read), start(read)];
        await settle();
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

    test(`Conn.${String(method)}() after an interrupted read drops the bytes that were kept, ${name}`, async () => {
      using _ = patch();
      for (const kept of [true, false]) {
        using pair = await Pair.open(transport);
        const { conn, peer } = pair;
        await readInVain(conn);
        if (kept) {
          await peer.write(encoder.encode("kept"));
          await readIsOver(conn);
        }
        conn[method]();
        await assertRejects(() => readText(conn), Deno.errors.BadResource);
        const inside = await spawn(() => readText(conn).catch((e) => e)).get();
        assertInstanceOf(inside, Deno.errors.BadResource);
      }
    });
  }

  testRandomly(
    `Listener.accept() loses no connection when accepts are interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      const listener = transport.listen();
      const count = 240;
      const interrupted = new Interrupts();
      const accepted: Deno.Conn[] = [];
      const clients = Promise.all(
        Array.from({ length: 20 }, async (_, i) => {
          const mine: Deno.Conn[] = [];
          for (let n = 0; n < count / 20; n++) {
            await interrupted.more(Math.floor(next() * 12));
            if (next() < 0.3) await tick(next());
            const client = await transport.connect(listener);
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
              interrupted.note();
            }
          }).get(),
        (ms) =>
          spawn(async () => {
            const conn = await withTimeout(ms, () => listener.accept(), {
              value: null,
            });
            if (conn === null) interrupted.note();
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
          if (accepted.length === before) interrupted.note();
        },
        () => interrupted.patiently(async () => take(await listener.accept())),
      ];
      while (accepted.length < count) {
        const kind = kinds[Math.floor(next() * (next() < 0.02 ? 4 : 3))]!;
        await kind(next());
      }
      const all = await clients;
      const ids = await Promise.all(accepted.map(async (conn) => {
        const id = new Uint8Array(3);
        assertEquals(await conn.read(id), 2);
        conn.close();
        return id[0]! * 1000 + id[1]!;
      }));
      assertEquals(new Set(ids).size, count);
      assertGreaterOrEqual(interrupted.count, 50);
      for (const client of all.flat()) client.close();
      listener.close();
      removeSocket(listener);
    },
  );

  test(`Listener.close() closes a connection that was kept, ${name}`, async () => {
    using accepts = watchAccepts(transport);
    using _ = patch();
    for (const method of ["close", Symbol.dispose] as const) {
      for (const isAccepted of [false, true]) {
        const listener = transport.listen();
        await acceptInVain(listener);
        const conn = await transport.connect(listener);
        // At once, or when it was accepted after an interrupt.
        if (isAccepted) await accepts.over();
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

  test(`Listener.accept() after an interrupted one gets its connection, inside and outside, ${name}`, async () => {
    using accepts = watchAccepts(transport);
    using _ = patch();
    const ways: ((listener: Deno.Listener) => Promise<Deno.Conn>)[] = [
      (listener) => listener.accept(),
      (listener) => spawn(() => listener.accept()).get(),
      async (listener) =>
        (await listener[Symbol.asyncIterator]().next()).value!,
    ];
    for (const early of [true, false]) {
      await Promise.all(ways.map(async (accept) => {
        const listener = transport.listen();
        await acceptInVain(listener);
        const accepting = early ? accept(listener) : undefined;
        const client = await transport.connect(listener);
        await accepts.over();
        const conn = await (accepting ?? accept(listener));
        await conn.write(encoder.encode("hello"));
        assertEquals(await readText(client), "hello");
        // The connection is as cooperative as any other.
        await readInVain(conn);
        for (const socket of [conn, client, listener]) socket.close();
        removeSocket(listener);
      }));
    }
  });

  test(`Listener in a loop is closed when that is left, by an interrupt as well, ${name}`, async () => {
    using _ = patch();
    const leaves: Record<string, (loop: Greenlet) => unknown> = {
      break: () => {},
      kill: (loop) => loop.kill(),
      "no grace": (loop) => loop.kill(undefined, { grace: 0 }),
      throw: (loop) => loop.throw(new GreenletExit()),
    };
    for (const [how, leave] of Object.entries(leaves)) {
      const listener = transport.listen();
      const log: string[] = [];
      const loop = spawn(async () => {
        try {
          for await (const conn of listener) {
            log.push("connection");
            conn.close();
            if (how === "break") break;
          }
        } finally {
          // By `break` it is closed as in plain Deno.
          if (how !== "break") listener.close();
          assertThrows(() => listener.close(), Deno.errors.BadResource);
          log.push("closed");
        }
      }) as Greenlet;
      const client = await transport.connect(listener);
      await readText(client).catch(() => {});
      client.close();
      leave(loop);
      await loop.join();
      assertEquals(log, ["connection", "closed"]);
      removeSocket(listener);
    }
  });

  test(`Listener whose next() is called in a loop stays open when that call is timed out, ${name}`, async () => {
    using _ = patch();
    const listener = transport.listen();
    const asked = Promise.withResolvers<void>();
    const loop = spawn(async () => {
      for await (const conn of listener) {
        conn.close();
        const more = listener[Symbol.asyncIterator]();
        const late = { value: null };
        assertEquals(await withTimeout(1, () => more.next(), late), null);
        asked.resolve();
        const { value } = await more.next();
        value.close();
        break;
      }
    });
    for (let i = 0; i < 2; i++) {
      const client = await transport.connect(listener);
      await readText(client).catch(() => {});
      client.close();
      await asked.promise;
    }
    await loop.get();
    removeSocket(listener);
  });

  test(`Listener iterated in greenlets gives its connections, and ends when it is closed, ${name}`, async () => {
    using _ = patch();
    const listener = transport.listen();
    const log: string[] = [];
    const second = spawn(async () => {
      for await (const conn of listener) {
        log.push("connection");
        conn.close();
      }
      log.push("closed");
    });
    for (let i = 0; i < 2; i++) {
      const client = await transport.connect(listener);
      await readText(client).catch(() => {});
      client.close();
    }
    listener.close();
    await second.get();
    assertEquals(log, ["connection", "connection", "closed"]);
    removeSocket(listener);
  });

  test(`Listener.close() ends pending accepts as it does unpatched, ${name}`, async () => {
    async function closeWhileAccepting(
      start: (accept: () => Promise<unknown>) => Promise<unknown>,
    ) {
      const listener = transport.listen();
      const tell = (error: Error) => [error.constructor, error.message];
      const accept = () => listener.accept().catch(tell);
      const accepting = start(accept);
      await settle();
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

  testRandomly(
    `${connect} leaks no connection when connects are interrupted, ${name}`,
    async (next) => {
      using connects = new Operations(
        Deno,
        name === "tls" ? "connectTls" : "connect",
      );
      using _ = patch();
      const listener = transport.listen();
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
        const conn = await transport.connect(listener);
        connected++;
        conn.close();
      };
      const count = 200;
      for (let i = 0; i < count; i++) {
        const before = connected;
        const kind = next();
        if (i % 20 === 0) {
          // It is let be, that there are some.
          victim = undefined;
          await spawn(connect).get();
        } else if (i % 5 === 1) {
          // Before it can be over.
          victim = undefined;
          const greenlet = spawn(connect);
          await sleep(0);
          await greenlet.kill();
        } else if (kind < 0.1) {
          await spawn(() =>
            withTimeout(next() * 0.5, connect, { value: undefined })
          ).get();
        } else {
          const greenlet = spawn(
            kind < 0.3
              ? (function* () {
                const conn = yield* until(transport.connect(listener));
                connected++;
                conn.close();
              }) as unknown as () => Promise<void>
              : connect,
          );
          victim = greenlet as Greenlet;
          // Somewhere between its beginning and its end.
          if (next() < 0.7) {
            await turns(Math.floor(next() ** 2 * 150));
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
      await connects.over();
      await when(() => served >= connected);
      listener.close();
      await server;
      removeSocket(listener);
      assertGreaterOrEqual(connected, 5);
      assertGreaterOrEqual(interrupted, 30);
    },
  );

  test(`${connect} closes the connection when killed at the moment it is there, ${name}`, async () => {
    using _ = patch();
    using failures = new Failures();
    const listener = transport.listen();
    let connected = 0;
    for (let microturns = 0; microturns < 16; microturns++) {
      const accepting = listener.accept();
      const greenlet = spawn(async () => {
        const conn = await transport.connect(listener);
        connected++;
        conn.close();
      });
      // The runtime's own promise wakes us in the same turn as the greenlet.
      const peer = await accepting;
      for (let n = 0; n < microturns; n++) await Promise.resolve();
      await greenlet.kill();
      // There would be no end if the connection were left open.
      assertEquals(await readText(peer).catch(() => null), null);
      peer.close();
    }
    assertEquals(failures.errors, []);
    listener.close();
    removeSocket(listener);
  });

  testRandomly(
    `Conn.write() keeps the order when writes are interrupted, and buffers may be used again, ${name}`,
    async (next) => {
      using _ = patch();
      using pair = await Pair.open(transport);
      const { conn, peer } = pair;
      /** The byte of each write, and how often it has to arrive at least and at most. */
      const written: { byte: number; least: number; most: number }[] = [];
      const interrupted = new Interrupts();
      const reading = readRuns(
        peer,
        () => interrupted.more(Math.floor(next() * 2.5)),
      );
      const reused = new Uint8Array(400_000);
      for (
        let i = 0;
        i < (isRepeated ? 40 : 150) || interrupted.count < 10;
        i++
      ) {
        const byte = i % 200;
        const size = 1 + Math.floor(next() ** 2 * reused.length);
        const data = reused.subarray(0, size).fill(byte);
        const ms = next();
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
          await interrupted.patiently(async () => {
            count = await conn.write(data);
          });
        }
        if (count === undefined) interrupted.note();
        written.push({ byte, least: count ?? 0, most: count ?? size });
        reused.fill(255);
      }
      const runs: { byte: number; count: number }[] = [];
      await interrupted.patiently(async () => {
        await conn.closeWrite();
        runs.push(...await reading);
      });
      for (const { byte, least, most } of written) {
        const count = runs[0]?.byte === byte ? runs.shift()!.count : 0;
        assert(
          count >= least && count <= most,
          `${count} times ${byte}, and not ${least} to ${most}`,
        );
      }
      assertEquals(runs, []);
    },
  );

  test(`patch() disposed of while reads are pending loses nothing, ${name}`, async () => {
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
    await sleep(0);
    await readIsOver(kept.conn);
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
      await readIsOver(kept.conn);
    }
    assertEquals(await readText(kept.conn), "again");
  });

  test(`patch() disposed of while accepts are pending loses nothing, ${name}`, async () => {
    using keptAccepts = watchAccepts(transport);
    const restore = patch();
    const kept = transport.listen();
    const pending = transport.listen();
    const closed = transport.listen();
    const waiting = transport.listen();
    const listeners = [kept, pending, closed, waiting];
    for (const listener of [kept, closed]) await acceptInVain(listener);
    const clients = [
      await transport.connect(kept),
      await transport.connect(closed),
    ];
    await keptAccepts.over();
    await acceptInVain(pending);
    const accepter = spawn(() => waiting.accept());
    await sleep(0);
    restore[Symbol.dispose]();
    clients.push(
      await transport.connect(pending),
      await transport.connect(waiting),
    );
    const conns = [
      await kept.accept(),
      await pending.accept(),
      await accepter.get(),
    ];
    closed.close();
    assertEquals(await readText(clients[1]!).catch(() => null), null);
    // Later connections are accepted as ever.
    clients.push(await transport.connect(kept));
    conns.push(await kept.accept());
    for (const conn of [...conns, ...clients]) conn.close();
    for (const listener of listeners) {
      listener[Symbol.dispose]();
      removeSocket(listener);
    }
  });

  test(`Conn.readable brings what an interrupted read() has kept, or will bring, ${name}`, async () => {
    using _ = patch();
    for (const early of [true, false]) {
      for (const kept of [true, false]) {
        using pair = await Pair.open(transport);
        const { conn, peer } = pair;
        // One that is asked for before the interrupt misses no more than a later one.
        const before = early ? conn.readable : undefined;
        const buffer = await readInVain(conn);
        if (kept) {
          await peer.write(encoder.encode("header"));
          await readIsOver(conn);
          assertEquals(await readText(conn, 4), "head");
        }
        const { readable } = conn;
        if (early) assertStrictEquals(readable, before);
        const body = collect(readable);
        if (!kept) await peer.write(encoder.encode("er"));
        await settle();
        await peer.write(encoder.encode(" and body"));
        await peer.closeWrite();
        assertEquals(await body, "er and body");
        assert(buffer.every((byte) => byte === 0));
        // As ever, its end closes the connection.
        await assertRejects(() => readText(conn), Deno.errors.BadResource);
        assertStrictEquals(conn.readable, readable);
      }
    }
  });

  test(`Conn.readable brings the end that an interrupted read() has kept, ${name}`, async () => {
    using _ = patch();
    using pair = await Pair.open(transport);
    const { conn, peer } = pair;
    await readInVain(conn);
    await peer.closeWrite();
    await readIsOver(conn);
    assertEquals(await collect(conn.readable), "");
  });

  test(`Conn.readable is piped on behind a header that was read with a timeout, ${name}`, async () => {
    using _ = patch();
    using from = await Pair.open(transport);
    using to = await Pair.open(transport);
    const sent = Uint8Array.from({ length: 300_000 }, (_, i) => byteAt(i));
    const writer = from.peer.writable.getWriter();
    const greenlet = spawn(async () => {
      const read = (ms: number) =>
        withTimeout(ms, () => readText(from.conn, 3), { value: "late" });
      assertEquals(await read(1), "late");
      writer.write(encoder.encode("ABCDEF"));
      assertEquals(await read(LONG), "ABC");
      assertEquals(await read(LONG), "DEF");
      assertEquals(await read(1), "late");
      writer.write(sent);
      writer.close();
      await from.conn.readable.pipeTo(to.conn.writable);
    });
    const received = new Uint8Array(
      await new Response(to.peer.readable).arrayBuffer(),
    );
    await greenlet.get();
    assertEquals(received.length, sent.length);
    assert(received.every((byte, i) => byte === byteAt(i)));
  });

  testRandomly(
    `Conn.readable and read() share the bytes in order, however they are interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      const length = 30_000;
      await Promise.all(Array.from({ length: 16 }, async () => {
        using pair = await Pair.open(transport);
        const { conn, peer } = pair;
        const received = new Received();
        const sending = stream(peer, length, 1500, received, next);
        const kinds = Object.values(readers);
        const { readable } = conn;
        while (!received.ended) {
          const size = 1 + Math.floor(next() ** 2 * 2000);
          if (next() < 0.7) {
            const kind = kinds[Math.floor(next() * kinds.length)]!;
            const buffer = new Uint8Array(size).fill(0xAA);
            await kind(conn, buffer, next(), received);
            continue;
          }
          await received.patiently(async () => {
            if (next() < 0.5) {
              const reader = readable.getReader({ mode: "byob" });
              const { value } = await reader.read(new Uint8Array(size));
              received.take(value!, value!.length || null);
              reader.releaseLock();
            } else {
              const reader = readable.getReader();
              const { value } = await reader.read();
              received.take(value ?? new Uint8Array(), value?.length ?? null);
              reader.releaseLock();
            }
          });
        }
        received.check(length);
        await sending;
      }));
    },
  );

  for (const where of ["outside", "inside"]) {
    test(`Conn.readable is the same as unpatched, ${where} greenlets, ${name}`, async () => {
      async function runAll(
        wrap: (run: () => Promise<unknown>) => Promise<unknown>,
      ): Promise<Map<string, unknown>> {
        const results = new Map<string, unknown>();
        await Promise.all(
          Object.entries(streamUses).map(async ([title, run]) => {
            using pair = await Pair.open(transport);
            results.set(title, await wrap(() => run(pair)));
          }),
        );
        return results;
      }
      const unpatched = await runAll((run) => run());
      using _ = patch();
      const patched = await runAll((run) =>
        where === "outside" ? run() : spawn(run).get()
      );
      for (const [title, expected] of unpatched) {
        assertEquals(patched.get(title), expected, title);
      }
    });
  }

  test(`Conn.readable that is locked when it is patched stays what it is, ${name}`, async () => {
    using pair = await Pair.open(transport);
    const { conn, peer } = pair;
    const { readable } = conn;
    const reader = readable.getReader();
    using _ = patch();
    (await Pair.open(transport))[Symbol.dispose]();
    assertStrictEquals(conn.readable, readable);
    const reading = reader.read();
    await peer.write(encoder.encode("x"));
    assertEquals((await reading).value, encoder.encode("x"));
    reader.releaseLock();
    assertStrictEquals(conn.readable, readable);
  });

  test(`Conn.readable goes on when patch() is disposed of, ${name}`, async () => {
    const restore = patch();
    using unread = await Pair.open(transport);
    using asked = await Pair.open(transport);
    using pending = await Pair.open(transport);
    await readInVain(unread.conn);
    const { readable } = asked.conn;
    const reader = pending.conn.readable.getReader();
    const reading = reader.read();
    restore[Symbol.dispose]();
    assertStrictEquals(asked.conn.readable, readable);
    for (const { peer } of [unread, asked, pending]) {
      await peer.write(encoder.encode("bytes"));
      await peer.closeWrite();
    }
    assertEquals(await collect(unread.conn.readable), "bytes");
    assertEquals(await collect(asked.conn.readable), "bytes");
    assertEquals((await reading).value, encoder.encode("bytes"));
    assertEquals((await reader.read()).done, true);
  });

  testRandomly(
    `Conn.writable and closeWrite() come behind writes that were interrupted, ${name}`,
    async (next) => {
      using _ = patch();
      await Promise.all(Array.from({ length: 8 }, async () => {
        using pair = await Pair.open(transport);
        const { conn, peer } = pair;
        // More than the system takes at once.
        const big = 500_000 + Math.floor(next() * 3_000_000);
        const writing = spawn(() => conn.write(new Uint8Array(big).fill(1)));
        const small = spawn(() => conn.write(new Uint8Array(10).fill(2)));
        await sleep(0);
        if (next() < 0.5) await tick(next());
        await writing.kill();
        await small.kill();
        const ending = (async () => {
          if (next() < 0.5) {
            const writer = conn.writable.getWriter();
            await writer.write(new Uint8Array(300_000).fill(3));
            await conn.closeWrite();
          } else {
            await spawn(() => conn.write(new Uint8Array(10).fill(3))).get();
            const closing = spawn(() => conn.closeWrite());
            await sleep(0);
            if (next() < 0.5) await closing.kill();
            else await closing.get();
          }
        })();
        const runs = await readRuns(peer);
        await ending;
        assertEquals(runs.map(({ byte }) => byte), [1, 2, 3]);
        assertEquals(runs[1]!.count, 10);
      }));
    },
  );

  test(`Conn.closeWrite() can be killed while it waits for a write, and goes on, ${name}`, async () => {
    using _ = patch();
    using pair = await Pair.open(transport);
    const { conn, peer } = pair;
    const log: string[] = [];
    // Writes until nothing goes any more, for some time.
    const data = new Uint8Array(100_000).fill(7);
    for (let late = 0; late < 10;) {
      const count = await spawn(() =>
        withTimeout(1, () => conn.write(data), { value: 0 })
      ).get();
      late = count > 0 ? 0 : late + 1;
    }
    const closing = spawn(async () => {
      try {
        await conn.closeWrite();
      } finally {
        log.push("cleaned up");
      }
    }) as Greenlet;
    await sleep(0);
    await closing.kill();
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(closing.value, GreenletExit);
    assertEquals((await readRuns(peer)).map(({ byte }) => byte), [7]);
    assertInstanceOf(
      await spawn(() => conn.write(data).catch((error) => error)).get(),
      Error,
    );
  });
}

/** The text of a whole stream. */
export function collect(readable: ReadableStream<Uint8Array>): Promise<string> {
  return new Response(readable as ReadableStream<Uint8Array<ArrayBuffer>>)
    .text();
}

/** Reads to the end, and gives the runs of the same byte. */
async function readRuns(
  conn: Deno.Conn,
  each: () => Promise<void> = () => Promise.resolve(),
): Promise<{ byte: number; count: number }[]> {
  const runs: { byte: number; count: number }[] = [];
  const buffer = new Uint8Array(200_000);
  for (;;) {
    const count = await conn.read(buffer);
    if (count === null) return runs;
    for (let i = 0; i < count; i++) {
      const byte = buffer[i]!;
      const last = runs.at(-1);
      if (last?.byte === byte) last.count++;
      else runs.push({ byte, count: 1 });
    }
    await each();
  }
}

/** The class of a view, and its contents. */
function show(result: ReadableStreamReadResult<ArrayBufferView>): unknown {
  const { done, value } = result;
  if (value === undefined) return { done };
  const { buffer, byteOffset, byteLength } = value;
  return {
    done,
    kind: value.constructor.name,
    byteOffset,
    size: buffer.byteLength,
    bytes: [...new Uint8Array(buffer, byteOffset, byteLength)],
  };
}

function tell(error: unknown): unknown {
  const { constructor, name, message } = error as Error;
  return [constructor, name, message];
}

/** Uses of the stream of a connection, and what comes of them. */
const streamUses: Record<string, (pair: Pair) => Promise<unknown>> = {
  "looked at": ({ conn }) => {
    const { readable } = conn;
    return Promise.resolve([
      Deno.inspect(readable),
      Object.prototype.toString.call(readable),
      readable instanceof ReadableStream,
      readable === conn.readable,
      readable.locked,
      Object.keys(conn),
    ]);
  },
  "of something else": ({ conn }) => {
    const results = [];
    for (const self of [undefined, null, 1, {}, conn.constructor.prototype]) {
      try {
        results.push(getter(conn, "readable").call(self));
      } catch (error) {
        results.push(tell(error));
      }
    }
    return Promise.resolve(results);
  },
  "default reader": async ({ conn, peer }) => {
    const reader = conn.readable.getReader();
    const results = [];
    for (const text of ["hello", "again"]) {
      const reading = reader.read();
      await peer.write(encoder.encode(text));
      results.push(show(await reading));
    }
    const last = reader.read();
    await peer.closeWrite();
    results.push(show(await last), await reader.closed);
    return [...results, await conn.write(encoder.encode("x")).catch(tell)];
  },
  "BYOB reader": async ({ conn, peer }) => {
    const reader = conn.readable.getReader({ mode: "byob" });
    await peer.write(encoder.encode("hello you there"));
    const results = [
      show(await reader.read(new Uint8Array(3))),
      show(await reader.read(new Uint8Array(new ArrayBuffer(9), 2, 2))),
      show(await reader.read(new Uint16Array(2))),
      show(await reader.read(new DataView(new ArrayBuffer(3)))),
      show(await reader.read(new Uint8Array(9), { min: 2 })),
    ];
    const last = reader.read(new Uint8Array(3));
    await peer.closeWrite();
    return [...results, show(await last), await reader.closed];
  },
  "cancelled": async ({ conn, peer }) => {
    const end = readText(peer).catch(() => null);
    const result = await conn.readable.cancel("reason");
    return [result, await end, await readText(conn).catch(tell)];
  },
  "cancelled while it is read": async ({ conn, peer }) => {
    const reader = conn.readable.getReader();
    const reading = reader.read();
    await settle();
    const end = readText(peer).catch(() => null);
    await reader.cancel();
    return [show(await reading), await reader.closed, await end];
  },
  "closed while it is read": async ({ conn }) => {
    const reader = conn.readable.getReader();
    const reading = reader.read().catch(tell);
    const closed = reader.closed.catch(tell);
    await settle();
    conn.close();
    return [await reading, await closed, await reader.read().catch(tell)];
  },
  "read when closed": async ({ conn }) => {
    const { readable } = conn;
    conn.close();
    const reader = readable.getReader();
    const result = await reader.read().catch(tell);
    return [
      result,
      await reader.closed.catch(tell),
      conn.readable === readable,
    ];
  },
  "asked for and read when closed": async ({ conn }) => {
    conn.close();
    return await conn.readable.getReader().read().catch(tell);
  },
  "released": async ({ conn, peer }) => {
    const first = conn.readable.getReader();
    const reading = first.read().catch(tell);
    await settle();
    first.releaseLock();
    await peer.write(encoder.encode("x"));
    return [await reading, show(await conn.readable.getReader().read())];
  },
  "iterated": async ({ conn, peer }) => {
    await peer.write(encoder.encode("x"));
    const chunks = [];
    for await (const chunk of conn.readable) {
      chunks.push([...chunk]);
      break;
    }
    return [chunks, await readText(conn).catch(tell)];
  },
  "a tee": async ({ conn, peer }) => {
    await peer.write(encoder.encode("both"));
    await peer.closeWrite();
    return await Promise.all(conn.readable.tee().map(collect));
  },
  "a body": async ({ conn, peer }) => {
    await peer.write(encoder.encode("body"));
    await peer.closeWrite();
    return [await collect(conn.readable), await readText(conn).catch(tell)];
  },
  "locked": ({ conn }) => {
    conn.readable.getReader();
    try {
      conn.readable.getReader();
    } catch (error) {
      return Promise.resolve(tell(error));
    }
    return Promise.resolve();
  },
};

/** The getter of a property that is inherited. */
export function getter(object: object, name: PropertyKey): () => unknown {
  for (let owner = object;; owner = Object.getPrototypeOf(owner)) {
    const property = Object.getOwnPropertyDescriptor(owner, name);
    if (property !== undefined) return property.get!;
  }
}
