import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertMatch,
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
} from "../../mod.ts";
import { Failures, runScript, settle, testBoth } from "../_bodies.ts";
import { inParallel, runToEnds } from "../_processes.ts";
import {
  addressOf,
  byteAt,
  decoder,
  encoder,
  getter,
  Pair,
  readAll,
  readInVain,
  readIsOver,
  readText,
  Received,
  stream,
  tcp,
  test,
  testRandomly,
  testSockets,
  tls,
  unix,
} from "./socket_suite.ts";
import { outcome } from "../_random.ts";
import { turns, when } from "../_waits.ts";

testSockets("tcp", tcp);
if (Deno.build.os !== "windows") testSockets("unix", unix);

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
    const length = 6_000;
    try {
      const all = await Promise.all(
        Array.from({ length: 20 }, async () => {
          using pair = await Pair.open();
          const received = new Received();
          await Promise.all([
            readAll(pair.conn, 1000, 2, received, next),
            stream(pair.peer, length, 500, received, next),
          ]);
          received.check(length);
          return received;
        }),
      );
      const interrupts = all.reduce((sum, { count }) => sum + count, 0);
      assertGreaterOrEqual(interrupts, 300);
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
    const length = 24_000;
    const received = new Received();
    const sending = stream(peer, length, 300, received, next);
    const work = async () => {
      while (!received.ended) {
        const buffer = new Uint8Array(1 + Math.floor(next() * 200)).fill(0xAA);
        using timeout = Timeout.start(next() * 2);
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
    assertGreaterOrEqual(received.count, 200);
  },
);

testBoth(
  "Conn.read() keeps the bytes that arrived before the interrupt",
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
      await readIsOver(conn);
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
    await sleep(0);
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(greenlet.value as unknown, GreenletExit);
  },
);

test("Listener.accept() and Conn.read() of sockets from before a second patch() can be killed", async () => {
  {
    using _ = patch();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const accepting = listener.accept();
    const { port } = listener.addr;
    (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    (await accepting).close();
    listener.close();
  }
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const accepting = listener.accept();
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using peer = await accepting;
  using _ = patch();
  const greenlets = [
    spawn(() => listener.accept()),
    spawn(() => conn.read(new Uint8Array(1))),
  ];
  await sleep(0);
  for (const greenlet of greenlets) {
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
  }
  await peer.write(new Uint8Array([7]));
  const buffer = new Uint8Array(1);
  assertEquals(await conn.read(buffer), 1);
  assertEquals(buffer[0], 7);
});

test("Conn.read() gives no more than fits, and keeps the rest", async () => {
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

test("Conn.read() of nothing gives 0 and takes no byte, inside as outside", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const none = new Uint8Array(0);
  assertEquals(await conn.read(none), 0);
  assertEquals(await spawn(() => conn.read(none)).get(), 0);
  await readInVain(conn);
  assertEquals(await conn.read(none), 0);
  await peer.write(encoder.encode("x"));
  await readIsOver(conn);
  assertEquals(await spawn(() => conn.read(none)).get(), 0);
  assertEquals(await readText(conn), "x");
});

test("Conn.read() writes into a part of a buffer and nowhere else", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  await peer.write(encoder.encode("abc"));
  const all = new Uint8Array(10);
  const count = await spawn(() => conn.read(all.subarray(4, 9))).get();
  assertEquals(count, 3);
  assertEquals([...all], [0, 0, 0, 0, 97, 98, 99, 0, 0, 0]);
});

test("Conn.read() into a buffer that was transferred meanwhile gives 0 and takes no byte", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const first = spawn(readText, conn);
  const buffer = new Uint8Array(10);
  const second = spawn(() => conn.read(buffer));
  await sleep(0);
  buffer.buffer.transfer();
  await peer.write(encoder.encode("first"));
  assertEquals(await first.get(), "first");
  await peer.write(encoder.encode("second"));
  assertEquals(await second.get(), 0);
  assertEquals(await readText(conn, 1), "s");
  assertEquals(await readText(conn), "econd");
});

test("Conn.read() throws an error that was held, and takes no byte", async () => {
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

test("Conn.read() ends a body that swallows its kill", async () => {
  using _ = patch();
  using failures = new Failures();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const greenlet = spawn(async () => {
    for (;;) await readText(conn).catch(() => {});
  });
  await sleep(0);
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
  pair.peer.close();
  await readIsOver(pair.conn);
}

for (const where of Deno.build.os === "linux" ? ["inside", "outside"] : []) {
  test(`Conn.read() that fails after an interrupt fails the next one, ${where}`, async () => {
    using _ = patch();
    using pair = await Pair.open(unix);
    await breakAfterInterrupt(pair);
    const read = () => readText(pair.conn);
    const failing = () => read().catch((error) => error);
    const error = await (where === "inside" ? spawn(failing).get() : failing());
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    // Then it behaves as after any error.
    assertEquals(await spawn(read).get(), null);
    assertEquals(await read(), null);
  });
}

test("Conn.close() fails the second time, inside as outside, and Symbol.dispose does not", async () => {
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

test("Conn.close() lets a connection go that had kept bytes", async () => {
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
    // The last one may still be in some register.
    const isKept = (ref) => ref.deref() !== undefined;
    for (let i = 0; i < 100 && refs.filter(isKept).length > 1; i++) {
      await sleep(1);
      gc();
    }
    console.log(refs.filter(isKept).length <= 1);
  `,
  );
  assertEquals([err, out, code], ["", ["true"], 0]);
});

test("Conn in a `using` block is closed, kept bytes and all", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const greenlet = spawn(async () => {
    using mine = conn;
    await mine.read(new Uint8Array(1));
  });
  await sleep(0);
  await greenlet.kill();
  assertEquals(await readText(peer), null);
  await assertRejects(() => readText(conn), Deno.errors.BadResource);
});

test("Deno.connect() that gets no answer is cancelled when it is interrupted", async () => {
  using _ = patch();
  // A backlog that is full leaves further clients without an answer.
  const listener = Deno.listen({
    hostname: "127.0.0.1",
    port: 0,
    tcpBacklog: 1,
  });
  const connected: Deno.Conn[] = [];
  const clients = Array.from({ length: 8 }, () =>
    spawn(async () => {
      connected.push(await Deno.connect(addressOf(listener)));
    }) as Greenlet);
  // As many as the system takes, which it does at once.
  await when(() => connected.length > 0);
  for (let before = 0; before < connected.length;) {
    before = connected.length;
    await turns(200);
  }
  const waiting = clients.filter((client) => !client.dead);
  // There may be none, as on systems where a backlog is only a hint.
  if (Deno.build.os === "linux") assertGreaterOrEqual(waiting.length, 1);
  for (const client of waiting) {
    await client.kill();
    assertInstanceOf(client.value, GreenletExit);
  }
  // The sanitizers see what goes on beneath.
  for (const conn of connected) conn.close();
  listener.close();
});

test("Deno.connect() takes a signal, as outside", async () => {
  const listener = tcp.listen();
  using _ = patch();
  const options = addressOf(listener);
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

test("Conn.write() writes the part of a buffer that it is given", async () => {
  using _ = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const all = encoder.encode("0123456789");
  const count = await spawn(() => conn.write(all.subarray(3, 6))).get();
  assertEquals(count, 3);
  assertEquals(await readText(peer), "345");
  assertEquals(await spawn(() => conn.write(all.subarray(3, 3))).get(), 0);
});

test("Conn.write() writes as many bytes as there are, and no other bytes, whatever a subclass of Uint8Array says", async () => {
  using _ = patch();
  using one = await Pair.open();
  using other = await Pair.open();
  class Longer extends Uint8Array {
    override get length(): number {
      return 12;
    }
  }
  await spawn(async () => {
    assertEquals(await other.conn.write(encoder.encode("password=abc")), 12);
    assertEquals(await one.conn.write(new Longer([65, 66])), 2);
    one.conn.close();
    assertEquals(await readText(one.peer), "AB");
    assertEquals(await readText(one.peer), null);
  }).get();
});

test("Conn.write() throws what was held, and writes nothing", async () => {
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
      [`ref ${name}`, ({ conn }: Pair) => conn.ref.call(self)],
      [`unref ${name}`, ({ conn }: Pair) => conn.unref.call(self)],
      [`closeWrite ${name}`, ({ conn }: Pair) => conn.closeWrite.call(self)],
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
  ["closeWrite", ({ conn }: Pair) => conn.closeWrite()],
  [
    "closeWrite closed",
    (_: Pair, closed: Deno.Conn) => closed.closeWrite(),
  ],
  ["ref closed", (_: Pair, closed: Deno.Conn) => closed.ref()],
  ["unref closed", (_: Pair, closed: Deno.Conn) => closed.unref()],
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

/** A port at which nothing listens: it is kept for a service that no system has. */
const NOBODYS_PORT = 1;

function detached(): Uint8Array {
  const bytes = new Uint8Array(4);
  bytes.buffer.transfer();
  return bytes;
}

for (const where of ["outside", "inside"]) {
  test(`patch() leaves results and errors as they are, ${where} greenlets`, async () => {
    // A port that was just closed may be given to another process
    const refused = NOBODYS_PORT;
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

test("patch() leaves names, lengths and kinds of the methods as they are", async () => {
  const methods = [
    ["read", (pair: Pair) => pair.conn.read],
    ["write", (pair: Pair) => pair.conn.write],
    ["close", (pair: Pair) => pair.conn.close],
    ["dispose", (pair: Pair) => pair.conn[Symbol.dispose]],
    ["closeWrite", (pair: Pair) => pair.conn.closeWrite],
    ["readable", (pair: Pair) => getter(pair.conn, "readable")],
    ["ref", (pair: Pair) => pair.conn.ref],
    ["unref", (pair: Pair) => pair.conn.unref],
    ["listener ref", (pair: Pair) => pair.listener.ref],
    ["listener unref", (pair: Pair) => pair.listener.unref],
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

test("patch() lets greenlets use the connections of code outside, and the other way round", async () => {
  using _ = patch();
  const listener = await spawn(() => tcp.listen()).get();
  const [conn, peer] = await Promise.all([
    spawn(() => Deno.connect(addressOf(listener))).get(),
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

test("patch() disposed of while a connect or a write is pending lets it end", async () => {
  const restore = patch();
  using pair = await Pair.open();
  const connecting = spawn(() => Deno.connect(addressOf(pair.listener)));
  const writing = spawn(() => pair.conn.write(encoder.encode("written")));
  await sleep(0);
  restore[Symbol.dispose]();
  (await connecting.get()).close();
  assertEquals(await writing.get(), 7);
  assertEquals(await readText(pair.peer), "written");
  (await pair.listener.accept()).close();
});

test("patch() disposed of while the first connect is pending patches nothing any more", async () => {
  const listener = tcp.listen();
  const { read } = Object.getPrototypeOf(await connectOnce(listener));
  const restore = patch();
  // The first connection of all that are made under this patch().
  const inside = spawn(() => Deno.connect(addressOf(listener)));
  const outside = Deno.connect(addressOf(listener));
  await sleep(0);
  restore[Symbol.dispose]();
  for (const conn of [await inside.get(), await outside]) {
    assertStrictEquals(conn.read, read);
    conn.close();
  }
  for (let n = 0; n < 2; n++) (await listener.accept()).close();
  listener.close();
});

test("patch() makes a connection cooperative that an earlier patch() has begun to open", async () => {
  // A new process has met no class of connections yet.
  const { out, err } = await runScript(`
    let patched = patch();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const asked = Promise.all([listener.accept(), Deno.connect(listener.addr)]);
    patched[Symbol.dispose]();
    patched = patch();
    const [conn] = await asked;
    const reading = spawn(() => conn.read(new Uint8Array(1)));
    await sleep(0);
    await reading.kill(undefined, { timeout: 5000 });
    console.log(reading.dead);
    Deno.exit();
  `);
  assertEquals([err, out], ["", ["true"]]);
});

test("patch() once more, after reads that were idle, loses nothing when it is disposed of", async () => {
  using pair = await Pair.open();
  const { conn, peer } = pair;
  {
    using _ = patch();
    (await Pair.open())[Symbol.dispose]();
    await peer.write(encoder.encode("before"));
    assertEquals(await spawn(readText, conn).get(), "before");
  }
  {
    using _ = patch();
    (await Pair.open())[Symbol.dispose]();
    await readInVain(conn);
    await peer.write(encoder.encode("kept"));
    await readIsOver(conn);
  }
  assertEquals(await readText(conn), "kept");
});

for (const where of ["inside", "outside"]) {
  test(`patch() finds the methods of connections by accept(), ${where}`, async () => {
    const { connect } = Deno;
    using _ = patch();
    const listener = tcp.listen();
    const accept = () => listener.accept();
    const [conn, peer] = await Promise.all([
      where === "inside" ? spawn(accept).get() : accept(),
      connect(addressOf(listener)),
    ]);
    await readInVain(conn);
    await peer.write(encoder.encode("kept"));
    assertEquals(await readText(conn), "kept");
    for (const socket of [listener, conn, peer]) socket.close();
  });
}

test("Listener.close() right after a connection was accepted gives it to a pending accept(), or closes it", async () => {
  for (const waits of [true, false]) {
    using listener = tcp.listen();
    const [peer, accepted] = await Promise.all([
      tcp.connect(listener),
      listener.accept(),
    ]);
    const { promise, resolve } = Promise.withResolvers<Deno.Conn>();
    const prototype = Object.getPrototypeOf(listener);
    const { accept } = prototype;
    prototype.accept = () => promise;
    try {
      using _ = patch();
      tcp.listen().close();
      const accepting = spawn(() => listener.accept()) as Greenlet<unknown>;
      await sleep(0);
      if (!waits) await accepting.kill();
      resolve(accepted);
      listener.close();
      if (waits) {
        assertStrictEquals(await accepting.get(), accepted);
        accepted.close();
      }
      assertEquals(await readText(peer), null);
    } finally {
      prototype.accept = accept;
    }
    peer.close();
  }
});

test("patch() leaves out TLS, or all but TLS", async () => {
  for (const part of ["net", "tls"] as const) {
    using _ = patch({ [part]: false });
    for (const [transport, is] of [[tcp, "net"], [tls, "tls"]] as const) {
      using pair = await Pair.open(transport);
      const { conn, peer } = pair;
      const reading = spawn(readText, conn) as Greenlet;
      await sleep(0);
      await reading.kill(undefined, { block: false });
      await settle();
      assertEquals(reading.dead, is !== part, is);
      await peer.write(encoder.encode("bytes"));
      const text = is === part ? await reading.get() : await readText(conn);
      assertEquals(text, "bytes");
    }
  }
});

test("patch() patches TCP and TLS each once, and their common class not at all", async () => {
  async function look() {
    using plain = await Pair.open();
    using secure = await Pair.open(tls);
    const own = [plain, secure].map(({ conn, listener }) =>
      [conn, listener].map((socket) =>
        Object.getOwnPropertyDescriptors(Object.getPrototypeOf(socket))
      )
    );
    const common = Object.getPrototypeOf(Object.getPrototypeOf(plain.conn));
    return {
      own,
      common: Object.getOwnPropertyDescriptors(common),
      names: [...function* () {
        for (const name in plain.conn) yield name;
      }()],
    };
  }
  const before = await look();
  for (const options of [{}, { net: false }, { tls: false }, {}]) {
    using _ = patch(options);
    const patched = await look();
    assertEquals(patched.common, before.common);
    assertEquals(patched.names, before.names);
  }
  assertEquals(await look(), before);
});

test("Conn.read() and Conn.write() call the replacements that a program made before patch()", async () => {
  using pair = await Pair.open();
  const common = Object.getPrototypeOf(Object.getPrototypeOf(pair.conn));
  const { read, write } = common;
  const calls: string[] = [];
  using restored = new DisposableStack();
  restored.defer(() => Object.assign(common, { read, write }));
  common.read = function () {
    calls.push("read");
    return Reflect.apply(read, this, arguments);
  };
  common.write = function () {
    calls.push("write");
    return Reflect.apply(write, this, arguments);
  };
  using _ = patch();
  using patched = await Pair.open();
  await spawn(async () => {
    assertEquals(await patched.conn.write(encoder.encode("bytes")), 5);
    assertEquals(await readText(patched.peer, 3), "byt");
    assertEquals(await readText(patched.peer), "es");
    await readInVain(patched.peer);
    patched.conn.close();
    assertEquals(await readText(patched.peer), null);
  }).get();
  assertEquals(calls, ["write", "read", "read", "read"]);
});

Deno.test("Conn.read() and Conn.write() are right where the runtime's operations are not as expected", async (t) => {
  const differences = [
    "are missing",
    "take other arguments",
    "give promises without an id",
    "are known by their promise only",
  ];
  const outputs = await inParallel(
    differences,
    (difference) =>
      new Deno.Command(Deno.execPath(), {
        args: [
          "test",
          "--no-check",
          "--allow-all",
          "--preload=tests/patch/_other_operations.ts",
          "--import-map=tests/offline/import_map.json",
          "--filter=/a thousand reads.*, tcp|be used again, tcp|waits for a write.*, tcp|as they are/",
          "tests/patch/net_test.ts",
        ],
        env: { NO_COLOR: "1", OPERATIONS: difference },
        stdout: "piped",
        stderr: "piped",
      }).output(),
  );
  for (const [i, difference] of differences.entries()) {
    await t.step(`They ${difference}`, () => {
      const { stdout, stderr, success } = outputs[i]!;
      const output = decoder.decode(stdout);
      assert(success, output + decoder.decode(stderr));
      assertMatch(output, /changed \w+/);
      assertMatch(output, /ok \| [4-9] passed/);
    });
  }
});

test("patch() leaves a failure that is not handled unhandled", async () => {
  for (const call of ["Deno.connect({ port })", "listener.accept()"]) {
    const run = (prelude: string) =>
      runScript(`
        ${prelude}
        const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
        const { port } = listener.addr;
        listener.close();
        ${call};
        await new Promise((resolve) => setTimeout(resolve, 100_000));
        console.log("survived");
      `);
    const unpatched = await run("");
    const patched = await run("using _ = patch();");
    assertEquals([patched.out, patched.code], [unpatched.out, unpatched.code]);
    assertEquals([unpatched.out, unpatched.code], [[], 1]);
  }
});

/** Two ends and their listener, patched, in a script. */
const PAIR = `
  using _ = patch();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const [peer, conn] = await Promise.all([
    listener.accept(),
    Deno.connect(listener.addr),
  ]);
  const inVain = (call) => withTimeout(1, call, { value: "late" });
  const read = () => conn.read(new Uint8Array(3));
  const accept = () => listener.accept();
`;

/** A statement, its output, and whether the process ends by itself then. */
const endings: Record<string, [string, string[], boolean]> = {
  "a read and an accept that were interrupted": [
    `console.log(await inVain(read), await inVain(accept));
     console.log(await spawn(() => inVain(read)).get());`,
    ["late late", "late"],
    true,
  ],
  "a read of which one of two readers was interrupted": [
    `spawn(read);
     console.log(await inVain(read));`,
    ["late"],
    false,
  ],
  "a read that is awaited again": [
    `await inVain(read);
     setTimeout(() => peer.write(new Uint8Array(2)), 1);
     console.log(await read());
     read();`,
    ["2"],
    false,
  ],
  "an accept that is awaited again": [
    `await inVain(accept);
     spawn(accept);
     console.log("waits");`,
    ["waits"],
    false,
  ],
  "a read of which the bytes came after the interrupt": [
    `await inVain(read);
     await peer.write(new Uint8Array(4));
     await sleep(5);
     console.log(await read(), await read());
     read();`,
    ["3 1"],
    false,
  ],
  "what its user has told not to": [
    `conn.unref();
     listener.unref();
     await inVain(read);
     await inVain(accept);
     read();
     spawn(read);
     spawn(accept);
     console.log("ends");`,
    ["ends"],
    true,
  ],
  "what its user has told not to between two patch()": [
    `_[Symbol.dispose]();
     conn.unref();
     using again = patch();
     spawn(read);
     await sleep(0);
     console.log("ends");`,
    ["ends"],
    true,
  ],
  "what was read, and then told not to between two patch()": [
    `await peer.write(new Uint8Array(3));
     console.log(await spawn(read).get());
     _[Symbol.dispose]();
     conn.unref();
     using again = patch();
     spawn(read);
     await sleep(0);
     console.log("ends");`,
    ["3", "ends"],
    true,
  ],
  "a stream and a read, as its user has told not to": [
    `conn.readable.getReader().read();
     await sleep(0);
     spawn(read);
     await sleep(0);
     conn.unref();
     console.log("ends");`,
    ["ends"],
    true,
  ],
  "a read outside, behind which one of a greenlet was interrupted": [
    `conn.read(new Uint8Array(3));
     console.log(await spawn(() => inVain(read)).get());`,
    ["late"],
    false,
  ],
  "what its user has told so after the interrupt": [
    `conn.unref();
     await inVain(read);
     conn.ref();
     console.log("told");
     if (await sleep(1)) {}
     read();`,
    ["told"],
    false,
  ],
  "a listener with ref() while nothing is awaited": [
    `await inVain(read);
     conn.ref();
     listener.ref();
     console.log("ends");`,
    ["ends"],
    true,
  ],
  "a stream that is read": [
    `conn.readable.getReader().read();
     console.log("waits");`,
    ["waits"],
    false,
  ],
  "a stream that is read, behind a read that was interrupted": [
    `await inVain(read);
     conn.readable.getReader().read();
     console.log("waits");`,
    ["waits"],
    false,
  ],
  "a stream that is read, before a read that was interrupted": [
    `conn.readable.getReader().read();
     await sleep(0);
     console.log(await inVain(read));`,
    ["late"],
    false,
  ],
  "a read that was interrupted, when a stream has read": [
    `const { readable } = conn;
     const reading = readable.getReader().read();
     await sleep(0);
     console.log(await inVain(read));
     await peer.write(new Uint8Array(2));
     console.log((await reading).value.length);`,
    ["late", "2"],
    true,
  ],
  "a stream whose connection was told not to": [
    `conn.readable.getReader().read();
     conn.unref();
     console.log("ends");`,
    ["ends"],
    true,
  ],
  "a stream whose connection was told not to before": [
    `conn.unref();
     await inVain(read);
     conn.readable.getReader().read();
     console.log("ends");`,
    ["ends"],
    true,
  ],
  "a read that is interrupted when patch() is disposed of": [
    `const reading = spawn(() => inVain(read));
     await sleep(0);
     _[Symbol.dispose]();
     console.log(await reading.get());`,
    ["late"],
    true,
  ],
  "a read that is awaited when patch() is disposed of": [
    `await inVain(read);
     _[Symbol.dispose]();
     read();
     console.log("waits");`,
    ["waits"],
    false,
  ],
};

Deno.test("patch() keeps the process alive as long as a greenlet waits, and no longer", async (t) => {
  const cases = Object.entries(endings);
  const results = await runToEnds({
    before: PAIR,
    statements: cases.map(([_what, [body]]) => body),
    cleanUp:
      "for (const each of [conn, peer, listener]) try { each.close() } catch {}",
  });
  for (const [i, [what, [_body, printed, ends]]] of cases.entries()) {
    const does = ends ? "It ends" : "It lives on";
    await t.step(`${does}: ${what}`, () => {
      assertEquals(results[i], { out: printed, livesOn: !ends });
    });
  }
});

/** A connection of which nothing is left but its prototypes. */
async function connectOnce(listener: Deno.Listener): Promise<Deno.Conn> {
  const conn = await Deno.connect(addressOf(listener));
  (await listener.accept()).close();
  conn.close();
  return conn;
}

test("patch() serves clients that come, talk, are killed and go, and leaves nothing behind", async () => {
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
      using conn = await Deno.connect(addressOf(listener));
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
  await when(() => echoes === 60 * 20);
  for (const client of stuck!) await client.kill();
  await when(() => handlers.size === 0);
  await server.kill();
  listener.close();
  assertEquals(await getHub().join({ timeout: 5_000 }), true);
});
