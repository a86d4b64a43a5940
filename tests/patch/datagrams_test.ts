/**
 * Tests of datagrams, which the runtime has with `--unstable-net` only: without it, this
 * file runs itself again.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { runToEnds } from "../_processes.ts";
import { decoder, encoder, LONG, test, testRandomly } from "./socket_suite.ts";
import { Interrupts, Operations, when } from "../_waits.ts";

interface DatagramConn extends AsyncIterable<[Uint8Array, Deno.Addr]> {
  readonly addr: Deno.Addr;
  bufSize: number;
  receive(buffer?: Uint8Array): Promise<[Uint8Array, Deno.Addr]>;
  send(data: Uint8Array, address: Deno.Addr): Promise<number>;
  close(): void;
  ref(): void;
  unref(): void;
}

const { listenDatagram } = Deno as unknown as {
  listenDatagram?: (options: unknown) => DatagramConn;
};

if (listenDatagram === undefined) {
  Deno.test("Deno.listenDatagram is not there, and patch() doesn't add it", () => {
    using _ = patch();
    assert(!("listenDatagram" in Deno));
  });

  Deno.test("Deno.listenDatagram is patched, with --unstable-net", async () => {
    const offline = import.meta.resolve("@std/assert").startsWith("file:");
    const { success, stdout, stderr } = await new Deno.Command(
      Deno.execPath(),
      {
        args: [
          "test",
          "-P=test",
          "--no-check",
          "--unstable-net",
          ...offline ? ["--import-map=tests/offline/import_map.json"] : [],
          "tests/patch/datagrams_test.ts",
        ],
        cwd: new URL("../..", import.meta.url),
        env: { NO_COLOR: "1" },
      },
    ).output();
    const [out, err] = [stdout, stderr].map((bytes) => decoder.decode(bytes));
    if (!success) throw new Error(`${out}\n${err}`);
    assert(/ok \| \d\d passed \| 0 failed/.test(out!), out);
  });
} else {
  for (const transport of ["udp", "unixpacket"]) {
    if (transport === "udp" || Deno.build.os !== "windows") {
      testDatagrams(transport);
    }
  }
}

/** A socket, and another socket that sends to it. */
class Pair implements Disposable {
  readonly socket: DatagramConn;
  readonly peer: DatagramConn;
  readonly #directory: string | null = null;

  constructor(transport: string) {
    // As patched at this time.
    const { listenDatagram } = Deno as unknown as {
      listenDatagram: (options: unknown) => DatagramConn;
    };
    if (transport === "udp") {
      const options = { transport, hostname: "127.0.0.1", port: 0 };
      this.socket = listenDatagram(options);
      this.peer = listenDatagram(options);
    } else {
      const directory = this.#directory = Deno.makeTempDirSync();
      this.socket = listenDatagram({ transport, path: `${directory}/s` });
      this.peer = listenDatagram({ transport, path: `${directory}/p` });
    }
  }

  /** Sends to the socket. */
  async send(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? encoder.encode(data) : data;
    assertEquals(await this.peer.send(bytes, this.socket.addr), bytes.length);
  }

  [Symbol.dispose](): void {
    for (const socket of [this.socket, this.peer]) {
      try {
        socket.close();
      } catch (error) {
        // The test has closed it.
        assertInstanceOf(error, Deno.errors.BadResource);
      }
    }
    if (this.#directory !== null) {
      Deno.removeSync(this.#directory, { recursive: true });
    }
  }
}

async function receiveText(
  socket: DatagramConn,
  most?: number,
): Promise<string> {
  const [data] =
    await (most === undefined
      ? socket.receive()
      : socket.receive(new Uint8Array(most)));
  return decoder.decode(data);
}

/** Receives and is interrupted; what it has begun goes on. */
async function receiveInVain(
  socket: DatagramConn,
  most = 4,
): Promise<Uint8Array> {
  const buffer = new Uint8Array(most);
  const result = await spawn(() =>
    withTimeout(1, () => socket.receive(buffer), { value: "late" })
  ).get();
  assertEquals(result, "late");
  return buffer;
}

/** Watches what all sockets of a kind receive. */
function watchReceives(transport: string): Operations {
  using pair = new Pair(transport);
  return new Operations(Object.getPrototypeOf(pair.socket), "receive");
}

function tell(error: unknown): unknown[] {
  const { constructor, name, message } = error as Error;
  return [constructor, name, message];
}

function testDatagrams(transport: string): void {
  test(`DatagramConn.receive() after an interrupted one gets its datagram, ${transport}`, async () => {
    using receptions = watchReceives(transport);
    using _ = patch();
    using pair = new Pair(transport);
    const { socket, peer } = pair;
    const receives: (() => Promise<string>)[] = [
      () => receiveText(socket),
      () => receiveText(socket, 100),
      () => spawn(receiveText, socket).get(),
      () => spawn(receiveText, socket, 100).get(),
      async () => {
        for await (const [data] of socket) return decoder.decode(data);
        throw new Error("Is at its end");
      },
    ];
    for (const receive of receives) {
      for (const early of [true, false]) {
        const buffer = await receiveInVain(socket);
        const receiving = early ? receive() : undefined;
        await pair.send("longer than 4");
        await receptions.over();
        assertEquals(await (receiving ?? receive()), "longer than 4");
        assertEquals(buffer, new Uint8Array(4));
      }
    }
    const receiving = spawn(() => socket.receive());
    await pair.send("");
    assertEquals(await receiving.get(), [new Uint8Array(), peer.addr]);
  });

  test(`DatagramConn.receive() gives each datagram once, and as much as fits, ${transport}`, async () => {
    using receptions = watchReceives(transport);
    using _ = patch();
    using pair = new Pair(transport);
    const { socket } = pair;
    await receiveInVain(socket);
    for (const text of ["abcdef", "ghijkl", "mnopqr", "stuvwx", "yz"]) {
      await pair.send(text);
    }
    await receptions.over();
    assertEquals(await receiveText(socket, 4), "abcd");
    assertEquals(await spawn(receiveText, socket, 2).get(), "gh");
    assertEquals(await spawn(receiveText, socket, 0).get(), "");
    const buffer = new Uint8Array(10);
    const [data] = await spawn(() => socket.receive(buffer.subarray(3, 8)))
      .get();
    assertStrictEquals(data.buffer, buffer.buffer);
    assertEquals([data.byteOffset, decoder.decode(data)], [3, "stuvw"]);
    assertEquals(decoder.decode(buffer), "\0\0\0stuvw\0\0");
    assertEquals(await receiveText(socket), "yz");
  });

  test(`DatagramConn.receive() has as much room as 'bufSize' says, ${transport}`, async () => {
    async function receiveAll(
      wrap: (run: () => Promise<unknown>) => Promise<unknown>,
    ): Promise<unknown[]> {
      using pair = new Pair(transport);
      const { socket } = pair;
      const results: unknown[] = [Object.keys(socket), socket.bufSize];
      for (const size of [undefined, 3, 0, -1, 1.5, "x", NaN, 70_000]) {
        if (size !== undefined) socket.bufSize = size as number;
        await pair.send("12345");
        const result = await wrap(() =>
          socket.receive().then(
            ([data]) => [data.byteLength, data.buffer.byteLength],
            tell,
          )
        );
        results.push(result);
        if ((result as unknown[]).length === 3) {
          await socket.receive(new Uint8Array(1));
        }
      }
      return results;
    }
    const unpatched = await receiveAll((run) => run());
    using _ = patch();
    assertEquals(await receiveAll((run) => run()), unpatched);
    assertEquals(await receiveAll((run) => spawn(run).get()), unpatched);
  });

  test(`DatagramConn.receive() takes the longest that there are, ${transport}`, async () => {
    using receptions = watchReceives(transport);
    using _ = patch();
    using pair = new Pair(transport);
    const { socket } = pair;
    for (const length of [65_507, 200_000]) {
      const sent = Uint8Array.from({ length }, (_, i) => i * 7);
      await receiveInVain(socket);
      try {
        await pair.send(sent);
      } catch {
        // Too long for the system.
        continue;
      }
      await receptions.over();
      const [data] = await socket.receive(new Uint8Array(300_000));
      assertEquals(data.length, length);
      assert(data.every((byte, i) => byte === (i * 7 & 255)));
    }
  });

  test(`DatagramConn.receive() into a buffer that was transferred meanwhile fails and takes nothing, ${transport}`, async () => {
    using _ = patch();
    using pair = new Pair(transport);
    const { socket } = pair;
    const buffer = new Uint8Array(10);
    const first = spawn(() => socket.receive(buffer).catch(tell));
    const second = spawn(receiveText, socket);
    await sleep(0);
    buffer.buffer.transfer();
    await pair.send("datagram");
    assertEquals((await first.get())[0], TypeError);
    assertEquals(await second.get(), "datagram");
  });

  test(`DatagramConn.receive() can be killed at once, and throws what was held, ${transport}`, async () => {
    using _ = patch();
    using pair = new Pair(transport);
    const { socket } = pair;
    const log: string[] = [];
    const greenlet = spawn(async () => {
      try {
        await socket.receive();
      } finally {
        log.push("cleaned up");
      }
    }) as Greenlet;
    await sleep(0);
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
    assertInstanceOf(greenlet.value, GreenletExit);

    await pair.send("datagram");
    const { promise, resolve } = Promise.withResolvers<void>();
    const held = new Error("held");
    const other = spawn(async () => {
      await promise;
      const thrown = await socket.receive().catch((error) => error);
      return [thrown, await receiveText(socket)];
    });
    await sleep(0);
    other.throw(held);
    resolve();
    assertEquals(await other.get(), [held, "datagram"]);
  });

  test(`DatagramConn iterated in a greenlet can be killed, and iterated again, ${transport}`, async () => {
    using _ = patch();
    using pair = new Pair(transport);
    const { socket } = pair;
    const log: string[] = [];
    const serve = async () => {
      try {
        for await (const [data] of socket) log.push(decoder.decode(data));
        log.push("closed");
      } finally {
        log.push("cleaned up");
      }
    };
    const first = spawn(serve) as Greenlet;
    await pair.send("one");
    await when(() => log.length >= 1);
    await first.kill();
    assertInstanceOf(first.value, GreenletExit);
    await pair.send("two");
    const second = spawn(serve);
    await when(() => log.length >= 3);
    await pair.send("three");
    await when(() => log.length >= 4);
    socket.close();
    await second.get();
    const expected = ["one", "cleaned up", "two", "three", "closed"];
    assertEquals(log, [...expected, "cleaned up"]);
  });

  test(`DatagramConn.close() ends what is pending as unpatched, ${transport}`, async () => {
    async function closeWhileReceiving(
      start: (receive: () => Promise<unknown>) => Promise<unknown>,
    ): Promise<unknown[]> {
      using pair = new Pair(transport);
      const { socket } = pair;
      const receive = () => socket.receive().catch(tell);
      const receiving = start(receive);
      await settle();
      socket.close();
      const results = [await receiving, await start(receive)];
      try {
        socket.close();
      } catch (error) {
        results.push(tell(error));
      }
      return results;
    }
    const unpatched = await closeWhileReceiving((receive) => receive());
    using _ = patch();
    assertEquals(await closeWhileReceiving((receive) => receive()), unpatched);
    assertEquals(
      await closeWhileReceiving((receive) => spawn(receive).get()),
      unpatched,
    );
  });

  test(`DatagramConn.close() after an interrupted receive() forgets what was kept, ${transport}`, async () => {
    using receptions = watchReceives(transport);
    using _ = patch();
    for (const kept of [true, false]) {
      using pair = new Pair(transport);
      const { socket } = pair;
      await receiveInVain(socket);
      if (kept) {
        await pair.send("kept");
        await receptions.over();
      }
      socket.close();
      await assertRejects(() => socket.receive(), Deno.errors.BadResource);
      const inside = await spawn(() => socket.receive().catch((e) => e)).get();
      assertInstanceOf(inside, Deno.errors.BadResource);
    }
  });

  test(`DatagramConn.send() goes on when it is interrupted, with what was in the buffer, ${transport}`, async () => {
    using _ = patch();
    using pair = new Pair(transport);
    const { socket, peer } = pair;
    const buffer = new Uint8Array(10_000);
    let sent = 0;
    for (let i = 0; i < 60; i++) {
      buffer.fill(i);
      let count: number | undefined;
      const greenlet = spawn(async () => {
        count = await peer.send(buffer, socket.addr);
      }) as Greenlet;
      await sleep(0);
      buffer.fill(255);
      if (i % 3 > 0) await greenlet.kill();
      else await greenlet.get();
      if (count !== undefined) {
        assertEquals(count, buffer.length);
        sent++;
      }
      const [data] = await socket.receive();
      assertEquals(data.length, buffer.length);
      assert(data.every((byte) => byte === i), String(data[0]));
    }
    assertGreaterOrEqual(sent, 20);
    const held = new Error("held");
    const { promise, resolve } = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      await promise;
      const thrown = await peer.send(encoder.encode("no"), socket.addr)
        .catch((error) => error);
      await peer.send(encoder.encode("yes"), socket.addr);
      return thrown;
    });
    await sleep(0);
    greenlet.throw(held);
    resolve();
    assertStrictEquals(await greenlet.get(), held);
    assertEquals(await receiveText(socket), "yes");
  });

  testRandomly(
    `DatagramConn.receive() loses nothing when receives are interrupted, ${transport}`,
    async (next) => {
      using _ = patch();
      const count = 60;
      let interrupts = 0;
      await Promise.all(Array.from({ length: 15 }, async () => {
        using pair = new Pair(transport);
        const { socket } = pair;
        const interrupted = new Interrupts();
        const left: Uint8Array[] = [];
        let received = 0;
        const sizes = Array.from(
          { length: count },
          () => 2 + Math.floor(next() ** 3 * 9000),
        );
        const sending = (async () => {
          for (const [n, size] of sizes.entries()) {
            const data = new Uint8Array(size).fill(n);
            new DataView(data.buffer).setUint16(0, n);
            await interrupted.more(Math.floor(next() * 3));
            await pair.send(data);
            // The system drops datagrams that are not received for long.
            await when(() => n - received <= 10);
          }
        })();
        const take = (data: Uint8Array, room: number) => {
          const n = received++;
          assertEquals(data.length, Math.min(sizes[n]!, room));
          assertEquals(data[0]! * 256 + data[1]!, n);
          assert(data.subarray(2).every((byte) => byte === (n & 255)));
        };
        while (received < count) {
          const buffer = next() < 0.3
            ? undefined
            : new Uint8Array(2 + Math.floor(next() * 9000)).fill(0xAA);
          const room = buffer?.length ?? socket.bufSize;
          const before = received;
          // A wait, and nothing around it that an interrupt could come between.
          const receive = () => socket.receive(buffer);
          const body = async () => take((await receive())[0], room);
          const ms = next();
          if (next() < 0.03) {
            await interrupted.patiently(body);
          } else if (next() < 0.4) {
            const result = await spawn(() =>
              withTimeout(ms, receive, { value: undefined })
            ).get();
            if (result !== undefined) take(result[0], room);
          } else if (next() < 0.5) {
            await spawn(async () => {
              using timeout = Timeout.start(ms);
              await body().catch((error) => {
                if (error !== timeout) throw error;
              });
            }).get();
          } else {
            const greenlet = spawn(
              next() < 0.5 ? body : (function* () {
                take((yield* until(receive()))[0], room);
              }) as unknown as () => Promise<void>,
            ) as Greenlet;
            await greenlet.join({ timeout: ms });
            await greenlet.kill(undefined, { grace: LONG });
            if (greenlet.exception !== undefined) throw greenlet.exception;
          }
          if (received === before) {
            interrupted.note();
            if (buffer !== undefined) left.push(buffer);
          }
        }
        await sending;
        for (const buffer of left) {
          assert(buffer.every((byte) => byte === 0xAA), "written to later");
        }
        interrupts += interrupted.count;
      }));
      assertGreaterOrEqual(interrupts, 500);
    },
  );

  test(`patch() disposed of while receives are pending loses nothing, ${transport}`, async () => {
    using receptions = watchReceives(transport);
    const restore = patch();
    using kept = new Pair(transport);
    using pending = new Pair(transport);
    using waiting = new Pair(transport);
    using untouched = new Pair(transport);
    await receiveInVain(kept.socket);
    await kept.send("kept datagram");
    await receptions.over();
    await receiveInVain(pending.socket);
    const receiver = spawn(receiveText, waiting.socket);
    await sleep(0);
    restore[Symbol.dispose]();
    assertEquals(await receiveText(kept.socket), "kept datagram");
    for (const pair of [pending, waiting, untouched]) await pair.send("more");
    assertEquals(await receiveText(pending.socket), "more");
    assertEquals(await receiver.get(), "more");
    assertEquals(await receiveText(untouched.socket), "more");
    assertEquals(Object.keys(kept.socket), ["bufSize"]);
  });

  for (const where of ["outside", "inside"]) {
    test(`patch() leaves results and errors of DatagramConn as they are, ${where} greenlets, ${transport}`, async () => {
      const bytes = () => new Uint8Array(4);
      const selves = [undefined, null, 1, {}, Deno] as never[];
      const values = [
        null,
        1,
        "text",
        {},
        new Uint16Array(4),
        new DataView(new ArrayBuffer(4)),
        new ArrayBuffer(4),
      ] as never[];
      const calls: ((pair: Pair) => unknown)[] = [
        ...values.map((value) => ({ socket }: Pair) =>
          value === null ? null : socket.receive(value)
        ),
        ...values.map((value) => ({ peer, socket }: Pair) =>
          peer.send(value, socket.addr)
        ),
        ...values.map((value) => ({ peer }: Pair) => peer.send(bytes(), value)),
        ...selves.flatMap((self) =>
          (["receive", "send", "close", "ref", "unref"] as const).map(
            (name) => ({ socket }: Pair) =>
              (socket[name] as (...args: unknown[]) => unknown).call(
                self,
                bytes(),
                socket.addr,
              ),
          )
        ),
        ({ peer, socket }) => peer.send(bytes(), socket.addr),
        ({ peer, socket }) => peer.send(new Uint8Array(300_000), socket.addr),
        ({ peer }) => peer.send.call(peer, ...[] as never as [never, never]),
        ({ socket, peer }) => {
          socket.close();
          return socket.send(bytes(), peer.addr);
        },
        ({ socket }) => socket.ref(),
        ({ socket }) => socket.unref(),
        ...values.map((value) => () => listenDatagram!(value).close()),
        () =>
          (Deno as never as { listenDatagram: typeof listenDatagram })
            .listenDatagram!({ transport: "pigeon" }).close(),
      ];
      async function callAll(
        wrap: (call: () => Promise<unknown>) => Promise<unknown>,
      ): Promise<unknown[]> {
        const results: unknown[] = [];
        for (const call of calls) {
          using pair = new Pair(transport);
          // `receive` of a wrong buffer takes the datagram, or waits for one.
          await pair.send("x");
          results.push(
            await wrap(async () => {
              let result;
              try {
                result = call(pair);
              } catch (error) {
                return ["throws", ...tell(error)];
              }
              const isPromise = result instanceof Promise;
              return [
                isPromise,
                await (result as Promise<unknown>)?.catch?.(tell) ?? null,
              ];
            }),
          );
        }
        return results;
      }
      const unpatched = await callAll((call) => call());
      using _ = patch();
      const patched = await callAll((call) =>
        where === "outside" ? call() : spawn(call).get()
      );
      for (const [i, expected] of unpatched.entries()) {
        assertEquals(patched[i], expected, String(calls[i]));
      }
    });
  }

  Deno.test(`patch() leaves names and lengths of DatagramConn as they are, and restores them, ${transport}`, () => {
    const names = ["receive", "send", "close", "ref", "unref"] as const;
    const shape = (f: { name: string; length: number }) => [f.name, f.length];
    function look() {
      using pair = new Pair(transport);
      const prototype = Object.getPrototypeOf(pair.socket);
      return Object.getOwnPropertyDescriptors(prototype);
    }
    const before = look();
    {
      using _ = patch();
      assertEquals(
        shape((Deno as never as { listenDatagram: never }).listenDatagram),
        shape(listenDatagram!),
      );
      const patched = look();
      for (const name of names) {
        assertEquals(shape(patched[name]!.value), shape(before[name]!.value));
        assert(patched[name]!.value !== before[name]!.value, name);
      }
    }
    assertEquals(look(), before);
  });

  if (transport !== "udp") return;

  test("patch() lets the process end though a receive is pending that was interrupted", async () => {
    const endings: [string, boolean][] = [
      [`await inVain(receive);`, true],
      [`await inVain(receive); receive();`, false],
      [`socket.unref(); await inVain(receive); receive();`, true],
      [`await inVain(receive); socket.unref(); receive();`, true],
    ];
    const results = await runToEnds({
      before: `
        using _ = patch();
        const socket = Deno.listenDatagram({
          transport: "udp",
          hostname: "127.0.0.1",
          port: 0,
        });
        const inVain = (call) => withTimeout(1, call, { value: "late" });
        const receive = () => socket.receive();`,
      statements: endings.map(([body]) => `${body} console.log("at its end");`),
      cleanUp: "socket.close();",
      flags: ["--unstable-net"],
    });
    for (const [i, [body, ends]] of endings.entries()) {
      assertEquals(results[i], { out: ["at its end"], livesOn: !ends }, body);
    }
  });
}
