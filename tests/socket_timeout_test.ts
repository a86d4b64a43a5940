import { assertEquals, assertFalse, assertRejects } from "@std/assert";
import { turns, when } from "./_waits.ts";
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

test("Socket.recvUntil() finds a delimiter whose first byte has come before", async () => {
  using pair = await Pair.open();
  const { conn, peer } = pair;
  const socket = new Socket(conn);
  const receiving = socket.recvUntil("\r\n");
  await peer.write(encoder.encode("one\r"));
  await when(() => BytesOf.get(conn)!.length === 4);
  await peer.write(encoder.encode("\ntwo"));
  await peer.closeWrite();
  assertEquals(decoder.decode(await receiving), "one\r\n");
  assertEquals(decoder.decode(await socket.recv()), "two");
});

test("Socket.timeout counts anew when sendAll() has written something, and not when it has not", async () => {
  const written: PromiseWithResolvers<number>[] = [];
  const conn = {
    read: () => new Promise<number>(() => {}),
    write() {
      const next = Promise.withResolvers<number>();
      written.push(next);
      return next.promise;
    },
    closeWrite: () => Promise.resolve(),
    close() {},
    ref() {},
    unref() {},
    remoteAddr: { transport: "tcp", hostname: "127.0.0.1", port: 1 },
  };
  const socket = new Socket(conn as unknown as Deno.Conn);
  using _ = clock.stop();
  socket.timeout = 100;
  const sending = socket.sendAll("12345");
  let isOver = false;
  sending.catch(() => {}).then(() => isOver = true);
  for (let i = 0; i < 3; i++) {
    await clock.pass(60);
    written[i]!.resolve(1);
    await when(() => written.length === i + 2);
  }
  await clock.pass(99);
  await turns(2);
  assertFalse(isOver);
  await clock.pass(2);
  await assertRejects(() => sending, Timeout);
});
