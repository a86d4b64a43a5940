import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import dgram from "node:dgram";
import { EventEmitter } from "node:events";
import http from "node:http";
import net from "node:net";
import {
  getCurrent,
  getHub,
  type Greenlet,
  patch,
  sleep,
  spawn,
  until,
  withTimeout,
} from "../../mod.ts";
import { Failures, runScript } from "../_bodies.ts";

/** A pause as in code that knows nothing of greenlets. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The log of an event's listener that waits. */
class Heard<A extends unknown[] = unknown[]> {
  readonly #told = Promise.withResolvers<Greenlet>();
  /** Whose code the listener was, once it has waited. */
  readonly greenlet: Promise<unknown> = this.#told.promise;
  readonly #also: (...args: A) => void;

  constructor(also: (...args: A) => void = () => {}) {
    this.#also = also;
  }

  readonly listener = async (...args: A): Promise<void> => {
    this.#also(...args);
    const greenlet = getCurrent();
    try {
      await pause(1);
      this.#told.resolve(greenlet as Greenlet);
    } catch (error) {
      this.#told.reject(error);
    }
  };
}

/** A server that a `using` block closes. */
class Listening implements AsyncDisposable {
  readonly sockets = new Set<net.Socket>();
  readonly server: net.Server = net.createServer((socket) => {
    this.sockets.add(socket);
    socket.on("error", () => {});
    socket.on("data", (chunk) => socket.write(chunk));
  });

  get port(): number {
    return (this.server.address() as net.AddressInfo).port;
  }

  async listen(): Promise<this> {
    this.server.listen(0, "127.0.0.1");
    await new Promise((resolve) => this.server.once("listening", resolve));
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) await closed(socket);
    await new Promise((resolve) => this.server.close(resolve));
  }
}

async function closed(socket: net.Socket): Promise<void> {
  if (socket.closed) return;
  const over = new Promise((resolve) => socket.once("close", resolve));
  socket.destroy();
  await over;
}

/**
 * The ways in which the greenlet that has opened a socket may have ended by the time of the
 * event.
 */
const ends: Record<string, (open: () => void) => Promise<void>> = {
  "has ended": async (open) => {
    await spawn(open).join();
  },
  "was killed": async (open) => {
    const opener = spawn(async () => {
      open();
      await until(new Promise(() => {}));
    });
    await sleep(0);
    await opener.kill();
  },
  "was killed without grace": async (open) => {
    const opener = spawn(async () => {
      open();
      await until(new Promise(() => {}));
    });
    await sleep(0);
    await opener.kill(undefined, { grace: 0 });
  },
  "was timed out": async (open) => {
    await withTimeout(0, async () => {
      open();
      await until(new Promise(() => {}));
    }, { value: null });
  },
  "is a generator body and was killed": async (open) => {
    const opener = spawn(function* () {
      open();
      yield* sleep(100_000);
    });
    await sleep(0);
    await opener.kill();
  },
};

for (const [end, openAndEnd] of Object.entries(ends)) {
  Deno.test(`net.Socket tells of its events outside greenlets, when the greenlet that has opened it ${end}`, async () => {
    await using server = await new Listening().listen();
    using _ = patch();
    const connect = new Heard();
    const timeout = new Heard();
    const data = new Heard();
    let socket!: net.Socket;
    await openAndEnd(() => {
      socket = net.connect(server.port, "127.0.0.1");
      socket.on("connect", connect.listener);
      socket.on("timeout", timeout.listener);
      socket.on("data", data.listener);
      socket.setTimeout(5);
    });
    assertStrictEquals(await connect.greenlet, getHub());
    assertStrictEquals(await timeout.greenlet, getHub());
    socket.write("hello");
    assertStrictEquals(await data.greenlet, getHub());
    await closed(socket);
  });

  Deno.test(`net.Socket tells of its failure outside greenlets, when the greenlet that has opened it ${end}`, async () => {
    const server = await new Listening().listen();
    const { port } = server;
    await server[Symbol.asyncDispose]();
    using _ = patch();
    const failure = new Heard();
    const close = new Heard();
    await openAndEnd(() => {
      const socket = new net.Socket();
      socket.on("error", failure.listener);
      socket.on("close", close.listener);
      socket.connect({ port, host: "127.0.0.1" });
    });
    assertStrictEquals(await failure.greenlet, getHub());
    assertStrictEquals(await close.greenlet, getHub());
  });

  Deno.test(`net.Server tells of its connections outside greenlets, when the greenlet that has it listen ${end}`, async () => {
    const connection = new Heard();
    const server = new Listening();
    server.server.on("connection", connection.listener);
    using _ = patch();
    new net.Socket(); // The first that is made has them all patched
    await openAndEnd(() => void server.server.listen(0, "127.0.0.1"));
    if (!server.server.listening) {
      await new Promise((resolve) => server.server.once("listening", resolve));
    }
    const socket = net.connect(server.port, "127.0.0.1");
    assertStrictEquals(await connection.greenlet, getHub());
    await closed(socket);
    await server[Symbol.asyncDispose]();
  });

  Deno.test(`http.Server answers outside greenlets, when the greenlet that has it listen ${end}`, async () => {
    using _ = patch();
    const request = new Heard<[unknown, http.ServerResponse]>(
      (_, response) => response.end("answer"),
    );
    const server = http.createServer(request.listener);
    await openAndEnd(() => void server.listen(0, "127.0.0.1"));
    if (!server.listening) {
      await new Promise((resolve) => server.once("listening", resolve));
    }
    const { port } = server.address() as net.AddressInfo;
    const agent = new http.Agent();
    const answer = await new Promise<string>((resolve) =>
      http.get({ host: "127.0.0.1", port, agent }, (response) => {
        let text = "";
        response.on("data", (chunk) => text += chunk);
        response.on("end", () => resolve(text));
      })
    );
    assertEquals(answer, "answer");
    assertStrictEquals(await request.greenlet, getHub());
    agent.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  Deno.test(`dgram.Socket tells of its messages outside greenlets, when the greenlet that has bound it ${end}`, async () => {
    using _ = patch();
    const message = new Heard();
    const receiver = dgram.createSocket("udp4");
    const isBound = new Promise((resolve) =>
      receiver.once("listening", resolve)
    );
    receiver.on("message", message.listener);
    await openAndEnd(() => void receiver.bind(0, "127.0.0.1"));
    await isBound;
    const sender = dgram.createSocket("udp4");
    sender.send("hello", receiver.address().port, "127.0.0.1");
    assertStrictEquals(await message.greenlet, getHub());
    for (const socket of [sender, receiver]) {
      await new Promise<void>((resolve) => socket.close(resolve));
    }
  });
}

Deno.test("dgram.Socket bound by its first message outlives the greenlet that sends it", async () => {
  using _ = patch();
  const echo = dgram.createSocket("udp4");
  echo.on(
    "message",
    (text, from) => echo.send(text, from.port, from.address),
  );
  await new Promise<void>((resolve) => echo.bind(0, "127.0.0.1", resolve));
  const { port } = echo.address();
  const message = new Heard();
  const shared = dgram.createSocket("udp4");
  shared.on("message", message.listener);
  const first = spawn(async () => {
    shared.send("first", port, "127.0.0.1");
    await until(new Promise(() => {}));
  });
  await sleep(0);
  await first.kill();
  assertStrictEquals(await message.greenlet, getHub());
  for (const socket of [echo, shared]) {
    await new Promise<void>((resolve) => socket.close(resolve));
  }
});

Deno.test("net.Socket keeps calls that its events have begun when the greenlet that has opened it is killed then", async () => {
  await using server = await new Listening().listen();
  using _ = patch();
  const begun = Promise.withResolvers<void>();
  const shaken = Promise.withResolvers<string>();
  let socket!: net.Socket;
  const opener = spawn(async () => {
    socket = net.connect(server.port, "127.0.0.1");
    // As a shared client does, whichever greenlet was the first to need it
    socket.on("connect", async () => {
      begun.resolve();
      try {
        await pause(5);
        shaken.resolve("shaken hands");
      } catch (error) {
        shaken.reject(error);
      }
    });
    await until(new Promise(() => {}));
  });
  await begun.promise;
  await opener.kill();
  assertEquals(await shaken.promise, "shaken hands");
  await closed(socket);
});

Deno.test("net.Socket lets calls that a killed body has left behind go on outside greenlets", async () => {
  await using server = await new Listening().listen();
  using _ = patch();
  const told: unknown[] = [];
  const over = Promise.withResolvers<void>();
  let socket!: net.Socket;
  const opener = spawn(async () => {
    socket = net.connect(server.port, "127.0.0.1");
    const connected = new Promise((resolve) => socket.once("connect", resolve));
    (async () => {
      await connected; // Goes on after the kill
      for (let i = 0; i < 3; i++) {
        await pause(0).catch((error) => told.push(error.name));
      }
      over.resolve();
    })();
    await until(new Promise(() => {}));
  });
  await sleep(0);
  await opener.kill();
  if (socket.connecting) {
    await new Promise((resolve) => socket.once("connect", resolve));
  }
  await over.promise;
  assertEquals(told, []);
  await closed(socket);
});

Deno.test("net.Socket tells of its events in the context of other storages, as unpatched", async () => {
  await using server = await new Listening().listen();
  const storage = new AsyncLocalStorage<string>();
  async function contexts(): Promise<(string | undefined)[]> {
    const told: (string | undefined)[] = [];
    const socket = storage.run(
      "opener",
      () => net.connect(server.port, "127.0.0.1"),
    );
    await new Promise<void>((resolve) =>
      socket.once("connect", () => {
        told.push(storage.getStore());
        resolve();
      })
    );
    socket.write("hello");
    await new Promise<void>((resolve) =>
      socket.once("data", () => {
        told.push(storage.getStore());
        resolve();
      })
    );
    await closed(socket);
    return told;
  }
  const unpatched = await contexts();
  assertEquals(unpatched[0], "opener");
  using _ = patch();
  assertEquals(await contexts(), unpatched);
  assertEquals(await spawn(contexts).get(), unpatched);
});

Deno.test("net.Socket's methods look as before, and are put back", async () => {
  await using server = await new Listening().listen();
  const methods = () =>
    [
      net.Socket.prototype.connect,
      net.Socket.prototype.setTimeout,
      net.Server.prototype.listen,
      dgram.Socket.prototype.bind,
      (EventEmitter as unknown as { init: unknown }).init,
    ] as ((...args: unknown[]) => unknown)[];
  const look = () => methods().map(({ name, length }) => [name, length]);
  const before = methods();
  const looks = look();
  {
    using _ = patch();
    const socket = net.connect(server.port, "127.0.0.1");
    assert(methods().slice(0, 4).every((method, i) => method !== before[i]));
    assertEquals(look(), looks);
    assert(socket.setTimeout(0) === socket);
    await closed(socket);
  }
  assertEquals(methods(), before);
  {
    using _ = patch({ net: false });
    const socket = net.connect(server.port, "127.0.0.1");
    await closed(socket);
    // The last is where other parts meet emitters, too.
    assertEquals(methods().slice(0, 4), before.slice(0, 4));
  }
});

Deno.test("net.Socket reports mistakes as unpatched, in greenlets too", async () => {
  using _failures = new Failures();
  function mistake(): string {
    try {
      new net.Socket().connect({} as never);
      return "none";
    } catch (error) {
      return String(error);
    }
  }
  const unpatched = mistake();
  using _ = patch();
  assertEquals(mistake(), unpatched);
  assertEquals(await spawn(mistake).get(), unpatched);
});

Deno.test("EventEmitter of the program's own with a connect() keeps it", async () => {
  using _ = patch();
  class Client extends EventEmitter {
    connect(): unknown {
      return getCurrent();
    }
    listen(): unknown {
      return getCurrent();
    }
  }
  const { connect } = Client.prototype;
  const client = new Client();
  const greenlet = spawn(() => [client.connect(), client.listen()]);
  assertEquals(await greenlet.get(), [greenlet, greenlet]);
  assertStrictEquals(Client.prototype.connect, connect);
});

Deno.test("patch() finds the sockets of node:net when the first of them is made", async () => {
  const { out, err } = await runScript(`
    const net = await import("node:net");
    const { EventEmitter } = await import("node:events");
    const { connect: original } = net.Socket.prototype;
    const isPatched = () => net.Socket.prototype.connect !== original;
    const told = [];
    {
      using _ = patch();
      new EventEmitter();
      told.push(isPatched());
    }
    new net.Socket();
    told.push(isPatched());
    const { init } = EventEmitter;
    let called;
    {
      using _ = patch();
      const late = EventEmitter.init;
      called = new Promise((resolve) =>
        setTimeout(() => resolve(late.call(new net.Socket())), 1)
      );
    }
    told.push(EventEmitter.init === init);
    await called;
    told.push(isPatched());
    {
      using _ = patch();
      spawn(() => new net.Server());
      await sleep(0);
      told.push(isPatched());
    }
    told.push(isPatched());
    {
      using _ = patch();
      told.push(isPatched());
    }
    told.push(isPatched());
    console.log(told.join(" "));
  `);
  assertEquals(err, "");
  assertEquals(out, ["false false true false true false true false"]);
});
