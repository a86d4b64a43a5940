// A stop that is interrupted before it has begun.

import { assertEquals } from "@std/assert";
import {
  connect,
  Event,
  getCurrent,
  type Greenlet,
  sleep,
  spawn,
  StreamServer,
} from "../mod.ts";

Deno.test("StreamServer.stop() that is interrupted in the turn of its call kills the handlers", async () => {
  const [begun, ended] = [new Event(), new Event()];
  const server = new StreamServer(
    { hostname: "127.0.0.1", port: 0 },
    async () => {
      begun.set();
      try {
        await sleep(1e9);
      } finally {
        ended.set();
      }
    },
  );
  server.start();
  using _ = await connect(server.address as Deno.NetAddr);
  await begun.wait();
  const stopper = spawn(async () => {
    const stop = server.stop({ timeout: 1e9 });
    (getCurrent() as Greenlet).kill(undefined, { block: false });
    await stop;
  });
  await stopper.join();
  await ended.wait();
  await server.connections.join();
  assertEquals(server.connections.size, 0);
});
