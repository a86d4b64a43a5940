// Calls that read one socket and wait in turn, of which the first is interrupted: the next one is
// served by what has come.

import { assertEquals, assertRejects } from "@std/assert";
import { when } from "./_waits.ts";
import { clock } from "./_clock.ts";
import {
  Event,
  type Greenlet,
  patch,
  select,
  sleep,
  Socket,
  spawn,
  Timeout,
  until,
  type Wait,
} from "../mod.ts";
import { BytesOf } from "../_hub/conns.ts";
import { testBoth } from "./_bodies.ts";
import { Pair, tcp } from "./patch/socket_suite.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

type Call = (socket: Socket) => PromiseLike<unknown>;

/** Calls that want more than `abc`. */
const FIRST: Call[] = [
  (socket) => socket.recvExactly(100),
  (socket) => socket.recvUntil("\n"),
  (socket) => socket.lines().next(),
];

/** Calls for which `abc` is enough. */
const NEXT: Call[] = [
  (socket) => socket.recv(),
  (socket) => socket.recvExactly(3),
  (socket) => socket.recvUntil("c"),
  (socket) => socket.read(new Uint8Array(9)),
  async (socket) => {
    const reader = socket.readable.getReader();
    const { value } = await reader.read();
    reader.releaseLock();
    return value;
  },
];

/** Two ends of a connection. */
class Ends implements Disposable {
  readonly pair: Pair;
  readonly socket: Socket;

  constructor(pair: Pair) {
    this.pair = pair;
    this.socket = new Socket(pair.conn);
  }

  static async open(): Promise<Ends> {
    return new Ends(await Pair.open(tcp));
  }

  /** Lets `abc` come, while a call waits for more. */
  async comes(): Promise<void> {
    await this.pair.peer.write(encoder.encode("abc"));
    await when(() => BytesOf.get(this.pair.conn)!.length === 3);
  }

  [Symbol.dispose](): void {
    this.pair[Symbol.dispose]();
  }
}

function textOf(taken: unknown): string {
  return typeof taken === "number"
    ? "abc".slice(0, taken)
    : decoder.decode(taken as Uint8Array);
}

const BODIES = {
  async async(call: () => PromiseLike<unknown>): Promise<unknown> {
    return await call();
  },
  *generator(call: () => PromiseLike<unknown>): Generator<unknown, unknown> {
    const called = call();
    return yield* Symbol.iterator in called
      ? called as Wait<unknown>
      : until(called);
  },
};

for (const isPatched of [false, true]) {
  const under = isPatched ? " under patch()" : "";
  const patched = () => isPatched ? patch() : new DisposableStack();

  testBoth(
    `Socket${under} serves the next call that waits when the first is killed`,
    BODIES,
    async (body) => {
      using _ = patched();
      for (const first of FIRST) {
        for (const next of NEXT) {
          using ends = await Ends.open();
          const { socket } = ends;
          const leaving = spawn(() => first(socket)) as Greenlet<unknown>;
          const taking = spawn(() => body(() => next(socket)));
          await sleep(0);
          await ends.comes();
          await leaving.kill();
          assertEquals(textOf(await taking.get()), "abc", String(next));
        }
      }
    },
  );

  testBoth(
    `Socket${under} serves the next call that waits when the first has lost in a select()`,
    BODIES,
    async (body) => {
      using _ = patched();
      for (const first of FIRST) {
        using ends = await Ends.open();
        const { socket } = ends;
        const won = new Event();
        // The third call would take the bytes, if it were served before it has lost.
        const leaving = spawn(() =>
          select([() => won.wait(), () => first(socket), () => socket.recv()])
        );
        await sleep(0);
        const taking = spawn(() => body(() => socket.recv()));
        await sleep(0);
        await ends.comes();
        won.set();
        assertEquals((await leaving.get()).key, 0);
        assertEquals(textOf(await taking.get()), "abc");
      }
    },
  );
}

testBoth(
  "Socket.timeout of the first call leaves what has come to the next call that waits",
  BODIES,
  async (body) => {
    for (const first of FIRST) {
      using ends = await Ends.open();
      const { socket } = ends;
      using _ = clock.stop();
      socket.timeout = 100;
      const leaving = first(socket);
      const late = assertRejects(() => Promise.resolve(leaving), Timeout);
      socket.timeout = Infinity;
      const taking = spawn(() => body(() => socket.recv()));
      await ends.comes();
      await clock.pass(101);
      await late;
      assertEquals(textOf(await taking.get()), "abc");
    }
  },
);
