/**
 * A TCP proxy: it passes on the bytes of each connection in both directions. When one side has
 * sent everything, the proxy passes on the end, and the other side can still answer.
 *
 *     deno run -q -P=local-net examples/tcp_proxy.ts
 *
 * The server behind it adds up numbers, and answers when its client has sent all of them and has
 * closed its writing side. If the proxy closed both sides then, no answer would come.
 */

import {
  connect,
  listen,
  nursery,
  run,
  type Socket,
  type SocketListener,
  spawn,
} from "@gevent/gevent";

/** The number of bytes that the proxy has passed on. */
const passed = { toServer: 0, toClient: 0 };

/** Accepts connections and passes on their bytes, until it is killed. */
async function proxy(
  listener: SocketListener,
  target: Deno.ConnectOptions,
): Promise<void> {
  for await (const client of listener) {
    spawn(async () => {
      using near = client;
      using far = await connect(target);
      // Waits for both directions. If one fails, the nursery kills the other.
      await nursery((pumps) => {
        pumps.spawn(pump, near, far, "toServer" as const);
        pumps.spawn(pump, far, near, "toClient" as const);
      });
    });
  }
}

/** Passes on the bytes of one side, and then the end. */
async function pump(
  from: Socket,
  to: Socket,
  direction: keyof typeof passed,
): Promise<void> {
  for (;;) {
    const bytes = await from.recv();
    if (bytes.length === 0) break;
    passed[direction] += bytes.length;
    // Waits for the other side if it is slow, so that no bytes pile up here.
    await to.sendAll(bytes);
  }
  await to.closeWrite();
}

/** Adds up the numbers of a client, and answers when the client has sent all. */
async function add(listener: SocketListener): Promise<void> {
  for await (const socket of listener) {
    spawn(async () => {
      using _ = socket;
      let sum = 0;
      for await (const line of socket.lines()) sum += Number(line);
      await socket.sendAll(`${sum}\n`);
    });
  }
}

/** Lets the server add up some numbers. */
async function ask(port: number, numbers: number[]): Promise<string> {
  using socket = await connect({ hostname: "127.0.0.1", port });
  await socket.sendAll(numbers.map((number) => `${number}\n`).join(""));
  await socket.closeWrite();
  const { value } = await socket.lines().next();
  return value!;
}

await run(async () => {
  using adding = listen({ hostname: "127.0.0.1", port: 0 });
  using listener = listen({ hostname: "127.0.0.1", port: 0 });
  spawn(add, adding);
  const { hostname, port: target } = adding.addr;
  spawn(proxy, listener, { hostname, port: target });

  const { port } = listener.addr;
  const few = spawn(ask, port, [1, 2, 3]);
  const many = spawn(ask, port, Array.from({ length: 100_000 }, (_, i) => i));
  console.log(`1 + 2 + 3 = ${await few.get()}`);
  console.log(`0 + 1 + ... + 99999 = ${await many.get()}`);
  console.log(
    `passed on ${passed.toServer} bytes to the server and ${passed.toClient} back`,
  );
});
console.log("the proxy has ended");
