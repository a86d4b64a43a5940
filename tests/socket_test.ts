import { AsyncLocalStorage } from "node:async_hooks";
import { Buffer } from "node:buffer";
import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  connect,
  connectTls,
  type Greenlet,
  GreenletExit,
  joinAll,
  listen,
  listenTls,
  patch,
  sleep,
  Socket,
  SocketListener,
  spawn,
  Timeout,
  until,
  type Wait,
  withTimeout,
} from "../mod.ts";
import { runScript } from "./_bodies.ts";
import {
  caCerts,
  certificate,
  decoder,
  encoder,
  Pair,
  removeSocket,
  tcp,
  test,
  testRandomly,
  tls,
  type Transport,
  unix,
} from "./patch/socket_suite.ts";
import { runToEnds } from "./_processes.ts";
import { Interrupts, turns, when } from "./_waits.ts";

const transports: Record<string, Transport> = { tcp, unix, tls };

/** A socket, and the runtime's connection at the other end. */
class Ends implements Disposable {
  readonly #pair: Pair;
  readonly socket: Socket;
  readonly peer: Deno.Conn;

  private constructor(pair: Pair) {
    this.#pair = pair;
    this.socket = new Socket(pair.conn);
    this.peer = pair.peer;
  }

  static async open(transport: Transport = tcp): Promise<Ends> {
    return new Ends(await Pair.open(transport));
  }

  /** Has the peer send text. */
  async send(text: string | Uint8Array): Promise<void> {
    let rest = typeof text === "string" ? encoder.encode(text) : text;
    while (rest.length > 0) rest = rest.subarray(await this.peer.write(rest));
  }

  [Symbol.dispose](): void {
    this.socket[Symbol.dispose]();
    this.#pair[Symbol.dispose]();
  }
}

/** Calls a function in no greenlet. */
const outside = AsyncLocalStorage.snapshot();

const text = (bytes: Uint8Array) => decoder.decode(bytes);

/** Runs with and without `patch()`. */
function testBothWays(name: string, body: () => Promise<void>): void {
  test(name, body);
  test(`${name}, under patch()`, async () => {
    using _ = patch();
    await body();
  });
}

/** Runs with sockets of each kind. */
function testEach(
  name: string,
  body: (ends: Ends) => Promise<void>,
): void {
  for (const [kind, transport] of Object.entries(transports)) {
    testBothWays(`${name}, ${kind}`, async () => {
      using ends = await Ends.open(transport);
      await body(ends);
    });
  }
}

/** Begins to wait, in a greenlet that can be killed. */
function waiting<T>(call: () => Wait<T>): Greenlet {
  return spawn(async () => await call()) as Greenlet;
}

/** Calls something that waits, and is interrupted. */
async function inVain(call: () => Wait<unknown>): Promise<void> {
  const greenlet = waiting(call);
  await turns(2);
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
}

// What each call gives

testEach(
  "Socket.recv() gives what is there, at most max, and nothing at the end",
  async ({ socket, peer }) => {
    await peer.write(encoder.encode("hello"));
    assertEquals(text(await socket.recv(2)), "he");
    assertEquals(text(await socket.recv()), "llo");
    await peer.closeWrite();
    assertEquals(await socket.recv(), new Uint8Array(0));
    assertEquals(await socket.recv(), new Uint8Array(0));
  },
);

testEach(
  "Socket.recvExactly() gives so many bytes, however they come",
  async (ends) => {
    const { socket } = ends;
    assertEquals(await socket.recvExactly(0), new Uint8Array(0));
    const receiving = waiting(() => socket.recvExactly(6));
    for (const piece of ["ab", "c", "defg"]) {
      await turns(2);
      await ends.send(piece);
    }
    assertEquals(text(await receiving.get() as Uint8Array), "abcdef");
    assertEquals(text(await socket.recv()), "g");
  },
);

/** Different bytes, more than one operation takes. */
const MILLIONS = new Uint8Array(3_000_000).map((_, i) => i * 7 + i >> 8);

testEach(
  "Socket.recvExactly() of more than one operation reads gives them in order",
  async (ends) => {
    const { socket } = ends;
    const sent = MILLIONS;
    const sending = ends.send(sent);
    assertEquals(await socket.recvExactly(1), sent.subarray(0, 1));
    const bytes = await socket.recvExactly(sent.length - 1);
    assertEquals(bytes.length, sent.length - 1);
    assert(Buffer.compare(bytes, sent.subarray(1)) === 0);
    assertEquals(bytes.buffer.byteLength, bytes.length);
    await sending;
  },
);

testEach(
  "Socket.recvExactly() throws UnexpectedEof at the end, and recv() gives the rest",
  async (ends) => {
    const { socket, peer } = ends;
    await ends.send("abc");
    await peer.closeWrite();
    for (let i = 0; i < 2; i++) {
      await assertRejects(
        () => socket.recvExactly(4),
        Deno.errors.UnexpectedEof,
        "Cannot receive 4 bytes as the connection has ended after 3",
      );
    }
    assertEquals(text(await socket.recvExactly(2)), "ab");
    assertEquals(text(await socket.recv()), "c");
    assertEquals(await socket.recv(), new Uint8Array(0));
    await assertRejects(
      () => socket.recvExactly(1),
      Deno.errors.UnexpectedEof,
    );
  },
);

testEach(
  "Socket.recvUntil() gives up to and with the delimiter, across pieces",
  async (ends) => {
    const { socket } = ends;
    const receiving = waiting(() => socket.recvUntil("\r\n\r\n"));
    for (const piece of ["a\r\nb\r", "\n", "\r\r\n\r", "\nrest"]) {
      await turns(2);
      await ends.send(piece);
    }
    assertEquals(
      text(await receiving.get() as Uint8Array),
      "a\r\nb\r\n\r\r\n\r\n",
    );
    assertEquals(text(await socket.recvUntil(encoder.encode("es"))), "res");
    assertEquals(text(await socket.recv()), "t");
  },
);

testEach(
  "Socket.recvUntil() past max throws a RangeError, and loses nothing",
  async (ends) => {
    const { socket, peer } = ends;
    await ends.send("abcdefgh\nxyz");
    for (let i = 0; i < 2; i++) {
      await assertRejects(
        () => socket.recvUntil("\n", { max: 5 }),
        RangeError,
        "does not end within 'max': 5 bytes",
      );
    }
    // With the delimiter, it is as long as it may be.
    await assertRejects(() => socket.recvUntil("\n", { max: 8 }), RangeError);
    assertEquals(text(await socket.recvUntil("\n", { max: 9 })), "abcdefgh\n");
    await peer.closeWrite();
    await assertRejects(
      () => socket.recvUntil("\n"),
      Deno.errors.UnexpectedEof,
      "has ended after 3 bytes without it",
    );
    assertEquals(text(await socket.recv()), "xyz");
  },
);

testEach(
  "Socket.lines() gives text without the ends, and a last line without one",
  async (ends) => {
    const { socket, peer } = ends;
    await ends.send("one\ntwo\r\n\n\r\nthr\ree\r\r\n\u00e4\ufeff\nlast\r");
    await peer.closeWrite();
    const lines = [];
    for await (const line of socket.lines()) lines.push(line);
    assertEquals(
      lines,
      ["one", "two", "", "", "thr\ree\r", "\u00e4\ufeff", "last\r"],
    );
    assertEquals(await socket.recv(), new Uint8Array(0));
  },
);

test("Socket.lines() puts U+FFFD for what is no UTF-8, and keeps a byte order mark", async () => {
  using ends = await Ends.open();
  await ends.send(Uint8Array.of(0xef, 0xbb, 0xbf, 97, 0xff, 98, 0xc3, 10));
  assertEquals(
    (await ends.socket.lines().next()).value,
    "\ufeffa\ufffdb\ufffd",
  );
});

testEach(
  "Socket.lines() leaves the socket open, and what was not given in it",
  async (ends) => {
    const { socket } = ends;
    await ends.send("one\ntwo\nthree");
    for await (const line of socket.lines()) {
      assertEquals(line, "one");
      break;
    }
    assertEquals(text(await socket.recv(4)), "two\n");
    const lines = socket.lines();
    assertEquals(await lines.return(), { done: true, value: undefined });
    assertEquals(await lines.next(), { done: true, value: undefined });
    await socket.sendAll("still open");
    assertEquals(text(await socket.recv()), "three");
  },
);

test("Socket.lines() throws a RangeError at a line that is too long, and loses nothing", async () => {
  for (const ending of ["\n", "\r\n"]) {
    using ends = await Ends.open();
    const { socket } = ends;
    await ends.send(`12345${ending}123456${ending}more`);
    const lines = socket.lines({ max: 5 });
    assertEquals((await lines.next()).value, "12345");
    for (let i = 0; i < 2; i++) {
      await assertRejects(
        () => lines.next(),
        RangeError,
        "longer than 'max': 5 bytes",
      );
    }
    assertEquals(
      text(await socket.recvUntil("\n")),
      `123456${ending}`,
    );
    assertEquals(text(await socket.recv()), "more");
  }
});

test("Socket.lines() does not wait for the end of a line that is too long already", async () => {
  using ends = await Ends.open();
  await ends.send("123456");
  await assertRejects(() => ends.socket.lines({ max: 5 }).next(), RangeError);
  await ends.peer.closeWrite();
  await assertRejects(() => ends.socket.lines({ max: 5 }).next(), RangeError);
  assertEquals((await ends.socket.lines({ max: 6 }).next()).value, "123456");
});

testEach("Socket.read() is that of a Deno.Conn", async (ends) => {
  const { socket, peer } = ends;
  await ends.send("hello");
  const buffer = new Uint8Array(3);
  assertEquals(await socket.read(new Uint8Array(0)), 0);
  assertEquals(await socket.read(buffer), 3);
  assertEquals(text(buffer), "hel");
  assertEquals(await socket.read(buffer), 2);
  await peer.closeWrite();
  assertEquals(await socket.read(buffer), null);
});

testEach(
  "Socket.sendAll() sends all of bytes, of a view and of a string",
  async ({ socket, peer }) => {
    const big = MILLIONS;
    const received = new Response(peer.readable).bytes();
    await socket.sendAll("grüße ");
    await socket.sendAll("");
    assertEquals(await socket.sendAll(big.subarray(1)), undefined);
    await socket.sendAll(encoder.encode("abcd").subarray(1, 3));
    await socket.closeWrite();
    const bytes = await received;
    const head = encoder.encode("grüße ");
    assertEquals(bytes.subarray(0, head.length), head);
    const body = bytes.subarray(head.length, -2);
    assertEquals(body.length, big.length - 1);
    assert(Buffer.compare(body, big.subarray(1)) === 0);
    assertEquals(text(bytes.subarray(-2)), "bc");
  },
);

testEach(
  "Socket.write() writes some of the bytes, and tells how many",
  async ({ socket, peer }) => {
    assertEquals(await socket.write(encoder.encode("abc")), 3);
    assertEquals(await socket.write(new Uint8Array(0)), 0);
    const buffer = new Uint8Array(9);
    assertEquals(await peer.read(buffer), 3);
    const count = await socket.write(new Uint8Array(5_000_000));
    assertGreater(count, 0);
  },
);

testEach(
  "Socket.closeWrite() ends what is written, and the peer can still be read",
  async (ends) => {
    const { socket, peer } = ends;
    const received = new Response(peer.readable).text();
    await socket.sendAll("request");
    await socket.closeWrite();
    assertEquals(await received, "request");
    await assertRejects(() => socket.sendAll("more"), Error);
  },
);

test("Socket.closeWrite() leaves the peer's half open", async () => {
  using ends = await Ends.open();
  await ends.socket.closeWrite();
  assertEquals(await ends.peer.read(new Uint8Array(1)), null);
  await ends.send("answer");
  assertEquals(text(await ends.socket.recv()), "answer");
});

testBothWays(
  "Socket.readable and Socket.writable are as those of a Deno.Conn",
  async () => {
    using ends = await Ends.open();
    const { socket, peer } = ends;
    assertStrictEquals(socket.readable, socket.readable);
    assertStrictEquals(socket.writable, socket.writable);
    assertInstanceOf(socket.readable, ReadableStream);
    await ends.send("hello");
    assertEquals(text(await socket.recv(2)), "he");
    const byob = socket.readable.getReader({ mode: "byob" });
    assertEquals(text((await byob.read(new Uint8Array(2))).value!), "ll");
    byob.releaseLock();
    const writer = socket.writable.getWriter();
    await writer.write(encoder.encode("answer"));
    const buffer = new Uint8Array(9);
    assertEquals(await peer.read(buffer), 6);
    await writer.close();
    // As ever, that closes the connection.
    await assertRejects(() => socket.recv(), Deno.errors.BadResource);
    assertEquals(await peer.read(buffer), null);
  },
);

testBothWays(
  "Socket.readable ends with the connection, and closes the socket",
  async () => {
    using ends = await Ends.open();
    await ends.send("hello");
    await ends.peer.closeWrite();
    assertEquals(await new Response(ends.socket.readable).text(), "hello");
    await assertRejects(() => ends.socket.recv(), Deno.errors.BadResource);
  },
);

// Interrupts

/** Numbered lines with ends of both kinds, and a delimiter now and then. */
function makeText(length: number, next: () => number): Uint8Array {
  let made = "";
  for (let i = 0; made.length < length; i++) {
    made += `${i} ${"x".repeat(Math.floor(next() * 60))}`;
    made += next() < 0.5 ? "\n" : next() < 0.5 ? "\r\n" : "--END--";
  }
  return encoder.encode(made.slice(0, length));
}

/** What has come of a text, in order. */
class Taken extends Interrupts {
  readonly #text: Uint8Array;
  length = 0;
  ended = false;

  constructor(text: Uint8Array) {
    super();
    this.#text = text;
  }

  get isWhole(): boolean {
    return this.length === this.#text.length;
  }

  take(bytes: Uint8Array): void {
    const end = this.length + bytes.length;
    assertEquals(text(bytes), text(this.#text.subarray(this.length, end)));
    this.length = end;
  }

  takeLine(line: string): void {
    this.take(encoder.encode(line));
    for (const byte of [13, 10]) {
      if (this.#text[this.length] === byte) this.length++;
    }
  }

  takeEnd(): void {
    assert(this.isWhole, `ended at ${this.length}`);
    this.ended = true;
  }
}

type Way = (
  socket: Socket,
  taken: Taken,
  next: () => number,
  stopped: () => Promise<void>,
) => Generator<unknown, void, unknown>;

/** At the end or past a limit: what has come is there all the same. */
function* takeRest(socket: Socket, taken: Taken) {
  const rest = yield* socket.recv(5);
  if (rest.length > 0) taken.take(rest);
  else taken.takeEnd();
}

const isRefusal = (error: unknown) =>
  error instanceof Deno.errors.UnexpectedEof || error instanceof RangeError;

/** Ways to read, as generator bodies. */
const ways: Record<string, Way> = {
  *recv(socket, taken, next) {
    const bytes = yield* socket.recv(1 + Math.floor(next() * 200));
    if (bytes.length > 0) taken.take(bytes);
    else taken.takeEnd();
  },
  *recvExactly(socket, taken, next) {
    try {
      taken.take(yield* socket.recvExactly(Math.floor(next() * 300)));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      yield* takeRest(socket, taken);
    }
  },
  *recvUntil(socket, taken, next) {
    try {
      const max = next() < 0.5 ? undefined : 20 + Math.floor(next() * 300);
      const options = max === undefined ? {} : { max };
      taken.take(yield* socket.recvUntil("--END--", options));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      yield* takeRest(socket, taken);
    }
  },
  *lines(socket, taken, next) {
    try {
      const max = 20 + Math.floor(next() * 500);
      const { done, value } = yield* socket.lines({ max }).next();
      if (!done) taken.takeLine(value);
      else taken.takeEnd();
    } catch (error) {
      if (!isRefusal(error)) throw error;
      yield* takeRest(socket, taken);
    }
  },
  *read(socket, taken, next) {
    const buffer = new Uint8Array(1 + Math.floor(next() * 200));
    const count = yield* socket.read(buffer);
    if (count !== null) taken.take(buffer.subarray(0, count));
    else taken.takeEnd();
  },
};

/** The same ways, as async bodies. */
const asyncWays: Record<string, typeof readStream> = {
  async recv(socket, taken, next) {
    const bytes = await socket.recv(1 + Math.floor(next() * 200));
    if (bytes.length > 0) taken.take(bytes);
    else taken.takeEnd();
  },
  async recvExactly(socket, taken, next) {
    try {
      taken.take(await socket.recvExactly(Math.floor(next() * 300)));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const rest = await socket.recv(5);
      if (rest.length > 0) taken.take(rest);
      else taken.takeEnd();
    }
  },
  async lines(socket, taken) {
    for await (const line of socket.lines()) {
      taken.takeLine(line);
      return;
    }
    taken.takeEnd();
  },
};

/** Reads the stream once, and leaves it. */
async function readStream(
  socket: Socket,
  taken: Taken,
  next: () => number,
): Promise<void> {
  const isByob = next() < 0.5;
  const reader = isByob
    ? socket.readable.getReader({ mode: "byob" })
    : socket.readable.getReader();
  const reading = isByob
    ? (reader as ReadableStreamBYOBReader).read(new Uint8Array(50))
    : (reader as ReadableStreamDefaultReader).read();
  const settled = reading.then(
    ({ done, value }) => {
      if (done) taken.takeEnd();
      else taken.take(value);
    },
    (error) => {
      // It was released before anything came.
      if (!(error instanceof TypeError) && !(error instanceof GreenletExit)) {
        throw error;
      }
    },
  );
  try {
    await until(settled);
  } finally {
    reader.releaseLock();
    await settled;
  }
}

/** Sends the text in random pieces, between which reads are interrupted. */
async function sendPieces(
  ends: Ends,
  sent: Uint8Array,
  taken: Taken,
  next: () => number,
): Promise<void> {
  for (let at = 0; at < sent.length;) {
    const size = 1 + Math.floor(next() ** 2 * 400);
    await ends.send(sent.subarray(at, at + size));
    at += size;
    await taken.more(Math.floor(next() * 4));
    await turns(Math.floor(next() * 2));
  }
  await ends.peer.closeWrite();
}

/** Reads to the end, each time in a way of its own and for some turns only. */
async function readAll(
  socket: Socket,
  taken: Taken,
  next: () => number,
  kinds: string[],
): Promise<void> {
  while (!taken.ended) {
    const kind = kinds[Math.floor(next() * kinds.length)]!;
    const way = kind === "readable"
      ? readStream
      : next() < 0.5 && kind in asyncWays
      ? asyncWays[kind]!
      : ways[kind]!;
    const greenlet = spawn(
      way as typeof readStream,
      socket,
      taken,
      next,
    ) as Greenlet;
    const patience = Math.floor(next() * 6);
    for (let i = 0; i < patience && !greenlet.dead; i++) await turns();
    await greenlet.kill();
    if (greenlet.exception !== undefined) throw greenlet.exception;
    if (greenlet.value instanceof GreenletExit) taken.note();
  }
}

for (const [name, transport] of Object.entries(transports)) {
  for (const isPatched of [false, true]) {
    const where = `${name}${isPatched ? ", under patch()" : ""}`;
    const all = [...Object.keys(ways), "readable"];
    for (const kinds of [...all.map((kind) => [kind]), all]) {
      // The stream alone is tested in all kinds of turns.
      if (kinds.length === 1 && name !== "tcp") continue;
      const title = kinds.length > 1
        ? "All ways to read take turns and lose nothing when interrupted"
        : `Socket.${kinds[0]} loses nothing when interrupted`;
      testRandomly(`${title}, ${where}`, async (next) => {
        using _ = isPatched ? patch() : null;
        let interrupts = 0;
        await Promise.all(Array.from({ length: 6 }, async () => {
          using ends = await Ends.open(transport);
          const sent = makeText(12_000, next);
          const taken = new Taken(sent);
          const sending = sendPieces(ends, sent, taken, next);
          await readAll(ends.socket, taken, next, kinds);
          await sending;
          interrupts += taken.count;
        }));
        assertGreater(interrupts, 100);
      });
    }
  }
}

testEach(
  "Each call that is interrupted leaves what has come to the next",
  async (ends) => {
    const { socket } = ends;
    const calls: (() => Wait<unknown>)[] = [
      () => socket.recvExactly(100),
      () => socket.recvUntil("\n"),
      () => socket.lines().next(),
    ];
    for (const call of calls) {
      const greenlet = waiting(call);
      await turns();
      await ends.send("partial");
      await turns(3);
      await greenlet.kill();
      assertInstanceOf(greenlet.value, GreenletExit);
      await inVain(() => socket.recvExactly(99));
      assertEquals(text(await socket.recvExactly(7)), "partial");
    }
  },
);

testEach(
  "Socket.recv() that was interrupted has taken nothing of what comes later",
  async (ends) => {
    const { socket } = ends;
    await inVain(() => socket.recv(3));
    await inVain(() => socket.read(new Uint8Array(3)));
    await ends.send("later");
    assertEquals(text(await socket.recvExactly(5)), "later");
  },
);

// Turns

testEach(
  "Calls that read take turns, each served whole, in the order of the calls",
  async (ends) => {
    const { socket } = ends;
    const one = waiting(() => socket.recvExactly(4));
    const two = waiting(() => socket.recvUntil(";"));
    const left = waiting(() => socket.recvExactly(1000));
    const three = waiting(() => socket.lines().next());
    const four = waiting(() => socket.recv());
    await turns(2);
    await ends.send("a");
    await turns(2);
    await left.kill();
    for (const piece of ["bc", "de", "f;li", "ne\n", "rest"]) {
      await ends.send(piece);
      await turns(2);
    }
    assertEquals(text(await one.get() as Uint8Array), "abcd");
    assertEquals(text(await two.get() as Uint8Array), "ef;");
    assertEquals(await three.get(), { done: false, value: "line" });
    assertEquals(text(await four.get() as Uint8Array), "rest");
  },
);

testBothWays(
  "Two loops over the lines of one socket get whole lines in turn",
  async () => {
    using ends = await Ends.open();
    const got: string[][] = [[], []];
    const loops = got.map((lines) =>
      spawn(async () => {
        for await (const line of ends.socket.lines()) lines.push(line);
      })
    );
    for (let i = 0; i < 10; i++) {
      await ends.send(`li`);
      await turns();
      await ends.send(`ne ${i}\n`);
    }
    await ends.peer.closeWrite();
    await joinAll(loops, { raiseError: true });
    for (const lines of got) {
      assertGreater(lines.length, 0);
      assertEquals(lines, lines.toSorted());
    }
    assertEquals(
      got.flat().sort(),
      Array.from({ length: 10 }, (_, i) => `line ${i}`),
    );
  },
);

/** More than the system keeps of what is written and not read. */
const MUCH = 20_000_000;

/** The bytes of all that the peer gets, as runs of the same. */
async function runsOf(peer: Deno.Conn): Promise<[number, number][]> {
  const runs: [number, number][] = [];
  const buffer = new Uint8Array(300_000);
  for (;;) {
    const count = await peer.read(buffer);
    if (count === null) return runs;
    for (let start = 0; start < count;) {
      const byte = buffer[start]!;
      const end = Math.min(endOfRun(buffer, start), count);
      const last = runs.at(-1);
      if (last?.[0] === byte) last[1] += end - start;
      else runs.push([byte, end - start]);
      start = end;
    }
  }
}

/** Where the equal bytes end that begin at a place. A call for each byte would take seconds. */
function endOfRun(bytes: Uint8Array, start: number): number {
  const byte = bytes[start];
  let end = start;
  while (end < bytes.length && bytes[end] === byte) end++;
  return end;
}

/** Whether there are no other bytes than this one. */
function isFilled(bytes: Uint8Array, byte: number): boolean {
  if (bytes.length === 0) return true;
  return bytes[0] === byte && endOfRun(bytes, 0) === bytes.length;
}

testEach(
  "Socket.sendAll() that is interrupted is sent before later writes, or not at all",
  async ({ socket, peer }) => {
    const bytes = new Uint8Array(MUCH).fill(2);
    const begun = waiting(() => socket.sendAll(bytes));
    const inLine = waiting(() => socket.sendAll(new Uint8Array(10).fill(3)));
    const kept = waiting(() => socket.sendAll(new Uint8Array(20).fill(4)));
    await turns(2);
    await begun.kill();
    assertInstanceOf(begun.value, GreenletExit);
    await inLine.kill();
    // Its caller has them again.
    bytes.fill(9);
    const last = spawn(() => socket.sendAll("\x05".repeat(30)));
    const ending = spawn(() => socket.closeWrite());
    await turns();
    const runs = await runsOf(peer);
    await joinAll([kept, last, ending], { raiseError: true });
    assertEquals(runs, [[2, MUCH], [4, 20], [5, 30]]);
  },
);

testBothWays("Calls that write take turns, each served whole", async () => {
  using ends = await Ends.open();
  const { socket, peer } = ends;
  const lengths = [1_500_000, 10, 700_000, 1, 2_000_000];
  const senders = lengths.map((length, i) =>
    spawn(() => socket.sendAll(new Uint8Array(length).fill(i + 1)))
  );
  const writing = spawn(async () => {
    const writer = socket.writable.getWriter();
    await writer.write(new Uint8Array(100_000).fill(6));
  });
  const ending = spawn(async () => {
    await joinAll(senders);
    await writing.join();
    await socket.closeWrite();
  });
  const runs = await runsOf(peer);
  await joinAll([...senders, writing, ending], { raiseError: true });
  assertEquals(runs, [...lengths, 100_000].map((length, i) => [i + 1, length]));
});

testRandomly(
  "Messages that are sent and interrupted at random come whole or not at all",
  async (next) => {
    for (const isPatched of [false, true]) {
      using _ = isPatched ? patch() : null;
      using ends = await Ends.open();
      const { socket } = ends;
      const peer = new Socket(ends.peer);
      const sent = new Set<number>();
      const sending = spawn(async () => {
        for (let i = 1; i <= 150; i++) {
          const length = 1 + Math.floor(next() ** 4 * 1_500_000);
          const message = new Uint8Array(length + 8).fill(i);
          new DataView(message.buffer).setUint32(0, i);
          new DataView(message.buffer).setUint32(4, length);
          const greenlet = spawn(function* () {
            yield* socket.sendAll(message);
            sent.add(i);
          }) as Greenlet;
          if (next() < 0.5) await turns(Math.floor(next() * 3));
          const fate = next();
          if (fate < 0.5) await greenlet.kill();
          else if (fate < 0.75) await greenlet.join();
          // Then its caller has it again.
          if (greenlet.dead) message.fill(0);
        }
        await socket.closeWrite();
      });
      const got: number[] = [];
      for (;;) {
        const header = await peer.recv(1);
        if (header.length === 0) break;
        const rest = await peer.recvExactly(7);
        const id = rest[2]!;
        const length = new DataView(rest.buffer).getUint32(3);
        const body = await peer.recvExactly(length);
        assert(isFilled(body, id));
        got.push(id);
        if (next() < 0.1) await turns(3);
      }
      await sending.get();
      assertEquals(got, got.toSorted((a, b) => a - b));
      assertEquals(new Set(got).size, got.length);
      for (const id of sent) assert(got.includes(id), `${id} is missing`);
    }
  },
);

// timeout

testEach("Socket.timeout limits each wait, and loses nothing", async (ends) => {
  const { socket } = ends;
  assertEquals(socket.timeout, Infinity);
  socket.timeout = 1;
  const calls: (() => Wait<unknown>)[] = [
    () => socket.recv(),
    () => socket.recvExactly(10),
    () => socket.recvUntil("\n"),
    () => socket.lines().next(),
    () => socket.read(new Uint8Array(3)),
  ];
  for (const call of calls) {
    const error = await assertRejects(call, Timeout);
    assertEquals(error.ms, 1);
    assertInstanceOf(
      await spawn(function* () {
        try {
          yield* call();
        } catch (error) {
          return error;
        }
      }).get(),
      Timeout,
    );
  }
  socket.timeout = Infinity;
  await ends.send("part");
  socket.timeout = 1;
  await assertRejects(() => socket.recvExactly(10), Timeout);
  socket.timeout = 100_000;
  assertEquals(text(await socket.recvExactly(4)), "part");
});

test("Socket.timeout limits what is written", async () => {
  using ends = await Ends.open();
  const { socket, peer } = ends;
  socket.timeout = 1;
  const error = await assertRejects(
    () => socket.sendAll(new Uint8Array(MUCH).fill(2)),
    Timeout,
  );
  assertEquals(error.ms, 1);
  await assertRejects(() => socket.sendAll("in line"), Timeout);
  await assertRejects(() => socket.write(new Uint8Array(9)), Timeout);
  await assertRejects(() => socket.closeWrite(), Timeout);
  socket.timeout = Infinity;
  const ending = socket.closeWrite();
  assertEquals(await runsOf(peer), [[2, MUCH]]);
  await ending;
});

test("Socket.timeout that is no number of milliseconds is refused", async () => {
  using ends = await Ends.open();
  for (const [value, error] of [["1", TypeError], [NaN, RangeError]] as const) {
    assertThrows(
      () => ends.socket.timeout = value as number,
      error,
      `Cannot set the timeout of the socket as the time must be a number of milliseconds: received`,
    );
  }
  assertEquals(ends.socket.timeout, Infinity);
});

test("A Timeout of a socket leaves nothing behind", async () => {
  const { out, code } = await runScript(`
    const listener = listen({ hostname: "127.0.0.1", port: 0 });
    const socket = await connect({ hostname: "127.0.0.1", port: listener.addr.port });
    const other = await listener.accept();
    socket.timeout = 1;
    for (const call of [
      () => socket.recv(),
      () => other.sendAll(new Uint8Array(20_000_000)),
      () => listener.accept(),
    ]) console.log(await withTimeout(5, call).catch((error) => error.name));
  `);
  assertEquals(out, ["Timeout", "Timeout", "Timeout"]);
  assertEquals(code, 0);
});

testEach(
  "A Socket is read by one greenlet while another writes to it",
  async ({ socket, peer }) => {
    const other = new Socket(peer);
    const reading = waiting(() => socket.recvExactly(MUCH));
    const sending = spawn(() => socket.sendAll(new Uint8Array(MUCH).fill(1)));
    const answering = spawn(() => other.sendAll(new Uint8Array(MUCH).fill(2)));
    const got = await other.recvExactly(MUCH);
    assert(isFilled(got, 1));
    assert(isFilled(await reading.get() as Uint8Array, 2));
    await joinAll([sending, answering], { raiseError: true });
  },
);

// Closing

testEach(
  "Socket.close() ends what waits by the runtime's own error",
  async (ends) => {
    const { socket } = ends;
    const calls: (() => Wait<unknown>)[] = [
      () => socket.sendAll(new Uint8Array(MUCH)),
      () => socket.recv(),
      () => socket.recvExactly(3),
      () => socket.lines().next(),
      () => socket.sendAll("in line"),
      () => socket.closeWrite(),
    ];
    const waits = calls.map(waiting);
    await turns(2);
    socket.close();
    for (const greenlet of waits) {
      await greenlet.join();
      const error = greenlet.exception;
      assert(
        error instanceof Deno.errors.BadResource ||
          error instanceof Deno.errors.Interrupted,
        String(error),
      );
    }
    for (const call of calls) {
      await assertRejects(
        call,
        Deno.errors.BadResource,
      );
    }
    assertThrows(() => socket.close(), Deno.errors.BadResource);
    socket[Symbol.dispose]();
  },
);

testEach("Socket.close() lets go of what has come", async (ends) => {
  const { socket } = ends;
  await inVain(() => socket.recvExactly(10));
  await ends.send("abc");
  await turns(3);
  socket.close();
  await assertRejects(() => socket.recv(), Deno.errors.BadResource);
});

// Kinds of sockets

test("Socket.handshake() tells what TLS has agreed on, and can be interrupted", async () => {
  for (const isPatched of [false, true]) {
    using _ = isPatched ? patch() : null;
    using listener = listenTls({
      hostname: "127.0.0.1",
      port: 0,
      alpnProtocols: ["h2"],
      ...certificate,
    });
    const { port } = listener.addr;
    const connecting = connectTls({
      hostname: "127.0.0.1",
      port,
      caCerts,
      alpnProtocols: ["h2"],
    });
    using server = await listener.accept();
    using client = await connecting;
    const [one, two] = await Promise.all([
      client.handshake(),
      server.handshake(),
    ]);
    assertEquals([one.alpnProtocol, two.alpnProtocol], ["h2", "h2"]);
    await client.sendAll("line\n");
    assertEquals((await server.lines().next()).value, "line");

    // One that says nothing
    using silent = await connect({ hostname: "127.0.0.1", port });
    using waits = await listener.accept();
    await inVain(() => waits.handshake());
    waits.timeout = 1;
    await assertRejects(() => waits.handshake(), Timeout);
    silent.close();
  }
});

test("Socket has what is of its kind, and refuses what is of another", async () => {
  using listener = listen({ hostname: "127.0.0.1", port: 0 });
  using socket = await connect({
    hostname: "127.0.0.1",
    port: listener.addr.port,
  });
  socket.setNoDelay();
  socket.setNoDelay(false);
  socket.setKeepAlive(true);
  assertThrows(
    () => socket.handshake(),
    TypeError,
    "Cannot call handshake() as the socket must be one of TLS: received one of tcp",
  );
  assertEquals(socket.remoteAddr, listener.addr);
  assertEquals(socket.localAddr.transport, "tcp");
  using server = await listener.accept();
  assertEquals(server.remoteAddr, socket.localAddr);
});

testBothWays("connect() and listen() do for Unix sockets", async () => {
  const path = `${Deno.makeTempDirSync()}/socket`;
  using listener = listen({ transport: "unix", path });
  using client = await connect({ transport: "unix", path });
  using server = await listener.accept();
  assertEquals(client.remoteAddr.path, path);
  await client.sendAll("line");
  await client.closeWrite();
  assertEquals((await server.lines().next()).value, "line");
  assertThrows(
    () => server.setNoDelay(),
    TypeError,
    "Cannot call setNoDelay() as the socket must be one of TCP: received one of unix",
  );
  removeSocket(listener as unknown as Deno.Listener);
});

test("connect() is cancelled by an interrupt", async () => {
  for (const isPatched of [false, true]) {
    using _ = isPatched ? patch() : null;
    using listener = listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    for (let i = 0; i < 10; i++) {
      const greenlet = waiting(() => connect({ hostname: "127.0.0.1", port }));
      if (i % 2 > 0) await sleep(0);
      await greenlet.kill();
      if (!(greenlet.value instanceof GreenletExit)) {
        (greenlet.value as Socket).close();
      }
    }
  }
});

test("connect() rejects with the runtime's own error", async () => {
  using listener = listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  await assertRejects(
    () => connect({ hostname: "127.0.0.1", port }),
    Deno.errors.ConnectionRefused,
  );
  assertThrows(
    () => listen({ hostname: "127.0.0.1", port: 70_000 }),
    RangeError,
  );
});

// Listeners

testBothWays(
  "SocketListener.accept() that is interrupted leaves the connection to the next",
  async () => {
    using listener = listen({ hostname: "127.0.0.1", port: 0 });
    await inVain(() => listener.accept());
    using client = await connect({
      hostname: "127.0.0.1",
      port: listener.addr.port,
    });
    using server = await spawn(function* () {
      return yield* listener.accept();
    }).get();
    assertInstanceOf(server, Socket);
    assertEquals(server.remoteAddr, client.localAddr);
  },
);

testBothWays(
  "A loop over a SocketListener ends when it is closed, and closes it when it is left",
  async () => {
    for (const leave of ["close", "break", "kill", "kill at once"]) {
      using listener = listen({ hostname: "127.0.0.1", port: 0 });
      const loop = spawn(async () => {
        for await (const socket of listener) {
          socket.close();
          if (leave === "break") break;
        }
      }) as Greenlet;
      const { port } = listener.addr;
      await sleep(0);
      using _client = await connect({ hostname: "127.0.0.1", port });
      if (leave === "kill") await turns(3);
      if (leave === "close") listener.close();
      if (leave.startsWith("kill")) await loop.kill();
      await loop.join();
      assertEquals(loop.exception, undefined);
      await assertRejects(() => listener.accept(), Deno.errors.BadResource);
      if (leave.startsWith("kill")) listener.close();
      assertThrows(() => listener.close(), Deno.errors.BadResource);
    }
  },
);

test("SocketListener.close() ends an accept() by the runtime's own error", async () => {
  const listener = listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = waiting(() => listener.accept());
  await turns(2);
  listener.close();
  await accepting.join();
  const error = accepting.exception;
  assert(
    error instanceof Deno.errors.BadResource ||
      error instanceof Deno.errors.Interrupted,
  );
});

test("SocketListener takes a listener of the runtime", async () => {
  using listener = new SocketListener(
    Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  );
  using client = await connect({
    hostname: "127.0.0.1",
    port: listener.addr.port,
  });
  using server = await listener.accept();
  await server.sendAll("hello");
  assertEquals(text(await client.recvExactly(5)), "hello");
});

// The process

const PAIR = `
  const listener = listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const socket = await connect({ hostname: "127.0.0.1", port });
  globalThis.peer = await listener.accept();
  const inVain = (call) => withTimeout(1, call, { value: "late" });
  const much = new Uint8Array(20_000_000);`;

/** What a script does, and whether its process ends then. */
const endings: Record<string, [string, boolean]> = {
  "what waits": ["socket.recv();", false],
  "what waits in a loop": [
    "spawn(async () => { for await (const _ of socket.lines()); });",
    false,
  ],
  "what was interrupted": [
    `await inVain(() => socket.recvExactly(3));
     await inVain(() => listener.accept());`,
    true,
  ],
  "what waits behind what was interrupted": [
    "await inVain(() => socket.recv()); socket.lines().next();",
    false,
  ],
  "what is told not to": [
    `socket.unref(); socket.recv(); peer.recv(); peer.unref();
     listener.unref(); listener.accept();`,
    true,
  ],
  "what is told to again": [
    "socket.unref(); socket.recv(); socket.ref();",
    false,
  ],
  "a sendAll() and a closeWrite() that were interrupted": [
    `await inVain(() => socket.sendAll(much));
     await inVain(() => socket.closeWrite());`,
    true,
  ],
  "a sendAll() behind one that was interrupted": [
    "await inVain(() => socket.sendAll(much)); socket.sendAll('x');",
    false,
  ],
};

Deno.test("A Socket keeps the process alive as long as something waits, and no longer", async (t) => {
  const cases = Object.entries(endings);
  const results = await runToEnds({
    before: PAIR,
    statements: cases.map(([_what, [body]]) => body),
    cleanUp: "for (const each of [socket, peer, listener]) each.close();",
  });
  for (const [i, [what, [_body, ends]]] of cases.entries()) {
    await t.step(`${ends ? "It ends" : "It lives on"}: ${what}`, () => {
      assertEquals(results[i], { out: [], livesOn: !ends });
    });
  }
});

// patch() beside it

test("A Socket gets what an interrupted read of its connection has brought, and patch() may end", async () => {
  const restore = patch();
  using pair = await Pair.open();
  const { conn, peer } = pair;
  await spawn(() =>
    withTimeout(1, () => conn.read(new Uint8Array(9)), { value: 0 })
  ).get();
  await peer.write(encoder.encode("kept"));
  await turns(3);
  using socket = new Socket(conn);
  assertEquals(text(await socket.recv(2)), "ke");
  restore[Symbol.dispose]();
  await peer.write(encoder.encode("more"));
  assertEquals(text(await socket.recvExactly(6)), "ptmore");
});

test("A Socket that is made before patch() goes on under it", async () => {
  using ends = await Ends.open();
  const { socket } = ends;
  const receiving = waiting(() => socket.recvExactly(6));
  await turns();
  await ends.send("abc");
  {
    using _ = patch();
    await ends.send("d");
    await inVain(() => socket.recvExactly(100));
    await spawn(() => socket.sendAll("answer")).get();
  }
  await ends.send("efgh");
  assertEquals(text(await receiving.get() as Uint8Array), "abcdef");
  assertEquals(text(await socket.recv()), "gh");
});

// Bad input

test("Socket refuses arguments that are not what they must be, at the call", async () => {
  using ends = await Ends.open();
  const { socket } = ends;
  // deno-lint-ignore no-explicit-any -- whatever is refused
  const any = (value: unknown) => value as any;
  const refused: [() => unknown, ErrorConstructor, string][] = [
    [
      () => socket.recv(0),
      RangeError,
      "'max' must be a positive integer: received 0",
    ],
    [() => socket.recv(-1), RangeError, "received -1"],
    [() => socket.recv(1.5), RangeError, "received 1.5"],
    [() => socket.recv(NaN), RangeError, "received NaN"],
    [() => socket.recv(any("5")), TypeError, 'received "5"'],
    [
      () => socket.recvExactly(-1),
      RangeError,
      "'count' must be a non-negative integer: received -1",
    ],
    [() => socket.recvExactly(Infinity), RangeError, "received Infinity"],
    [() => socket.recvExactly(any(undefined)), TypeError, "received undefined"],
    [() => socket.recvUntil(""), RangeError, "must not be empty"],
    [
      () => socket.recvUntil(new Uint8Array(0)),
      RangeError,
      "must not be empty",
    ],
    [
      () => socket.recvUntil(any(10)),
      TypeError,
      "'delimiter' must be a string or a Uint8Array: received 10",
    ],
    [
      () => socket.recvUntil("long", { max: 3 }),
      RangeError,
      "'max' must be the length of the delimiter, 4, or more: received 3",
    ],
    [() => socket.recvUntil("\n", { max: 0 }), RangeError, "received 0"],
    [
      () => socket.recvUntil("\n", any(5)),
      TypeError,
      "the options must be an object: received 5",
    ],
    [
      () => socket.lines({ max: -1 }),
      RangeError,
      "Cannot receive lines as 'max' must be a positive integer: received -1",
    ],
    [
      () => socket.lines(any(null)),
      TypeError,
      "the options must be an object: received null",
    ],
    [
      () => socket.read(any("x")),
      TypeError,
      'the buffer must be a Uint8Array: received "x"',
    ],
    [() => socket.write(any("x")), TypeError, "sendAll() takes strings"],
    [() => socket.write(any([1])), TypeError, "must be"],
    [
      () => socket.sendAll(any(5)),
      TypeError,
      "Cannot send as 'data' must be a string or a Uint8Array: received 5",
    ],
    [
      () => socket.sendAll(any(new ArrayBuffer(1))),
      TypeError,
      "must be a string or a Uint8Array",
    ],
    [
      () => new Socket(any(null)),
      TypeError,
      "'conn' must be a Deno.Conn: received null",
    ],
    [() => new Socket(any({})), TypeError, "must be a Deno.Conn"],
    [() => new Socket(any(socket)), TypeError, "must not be a Socket already"],
    [
      () => new SocketListener(any(5)),
      TypeError,
      "'listener' must be a Deno.Listener: received 5",
    ],
    [
      () => connect(any(undefined)),
      TypeError,
      "Cannot connect as the options must be an object",
    ],
    [
      () => connectTls(any("x")),
      TypeError,
      "Cannot connect by TLS as the options must be an object",
    ],
    [
      () => listen(any(80)),
      TypeError,
      "Cannot listen as the options must be an object: received 80",
    ],
    [
      () => listenTls(any(null)),
      TypeError,
      "Cannot listen for TLS as the options must be an object",
    ],
  ];
  for (const [call, error, message] of refused) {
    assertThrows(call, error, message, String(call));
  }
  // None of it has taken anything, or a place in the line.
  await ends.send("ok");
  assertEquals(text(await socket.recvExactly(2)), "ok");
});

test("A call that is due to throw an interrupt has taken nothing", async () => {
  using ends = await Ends.open();
  const { socket } = ends;
  await ends.send("there\n");
  const greenlet = spawn(async () => {
    const errors: unknown[] = [];
    for (
      const call of [
        () => socket.recv(),
        () => socket.lines().next(),
        () => socket.sendAll("never"),
      ]
    ) {
      // Held until the next wait, as there is none now.
      using timeout = Timeout.start(1);
      await outside(() => when(() => !timeout.pending));
      try {
        await call();
      } catch (caught) {
        errors.push(caught === timeout);
      }
    }
    return errors;
  }) as Greenlet;
  assertEquals(await greenlet.get(), [true, true, true]);
  assertEquals(text(await socket.recv()), "there\n");
  await socket.closeWrite();
  assertEquals(await ends.peer.read(new Uint8Array(9)), null);
});
