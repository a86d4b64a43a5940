// Clients of a StreamServer that leave before the TLS handshake is over, as the checks of load
// balancers do.

import { assert, assertEquals } from "@std/assert";
import { connect as connectNode, type Socket as NodeSocket } from "node:net";
import { Queue, type Socket, StreamServer } from "../mod.ts";
import { Failures, testBoth } from "./_bodies.ts";
import { eventually, HERE, portOf } from "./_servers.ts";

const tls = {
  cert: Deno.readTextFileSync(new URL("tls/localhost.pem", import.meta.url)),
  key: Deno.readTextFileSync(new URL("tls/localhost.key", import.meta.url)),
};
const caCerts = [
  Deno.readTextFileSync(new URL("tls/ca.pem", import.meta.url)),
];

/** The first bytes of a TLS record, and how the client leaves. */
const CLIENTS: [kind: string, bytes: number[], leave: keyof NodeSocket][] = [
  ["that sends nothing and ends", [], "destroy"],
  ["that sends nothing and resets", [], "resetAndDestroy"],
  ["that sends a part and ends", [22, 3, 1], "destroy"],
  ["that sends a part and resets", [22, 3, 1], "resetAndDestroy"],
];

/** Handlers, which are not called. */
const HANDLERS = {
  async async(socket: Socket): Promise<void> {
    await socket.recv();
  },
  *generator(socket: Socket): Generator<unknown, void> {
    yield* socket.recv();
  },
};

for (const [kind, bytes, leave] of CLIENTS) {
  testBoth(
    `StreamServer gives back the place of a client ${kind} before the TLS handshake, and reports nothing`,
    HANDLERS,
    async (body) => {
      using failures = new Failures();
      await using server = new StreamServer(HERE, body, {
        tls,
        pool: 1,
        handshakeTimeout: 100_000_000,
      });
      server.start();
      const client = connectNode(portOf(server), "127.0.0.1");
      await new Promise<void>((resolve) => client.on("connect", resolve));
      if (bytes.length > 0) client.write(Uint8Array.from(bytes));
      await eventually(() => server.connections.size === 1);
      (client[leave] as () => void).call(client);
      await eventually(() => server.connections.size === 0);
      assertEquals(server.pool!.freeCount(), 1);
      assertEquals(failures.errors, []);
    },
  );
}

Deno.test("StreamServer serves clients over TLS that send and leave at once", async () => {
  const received = new Queue<number>();
  await using server = new StreamServer(HERE, async (socket) => {
    received.put((await socket.recvExactly(1000)).length);
    assert((await socket.recv()).length === 0);
  }, { tls });
  server.start();
  for (let i = 0; i < 20; i++) {
    const port = portOf(server);
    const conn = await Deno.connectTls({
      hostname: "localhost",
      port,
      caCerts,
    });
    await conn.write(new Uint8Array(1000));
    conn.close();
    assertEquals(await received.get(), 1000);
  }
});
