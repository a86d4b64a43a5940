import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { type Greenlet, GreenletExit, patch, sleep, spawn } from "../../mod.ts";
import { Failures, settle } from "../_bodies.ts";
import {
  addressOf,
  caCerts,
  certificate,
  decoder,
  encoder,
  getter,
  LONG,
  Pair,
  readInVain,
  readIsOver,
  readText,
  tcp,
  test,
  testRandomly,
  testSockets,
  tls,
} from "./socket_suite.ts";
import { when } from "../_waits.ts";

testSockets("tls", tls);

const OPTIONS = { hostname: "localhost", caCerts };

/** Sends on to and fro, until one end is closed. */
async function relay(a: Deno.Conn, b: Deno.Conn): Promise<void> {
  await Promise.allSettled([
    a.readable.pipeTo(b.writable),
    b.readable.pipeTo(a.writable),
  ]);
}

/**
 * A connection that is plain until it is told to be TLS, to a server that is as simple as
 * can be: a relay to a server that is TLS from the start.
 */
class Upgrade implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  /** The client's end. */
  conn!: Deno.TcpConn;
  /** The server's end of the connection, while it is plain. */
  plain!: Deno.Conn;
  #secure!: Deno.Listener;

  static async open(): Promise<Upgrade> {
    const it = new Upgrade();
    using listener = tcp.listen();
    it.#secure = it.#stack.use(tls.listen());
    const [plain, conn] = await Promise.all([
      listener.accept(),
      tcp.connect(listener),
    ]);
    it.plain = it.#stack.use(plain);
    it.conn = it.#stack.use(conn as Deno.TcpConn);
    return it;
  }

  /** The server goes on in TLS; gives its end. */
  async secure(): Promise<Deno.Conn> {
    const [server, upstream] = await Promise.all([
      this.#secure.accept(),
      Deno.connect(addressOf(this.#secure)),
    ]);
    const relaying = relay(this.plain, upstream);
    this.#stack.defer(() => relaying);
    return this.#stack.use(server);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

function tell(error: unknown): unknown[] {
  const { constructor, name, message } = error as Error;
  return [constructor, name, message];
}

test("Deno.startTls() goes on in TLS after reads that were interrupted and read to the end", async () => {
  using _ = patch();
  await using upgrade = await Upgrade.open();
  const { conn, plain } = upgrade;
  await readInVain(conn);
  await plain.write(encoder.encode("220 go"));
  assertEquals(await spawn(readText, conn).get(), "220 go");
  const [server, secure] = await Promise.all([
    upgrade.secure(),
    spawn(() => Deno.startTls(conn, OPTIONS)).get(),
  ]);
  using _secure = secure;
  await Promise.all([
    server.write(encoder.encode("hello")),
    secure.handshake(),
  ]);
  assertEquals(await spawn(readText, secure).get(), "hello");
  // It is as cooperative as any other.
  await readInVain(secure);
  await spawn(() => secure.write(encoder.encode("bye"))).get();
  assertEquals(await readText(server), "bye");
  assertInstanceOf(await conn.read(new Uint8Array(1)).catch((e) => e), Error);
});

for (const where of ["inside", "outside"]) {
  const wrap = <T>(run: () => Promise<T>): Promise<T> =>
    where === "inside" ? spawn(run).get() : run();

  test(`Deno.startTls() refuses to drop plain text that was not read, ${where}`, async () => {
    using _ = patch();
    await using upgrade = await Upgrade.open();
    const { conn, plain } = upgrade;
    await readInVain(conn);
    await plain.write(encoder.encode("220 go"));
    await readIsOver(conn);
    const start = () => Deno.startTls(conn, OPTIONS);
    const error = await wrap(() => start().catch((error) => error));
    assertInstanceOf(error, Deno.errors.InvalidData);
    assert(error.message.includes("6 bytes"), error.message);
    // The connection is as it was, and so are they.
    assertEquals(await wrap(() => readText(conn, 4)), "220 ");
    await assertRejects(start, Deno.errors.InvalidData, "2 bytes");
    assertEquals(await wrap(() => readText(conn)), "go");
    await conn.write(encoder.encode("ok"));
    assertEquals(await readText(plain), "ok");
    using secure = await wrap(start);
    assert("handshake" in secure);
  });

  test(`Deno.startTls() says that the connection is busy, and leaves it, while a read or a write goes on, ${where}`, async () => {
    using _ = patch();
    await using upgrade = await Upgrade.open();
    const { conn, plain } = upgrade;
    const start = () => Deno.startTls(conn, OPTIONS);
    const fail = () => wrap(() => start().catch(tell));
    await readInVain(conn);
    const busy = [Deno.errors.Busy, "Busy", "TCP stream is currently in use"];
    assertEquals(await fail(), busy);
    await plain.write(encoder.encode("late"));
    assertEquals(await wrap(() => readText(conn)), "late");
    const reader = conn.readable.getReader();
    const pulling = reader.read();
    await settle();
    assertEquals(await fail(), busy);
    await plain.write(encoder.encode("later"));
    assertEquals((await pulling).value, encoder.encode("later"));
    reader.releaseLock();

    const data = new Uint8Array(900_000);
    for (const size of [1000, 900_000]) {
      // Until nothing goes any more, for some time.
      for (let stuck = 0; stuck < 10;) {
        const writing = spawn(() => conn.write(data.subarray(0, size)));
        await writing.join({ timeout: 1 });
        stuck = writing.dead ? 0 : stuck + 1;
        await writing.kill();
      }
      assertEquals(await fail(), busy);
    }
    // To the last byte, or the writes would still go on.
    const reading = (async () => {
      const buffer = new Uint8Array(1_000_000);
      let last;
      do last = buffer[await plain.read(buffer) as number - 1]; while (
        last !== 1
      );
    })();
    while (await conn.write(Uint8Array.of(1)) !== 1);
    await reading;
    using secure = await wrap(start);
    assert("handshake" in secure);
  });
}

test("Deno.startTls() throws an error that was held, and leaves the connection plain", async () => {
  using _ = patch();
  await using upgrade = await Upgrade.open();
  const { conn, plain } = upgrade;
  const { promise, resolve } = Promise.withResolvers<void>();
  const held = new Error("held");
  const greenlet = spawn(async () => {
    await promise;
    const thrown = await Deno.startTls(conn, OPTIONS).catch((error) => error);
    await conn.write(encoder.encode("plain"));
    return thrown;
  });
  await sleep(0);
  greenlet.throw(held);
  resolve();
  assertStrictEquals(await greenlet.get(), held);
  assertEquals(await readText(plain), "plain");
});

test("Deno.startTls() that is killed leaves no connection behind", async () => {
  using _ = patch();
  let started = 0;
  for (let turns = 0; turns <= 12; turns++) {
    await using upgrade = await Upgrade.open();
    const { conn } = upgrade;
    const greenlet = spawn(async () => {
      using _secure = await Deno.startTls(conn, OPTIONS);
      started++;
      await sleep(LONG);
    });
    for (let n = 0; n < turns; n++) await Promise.resolve();
    // One at least gets so far.
    if (turns === 12) await when(() => started > 0);
    await greenlet.kill();
    // If it was killed even before it began.
    conn[Symbol.dispose]();
  }
  // One that was left open, the sanitizers see.
  assert(started <= 12, String(started));
});

test("TlsConn.handshake() that is interrupted goes on, and the next one gets its result", async () => {
  using _ = patch();
  for (const inside of [true, false]) {
    await using upgrade = await Upgrade.open();
    using secure = await Deno.startTls(upgrade.conn, {
      ...OPTIONS,
      alpnProtocols: ["x/1"],
    });
    const log: string[] = [];
    for (let n = 0; n < 3; n++) {
      const greenlet = spawn(async () => {
        try {
          await secure.handshake();
        } finally {
          log.push("cleaned up");
        }
      }) as Greenlet;
      await sleep(0);
      await greenlet.kill();
      assertInstanceOf(greenlet.value, GreenletExit);
    }
    assertEquals(log.length, 3);
    const server = await upgrade.secure() as Deno.TlsConn;
    const expected = { alpnProtocol: null };
    const shake = async () => ({ ...await secure.handshake() });
    assertEquals(await (inside ? spawn(shake).get() : shake()), expected);
    assertEquals({ ...await server.handshake() }, expected);
    assertEquals(await spawn(shake).get(), expected);
  }
});

test("TlsConn.handshake() that failed after an interrupt fails the next one", async () => {
  using _ = patch();
  const listener = tls.listen();
  for (const inside of [true, false]) {
    const accepting = listener.accept() as Promise<Deno.TlsConn>;
    using conn = await Deno.connectTls(addressOf(listener));
    const greenlet = spawn(() => conn.handshake()) as Greenlet;
    await sleep(0);
    await greenlet.kill();
    using server = await accepting;
    // The client has failed before the server hears of it.
    const failure = await server.handshake().catch((error) => error);
    assertInstanceOf(failure, Deno.errors.InvalidData);
    const shake = () => conn.handshake().catch((error) => error);
    const error = await (inside ? spawn(shake).get() : shake());
    assertInstanceOf(error, Deno.errors.InvalidData);
  }
  listener.close();
});

test("TlsConn.read() does the handshake, and loses nothing when it is interrupted in it", async () => {
  using _ = patch();
  await using upgrade = await Upgrade.open();
  using secure = await Deno.startTls(upgrade.conn, OPTIONS);
  await readInVain(secure);
  const server = await upgrade.secure();
  const writing = server.write(encoder.encode("behind the handshake"));
  assertEquals(await spawn(readText, secure).get(), "behind the handshake");
  await writing;
});

testRandomly(
  "Deno.startTls() and handshakes that are killed at random leave nothing behind",
  async (next) => {
    using _ = patch();
    using failures = new Failures();
    const plain = tcp.listen();
    const secure = tls.listen();
    const ends: Promise<unknown>[] = [];
    // Reads a line, answers, and sends on to where TLS is spoken.
    const front = (async () => {
      for await (const conn of plain) {
        ends.push((async () => {
          using _conn = conn;
          if (await readText(conn, 8).catch(() => null) === null) return;
          await conn.write(encoder.encode("go")).catch(() => {});
          using upstream = await tcp.connect(secure);
          await relay(conn, upstream);
        })());
      }
    })();
    const back = (async () => {
      for await (const conn of secure) {
        ends.push((async () => {
          using _conn = conn;
          for (;;) {
            const text = await readText(conn).catch(() => null);
            if (text === null) return;
            await conn.write(encoder.encode(text)).catch(() => {});
          }
        })());
      }
    })();
    let done = 0;
    let killed = 0;
    const talk = async () => {
      using conn = await Deno.connect(addressOf(plain)) as Deno.TcpConn;
      await conn.write(encoder.encode("STARTTLS"));
      assertEquals(await readText(conn, 2), "go");
      using secure = await Deno.startTls(conn, OPTIONS);
      await secure.handshake();
      for (const text of ["one", "two"]) {
        await secure.write(encoder.encode(text));
        assertEquals(await readText(secure), text);
      }
      done++;
    };
    await Promise.all(Array.from({ length: 15 }, async () => {
      for (let i = 0; i < 10; i++) {
        const greenlet = spawn(talk) as Greenlet;
        // One to its end, some before they can be there, and the others in between.
        if (i === 0) await greenlet.join();
        else if (i < 3) await sleep(0);
        else await greenlet.join({ timeout: next() * 12 });
        if (!greenlet.dead) killed++;
        await greenlet.kill();
        assertEquals(greenlet.exception, undefined);
      }
    }));
    plain.close();
    await front;
    // Each server is done when its client is, and no client was left.
    while (ends.length > 0) await ends.pop();
    secure.close();
    await back;
    while (ends.length > 0) await ends.pop();
    assertEquals(failures.errors, []);
    assertGreaterOrEqual(done, 15);
    assertGreaterOrEqual(killed, 20);
  },
);

test("patch() disposed of while a handshake or a connect is pending lets it end", async () => {
  const restore = patch();
  await using upgrade = await Upgrade.open();
  using secure = await Deno.startTls(upgrade.conn, OPTIONS);
  const shaking = spawn(() => secure.handshake());
  const listener = tls.listen();
  const connecting = spawn(() => tls.connect(listener));
  await sleep(0);
  restore[Symbol.dispose]();
  await upgrade.secure();
  assertEquals({ ...await shaking.get() }, { alpnProtocol: null });
  (await connecting.get()).close();
  (await listener.accept()).close();
  listener.close();
});

/** Calls with odd arguments, with none, and with another `this`. */
const calls: Record<string, (pair: Pair, plain: Pair) => unknown> = Object
  .fromEntries([
    ...([undefined, null, 1, "text", {}, [1]] as never[]).flatMap((value) => {
      const name = JSON.stringify(value);
      return [
        [`connectTls ${name}`, () => Deno.connectTls(value)],
        [`startTls ${name}`, () => Deno.startTls(value)],
        [
          `startTls, options ${name}`,
          (_: Pair, { conn }: Pair) =>
            Deno.startTls(conn as Deno.TcpConn, value).then((it) => {
              it.close();
              return "started";
            }),
        ],
        [`listenTls ${name}`, () => Deno.listenTls(value).close()],
      ] as [string, (pair: Pair, plain: Pair) => unknown][];
    }),
    ...[undefined, null, {}, 1, Deno].flatMap((self) =>
      ["read", "write", "close", "closeWrite", "handshake", "ref", "unref"]
        .map((name) => [
          `${name} of ${String(self)}`,
          ({ conn }: Pair) =>
            (conn[name as "read"] as (data: Uint8Array) => unknown)
              .call(self, new Uint8Array(3)),
        ])
    ),
    ...[undefined, null, {}, 1, Deno].map((self) => [
      `accept of ${String(self)}`,
      ({ listener }: Pair) => listener.accept.call(self),
    ]),
    [
      "startTls of TLS",
      ({ conn }: Pair) => Deno.startTls(conn as never, OPTIONS),
    ],
    [
      "startTls, hostname",
      (_: Pair, { conn }: Pair) =>
        Deno.startTls(conn as Deno.TcpConn, { hostname: "not a host" }),
    ],
    [
      "connectTls refused",
      () => Deno.connectTls({ hostname: "127.0.0.1", port: 1 }),
    ],
    [
      "connectTls to nothing",
      () => Deno.connectTls({ hostname: "256.0.0.0", port: 1 }),
    ],
    [
      "connectTls with half a key",
      () => Deno.connectTls({ port: 1, cert: certificate.cert } as never),
    ],
    [
      "connectTls of no this",
      () => Deno.connectTls.call(undefined as never, { port: 1 }),
    ],
    [
      "listenTls without a key",
      () => Deno.listenTls({ port: 0 } as never).close(),
    ],
    [
      "listenTls oddly",
      () => Deno.listenTls({ port: -1, ...certificate }).close(),
    ],
    ["handshake", async ({ conn }: Pair) => ({
      ...await (conn as Deno.TlsConn).handshake(),
    })],
    ["handshake closed", ({ conn }: Pair) => {
      conn.close();
      return (conn as Deno.TlsConn).handshake();
    }],
  ]);

for (const where of ["outside", "inside"]) {
  test(`patch() leaves results and errors of TLS as they are, ${where} greenlets`, async () => {
    async function callAll(
      wrap: (call: () => Promise<unknown>) => Promise<unknown>,
    ): Promise<Map<string, unknown>> {
      const results = new Map<string, unknown>();
      // One for all, as handshakes take their time; the last of the calls closes it.
      using pair = await Pair.open(tls);
      for (const [name, call] of Object.entries(calls)) {
        using plain = await Pair.open();
        const result = await wrap(async () => {
          try {
            const result = call(pair, plain);
            const isPromise = result instanceof Promise;
            return [isPromise, await (isPromise ? result.catch(tell) : result)];
          } catch (error) {
            return ["throws", ...tell(error)];
          }
        });
        results.set(name, result);
      }
      return results;
    }
    const unpatched = await callAll((call) => call());
    using _ = patch();
    const patched = await callAll((call) =>
      where === "outside" ? call() : spawn(call).get()
    );
    for (const [name, expected] of unpatched) {
      assertEquals(patched.get(name), expected, name);
    }
  });
}

test("patch() leaves names, lengths and kinds of the methods of TLS as they are", async () => {
  async function look(): Promise<Map<string, () => unknown>> {
    using pair = await Pair.open(tls);
    const functions = new Map<string, unknown>();
    for (const name of ["connectTls", "startTls", "listenTls"] as const) {
      functions.set(name, Deno[name]);
    }
    const conn = pair.conn as Deno.TlsConn;
    for (
      const name of [
        "read",
        "write",
        "closeWrite",
        "close",
        "handshake",
        "ref",
        "unref",
        Symbol.dispose,
      ] as const
    ) functions.set(String(name), conn[name]);
    functions.set("readable", getter(conn, "readable"));
    for (
      const name of ["accept", "close", "ref", "unref", Symbol.dispose] as const
    ) {
      functions.set(`listener ${String(name)}`, pair.listener[name]);
    }
    return functions as Map<string, () => unknown>;
  }
  const originals = await look();
  {
    using _ = patch();
    for (const [name, replacement] of await look()) {
      const original = originals.get(name)!;
      assert(replacement !== original, name);
      assertEquals(replacement.name, original.name);
      assertEquals(replacement.length, original.length);
    }
  }
  assertEquals(await look(), originals);
});

test("patch() lets greenlets and code outside use what the other has made, in TLS", async () => {
  using _ = patch();
  const listener = await spawn(() => tls.listen()).get();
  const [conn, peer] = await Promise.all([
    spawn(() => tls.connect(listener)).get(),
    listener.accept(),
  ]);
  await spawn(() => conn.write(encoder.encode("from inside"))).get();
  assertEquals(await readText(peer), "from inside");
  const buffer = new Uint8Array(20);
  const reading = spawn(() => conn.read(buffer));
  await peer.write(encoder.encode("from outside"));
  assertEquals(
    decoder.decode(buffer.subarray(0, (await reading.get())!)),
    "from outside",
  );
  conn.close();
  await spawn(() => peer.close()).get();
  listener.close();
});
