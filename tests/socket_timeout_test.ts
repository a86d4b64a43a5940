import { assertEquals, assertFalse, assertRejects } from "@std/assert";
import { when } from "./_waits.ts";
import { clock } from "./_clock.ts";
import { Socket, Timeout } from "../mod.ts";
import { BytesOf } from "../_hub/conns.ts";
import { decoder, encoder, Pair, test } from "./patch/socket_suite.ts";

test("Socket.timeout counts anew when something comes, and not when nothing does", async () => {
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const socket = new Socket(conn);
  using _ = clock.stop();
  socket.timeout = 100;
  const receiving = socket.recvExactly(5);
  let isOver = false;
  receiving.catch(() => {}).then(() => isOver = true);
  for (let i = 1; i < 5; i++) {
    await clock.pass(60);
    await peer.write(encoder.encode(String(i)));
    await when(() => BytesOf.get(conn)!.length === i);
  }
  await clock.pass(99);
  assertFalse(isOver);
  await clock.pass(2);
  await assertRejects(() => receiving, Timeout);
  assertEquals(decoder.decode(await socket.recv()), "1234");
});
