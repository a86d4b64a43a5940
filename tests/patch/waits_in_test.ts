import { assertEquals, assertMatch } from "@std/assert";
import crypto from "node:crypto";
import dns from "node:dns/promises";
import events, { EventEmitter, once } from "node:events";
import files from "node:fs/promises";
import {
  type ChildProcess,
  execFile,
  spawn as spawnChild,
} from "node:child_process";
import http from "node:http";
import readline from "node:readline/promises";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import streams from "node:stream/promises";
import { setTimeout as delay } from "node:timers/promises";
import {
  connect,
  type Greenlet,
  idle,
  listen,
  patch,
  select,
  signals,
  sleep,
  spawn,
  subprocess,
  ThreadPool,
} from "../../mod.ts";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { Agent, request } from "undici";
import { runScript } from "../_bodies.ts";
import { childrenEnded } from "../_processes.ts";
import { test } from "../_random.ts";
import { turns } from "../_waits.ts";
import { arrive } from "./_stops.ts";

/** A file that is there. */
const SELF = "tests/patch/waits_in_test.ts";

const never = new Promise<never>(() => {});

/** What a call may use, and what ends the test case. */
interface Place {
  /** A listener that accepts nothing. */
  port: number;
  /** A connection to it. */
  conn: Deno.Conn;
  /** A server that never answers. */
  url: string;
  /** Has something closed at the end. */
  close(end: () => unknown): void;
}

/** A call, and what its greenlet says that it waits in. */
type Case = [
  call: (place: Place) => unknown,
  text: string | RegExp,
  /** It ends by itself: its operation can't be cancelled. */
  ends?: "ends",
];

/** A response whose body never comes. */
const stalled = () => new Response(new ReadableStream());

const CALLS: Record<string, Case> = {
  "Deno.connect()": [
    async ({ port }) => {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    },
    /^connect to 127\.0\.0\.1:\d+$/,
    "ends",
  ],
  "Deno.connectTls()": [
    async ({ port }) => {
      (await Deno.connectTls({ hostname: "127.0.0.1", port })).close();
    },
    /^connectTls\(\)$/,
    "ends",
  ],
  "Conn.read()": [
    ({ conn }) => conn.read(new Uint8Array(1)),
    /^read of 127\.0\.0\.1:\d+$/,
  ],
  "Conn.write()": [
    async ({ conn }) => {
      for (;;) await conn.write(new Uint8Array(1 << 20));
    },
    /^write of 127\.0\.0\.1:\d+$/,
  ],
  "listener.accept()": [
    ({ close }) => {
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      close(() => listener.close());
      return listener.accept();
    },
    /^accept of 127\.0\.0\.1:\d+$/,
  ],
  "listener.accept() at an IPv6 address": [
    ({ close }) => {
      const listener = Deno.listen({ hostname: "::1", port: 0 });
      close(() => listener.close());
      return listener.accept();
    },
    /^accept of \[::1\]:\d+$/,
  ],
  "listener.accept() at a Unix socket": [
    ({ close }) => {
      const folder = Deno.makeTempDirSync();
      const path = `${folder}/s`;
      const listener = Deno.listen({ transport: "unix", path });
      close(() => listener.close());
      close(() => Deno.removeSync(folder, { recursive: true }));
      return listener.accept();
    },
    /^accept of unix:.*\/s$/,
  ],
  "Conn.readable": [
    async ({ port }) => {
      const conn = await Deno.connect({ hostname: "127.0.0.1", port });
      for await (const _ of conn.readable);
    },
    "for await of ReadableStream",
  ],
  "fetch()": [
    ({ url }) => fetch(`${url}path?a=1`),
    /^fetch\(http:\/\/127\.0\.0\.1:\d+\/path\?a=1\)$/,
  ],
  "Response.text()": [() => stalled().text(), "Response.text()"],
  "Request.json()": [
    () =>
      new Request("http://a.test", { method: "POST", body: stalled().body })
        .json(),
    "Request.json()",
  ],
  "reader.read()": [
    () => new ReadableStream().getReader().read(),
    "ReadableStreamDefaultReader.read()",
  ],
  "for await of a stream": [
    async () => {
      for await (const _ of new ReadableStream());
    },
    "for await of ReadableStream",
  ],
  "writer.write()": [
    () => new WritableStream({ write: () => never }).getWriter().write("chunk"),
    "WritableStreamDefaultWriter.write()",
  ],
  "writer.close()": [
    () => new WritableStream({ close: () => never }).getWriter().close(),
    "WritableStreamDefaultWriter.close()",
  ],
  "writer.closed": [
    async () => await new WritableStream().getWriter().closed,
    "WritableStreamDefaultWriter.closed",
  ],
  "reader.cancel()": [
    () => new ReadableStream({ cancel: () => never }).getReader().cancel(),
    "ReadableStreamDefaultReader.cancel()",
  ],
  "pipeTo()": [
    () => new ReadableStream().pipeTo(new WritableStream()),
    "ReadableStream.pipeTo()",
  ],
  "command.output()": [
    () => new Deno.Command("true").output(),
    "output of true",
    "ends",
  ],
  "child.status": [
    async ({ close }) => await sleeper(close, "null").status,
    "ChildProcess.status",
  ],
  "child.output()": [
    ({ close }) => sleeper(close, "piped").output(),
    "output()",
  ],
  "child.stdout.text()": [
    ({ close }) => {
      const child = sleeper(close, "piped");
      close(() => child.stderr.cancel());
      return child.stdout.text();
    },
    "text()",
  ],
  "Deno.FsWatcher": [
    async ({ close }) => {
      const watcher = Deno.watchFs(".");
      close(() => watcher.close());
      for await (const _ of watcher);
    },
    "the next event of FsWatcher",
  ],
  "setTimeout() in a promise": [
    () => new Promise((resolve) => setTimeout(resolve, 99_999)),
    "setTimeout(resolve, 99999)",
  ],
  "setTimeout() of node:timers/promises": [
    () => delay(99_999),
    "setTimeout(resolve, 99999)",
  ],
  "server.finished": [
    ({ close }) => {
      const server = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen() {} },
        () => new Response(),
      );
      close(() => server.shutdown());
      return (async () => await server.finished)();
    },
    "finished",
  ],
  "http.get() of node:http": [
    ({ url }) =>
      new Promise((resolve, reject) =>
        http.get(`${url}path?a=1`, resolve).on("error", reject)
      ),
    /^GET http:\/\/127\.0\.0\.1:\d+\/path\?a=1$/,
  ],
  "request() of undici": [
    async ({ url, close }) => {
      const dispatcher = new Agent({
        headersTimeout: 0,
        bodyTimeout: 0,
        connect: { timeout: 0 },
      });
      close(() => dispatcher.destroy());
      await request(`${url}path`, { dispatcher });
    },
    /^GET http:\/\/127\.0\.0\.1:\d+\/path$/,
  ],
  "spawn() of node:child_process": [
    async ({ close }) => {
      const child = spawnChild("sleep", ["1000"]);
      const end = gone(child);
      close(() => end);
      await once(child, "close");
    },
    'once("close") of ChildProcess',
  ],
  "sleep() beside a child of node:child_process": [
    async ({ close }) => {
      const end = gone(spawnChild("sleep", ["1000"]));
      close(() => end);
      await sleep(99_999);
    },
    "sleep(99999)",
  ],
  "execFile() of node:child_process": [
    ({ close }) =>
      new Promise((resolve) => {
        const child = execFile("sleep", ["1000"], resolve);
        const end = gone(child);
        close(() => end);
      }),
    "child process sleep",
  ],
  "events.once()": [
    () => events.once(new EventEmitter(), "tick"),
    'once("tick") of EventEmitter',
  ],
  "once() of node:events, imported by name": [
    () => once(new EventEmitter(), "tick"),
    'once("tick") of EventEmitter',
  ],
  "events.on()": [
    async () => {
      for await (const _ of events.on(new EventEmitter(), Symbol("tick")));
    },
    "on(Symbol(tick)) of EventEmitter",
  ],
  "for await over a stream of node:stream": [
    async () => {
      for await (const _ of new PassThrough());
    },
    "for await of PassThrough",
  ],
  "text() of node:stream/consumers": [
    () => text(new PassThrough()),
    "for await of PassThrough",
  ],
  "pipeline() of node:stream/promises": [
    () => streams.pipeline(new PassThrough(), new PassThrough()),
    "pipeline()",
  ],
  "finished() of node:stream/promises": [
    () => streams.finished(new PassThrough()),
    "finished()",
  ],
  "question() of node:readline/promises": [
    ({ close }) => {
      const reader = readline.createInterface({ input: new PassThrough() });
      close(() => reader.close());
      return reader.question("name? ");
    },
    "question()",
  ],
  "for await over readline": [
    async ({ close }) => {
      const reader = readline.createInterface({ input: new PassThrough() });
      close(() => reader.close());
      for await (const _ of reader);
    },
    'on("line") of Interface',
  ],
  "readFile() of node:fs/promises": [
    () => files.readFile(SELF),
    "readFile()",
    "ends",
  ],
  "open() of node:fs/promises": [
    async () => (await files.open(SELF)).close(),
    "open()",
    "ends",
  ],
  "lookup() of node:dns/promises": [
    () => dns.lookup("localhost"),
    "lookup()",
    "ends",
  ],
  "promisify(scrypt)": [
    () => promisify(crypto.scrypt)("password", "salt", 8),
    "scrypt()",
    "ends",
  ],
  "promisify(gzip)": [() => promisify(gzip)("text"), "gzip()", "ends"],
  "crypto.subtle.digest()": [
    () => globalThis.crypto.subtle.digest("SHA-256", new Uint8Array(1)),
    "digest()",
    "ends",
  ],
  "Deno.readTextFile()": [
    () => Deno.readTextFile(SELF),
    "readTextFile()",
    "ends",
  ],
  "Deno.stat()": [() => Deno.stat(SELF), "stat()", "ends"],
  "Deno.open()": [
    async () => (await Deno.open(SELF)).close(),
    "open()",
    "ends",
  ],
  "Deno.readDir()": [
    async () => {
      for await (const _ of Deno.readDir("tests"));
    },
    "the next of readDir()",
    "ends",
  ],
  "Deno.resolveDns()": [
    () => Deno.resolveDns("127.0.0.1", "PTR"),
    "resolveDns(127.0.0.1, PTR)",
  ],
  "file.read()": [
    async () => {
      using file = Deno.openSync(SELF);
      await file.read(new Uint8Array(1));
    },
    "read of FsFile",
    "ends",
  ],
  "file.seek()": [
    async () => {
      using file = Deno.openSync(SELF);
      await file.seek(1, Deno.SeekMode.Start);
    },
    "seek of FsFile",
    "ends",
  ],
  "file.stat()": [
    async () => {
      using file = Deno.openSync(SELF);
      await file.stat();
    },
    "stat()",
    "ends",
  ],
  "file.lock()": [
    async () => {
      using file = Deno.openSync(SELF);
      await file.lock();
    },
    "lock of FsFile",
    "ends",
  ],
  "Blob.text()": [() => new Blob(["a"]).text(), "text()", "ends"],
  "socket.recv()": [
    async ({ port }) => {
      using socket = await connect({ hostname: "127.0.0.1", port });
      await socket.recv();
    },
    /^read of 127\.0\.0\.1:\d+$/,
  ],
  "socket.sendAll()": [
    async ({ port }) => {
      using socket = await connect({ hostname: "127.0.0.1", port });
      for (;;) await socket.sendAll(new Uint8Array(1 << 24));
    },
    /^writeAll of 127\.0\.0\.1:\d+$/,
  ],
  "accept() of a listener of sockets": [
    async () => {
      using listener = listen({ hostname: "127.0.0.1", port: 0 });
      await listener.accept();
    },
    /^accept of 127\.0\.0\.1:\d+$/,
  ],
  "subprocess.run()": [
    ({ close }) => {
      close(childrenEnded);
      return subprocess.run("sleep", ["1000"]);
    },
    "output of sleep",
  ],
  "signals()": [
    async () => {
      for await (const _ of signals("SIGUSR2"));
    },
    "the next of signals()",
  ],
  "select()": [
    () => select([() => sleep(99_999), () => never]),
    "select of sleep(99999), a foreign promise",
  ],
};

function sleeper(
  close: Place["close"],
  output: "piped" | "null",
): Deno.ChildProcess {
  const child = new Deno.Command("sleep", {
    args: ["1000"],
    stdout: output,
    stderr: output,
  }).spawn();
  close(() => child[Symbol.asyncDispose]());
  return child;
}

/** Waits until a child of `node:child_process` has gone. */
function gone(child: ChildProcess): unknown {
  return new Promise((resolve) => child.once("close", resolve));
}

/** Waits until a greenlet says something, or has had time to. */
async function untilSays(greenlet: Greenlet, text: string | RegExp) {
  // It starts behind the greenlet, before the event loop turns.
  let said = await spawn(() => greenlet.waitsIn).get();
  for (let i = 0; i < 300 && !greenlet.dead; i++) {
    if (typeof text === "string" ? said === text : text.test(said ?? "")) break;
    await turns(10);
    said = greenlet.waitsIn;
  }
  return said;
}

for (const [name, [call, text, ends]] of Object.entries(CALLS)) {
  test(`Greenlet.waitsIn names ${name}`, async () => {
    using _ = patch();
    await using stack = new AsyncDisposableStack();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    stack.defer(() => listener.close());
    const { port } = listener.addr as Deno.NetAddr;
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    stack.use(conn);
    const url = `http://127.0.0.1:${port}/`;
    const close = (end: () => unknown) =>
      stack.defer(async () => void await end());
    const greenlet = spawn(async () =>
      void await call({ port, conn, url, close })
    );
    greenlet.linkException(() => {});
    const said = await untilSays(greenlet, text);
    if (ends === undefined) await greenlet.kill();
    else await greenlet.join();
    await arrive();
    if (typeof text === "string") assertEquals(said, text);
    else assertMatch(said ?? "", text);
  });
}

test("Greenlet.waitsIn names calls of a ThreadPool", async () => {
  await using pool = new ThreadPool(1, { isolate: "thread" });
  const call = () =>
    pool.apply(function endless() {
      return new Promise(() => {});
    });
  const [first, second] = [spawn(call), spawn(call)];
  await untilSays(first, "endless in a ThreadPool");
  assertEquals(first.waitsIn, "endless in a ThreadPool");
  assertEquals(second.waitsIn, "endless in a ThreadPool, waiting for a worker");
  const joining = spawn(() => pool.join());
  await idle();
  assertEquals(joining.waitsIn, "ThreadPool.join()");
  for (const one of [joining, second, first]) await one.kill();
});

Deno.test("Greenlet.waitsIn names what is there with --unstable-net", async () => {
  const { out, err } = await runScript(
    `
    using _ = patch();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    const socket = Deno.listenDatagram({
      transport: "udp", hostname: "127.0.0.1", port,
    });
    const calls = [
      () => socket.receive(),
      () => socket.send(new Uint8Array(1), socket.addr),
      async () => await new WebSocketStream("ws://127.0.0.1:" + port).opened,
    ];
    for (const call of calls) {
      const greenlet = spawn(async () => void await call());
      let said = await spawn(() => greenlet.waitsIn).get();
      // An await of a property begins its wait later.
      if (said === "a foreign promise") said = await idle().then(() => greenlet.waitsIn);
      console.log(said.replace(port, "PORT"));
      await greenlet.kill();
    }
    Deno.exit();
    `,
    undefined,
    ["--unstable-net"],
  );
  assertEquals(err, "");
  assertEquals(out, [
    "receive of 127.0.0.1:PORT",
    "send of 127.0.0.1:PORT",
    "WebSocketStream.opened",
  ]);
});
