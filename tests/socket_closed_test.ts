// Calls of a socket that is closed.

import { assertEquals, assertRejects } from "@std/assert";
import { connect, listen, sleep, type Socket, spawn } from "../mod.ts";
import { testBoth } from "./_bodies.ts";

/** Calls that wait for no bytes, or for some. */
const CALLS: Record<string, (socket: Socket) => PromiseLike<unknown>> = {
  "recvExactly(0)": (socket) => socket.recvExactly(0),
  "recvExactly(1)": (socket) => socket.recvExactly(1),
  "recv()": (socket) => socket.recv(),
  "recvUntil()": (socket) => socket.recvUntil("x"),
  "lines()": (socket) => socket.lines().next(),
  "sendAll() of nothing": (socket) => socket.sendAll(""),
  "write() of nothing": (socket) => socket.write(new Uint8Array(0)),
  "closeWrite()": (socket) => socket.closeWrite(),
};

testBoth(
  "Socket.close() makes later calls throw BadResource, also those that want no bytes",
  {
    async async(call: () => PromiseLike<unknown>) {
      await sleep(0);
      return await call();
    },
    *generator(call: () => PromiseLike<unknown>): Generator<unknown, unknown> {
      yield* sleep(0);
      return yield* call() as ReturnType<typeof sleep>;
    },
  },
  async (body) => {
    using listener = listen({ hostname: "127.0.0.1", port: 0 });
    const socket = await connect(listener.addr);
    using peer = await listener.accept();
    await peer.sendAll("bytes");
    assertEquals((await socket.recvExactly(0)).length, 0);
    assertEquals((await socket.recv(1)).length, 1);
    socket.close();
    for (const [name, call] of Object.entries(CALLS)) {
      const calling = spawn(() => body(() => call(socket))).get();
      await assertRejects(() => calling, Deno.errors.BadResource, "", name);
    }
  },
);
