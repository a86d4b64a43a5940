/** `select()` of what `patch()` makes cooperative: reads and accepts of sockets, timers. */

import { assertEquals, assertRejects } from "@std/assert";
import { Channel, patch, Queue, select, sleep, spawn } from "../mod.ts";
import { random, test } from "./_random.ts";

async function connect(): Promise<[Deno.Conn, Deno.Conn]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  return await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port }),
    listener.accept(),
  ]);
}

test("select() of reads takes the bytes of one connection", async () => {
  using _ = patch();
  const pairs = [await connect(), await connect()];
  const [[a, toA], [b, toB]] = pairs as [
    [Deno.Conn, Deno.Conn],
    [Deno.Conn, Deno.Conn],
  ];
  const queue = new Queue<string>();
  const buffers = [new Uint8Array(8), new Uint8Array(8)] as const;
  const next = () =>
    select({
      a: () => a.read(buffers[0]),
      b: () => b.read(buffers[1]),
      item: () => queue.get(),
    });
  const greenlet = spawn(async () => {
    const taken: unknown[] = [];
    for (let i = 0; i < 3; i++) {
      const first = await next();
      taken.push([first.key, first.value]);
      if (i === 0) await toB.write(new Uint8Array([1, 2]));
      else if (i === 1) await toA.write(new Uint8Array([3]));
    }
    return taken;
  });
  await sleep(1);
  queue.putNowait("x");
  assertEquals(await greenlet.get(), [["item", "x"], ["b", 2], ["a", 1]]);
  assertEquals([...buffers[1].subarray(0, 2), buffers[0][0]], [1, 2, 3]);
  toA.close();
  assertEquals(await next(), { key: "a", value: null });
  b.close();
  await assertRejects(
    async () =>
      void await select([() => queue.get(), () => b.read(buffers[1])]),
    Deno.errors.BadResource,
  );
  assertEquals(queue.getters, 0);
  a.close();
  toB.close();
});

test("select() of reads of random connections receives each byte once, in order", async () => {
  using _ = patch();
  const next = random(7);
  const pairs = await Promise.all(
    Array.from({ length: 3 }, () => connect()),
  );
  const size = 4000;
  const writers = pairs.map(([, conn]) =>
    spawn(async () => {
      for (let sent = 0; sent < size;) {
        const count = Math.min(1 + Math.floor(next() * 200), size - sent);
        await conn.write(
          Uint8Array.from({ length: count }, (_, i) => (sent + i) % 251),
        );
        sent += count;
        if (next() < 0.3) await sleep(0);
      }
      conn.close();
    })
  );
  const received = pairs.map((): number[] => []);
  const open = new Set(pairs.keys());
  const channel = new Channel<null>();
  const ticker = spawn(async () => {
    for (;;) {
      await select([() => channel.put(null), () => sleep(1)]);
      await sleep(0);
    }
  });
  const read = async () => {
    while (open.size > 0) {
      const buffer = new Uint8Array(1 + Math.floor(next() * 300));
      const places = [...open].toSorted(() => next() - 0.5);
      const first = await select([
        ...places.map((place) => () => pairs[place]![0].read(buffer)),
        () => channel.get(),
        () => new Promise<void>((resolve) => setTimeout(resolve, 1)),
      ]);
      const place = places[first.key];
      if (place === undefined) continue;
      if (first.value === null) open.delete(place);
      else received[place]!.push(...buffer.subarray(0, first.value as number));
    }
  };
  let reader = spawn(read);
  while (!reader.dead || reader.exception !== undefined) {
    await sleep(Math.floor(next() * 3));
    if (reader.exception !== undefined) throw reader.exception;
    if (open.size === 0) break;
    await reader.kill();
    reader = spawn(read);
  }
  await reader.get();
  await ticker.kill();
  for (const writer of writers) await writer.get();
  for (const [conn] of pairs) conn.close();
  const all = Array.from({ length: size }, (_, i) => i % 251);
  assertEquals(received.map((bytes) => bytes.length), [size, size, size]);
  for (const bytes of received) assertEquals(bytes, all);
});

test("select() of an accept and of a child keeps what comes when it has lost", async () => {
  using _ = patch();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const late = await spawn(() =>
    select({ conn: () => listener.accept(), late: () => sleep(1) })
  ).get();
  assertEquals(late.key, "late");
  using _client = await Deno.connect({ hostname: "127.0.0.1", port });
  const first = await spawn(() =>
    select({ conn: () => listener.accept(), late: () => sleep(60_000) })
  ).get();
  assertEquals(first.key, "conn");
  (first.value as Deno.Conn).close();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "-q", "Deno.exit(3)"],
  }).spawn();
  assertEquals(
    (await spawn(() => select([() => child.status, () => sleep(0)])).get()).key,
    1,
  );
  const status = await spawn(() => select([() => child.status])).get();
  assertEquals(status.value.code, 3);
});
