import { assertEquals } from "@std/assert";
import { idle, patch, spawn } from "../../mod.ts";

Deno.test("Greenlet.waitsIn names patched functions and addresses", async () => {
  using _ = patch();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const accepting = spawn(async () => {
    using conn = await listener.accept();
    await conn.read(new Uint8Array(1));
  });
  await idle();
  assertEquals(accepting.waitsIn, `accept of 127.0.0.1:${port}`);
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const address = conn.localAddr as Deno.NetAddr;
  for (let i = 0; !accepting.waitsIn?.startsWith("read") && i < 100; i++) {
    await idle();
  }
  assertEquals(accepting.waitsIn, `read of 127.0.0.1:${address.port}`);
  await accepting.kill();
  const timer = spawn(() => new Promise((r) => setTimeout(r, 99_999)));
  await idle();
  assertEquals(timer.waitsIn, "setTimeout(resolve, 99999)");
  await timer.kill();
});
