// Sockets and listeners of plain objects, which have only some of the runtime's methods.

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  sleep,
  Socket,
  SocketListener,
  spawn,
  StreamServer,
} from "../mod.ts";
import { testBoth } from "./_bodies.ts";

const LONG = 100_000_000;

/** A connection of which nothing comes until it is told, and which takes nothing. */
class Plain {
  readonly arrived = Promise.withResolvers<void>();
  isClosed = false;

  async read(buffer: Uint8Array): Promise<number | null> {
    await this.arrived.promise;
    buffer[0] = 7;
    return 1;
  }

  write(): Promise<number> {
    return new Promise(() => {});
  }

  close(): void {
    if (this.isClosed) throw new Deno.errors.BadResource("It is closed");
    this.isClosed = true;
  }
}

function socketOf(plain: Plain): Socket {
  return new Socket(plain as unknown as Deno.Conn);
}

testBoth(
  "Socket of an object without ref() and unref() loses nothing at a kill, and can be disposed of twice",
  {
    async async(call: () => PromiseLike<unknown>) {
      await call();
    },
    *generator(call: () => PromiseLike<unknown>): Generator<unknown, void> {
      yield* call() as ReturnType<typeof sleep>;
    },
  },
  async (body) => {
    const plain = new Plain();
    const socket = socketOf(plain);
    const calls = [() => socket.recv(), () => socket.sendAll("x")];
    for (const call of calls) {
      const greenlet = spawn(body, call) as Greenlet<unknown>;
      await sleep(0);
      await greenlet.kill();
      assert(greenlet.value instanceof GreenletExit);
    }
    socket.unref();
    socket.ref();
    plain.arrived.resolve();
    assertEquals(await socket.recv(1), Uint8Array.of(7));
    socket[Symbol.dispose]();
    socket[Symbol.dispose]();
    assert(plain.isClosed);
    assertThrows(() => socket.close(), Deno.errors.BadResource);
  },
);

Deno.test("Socket.closeWrite() of an object that has no such method throws a TypeError at the call", () => {
  const socket = socketOf(new Plain());
  assertThrows(() => socket.closeWrite(), TypeError, "closeWrite()");
});

Deno.test("SocketListener of an object without ref() and unref() can be waited on under a kill", async () => {
  let closings = 0;
  const listener = new SocketListener({
    addr: { transport: "tcp", hostname: "127.0.0.1", port: 1 },
    accept: () => new Promise(() => {}),
    close() {
      if (++closings > 1) throw new Deno.errors.BadResource("It is closed");
    },
  } as unknown as Deno.Listener);
  const greenlet = spawn(() => listener.accept()) as Greenlet<unknown>;
  await sleep(0);
  await greenlet.kill();
  assert(greenlet.value instanceof GreenletExit);
  listener.unref();
  listener.ref();
  listener[Symbol.dispose]();
  listener[Symbol.dispose]();
  assertEquals(closings, 2);
});

Deno.test("SocketListener and StreamServer refuse a listener without what they need", () => {
  const accept = () => new Promise<never>(() => {});
  const make = (listener: unknown) => () =>
    new StreamServer(listener as Deno.Listener, () => {});
  const wrong = [{ accept }, { accept, close() {} }, { accept, addr: {} }];
  for (const listener of wrong) {
    assertThrows(make(listener), TypeError, "'addr' and 'close()'");
  }
  assertThrows(
    () => new SocketListener({ accept } as unknown as Deno.Listener),
    TypeError,
    "must be a Deno.Listener",
  );
});

Deno.test("StreamServer serves the connections of a listener that is a plain object", async () => {
  const plain = new Plain();
  const conns = [plain];
  await using server = new StreamServer({
    addr: { transport: "tcp", hostname: "127.0.0.1", port: 1 },
    accept: () =>
      conns.length > 0
        ? Promise.resolve(Object.assign(conns.pop()!, {
          remoteAddr: { transport: "tcp", hostname: "127.0.0.1", port: 2 },
        }))
        : new Promise(() => {}),
    close() {},
  } as unknown as Deno.Listener, async (socket) => {
    await socket.recv();
    await sleep(LONG);
  });
  server.start();
  while (server.connections.size === 0) await sleep(0);
  plain.arrived.resolve();
  await sleep(0);
  await server.stop({ timeout: 0 });
  assert(plain.isClosed);
});
