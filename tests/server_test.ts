import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  DatagramServer,
  Event,
  getCurrent,
  type Greenlet,
  GreenletError,
  GreenletExit,
  joinAll,
  listen,
  patch,
  Pool,
  Queue,
  run,
  sleep,
  type Socket,
  spawn,
  StreamServer,
  type StreamServerOptions,
  Timeout,
  until,
  type Wait,
  withTimeout,
} from "../mod.ts";
import { Failures, runScript, testBoth } from "./_bodies.ts";
import { turns, when } from "./_waits.ts";
import {
  assertRefused,
  connectTo,
  eventually,
  hear,
  hearTheEnd,
  HERE,
  isLost,
  portOf,
  residentMemory,
  say,
} from "./_servers.ts";

const LONG = 100_000_000;

const tls = {
  cert: Deno.readTextFileSync(new URL("tls/localhost.pem", import.meta.url)),
  key: Deno.readTextFileSync(new URL("tls/localhost.key", import.meta.url)),
};
const caCerts = [
  Deno.readTextFileSync(new URL("tls/ca.pem", import.meta.url)),
];

/** Both kinds of a handler that echoes. */
const echo = {
  async async(socket: Socket) {
    for (;;) {
      const bytes = await socket.recv();
      if (bytes.length === 0) return;
      await socket.sendAll(bytes);
    }
  },
  *generator(socket: Socket): Generator<unknown, void, never> {
    for (;;) {
      const bytes: Uint8Array = yield* socket.recv();
      if (bytes.length === 0) return;
      yield* socket.sendAll(bytes);
    }
  },
};

type Handle = ConstructorParameters<typeof StreamServer>[1];

function serve(handle: Handle, options?: StreamServerOptions): StreamServer {
  const server = new StreamServer(HERE, handle, options);
  server.start();
  return server;
}

async function ask(server: StreamServer, text: string): Promise<string> {
  using conn = await connectTo(server);
  await say(conn, text);
  return await hear(conn, text.length);
}

for (const isPatched of [false, true]) {
  const under = isPatched ? " under patch()" : "";
  const patched = () => isPatched ? patch() : new DisposableStack();

  testBoth(
    `StreamServer${under} serves each connection in a greenlet that is named after the peer`,
    echo,
    async (body) => {
      using _ = patched();
      const names: string[] = [];
      await using server = serve(
        ((socket: Socket, address: Deno.NetAddr) => {
          names.push((getCurrent() as Greenlet).name);
          assertEquals(address, socket.remoteAddr);
          return body(socket);
        }) as Handle,
      );
      using one = await connectTo(server);
      using two = await connectTo(server);
      await say(one, "one");
      await say(two, "two");
      assertEquals([await hear(one, 3), await hear(two, 3)], ["one", "two"]);
      assertEquals(
        names.toSorted(),
        [one, two].map(({ localAddr }) => `127.0.0.1:${localAddr.port}`)
          .toSorted(),
      );
      assertEquals(server.connections.size, 2);
    },
  );

  testBoth(
    `StreamServer${under} closes the socket when its handler has ended, in whatever way`,
    {
      async async(socket: Socket, how: string) {
        if (how === "throw") throw new RangeError("no");
        if (how === "wait") await sleep(LONG);
        await socket.sendAll("end");
      },
      *generator(socket: Socket, how: string) {
        if (how === "throw") throw new RangeError("no");
        if (how === "wait") yield* sleep(LONG);
        yield* socket.sendAll("end");
      },
    },
    async (body) => {
      using _ = patched();
      using failures = new Failures();
      const ways = ["return", "throw", "wait"];
      const started = new Queue<Greenlet>();
      await using server = serve(
        ((socket: Socket) => {
          started.put(getCurrent() as Greenlet);
          return body(socket, ways.shift()!);
        }) as Handle,
      );
      using returned = await connectTo(server);
      assertEquals(await hear(returned), "end");
      const { localAddr: { port } } = returned;
      assertEquals((await started.get()).name, `127.0.0.1:${port}`);

      using thrown = await connectTo(server);
      assertEquals(await hear(thrown), "");
      const failed = await started.get();
      assertEquals(failures.errors.map(String), ["RangeError: no"]);
      assertStrictEquals(failures.contexts[0], failed);
      assert(String(failed).includes(`127.0.0.1:${thrown.localAddr.port}`));

      using killed = await connectTo(server);
      await (await started.get()).kill();
      assertEquals(await hear(killed), "");
      assertEquals(failures.errors.length, 1);
      assert(server.started);
    },
  );
}

Deno.test("StreamServer serves by a plain handler, whose socket is closed when it returns", async () => {
  const sockets: Socket[] = [];
  await using server = serve((socket) => void sockets.push(socket));
  using conn = await connectTo(server);
  assertEquals(await hear(conn), "");
  await assertRejects(async () => await sockets[0]!.recv());
});

Deno.test("StreamServer.start() does not wait, and accepts after it has returned", async () => {
  const events: string[] = [];
  await using server = new StreamServer(HERE, () => void events.push("served"));
  assertEquals([server.started, server.closed], [false, false]);
  server.start();
  events.push("started");
  assertEquals([server.started, server.closed], [true, false]);
  server.start();
  using conn = await connectTo(server);
  await hear(conn);
  assertEquals(events, ["started", "served"]);
});

Deno.test("StreamServer.address is what was asked for, and what was given from the start on", async () => {
  await using server = new StreamServer(HERE, () => {});
  assertEquals(server.address, HERE);
  server.start();
  const { hostname, port } = server.address as Deno.NetAddr;
  assertEquals(hostname, "127.0.0.1");
  assert(port > 0);
  assertEquals(String(server), `<StreamServer 127.0.0.1:${port}>`);
});

Deno.test("StreamServer.start() throws the runtime's AddrInUse, and may be tried again", async () => {
  const one = serve(echo.async);
  const { port } = one.address as Deno.NetAddr;
  await using two = new StreamServer({ ...HERE, port }, echo.async);
  assertThrows(() => two.start(), Deno.errors.AddrInUse);
  assertEquals([two.started, two.closed], [false, false]);
  await one.stop();
  two.start();
  assertEquals(await ask(two, "hello"), "hello");
});

Deno.test("StreamServer.close() accepts no more, and leaves those that run to their end", async () => {
  const server = serve(echo.async);
  const port = portOf(server);
  using conn = await connectTo(server);
  await say(conn, "one");
  await hear(conn, 3);
  server.close();
  server.close();
  assertEquals([server.started, server.closed], [false, true]);
  await assertRefused(port);
  await say(conn, "two");
  assertEquals(await hear(conn, 3), "two");
  assertThrows(() => server.start(), GreenletError, "closed");
  conn.closeWrite();
  await server.connections.join();
});

Deno.test("StreamServer.close() closes what it was given to listen by, though it was never started", () => {
  const listener = Deno.listen(HERE);
  const server = new StreamServer(listener, () => {});
  server.close();
  assert(server.closed);
  assertThrows(() => listener.close(), Deno.errors.BadResource);
});

for (
  const [name, make] of [
    ["the runtime's", () => Deno.listen(HERE)],
    ["listen()'s", () => listen(HERE)],
  ] as const
) {
  Deno.test(`StreamServer takes a listener: ${name}`, async () => {
    const listener = make();
    await using server = new StreamServer(listener, echo.async);
    assertEquals(server.address, listener.addr);
    server.start();
    assertEquals(await ask(server, "hello"), "hello");
  });
}

testBoth(
  "StreamServer.stop() waits for those that run, and kills the rest with their finally blocks",
  {
    async async(told: string[], socket: Socket) {
      try {
        const text = new TextDecoder().decode(await socket.recv());
        told.push(text);
        await sleep(text === "short" ? 20 : LONG);
        await socket.sendAll("done");
      } finally {
        told.push("finally");
      }
    },
    *generator(told: string[], socket: Socket) {
      try {
        const bytes: Uint8Array = yield* socket.recv();
        const text = new TextDecoder().decode(bytes);
        told.push(text);
        yield* sleep(text === "short" ? 20 : LONG);
        yield* socket.sendAll("done");
      } finally {
        told.push("finally");
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const told: string[] = [];
    const server = serve(((socket: Socket) => body(told, socket)) as Handle);
    const port = portOf(server);
    using short = await connectTo(server);
    using long = await connectTo(server);
    await say(short, "short");
    await say(long, "long");
    await eventually(() => told.length === 2);
    const stopping = server.stop({ timeout: 500 });
    assertEquals([server.started, server.closed], [false, true]);
    await assertRefused(port);
    await stopping;
    assertEquals(await hear(short), "done");
    assertEquals(await hearTheEnd(long), "");
    assertEquals(told.toSorted(), ["finally", "finally", "long", "short"]);
    assertEquals([server.started, server.closed], [false, true]);
    assertEquals([server.connections.size, failures.errors], [0, []]);
  },
);

Deno.test("StreamServer.stop() ends although a handler sits in a foreign promise, and closes its socket", async () => {
  const begun = new Event();
  const pool = new Pool(1);
  const server = serve(async () => {
    begun.set();
    await new Promise(() => {});
  }, { pool });
  using conn = await connectTo(server);
  await begun.wait();
  await server.stop({ timeout: 0 });
  assertEquals(await hearTheEnd(conn), "");
  assertEquals([server.connections.size, pool.freeCount()], [0, 1]);
});

Deno.test("StreamServer.stop() of a handler's own server does not wait for that handler", async () => {
  const stopped = new Event();
  const server = serve(async (socket) => {
    await server.stop({ timeout: LONG });
    stopped.set();
    await socket.sendAll("stopped");
  });
  using conn = await connectTo(server);
  await stopped.wait();
  assertEquals(await hear(conn), "stopped");
  assert(server.closed);
});

Deno.test("StreamServer.stop() that is interrupted kills the handlers at once", async () => {
  const begun = new Event();
  const ended = new Event();
  const server = serve(async () => {
    begun.set();
    try {
      await sleep(LONG);
    } finally {
      ended.set();
    }
  });
  using _conn = await connectTo(server);
  await begun.wait();
  await assertRejects(
    async () => await withTimeout(1, () => server.stop({ timeout: LONG })),
    Timeout,
  );
  await ended.wait();
  await server.connections.join();
});

Deno.test("StreamServer.stop() of one that was not started, or was stopped, does nothing more", async () => {
  const server = new StreamServer(HERE, () => {});
  await server.stop();
  await server.stop();
  assert(server.closed);
});

Deno.test("StreamServer.stop() closes the connections that were not accepted", async () => {
  const server = serve(async () => await sleep(LONG), { pool: 1 });
  using _one = await connectTo(server);
  await eventually(() => server.connections.size === 1);
  // It is in the system's backlog.
  using two = await connectTo(server);
  await server.stop({ timeout: 0 });
  assertEquals(await hearTheEnd(two), "");
});

Deno.test("StreamServer.serveForever() starts the server, and ends when it is stopped", async () => {
  const server = new StreamServer(HERE, echo.async);
  const serving = spawn(() => server.serveForever());
  await eventually(() => server.started);
  assertEquals(await ask(server, "hello"), "hello");
  await server.stop();
  await serving.get();
});

Deno.test("StreamServer.serveForever() waits for a stop with a longer timeout than the server's own", async () => {
  const goOn = new Event();
  const server = serve(async (socket) => {
    await goOn.wait();
    await socket.sendAll("done");
  }, { stopTimeout: 0 });
  const serving = spawn(() => server.serveForever());
  using conn = await connectTo(server);
  await eventually(() => server.connections.size === 1);
  const stopping = spawn(() => server.stop({ timeout: LONG }));
  await eventually(() => server.closed);
  await turns(20);
  assertFalse(serving.dead);
  goOn.set();
  await joinAll([serving, stopping], { raiseError: true });
  assertEquals(await hear(conn), "done");
});

testBoth(
  "StreamServer.serveForever() stops the server when it is killed",
  {
    async async(server: StreamServer) {
      await server.serveForever();
    },
    *generator(server: StreamServer) {
      yield* server.serveForever();
    },
  },
  async (body) => {
    const ended = new Event();
    const server = serve(async () => {
      try {
        await sleep(LONG);
      } finally {
        ended.set();
      }
    }, { stopTimeout: 0 });
    const serving = spawn(body, server);
    using conn = await connectTo(server);
    await eventually(() => server.connections.size === 1);
    await serving.kill();
    assertInstanceOf(serving.value, GreenletExit);
    assert(server.closed && ended.isSet());
    assertEquals(await hearTheEnd(conn), "");
  },
);

Deno.test("StreamServer is closed at the end of run(), with what it serves", async () => {
  let port = 0;
  let told = "";
  let conn!: Deno.Conn;
  await run(async () => {
    const server = serve(async () => {
      try {
        await sleep(LONG);
      } finally {
        told = "finally";
      }
    });
    port = portOf(server);
    conn = await connectTo(server);
    await eventually(() => server.connections.size === 1);
    await sleep(1);
  });
  using _ = conn;
  assertEquals(told, "finally");
  await assertRefused(port);
});

Deno.test("StreamServer goes on when what has started it was killed", async () => {
  const server = new StreamServer(HERE, echo.async);
  const starter = spawn(async () => {
    server.start();
    await sleep(LONG);
  });
  await eventually(() => server.started);
  await starter.kill();
  assertEquals(await ask(server, "hello"), "hello");
  await server.stop();
});

for (const isShared of [false, true]) {
  const whose = isShared ? "a pool that others use" : "its pool";
  Deno.test(`StreamServer accepts only while there is room in ${whose}`, async () => {
    const pool = new Pool(3);
    const others = isShared ? 1 : 0;
    for (let i = 0; i < others; i++) await pool.spawn(sleep, LONG);
    const served = new Queue<Socket>();
    const goOn = new Queue<void>();
    await using server = serve(async (socket) => {
      served.put(socket);
      await goOn.get();
    }, { pool: isShared ? pool : 3, stopTimeout: 0 });
    const room = 3 - others;
    const conns: Deno.Conn[] = [];
    for (let i = 0; i < 5; i++) conns.push(await connectTo(server));
    for (let i = 0; i < room; i++) await served.get();
    // More are there to be accepted.
    await turns(20);
    assertEquals([served.qsize(), server.connections.size], [0, room]);
    goOn.put();
    await served.get();
    assertEquals(server.connections.size, room);
    await server.stop({ timeout: 0 });
    assertEquals(pool.size, others);
    await pool.kill();
    for (const conn of conns) conn.close();
  });
}

testBoth("StreamServer speaks TLS", echo, async (body) => {
  await using server = serve(body as Handle, { tls });
  const { port } = server.address as Deno.NetAddr;
  using conn = await Deno.connectTls({ hostname: "localhost", port, caCerts });
  const text = "x".repeat(200_000);
  const [answer] = await Promise.all([
    hear(conn, text.length),
    say(conn, text),
  ]);
  assertEquals(answer, text);
  const [greenlet] = server.connections;
  assertEquals(greenlet!.name, `127.0.0.1:${conn.localAddr.port}`);
  await conn.closeWrite();
  assertEquals(await hear(conn), "");
});

testBoth(
  "StreamServer ends a TLS handshake at its limit, and closes the connection and gives back the place",
  echo,
  async (body) => {
    using failures = new Failures();
    await using server = serve(body as Handle, {
      tls,
      handshakeTimeout: 20,
      pool: 1,
    });
    using silent = await connectTo(server);
    assertEquals(await hear(silent), "");
    // And so the next one is accepted.
    const { port } = server.address as Deno.NetAddr;
    await eventually(() => server.connections.size === 0);
    assertEquals(failures.errors.map((error) => error instanceof Timeout), [
      true,
    ]);
    assert(
      String(failures.contexts[0]).includes(`:${silent.localAddr.port}`),
    );
    await server.stop();
    await using patient = serve(body as Handle, { tls, pool: 1 });
    using conn = await Deno.connectTls({
      hostname: "localhost",
      port: portOf(patient),
      caCerts,
    });
    await say(conn, "hello");
    assertEquals(await hear(conn, 5), "hello");
    assert(port > 0);
  },
);

Deno.test("StreamServer takes a client for no error that leaves before the TLS handshake", async () => {
  using failures = new Failures();
  await using server = serve(echo.async, { tls });
  (await connectTo(server)).close();
  await eventually(() => server.connections.size === 0);
  assertEquals(failures.errors, []);
});

Deno.test("StreamServer ends a connection that does not speak TLS, and reports it", async () => {
  using failures = new Failures();
  await using server = serve(echo.async, { tls });
  using conn = await connectTo(server);
  await say(conn, "GET / HTTP/1.0\r\n\r\n");
  await hearTheEnd(conn);
  await eventually(() => server.connections.size === 0);
  assertEquals(failures.errors.length, 1);
});

Deno.test("StreamServer ends a write over TLS whose client has gone", async () => {
  const failed = new Queue<unknown>();
  await using server = serve(async (socket) => {
    await socket.recv();
    try {
      // Never, if nothing told it that the connection beneath has failed.
      await withTimeout(10_000, async () => {
        for (;;) await socket.sendAll(new Uint8Array(100_000));
      });
    } catch (error) {
      failed.put(error);
    }
  }, { tls });
  const { port } = server.address as Deno.NetAddr;
  const conn = await Deno.connectTls({ hostname: "localhost", port, caCerts });
  await conn.handshake();
  conn.close();
  const error = await failed.get();
  assert(isLost(error), String(error));
});

Deno.test("StreamServer over TLS refuses writes behind closeWrite() and after close(), as without it", async () => {
  const failed = new Queue<unknown>();
  for (const options of [{}, { tls }]) {
    await using server = serve(async (socket) => {
      const note = async (wait: Promise<unknown>) => {
        await wait.catch((error) => failed.put(error.constructor.name));
      };
      await socket.closeWrite();
      await note(socket.sendAll("late"));
      socket.close();
      await note(socket.sendAll("late"));
      await note(socket.closeWrite());
      await note(socket.recv());
    }, options);
    const { port } = server.address as Deno.NetAddr;
    using conn = "tls" in options
      ? await Deno.connectTls({ hostname: "localhost", port, caCerts })
      : await connectTo(server);
    if ("handshake" in conn) await (conn as Deno.TlsConn).handshake();
    const names = [];
    for (let i = 0; i < 4; i++) names.push(await failed.get());
    const closed = "BadResource";
    assertEquals(names, ["BrokenPipe", closed, closed, closed]);
  }
});

Deno.test("StreamServer.stop() kills a connection in its TLS handshake", async () => {
  const server = serve(echo.async, { tls });
  using conn = await connectTo(server);
  await eventually(() => server.connections.size === 1);
  await server.stop({ timeout: 0 });
  assertEquals(await hearTheEnd(conn), "");
});

Deno.test("StreamServer listens on a Unix socket", async () => {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/socket`;
  {
    await using server = new StreamServer(
      { transport: "unix", path },
      async (socket) => {
        await socket.sendAll((getCurrent() as Greenlet).name);
      },
    );
    server.start();
    using conn = await Deno.connect({ transport: "unix", path });
    assertEquals(await hear(conn), `unix:${path}`);
  }
  await Deno.remove(dir, { recursive: true });
});

Deno.test("StreamServer refuses what is no address, no handler and no option", () => {
  const make = (...args: unknown[]) => () =>
    Reflect.construct(StreamServer, args);
  const handle = () => {};
  for (const address of [5, null, "127.0.0.1:80", undefined]) {
    assertThrows(make(address, handle), TypeError, "address");
  }
  for (const port of [-1, 65536, 1.5, NaN]) {
    assertThrows(make({ port }, handle), RangeError, "port");
  }
  assertThrows(make({ port: "80" }, handle), TypeError, "port");
  assertThrows(make({}, handle), TypeError, "port");
  assertThrows(make({ port: 0, hostname: 5 }, handle), TypeError, "hostname");
  assertThrows(make({ transport: "unix" }, handle), TypeError, "path");
  assertThrows(make({ transport: "pigeon", port: 0 }, handle), TypeError);
  for (const wrong of [undefined, 5, async function* () {}]) {
    assertThrows(make(HERE, wrong), TypeError, "handle");
  }
  for (const pool of [0, -1, 1.5]) {
    assertThrows(make(HERE, handle, { pool }), RangeError, "pool");
  }
  assertThrows(make(HERE, handle, { pool: "2" }), TypeError, "pool");
  assertThrows(make(HERE, handle, 5), TypeError, "options");
  const times = ["minDelay", "maxDelay", "stopTimeout", "handshakeTimeout"];
  for (const name of times) {
    const named = `'${name}' must be a number of milliseconds: received`;
    assertThrows(make(HERE, handle, { [name]: "1" }), TypeError, named);
    assertThrows(make(HERE, handle, { [name]: NaN }), RangeError, named);
  }
  for (const wrong of [null, 5, {}, { cert: 5, key: 5 }]) {
    assertThrows(make(HERE, handle, { tls: wrong }), TypeError, "tls");
  }
  assertThrows(make(HERE, handle, { tls: { cert: "x", key: "y" } }), Error);
  const other = { cert: caCerts[0], key: tls.key };
  assertThrows(make(HERE, handle, { tls: other }), TypeError, "key");
});

Deno.test("StreamServer.start() throws the runtime's error for a host that is none of ours", () => {
  const server = new StreamServer({ hostname: "192.0.2.1", port: 0 }, () => {});
  assertThrows(() => server.start(), Deno.errors.AddrNotAvailable);
});

/** A listener whose next accepts fail, and the first ones after each that does not. */
class Failing {
  readonly #listener = Deno.listen(HERE);
  readonly #again: number;
  left = 4;

  constructor(again = 0) {
    this.#again = again;
  }

  get addr() {
    return this.#listener.addr;
  }
  accept(): Promise<Deno.Conn> {
    if (this.left-- > 0) {
      return Promise.reject(new Error("Too many open files"));
    }
    this.left = this.#again;
    return this.#listener.accept();
  }
  close() {
    this.#listener.close();
  }
  [Symbol.dispose]() {
    this.#listener[Symbol.dispose]();
  }
  ref() {}
  unref() {}
}

Deno.test("StreamServer waits longer each time that accepting fails, and goes on", async () => {
  using failures = new Failures();
  const listener = new Failing();
  await using server = new StreamServer(
    listener as unknown as Deno.Listener,
    echo.async,
    { minDelay: 4, maxDelay: 16 },
  );
  const start = performance.now();
  server.start();
  assertEquals(await ask(server, "hello"), "hello");
  // 4, 8, 16 and 16.
  assert(performance.now() - start >= 44);
  assertEquals(failures.errors.length, 4);
  assert(failures.contexts.every((context) => context === server));
});

Deno.test("StreamServer waits for minDelay again after an accept that has not failed", async () => {
  using failures = new Failures();
  const listener = new Failing(1);
  await using server = new StreamServer(
    listener as unknown as Deno.Listener,
    echo.async,
    { minDelay: 1, maxDelay: LONG },
  );
  server.start();
  // If the delays went on growing, the last one would take days.
  for (let i = 0; i < 30; i++) assertEquals(await ask(server, "x"), "x");
  await eventually(() => failures.errors.length >= 33);
});

Deno.test("StreamServer.stop() does not wait for the delay after an accept that has failed", async () => {
  using failures = new Failures();
  const listener = new Failing();
  const server = new StreamServer(
    listener as unknown as Deno.Listener,
    echo.async,
    { minDelay: LONG, maxDelay: LONG },
  );
  server.start();
  await eventually(() => failures.errors.length === 1);
  await server.stop();
});

Deno.test("StreamServer accepts again when there are file descriptors", async () => {
  const output = await runScriptWithFiles(
    64,
    `const server = new StreamServer({ hostname: "127.0.0.1", port: 0 }, async (socket) => {
      for await (const line of socket.lines()) await socket.sendAll(line + "\\n");
    });
    let errors = 0;
    getHub().handleError = () => void errors++;
    server.start();
    const conns = [];
    const { port } = server.address;
    const connectOnce = async () => {
      try {
        conns.push(await Deno.connect({ hostname: "127.0.0.1", port }));
        return true;
      } catch {
        return false;
      }
    };
    while (await connectOnce());
    while (errors === 0) await sleep(1);
    for (const conn of conns) conn.close();
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await conn.write(new TextEncoder().encode("hello\\n"));
    const buffer = new Uint8Array(10);
    const count = await conn.read(buffer);
    console.log(new TextDecoder().decode(buffer.subarray(0, count)).trim());
    conn.close();
    await server.stop();
    console.log(server.connections.size);`,
  );
  assertEquals([output.out, output.code], [["hello", "0"], 0], output.err);
});

/** Runs a script that may open so many files. */
async function runScriptWithFiles(files: number, body: string) {
  const library = new URL("../mod.ts", import.meta.url).href;
  const script = `import * as gevent from ${JSON.stringify(library)};
    const { StreamServer, HttpServer, getHub, sleep } = gevent;
    // The runtime itself needs files for signals, when it first thinks of them.
    const listener = () => {};
    Deno.addSignalListener("SIGUSR2", listener);
    ${body}
    Deno.removeSignalListener("SIGUSR2", listener);`;
  const { stdout, stderr, code } = await new Deno.Command("sh", {
    args: [
      "-c",
      `ulimit -n ${files}; exec "$0" eval -q --no-check "$1"`,
      Deno.execPath(),
      script,
    ],
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  const out = text.decode(stdout).trim().split("\n");
  return { out, err: text.decode(stderr), code };
}

/** How many clients there may be at once, whose ends are here as well. */
const CLIENTS = await (async () => {
  const shell = new Deno.Command("sh", { args: ["-c", "ulimit -n"] });
  const { stdout } = await shell.output();
  const limit = Number(new TextDecoder().decode(stdout)) || Infinity;
  return Math.min(5000, Math.floor(limit / 2) - 200);
})();

Deno.test("StreamServer bounds what clients cost that connect and send nothing, by its pool", async () => {
  await using server = serve(echo.async, { pool: 100, stopTimeout: 0 });
  const before = residentMemory();
  const clients: Promise<Deno.Conn>[] = [];
  let most = 0;
  let isStuck = false;
  // On a machine that is busy, those may be slow as well that there is room for.
  while (clients.length < (isStuck ? 200 : CLIENTS)) {
    const some = Array.from({ length: 50 }, () => connectTo(server));
    clients.push(...some);
    // Past its backlog, the system lets them wait.
    const stuck = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(true), 300);
      Promise.allSettled(some).then(() => {
        clearTimeout(timer);
        resolve(false);
      });
    });
    isStuck = await stuck;
    most = Math.max(most, server.connections.size);
  }
  await eventually(() => server.connections.size === 100);
  assert(most <= 100, `Served ${most}`);
  // Both ends of each are of this process.
  const grown = residentMemory() - before;
  assert(grown < 150_000_000, `Grown by ${grown}`);
  for (const client of clients) client.then((conn) => conn.close(), () => {});
  assertEquals(await ask(server, "hello"), "hello");
  await server.stop();
  await Promise.allSettled(clients);
});

Deno.test("StreamServer goes on when clients reset their connections in the middle of a write", async () => {
  using failures = new Failures();
  const chunk = new Uint8Array(1024 * 1024);
  await using server = serve(async (socket) => {
    const bytes = await socket.recv(5);
    if (bytes.length === 5) return await socket.sendAll("hello");
    for (;;) await socket.sendAll(chunk);
  });
  for (let i = 0; i < 20; i++) {
    const conn = await connectTo(server);
    await say(conn, "x");
    await conn.read(new Uint8Array(10));
    // What was not read makes it a reset.
    conn.close();
  }
  await eventually(() => server.connections.size === 0);
  assertEquals(failures.errors.map(isLost), Array(20).fill(true));
  assertEquals(await ask(server, "hello"), "hello");
});

Deno.test("StreamServer writes no faster than its client reads", async () => {
  const chunk = new Uint8Array(1024 * 1024);
  let sent = 0;
  const server = serve(async (socket) => {
    for (let i = 0; i < 100; i++) {
      await socket.sendAll(chunk);
      sent++;
    }
  });
  using conn = await connectTo(server);
  const before = residentMemory();
  const byte = new Uint8Array(1);
  for (let i = 0; i < 50; i++) {
    await conn.read(byte);
    await sleep(1);
  }
  assert(sent < 50, `Sent ${sent} MB`);
  const grown = residentMemory() - before;
  assert(grown < 60_000_000, `Grown by ${grown}`);
  await server.stop({ timeout: 0 });
});

Deno.test("StreamServer.stop() under a load serves or kills each of those that it has accepted", async () => {
  let begun = 0;
  let ended = 0;
  const server = serve(async (socket) => {
    begun++;
    try {
      await echo.async(socket);
    } finally {
      // The kill may come in the middle of that.
      await sleep(1).finally(() => ended++);
    }
  });
  let isOver = false;
  const clients = Array.from({ length: 50 }, () =>
    spawn(async () => {
      while (!isOver) {
        try {
          using conn = await until(connectTo(server));
          for (let i = 0; i < 3; i++) {
            await until(say(conn, "hello"));
            if (await until(hear(conn, 5)) !== "hello") return;
          }
        } catch (error) {
          if (isLost(error)) return;
          if (error instanceof Deno.errors.ConnectionRefused) return;
          throw error;
        }
      }
    }));
  await eventually(() => begun > 100);
  await server.stop({ timeout: 10 });
  isOver = true;
  await joinAll(clients, { raiseError: true });
  assertEquals([ended, server.connections.size], [begun, 0]);
});

testBoth(
  "DatagramServer serves each datagram in a greenlet that is named after its sender",
  {
    async async(server: DatagramServer, data: Uint8Array, from: Deno.NetAddr) {
      await sleep(1);
      await server.sendTo(data, from);
    },
    *generator(server: DatagramServer, data: Uint8Array, from: Deno.NetAddr) {
      yield* sleep(1);
      yield* server.sendTo(data, from);
    },
  },
  async (body) => {
    const names: string[] = [];
    await using server: DatagramServer = new DatagramServer(
      HERE,
      (data, from) => {
        names.push((getCurrent() as Greenlet).name);
        return body(server, data, from);
      },
    );
    const heard = new Queue<[string, number]>();
    await using client = new DatagramServer(HERE, (data, from) => {
      heard.put([new TextDecoder().decode(data), from.port]);
    });
    server.start();
    client.start();
    const to = server.address as Deno.NetAddr;
    assertEquals(await client.sendTo("hello", to), 5);
    assertEquals(await heard.get(), ["hello", to.port]);
    assertEquals(names, [`127.0.0.1:${portOf(client)}`]);
  },
);

Deno.test("DatagramServer.start() throws the runtime's AddrInUse", async () => {
  await using one = new DatagramServer(HERE, () => {});
  one.start();
  const two = new DatagramServer(
    { hostname: "127.0.0.1", port: portOf(one) },
    () => {},
  );
  assertThrows(() => two.start(), Deno.errors.AddrInUse);
  assertFalse(two.started);
});

Deno.test("DatagramServer handles no more at once than its pool has room for, and loses none that waits", async () => {
  let now = 0;
  let most = 0;
  const done = new Queue<string>();
  await using server = new DatagramServer(HERE, async (data) => {
    most = Math.max(most, ++now);
    await sleep(1);
    now--;
    done.put(new TextDecoder().decode(data));
  }, { pool: 2 });
  server.start();
  const to = server.address as Deno.NetAddr;
  for (let i = 0; i < 20; i++) await server.sendTo(`${i}`, to);
  const heard = new Set<string>();
  while (heard.size < 20) heard.add(await done.get());
  assertEquals(most, 2);
});

Deno.test("DatagramServer with a pool leaves an error that is due in main to main", async () => {
  const heard = Promise.withResolvers<void>();
  await using server = new DatagramServer(HERE, () => heard.resolve(), {
    pool: 1,
  });
  server.start();
  const to = server.address as Deno.NetAddr;
  await spawn(() => server.sendTo("hello", to)).get();
  using timeout = Timeout.start(1);
  await heard.promise;
  await when(() => !timeout.pending);
  const error = await assertRejects(async () => await sleep(LONG));
  assertStrictEquals(error, timeout);
});

Deno.test("DatagramServer drops what no memory is kept for while there is no room", async () => {
  const begun = new Event();
  let handled = 0;
  await using server = new DatagramServer(HERE, async () => {
    handled++;
    begun.set();
    await sleep(LONG);
  }, { pool: 1, stopTimeout: 0 });
  server.start();
  const to = server.address as Deno.NetAddr;
  const long = new Uint8Array(60_000);
  for (let i = 0; i < 20; i++) await server.sendTo(long, to);
  await begun.wait();
  await server.stop();
  assertEquals([handled, server.connections.size], [1, 0]);
});

Deno.test("DatagramServer keeps no endless line of datagrams that are empty while there is no room", async () => {
  const goOn = new Event();
  const ended = new Event();
  let handled = 0;
  await using server = new DatagramServer(HERE, async (data) => {
    handled++;
    await goOn.wait();
    if (data.length > 0) ended.set();
  }, { pool: 1 });
  server.start();
  const to = server.address as Deno.NetAddr;
  for (let i = 0; i < 3000; i++) {
    await server.sendTo("", to);
    // The system drops what has not been read meanwhile.
    if (i % 20 === 0) await turns(2);
  }
  goOn.set();
  // Those that wait come first.
  await eventually(() => server.connections.size === 0);
  await server.sendTo("end", to);
  await ended.wait();
  assert(handled > 100 && handled < 2000, `Handled ${handled}`);
});

Deno.test("DatagramServer.sendTo() takes localhost for the address of its own version of IP", async () => {
  const heard = new Queue<string>();
  for (const hostname of ["127.0.0.1", "::1"]) {
    const server = new DatagramServer({ hostname, port: 0 }, (data) => {
      heard.put(new TextDecoder().decode(data));
    });
    try {
      server.start();
    } catch (error) {
      // There are machines without IPv6.
      if (hostname === "::1") continue;
      throw error;
    }
    const { port } = server.address as Deno.NetAddr;
    await server.sendTo("named", { hostname: "localhost", port });
    await server.sendTo("left out", { port });
    assertEquals([await heard.get(), await heard.get()], ["named", "left out"]);
    await server.stop();
  }
});

Deno.test("DatagramServer reports a handler's error with its name, and goes on", async () => {
  using failures = new Failures();
  const heard = new Queue<string>();
  await using server = new DatagramServer(HERE, (data) => {
    const text = new TextDecoder().decode(data);
    if (text === "bad") throw new RangeError("no");
    heard.put(text);
  });
  server.start();
  const to = server.address as Deno.NetAddr;
  await server.sendTo("bad", to);
  await server.sendTo("good", to);
  assertEquals(await heard.get(), "good");
  assertEquals(failures.errors.map(String), ["RangeError: no"]);
  assert(String(failures.contexts[0]).includes(`127.0.0.1:${to.port}`));
});

Deno.test("DatagramServer refuses what is no address, no handler and no datagram", async () => {
  const make = (...args: unknown[]) => () =>
    Reflect.construct(DatagramServer, args);
  assertThrows(make({ port: -1 }, () => {}), RangeError, "port");
  assertThrows(make({ transport: "unix", path: "/x" }, () => {}), TypeError);
  assertThrows(make({ ...HERE, hostname: "a.b" }, () => {}), TypeError, "host");
  assertThrows(make(HERE, 5), TypeError, "handle");
  await using server = new DatagramServer(HERE, () => {});
  const send = (...args: unknown[]) => () =>
    Reflect.apply(server.sendTo, server, args) as Wait<number>;
  assertThrows(send("x", HERE), GreenletError, "not started");
  server.start();
  assertThrows(send(5, { port: 1 }), TypeError, "datagram");
  assertThrows(send("x", { port: "1" }), TypeError, "port");
  for (const hostname of ["::1", "host.test", ""]) {
    const to = { hostname, port: 1 };
    assertThrows(
      send("x", to),
      TypeError,
      "'hostname' must be an IPv4 address",
    );
  }
});

Deno.test("StreamServer and DatagramServer keep the process alive until they are closed", async () => {
  const { out, code } = await runScript(`
    const servers = [
      new StreamServer({ hostname: "127.0.0.1", port: 0 }, () => {}),
      new DatagramServer({ hostname: "127.0.0.1", port: 0 }, () => {}),
    ];
    for (const server of servers) server.start();
    const { unref } = setTimeout(() => {
      console.log("alive");
      for (const server of servers) server.close();
    }, 50);
  `);
  assertEquals([out, code], [["alive"], 0]);
});
