/**
 * What keeps sockets fast: an `accept` that leaves the prototype of promises alone, and answers
 * that need no turn of the event loop of their own.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import {
  connect,
  listen,
  patch,
  sleep,
  type Socket,
  spawn,
  withTimeout,
} from "../mod.ts";

const LOCAL = { hostname: "127.0.0.1", port: 0 };

/** Counts the changes of `Promise.prototype` that a function makes by `Reflect`. */
async function changesOf(run: () => Promise<unknown>): Promise<number> {
  const { defineProperty, deleteProperty } = Reflect;
  let changes = 0;
  Reflect.defineProperty = (target, ...rest) => {
    if (target === Promise.prototype) changes++;
    return defineProperty(target, ...rest);
  };
  Reflect.deleteProperty = (target, name) => {
    if (target === Promise.prototype) changes++;
    return deleteProperty(target, name);
  };
  try {
    await run();
  } finally {
    Object.assign(Reflect, { defineProperty, deleteProperty });
  }
  return changes;
}

/** Accepts, is interrupted, and accepts again. */
async function acceptTwice(
  listener: Deno.Listener<Deno.Conn, Deno.NetAddr>,
): Promise<void> {
  const { port } = listener.addr;
  for (let i = 0; i < 2; i++) {
    await withTimeout(1, () => listener.accept(), { value: null });
    const accepting = listener.accept();
    using _client = await Deno.connect({ hostname: "127.0.0.1", port });
    (await accepting).close();
  }
}

Deno.test("SocketListener.accept() does not change Promise.prototype", async () => {
  using listener = listen(LOCAL);
  assertEquals(await changesOf(() => acceptTwice(listener)), 0);
});

Deno.test("Listener.accept() under patch() does not change Promise.prototype", async () => {
  using _ = patch();
  using listener = Deno.listen(LOCAL);
  const changes = await changesOf(async () => {
    await spawn(acceptTwice, listener).get();
  });
  assertEquals(changes, 0);
});

type Pair<C> = [client: C, server: C];

/** Makes pairs of connections. */
async function pairs<C extends Deno.Conn>(
  listener: Deno.Listener<C, Deno.NetAddr>,
  connect: (address: Deno.ConnectOptions) => Promise<C>,
  count: number,
): Promise<Pair<C>[]> {
  using _ = listener;
  const all: Pair<C>[] = [];
  for (let i = 0; i < count; i++) {
    const accepting = listener.accept();
    const { port } = listener.addr;
    const client = await connect({ hostname: "127.0.0.1", port });
    all.push([client, await accepting]);
  }
  return all;
}

/** Runs a function while each reading of the clock is 10 ms after the one before. */
async function withFastClock<T>(run: () => Promise<T>): Promise<T> {
  const { now } = performance;
  let time = now.call(performance);
  performance.now = () => time += 10;
  try {
    return await run();
  } finally {
    performance.now = now;
  }
}

/** Whether a wait ends within a few microtasks, without a turn of the event loop. */
async function endsSoon(wait: Promise<unknown>): Promise<boolean> {
  let hasEnded = false;
  wait.then(() => hasEnded = true);
  for (let i = 0; i < 4; i++) await null;
  return hasEnded;
}

/** Makes each client send a byte; tells of each server whether its answer ends soon. */
async function answersEndSoon<C extends Deno.Conn>(
  all: Pair<C>[],
  write: (conn: C) => Promise<unknown>,
): Promise<boolean[]> {
  const servers = all.map(([, conn]) =>
    spawn(async () => {
      await conn.read(new Uint8Array(10));
      return await endsSoon(write(conn));
    })
  );
  await sleep(1);
  try {
    return await withFastClock(async () => {
      await Promise.all(all.map(([client]) => client.write(Uint8Array.of(1))));
      return await Promise.all(servers.map((server) => server.get()));
    });
  } finally {
    all.flat().forEach((conn) => conn.close());
  }
}

/**
 * Of each of many writes in a row, whether it ends soon. The first is left out: the time slice is
 * over when it comes.
 */
async function rowEndsSoon<C extends Deno.Conn>(
  all: Pair<C>[],
  write: (conn: C) => Promise<unknown>,
): Promise<boolean[]> {
  const row = spawn(async () => {
    const ended: boolean[] = [];
    await write(all[0]![1]);
    for (let i = 0; i < 100; i++) {
      const wait = write(all[0]![1]);
      ended.push(await endsSoon(wait));
      await wait;
    }
    return ended;
  });
  try {
    return await withFastClock(() => row.get());
  } finally {
    all.flat().forEach((conn) => conn.close());
  }
}

const write = (conn: Deno.Conn) => conn.write(Uint8Array.of(1));
const CALLS: Record<string, (socket: Socket) => Promise<unknown>> = {
  "Socket.write()": write,
  "Socket.sendAll()": (socket) => socket.sendAll("1"),
};

for (const [name, call] of Object.entries(CALLS)) {
  Deno.test(`${name} needs no turn of the loop in each of 100 greenlets that answer at once`, async () => {
    const all = await pairs<Socket>(listen(LOCAL), connect, 100);
    const results = await answersEndSoon(all, call);
    assertEquals(results, all.map(() => true));
  });

  Deno.test(`${name} in a row lets the event loop turn`, async () => {
    const all = await pairs<Socket>(listen(LOCAL), connect, 1);
    assert((await rowEndsSoon(all, call)).includes(false));
  });
}

Deno.test("Conn.write() under patch() needs no turn of the loop in each of 100 greenlets that answer at once", async () => {
  using _ = patch();
  const all = await pairs<Deno.Conn>(Deno.listen(LOCAL), Deno.connect, 100);
  assertEquals(await answersEndSoon(all, write), all.map(() => true));
});

Deno.test("Conn.write() under patch() in a row lets the event loop turn", async () => {
  using _ = patch();
  const all = await pairs<Deno.Conn>(Deno.listen(LOCAL), Deno.connect, 1);
  assert((await rowEndsSoon(all, write)).includes(false));
});
