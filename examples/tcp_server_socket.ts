/**
 * The classic TCP server without `patch()`: each connection has a greenlet of its own, which
 * sends back each line in upper case. Three clients talk to it, then the server is stopped.
 *
 *     deno run -q -P=local-net examples/tcp_server_socket.ts
 *
 * The calls of a `Socket` can be interrupted without `patch()`: no function of Deno is replaced.
 * See `tcp_server.ts` for the same with `patch()` and Deno's own connections.
 */

import {
  connect,
  type Greenlet,
  joinAll,
  listen,
  run,
  type Socket,
  type SocketListener,
  spawn,
} from "@gevent/gevent";

/** Accepts connections until it is killed. */
async function serve(listener: SocketListener<Deno.NetAddr>): Promise<void> {
  for await (const socket of listener) spawn(upperCase, socket);
}

/** Serves one connection until the client ends its side. */
async function upperCase(socket: Socket<Deno.NetAddr>): Promise<void> {
  using _ = socket;
  try {
    for await (const line of socket.lines()) {
      await socket.sendAll(`${line.toUpperCase()}\n`);
    }
    console.log("server: a client has ended its side");
  } finally {
    // Runs at once when the greenlet is killed, although no line has come.
    console.log("server: a connection is closed");
  }
}

/** Sends some lines, and prints the answers. */
async function talk(
  port: number,
  name: string,
  lines: string[],
): Promise<void> {
  using socket = await connect({ hostname: "127.0.0.1", port });
  const answers = socket.lines();
  for (const line of lines) {
    await socket.sendAll(`${line}\n`);
    const { value } = await answers.next();
    console.log(`${name}: ${line} -> ${value}`);
  }
  if (name === "mary") await answers.next(); // There is no answer any more
}

await run(async () => {
  using listener = listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const server = spawn(serve, listener);
  await joinAll([
    spawn(talk, port, "rose", ["hello", "how are you?"]),
    spawn(talk, port, "jack", ["good morning"]),
  ]);
  const mary: Greenlet<void> = spawn(talk, port, "mary", ["are you there?"]);
  await mary.join({ timeout: 50 });
  console.log("main: stops, though mary still waits for an answer");
  await server.kill();
});
console.log("main: all greenlets have ended");
