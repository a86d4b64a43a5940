import { assert, assertEquals } from "@std/assert";
import { runScript, type ScriptOutput } from "../_bodies.ts";

// A process ends by itself when nothing is left that could keep it alive. What an interrupt
// has left pending must not: each script here leaves something whose other side, this
// process, says nothing for as long as the script runs.

const test = Deno.build.os === "windows" ? () => {} : Deno.test;

/** Only to tell "at once" from "never". */
const NEVER = 60_000;

/** The other sides of what the scripts leave. */
class Peers implements AsyncDisposable {
  readonly directory = Deno.makeTempDirSync();
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #conns: Deno.Conn[] = [];
  /** Settles when there is a connection or a body that waits. */
  #arrival = Promise.withResolvers<void>();
  readonly #accepting = this.#accept();
  readonly #bodies: ReadableStreamDefaultController<Uint8Array>[] = [];
  readonly #server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () =>
      new Response(
        new ReadableStream({
          start: (controller) => {
            controller.enqueue(encode("first "));
            this.#bodies.push(controller);
            this.#arrival.resolve();
          },
        }),
      ),
  );
  readonly #locked = Deno.openSync(`${this.directory}/locked`, {
    create: true,
    read: true,
    write: true,
  });

  constructor() {
    new Deno.Command("mkfifo", {
      args: [`${this.directory}/other`],
    }).outputSync();
    this.#locked.lockSync(true);
  }

  async #accept(): Promise<void> {
    for await (const conn of this.#listener) {
      this.#conns.push(conn);
      this.#arrival.resolve();
    }
  }

  /** Code by which scripts reach the peers. */
  get prelude(): string {
    const tls = new URL("../tls/", import.meta.url).href;
    const port = (this.#listener.addr as Deno.NetAddr).port;
    return `
      const SILENT = { hostname: "127.0.0.1", port: ${port} };
      const BODY = "http://127.0.0.1:${this.#server.addr.port}/";
      const DIRECTORY = ${JSON.stringify(this.directory)};
      let fifos = 0;
      /** A pipe for this test only. */
      function fifo() {
        const path = DIRECTORY + "/fifo" + ++fifos;
        new Deno.Command("mkfifo", { args: [path] }).outputSync();
        return path;
      }
      const BOTH = { read: true, write: true };
      const pem = (name) => Deno.readTextFileSync(new URL(name, ${
      JSON.stringify(tls)
    }));
      const LARGE = new Uint8Array(1 << 22);
      const buffer = () => new Uint8Array(100);
      /** A child that has ended, and whose pipes its own child holds open. */
      async function orphanage(stream) {
        const child = new Deno.Command("sh", {
          args: ["-c", "cat " + DIRECTORY + "/other & exit 0"],
          stdout: "null",
          stderr: "null",
          [stream]: "piped",
        }).spawn();
        await child.status;
        return child;
      }
      /** Lets what is begun in a greenlet wait, and kills it. */
      async function leave(run) {
        const greenlet = spawn(run);
        // Calls that the event loop's next turns begin have begun then.
        for (let i = 0; i < 20; i++) await idle();
        if (greenlet.dead) console.log("ended", greenlet.exception);
        await greenlet.kill();
      }
      patch();
    `;
  }

  /** Writes to all that wait, as soon as the first of them is known here. */
  async speak(): Promise<void> {
    await this.#arrival.promise;
    this.#arrival = Promise.withResolvers();
    for (const conn of this.#conns.splice(0)) {
      await conn.write(encode("hello")).catch(() => {});
      conn.close();
    }
    for (const body of this.#bodies.splice(0)) {
      body.enqueue(encode("hello"));
      body.close();
    }
  }

  /** The end of what {@linkcode Peers.drain} has read. */
  drained = "";

  /** Reads everything that was written. */
  async drain(): Promise<void> {
    const buffer = new Uint8Array(1 << 16);
    for (const conn of this.#conns) {
      for (;;) {
        const count = await conn.read(buffer);
        if (count === null) break;
        const end = buffer.subarray(Math.max(count - 10, 0), count);
        this.drained = (this.drained + decode(end)).slice(-10);
      }
    }
  }

  /** Writes to the pipe that the children of scripts read, once one of them does. */
  async write(text: string): Promise<void> {
    await Deno.writeTextFile(`${this.directory}/other`, text);
  }

  /** Ends the children that still read it. */
  end(): void {
    Deno.openSync(`${this.directory}/other`, { read: true, write: true })
      .close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#accepting.catch(() => {});
    for (const conn of this.#conns) conn.close();
    for (const body of this.#bodies) {
      try {
        body.close();
      } catch {
        // Its client has gone.
      }
    }
    await this.#server.shutdown();
    this.#locked.close();
    Deno.removeSync(this.directory, { recursive: true });
  }
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/**
 * Runs a script, and ends it if it does not end. Nothing waits for the script itself: to
 * wait for it at the top level would keep the process alive.
 */
async function endOf(
  script: string,
  told?: (line: string) => void,
): Promise<ScriptOutput | "never"> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isNever = false;
  const begins = (line: string, process: Deno.ChildProcess) => {
    if (timer !== undefined) return told?.(line);
    timer = setTimeout(() => {
      isNever = true;
      process.kill("SIGKILL");
    }, NEVER);
  };
  try {
    const flags = ["--unstable-net"];
    const output = await runScript(
      `(async () => { console.log("begins"); ${script} })();`,
      begins,
      flags,
    );
    return isNever ? "never" : output;
  } finally {
    clearTimeout(timer);
  }
}

/** The call in which a greenlet is killed, by its kind. */
const doors: Record<string, Record<string, string>> = {
  "connections": {
    "conn.read()": `
      const conn = await Deno.connect(SILENT);
      await leave(() => conn.read(buffer()));`,
    "conn.readable": `
      const { readable } = await Deno.connect(SILENT);
      const reader = readable.getReader();
      await leave(() => reader.read());`,
    "conn.readable after conn.read()": `
      const conn = await Deno.connect(SILENT);
      await leave(() => conn.read(buffer()));
      const reader = conn.readable.getReader();
      await leave(() => reader.read());`,
    "conn.readable by a buffer": `
      const { readable } = await Deno.connect(SILENT);
      const reader = readable.getReader({ mode: "byob" });
      await leave(() => reader.read(buffer()));`,
    "a loop over conn.readable": `
      const { readable } = await Deno.connect(SILENT);
      await leave(async () => {
        for await (const _ of readable);
      });`,
    "a loop that leaves conn.readable open": `
      const { readable } = await Deno.connect(SILENT);
      await leave(async () => {
        for await (const _ of readable.values({ preventCancel: true }));
      });`,
    "pipeTo()": `
      const { readable } = await Deno.connect(SILENT);
      await leave(() => readable.pipeTo(new WritableStream()));`,
    "pipeTo() that leaves its source": `
      const { readable } = await Deno.connect(SILENT);
      await leave(() =>
        readable.pipeTo(new WritableStream(), { preventCancel: true })
      );`,
    "pipeTo() a connection": `
      const { writable } = await Deno.connect(SILENT);
      await leave(() =>
        new ReadableStream({
          pull: (controller) => controller.enqueue(LARGE),
        }).pipeTo(writable)
      );`,
    "pipeTo() a connection that it leaves open": `
      const { writable } = await Deno.connect(SILENT);
      await leave(() =>
        new ReadableStream({
          pull: (controller) => controller.enqueue(LARGE),
        }).pipeTo(writable, { preventAbort: true, preventClose: true })
      );`,
    "pipeThrough()": `
      const { readable } = await Deno.connect(SILENT);
      const reader = readable.pipeThrough(new TextDecoderStream()).getReader();
      await leave(() => reader.read());`,
    "pipeThrough(), twice": `
      const { readable } = await Deno.connect(SILENT);
      const reader = readable.pipeThrough(new TextDecoderStream())
        .pipeThrough(new TransformStream()).getReader();
      await leave(() => reader.read());`,
    "tee()": `
      const { readable } = await Deno.connect(SILENT);
      const [one] = readable.tee();
      const reader = one.getReader();
      await leave(() => reader.read());`,
    "both of tee()": `
      const { readable } = await Deno.connect(SILENT);
      const readers = readable.tee().map((one) => one.getReader());
      for (const reader of readers) await leave(() => reader.read());`,
    "new Response(conn.readable).text()": `
      const { readable } = await Deno.connect(SILENT);
      await leave(() => new Response(readable).text());`,
    "conn.write()": `
      const conn = await Deno.connect(SILENT);
      await leave(async () => {
        for (;;) await conn.write(LARGE);
      });`,
    "conn.writable": `
      const { writable } = await Deno.connect(SILENT);
      const writer = writable.getWriter();
      await leave(async () => {
        for (;;) await writer.write(LARGE);
      });`,
    "writer.ready": `
      const { writable } = await Deno.connect(SILENT);
      const writer = writable.getWriter();
      await leave(async () => {
        for (;;) {
          writer.write(LARGE);
          await writer.ready;
        }
      });`,
    "writer.close()": `
      const { writable } = await Deno.connect(SILENT);
      const writer = writable.getWriter();
      await leave(async () => {
        for (let i = 0; i < 9; i++) writer.write(LARGE);
        await writer.close();
      });`,
    "accept()": `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      await leave(() => listener.accept());`,
    "a loop over a listener": `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      await leave(async () => {
        for await (const _ of listener);
      });`,
    "a Unix socket": `
      const at = { transport: "unix", path: DIRECTORY + "/socket" };
      const listener = Deno.listen(at);
      const conn = await Deno.connect(at);
      const other = await listener.accept();
      await leave(() => conn.read(buffer()));
      await leave(() => listener.accept());`,
    "receive()": `
      const socket = Deno.listenDatagram({
        hostname: "127.0.0.1",
        port: 0,
        transport: "udp",
      });
      await leave(() => socket.receive());`,
  },
  "TLS": {
    "accept()": `
      const listener = Deno.listenTls({
        hostname: "127.0.0.1",
        port: 0,
        cert: pem("localhost.pem"),
        key: pem("localhost.key"),
      });
      await leave(() => listener.accept());`,
    ...Object.fromEntries(
      Object.entries({
        "handshake()": "conn.handshake()",
        "read()": "conn.read(buffer())",
        "write()": "conn.write(buffer())",
        "closeWrite()": "conn.closeWrite()",
        "readable": "conn.readable.getReader().read()",
        "writable": "conn.writable.getWriter().write(buffer())",
      }).map(([name, call]) => [
        name,
        `const conn = await Deno.connectTls(SILENT);
         await leave(() => ${call});`,
      ]),
    ),
    "startTls()": `
      const conn = await Deno.connect(SILENT);
      await leave(async () => {
        const secure = await Deno.startTls(conn, { hostname: "localhost" });
        await secure.read(buffer());
      });`,
  },
  "fetch": {
    "fetch()": `await leave(() => fetch("http://127.0.0.1:" + SILENT.port));`,
    "fetch() of TLS": `
      await leave(() => fetch("https://127.0.0.1:" + SILENT.port));`,
    "an upload": `
      const body = new ReadableStream({ pull: () => new Promise(() => {}) });
      await leave(() =>
        fetch("http://127.0.0.1:" + SILENT.port, { method: "POST", body })
      );`,
    "text()": `
      const response = await fetch(BODY);
      await leave(() => response.text());`,
    "text() of a response of the greenlet's": `
      await leave(async () => (await fetch(BODY)).text());`,
    "text() of a clone": `
      await leave(async () => (await fetch(BODY)).clone().text());`,
    "text() of one's clone": `
      const response = await fetch(BODY);
      const clone = response.clone();
      await leave(() => clone.text());`,
    "a body": `
      const { body } = await fetch(BODY);
      const reader = body.getReader();
      await reader.read();
      await leave(() => reader.read());`,
    "a body of the greenlet's": `
      await leave(async () => {
        const { body } = await fetch(BODY);
        const reader = body.getReader();
        for (;;) await reader.read();
      });`,
    "a body that is unlocked": `
      const { body } = await fetch(BODY);
      await leave(async () => {
        const reader = body.getReader();
        try {
          for (;;) await reader.read();
        } finally {
          reader.releaseLock();
        }
      });`,
    "a body by a buffer": `
      const { body } = await fetch(BODY);
      const reader = body.getReader({ mode: "byob" });
      await reader.read(buffer());
      await leave(() => reader.read(buffer()));`,
    "a body by a buffer that is to be filled": `
      const { body } = await fetch(BODY);
      const reader = body.getReader({ mode: "byob" });
      await leave(() => reader.read(buffer(), { min: 100 }));`,
    "a loop that leaves a body open": `
      const { body } = await fetch(BODY);
      await leave(async () => {
        for await (const _ of body.values({ preventCancel: true }));
      });`,
    "the body of a clone": `
      const response = await fetch(BODY);
      const reader = response.clone().body.getReader();
      await reader.read();
      await leave(() => reader.read());`,
    "pipeThrough() of a body": `
      await leave(async () => {
        const { body } = await fetch(BODY);
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) await reader.read();
      });`,
    "tee() of a body": `
      const { body } = await fetch(BODY);
      const reader = body.tee()[0].getReader();
      await reader.read();
      await leave(() => reader.read());`,
    "pipeTo() of a body to a file": `
      const { body } = await fetch(BODY);
      const file = await Deno.create(DIRECTORY + "/file");
      await leave(() => body.pipeTo(file.writable));`,
    "pipeTo() of a body, to leave both as they are": `
      const { body } = await fetch(BODY);
      const file = await Deno.create(DIRECTORY + "/file");
      await leave(() =>
        body.pipeTo(file.writable, {
          preventCancel: true,
          preventAbort: true,
          preventClose: true,
        })
      );`,
  },
  "files": {
    "open()": `await leave(() => Deno.open(FIFO));`,
    "open() to write": `await leave(() => Deno.open(FIFO, { write: true }));`,
    "readFile()": `await leave(() => Deno.readFile(FIFO));`,
    "readTextFile()": `await leave(() => Deno.readTextFile(FIFO));`,
    "writeFile()": `await leave(() => Deno.writeFile(FIFO, buffer()));`,
    "writeTextFile()": `await leave(() => Deno.writeTextFile(FIFO, "text"));`,
    "copyFile()": `
      await leave(() => Deno.copyFile(FIFO, DIRECTORY + "/copy"));`,
    "truncate()": `await leave(() => Deno.truncate(FIFO));`,
    "read()": `
      const file = await Deno.open(FIFO, BOTH);
      await leave(() => file.read(buffer()));`,
    "readable": `
      const file = await Deno.open(FIFO, BOTH);
      const reader = file.readable.getReader();
      await leave(() => reader.read());`,
    "readable after read()": `
      const file = await Deno.open(FIFO, BOTH);
      await leave(() => file.read(buffer()));
      const reader = file.readable.getReader();
      await leave(() => reader.read());`,
    "write()": `
      const file = await Deno.open(FIFO, BOTH);
      await leave(async () => {
        for (;;) await file.write(LARGE);
      });`,
    "writable": `
      const file = await Deno.open(FIFO, BOTH);
      const writer = file.writable.getWriter();
      await leave(async () => {
        for (;;) await writer.write(LARGE);
      });`,
    "lock()": `
      const file = await Deno.open(DIRECTORY + "/locked", BOTH);
      await leave(() => file.lock(true));`,
    "watchFs()": `
      const watcher = Deno.watchFs(DIRECTORY);
      await leave(() => watcher[Symbol.asyncIterator]().next());`,
  },
  "children": {
    "command.output()": `
      await leave(() =>
        new Deno.Command("sh", {
          args: ["-c", "cat " + DIRECTORY + "/other & exec sleep 1000"],
        }).output()
      );`,
    "command.output() of a child that is left alone": `
      using _ = patch({ process: { killChildren: false } });
      await leave(() =>
        new Deno.Command("sh", {
          args: ["-c", "exec cat " + DIRECTORY + "/other"],
        }).output()
      );`,
    "child.output()": `
      await leave(() =>
        new Deno.Command("sh", {
          args: ["-c", "cat " + DIRECTORY + "/other & exec sleep 1000"],
          stdout: "piped",
          stderr: "piped",
        }).spawn().output()
      );`,
    "child.status": `
      await leave(() =>
        new Deno.Command("sleep", { args: ["1000"], stdout: "null", stderr: "null" })
          .spawn().status
      );`,
    "child.output() of a child that has ended": `
      const child = await orphanage("stdout");
      await leave(() => child.output());`,
    ...Object.fromEntries(
      ["stdout", "stderr"].flatMap((stream) =>
        ["text", "bytes", "arrayBuffer", "json"].map((form) => [
          `child.${stream}.${form}()`,
          `const child = await orphanage("${stream}");
           await leave(() => child.${stream}.${form}());`,
        ])
      ),
    ),
    "child.stdout": `
      const child = await orphanage("stdout");
      const reader = child.stdout.getReader();
      await leave(() => reader.read());`,
    "a loop over child.stdout": `
      const child = await orphanage("stdout");
      await leave(async () => {
        for await (const _ of child.stdout);
      });`,
    "pipeThrough() of child.stdout": `
      const child = await orphanage("stdout");
      const reader = child.stdout.pipeThrough(new TextDecoderStream())
        .getReader();
      await leave(() => reader.read());`,
    "new Response(child.stdout).text()": `
      const child = await orphanage("stdout");
      await leave(() => new Response(child.stdout).text());`,
    "child.stdin": `
      const child = new Deno.Command("sh", {
        args: ["-c", "exec <" + DIRECTORY + "/other"],
        stdin: "piped",
        stdout: "null",
        stderr: "null",
      }).spawn();
      child.unref();
      const writer = child.stdin.getWriter();
      await leave(async () => {
        for (;;) await writer.write(LARGE);
      });`,
  },
  "other waits": {
    "WebSocketStream.opened": `
      await leave(() =>
        new WebSocketStream("ws://127.0.0.1:" + SILENT.port).opened
      );`,
    "a timer": `
      await leave(() => new Promise((resolve) => setTimeout(resolve, 1e8)));`,
    "sleep()": `await leave(() => sleep(1e8));`,
    "until()": `await leave(() => until(new Promise(() => {})));`,
    "withTimeout()": `await leave(() => withTimeout(1e8, () => sleep(1e8)));`,
    "Deno.resolveDns()": `
      await leave(() =>
        Deno.resolveDns("example.com", "A", {
          nameServer: { ipAddr: "127.0.0.1", port: SILENT.port },
        })
      );`,
  },
};

for (const [kind, ofKind] of Object.entries(doors)) {
  test(`A process ends although interrupts have left waits of ${kind} pending`, async () => {
    // All in one process; one by one if that does not end.
    const all = Object.values(ofKind).map((door) =>
      `{ const FIFO = fifo(); ${door} }`
    );
    if (await isAtEnd(all.join("\n"))) return;
    const held: string[] = [];
    for (const [name, door] of Object.entries(ofKind)) {
      if (!await isAtEnd(`const FIFO = fifo(); ${door}`)) held.push(name);
    }
    assertEquals(held, []);
    assert(false, "One does, and all of them together do not");
  });
}

/** Checks that a process ends by itself. */
async function isAtEnd(script: string): Promise<boolean> {
  await using peers = new Peers();
  const output = await endOf(`${peers.prelude} ${script} console.log("over");`);
  // The children that the script has left are to end as well.
  peers.end();
  if (output === "never") return false;
  assertEquals([output.out, output.err, output.code], [
    ["begins", "over"],
    "",
    0,
  ]);
  return true;
}

/** Each way to read a stream that an interrupted read has left: all of it, as text. */
const again: Record<string, string> = {
  "by the same reader": `
    let text = "";
    const decoder = new TextDecoder();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += decoder.decode(value);
    }
    return text;`,
  "by the same reader in a greenlet": `
    return await spawn(function* () {
      let text = "";
      const decoder = new TextDecoder();
      for (;;) {
        const { value, done } = yield* until(reader.read());
        if (done) return text;
        text += decoder.decode(value);
      }
    }).get();`,
  "by another reader": `
    reader.releaseLock();
    const other = stream.getReader();
    let text = "";
    const decoder = new TextDecoder();
    for (;;) {
      const { value, done } = await other.read();
      if (done) break;
      text += decoder.decode(value);
    }
    return text;`,
  "by a loop": `
    reader.releaseLock();
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of stream) text += decoder.decode(chunk);
    return text;`,
  "by a loop that leaves it open": `
    reader.releaseLock();
    let text = "";
    const decoder = new TextDecoder();
    const chunks = stream.values({ preventCancel: true });
    for await (const chunk of chunks) text += decoder.decode(chunk);
    return text;`,
  "by a pipe": `
    reader.releaseLock();
    let text = "";
    await stream.pipeThrough(new TextDecoderStream()).pipeTo(
      new WritableStream({ write: (chunk) => void (text += chunk) }),
    );
    return text;`,
  "by pipeTo()": `
    reader.releaseLock();
    let text = "";
    const decoder = new TextDecoder();
    await stream.pipeTo(
      new WritableStream({ write: (chunk) => void (text += decoder.decode(chunk)) }),
    );
    return text;`,
  "by tee()": `
    reader.releaseLock();
    const [one] = stream.tee();
    return await new Response(one).text();`,
};

/** Where streams come from, of bytes. */
const streams: Record<string, string> = {
  "conn.readable": `(await Deno.connect(SILENT)).readable`,
  "conn.readable after conn.read()": `await (async () => {
    const conn = await Deno.connect(SILENT);
    await leave(() => conn.read(buffer()));
    return conn.readable;
  })()`,
  "a body": `(await fetch(BODY)).body`,
  "pipeThrough() of a body": `
    (await fetch(BODY)).body.pipeThrough(new TransformStream())`,
  "a branch of a body": `(await fetch(BODY)).body.tee()[0]`,
  "the body of a clone": `(await fetch(BODY)).clone().body`,
  "child.stdout": `(await orphanage("stdout")).stdout`,
  "pipeThrough() of child.stdout": `
    (await orphanage("stdout")).stdout.pipeThrough(new TransformStream())`,
};

/** What a part of a program prints, and whether it keeps the process alive while it waits. */
interface Part {
  name: string;
  out: string[];
}

/**
 * Runs parts of a program one after the other in one process. Each prints `"waits"` when this
 * process is to speak, and `"ends early"` if nothing keeps the process alive before the part
 * is over. The next one begins when nothing keeps the process alive any more: the runtime
 * fires `beforeunload` then.
 */
async function outputOfParts(
  parts: Record<string, string>,
  speak: (peers: Peers, name: string) => void,
): Promise<Part[]> {
  await using peers = new Peers();
  const names = Object.keys(parts);
  const found: Part[] = [];
  const output = await endOf(
    `let over, hold;
    addEventListener("beforeunload", (event) => {
      event.preventDefault();
      if (over !== undefined) return over();
      console.log("ends early");
      hold = setInterval(() => {}, 1000);
    });
    ${peers.prelude}
    ${
      Object.values(parts).map((part) =>
        `console.log("part");
        await (async () => { ${part} })();
        clearInterval(hold);
        await new Promise((resolve) => over = resolve);
        over = undefined;`
      ).join("\n")
    }
    Deno.exit();`,
    (line) => {
      if (line === "part") {
        found.push({ name: names[found.length]!, out: [] });
        return;
      }
      const part = found.at(-1)!;
      part.out.push(line);
      if (line === "waits") speak(peers, part.name);
    },
  );
  assert(
    output !== "never",
    `${found.at(-1)?.name} does not end: ${found.at(-1)?.out}`,
  );
  assertEquals([output.err, output.code, output.signal], ["", 0, null]);
  return found;
}

/**
 * Makes a test of each part of a program, and runs all parts in one process, in the first of
 * the tests that run.
 */
function testParts(
  parts: Record<string, string>,
  speak: (peers: Peers, name: string) => void,
  nameOf: (name: string) => string,
  expected: (name: string) => string[],
): void {
  let found: Promise<Part[]> | undefined;
  for (const name of Object.keys(parts)) {
    test(nameOf(name), async () => {
      const all = await (found ??= outputOfParts(parts, speak));
      const part = all.find((part) => part.name === name);
      assertEquals(part?.out, expected(name));
    });
  }
}

testParts(
  Object.fromEntries(
    Object.entries(streams).map(([name, stream]) => [
      name,
      // One after the other, so that nothing else keeps the process alive.
      Object.values(again).map((readAll) =>
        `{
        const stream = ${stream};
        const reader = stream.getReader();
        await leave(async () => {
          // Bytes that have come already are for the next readers.
          const { value, done } = await reader.read();
          if (!done) console.log("first:", new TextDecoder().decode(value));
          await reader.read();
        });
        setTimeout(() => console.log("waits"), 0);
        console.log("then:", await (async () => { ${readAll} })());
      }`
      ).join("\n"),
    ]),
  ),
  (peers, name) => {
    peers.speak();
    if (name.includes("child")) peers.write("hello");
  },
  (name) =>
    `A read of ${name} keeps the process alive after an interrupted one, and no byte is lost`,
  (name) => {
    const first = name.includes("bod") ? ["first: first "] : [];
    const lines = [...first, "waits", "then: hello"];
    return Object.keys(again).flatMap(() => lines);
  },
);

/** Each call that is made once more, and gives a text. */
const others: Record<string, { first: string; again: string }> = {
  "conn.read()": {
    first: `
      const conn = await Deno.connect(SILENT);
      await leave(() => conn.read(buffer()));`,
    again: `
      const bytes = buffer();
      const count = await conn.read(bytes);
      return new TextDecoder().decode(bytes.subarray(0, count));`,
  },
  "child.output()": {
    first: `
      const child = await orphanage("stdout");
      await leave(() => child.output());`,
    again: `
      const { stdout } = await child.output();
      return new TextDecoder().decode(stdout);`,
  },
  "child.stdout.text()": {
    first: `
      const child = await orphanage("stdout");
      await leave(() => child.stdout.text());`,
    again: `return await child.stdout.text();`,
  },
  "child.stdout.bytes() in a greenlet": {
    first: `
      const child = await orphanage("stdout");
      await leave(() => child.stdout.bytes());
      await leave(() => child.stdout.bytes());`,
    again: `
      const bytes = await spawn(() => child.stdout.bytes()).get();
      return new TextDecoder().decode(bytes);`,
  },
  // These leave a pipe open that the children above read.
  "file.read() of a pipe": {
    first: `
      const file = await Deno.open(DIRECTORY + "/other", BOTH);
      await leave(() => file.read(buffer()));`,
    again: `
      const bytes = buffer();
      const count = await file.read(bytes);
      return new TextDecoder().decode(bytes.subarray(0, count));`,
  },
  "file.readable of a pipe": {
    first: `
      const file = await Deno.open(DIRECTORY + "/other", BOTH);
      const reader = file.readable.getReader();
      await leave(() => reader.read());`,
    again: `return new TextDecoder().decode((await reader.read()).value);`,
  },
  "file.readable after file.read() of a pipe": {
    first: `
      const file = await Deno.open(DIRECTORY + "/other", BOTH);
      await leave(() => file.read(buffer()));
      const reader = file.readable.getReader();
      await leave(() => reader.read());`,
    again: `return new TextDecoder().decode((await reader.read()).value);`,
  },
  "file.read() after file.readable of a pipe": {
    first: `
      const file = await Deno.open(DIRECTORY + "/other", BOTH);
      await leave(() => file.read(buffer()));
      const reader = file.readable.getReader();
      await leave(() => reader.read());
      reader.releaseLock();`,
    again: `
      // The stream that is not read any more has left the line.
      const bytes = buffer();
      const count = await file.read(bytes);
      return new TextDecoder().decode(bytes.subarray(0, count));`,
  },
};

testParts(
  Object.fromEntries(
    Object.entries(others).map(([name, { first, again }]) => [
      name,
      `${first}
      setTimeout(() => console.log("waits"), 0);
      console.log("then:", await (async () => { ${again} })());`,
    ]),
  ),
  (peers, name) => {
    peers.speak();
    if (/child|file/.test(name)) peers.write("hello");
  },
  (name) =>
    `${name} keeps the process alive after an interrupted one, and no byte is lost`,
  () => ["waits", "then: hello"],
);

test("A write keeps the process alive after an interrupted one, and comes behind it", async () => {
  for (
    const write of [
      `conn.write(data)`,
      `conn.writable.getWriter().write(data)`,
    ]
  ) {
    await using peers = new Peers();
    const output = await endOf(
      `${peers.prelude}
      const conn = await Deno.connect(SILENT);
      const writer = conn.writable.getWriter();
      await leave(async () => {
        for (;;) await ${
        write.includes("writable") ? "writer.write(LARGE)" : "conn.write(LARGE)"
      };
      });
      writer.releaseLock();
      setTimeout(() => console.log("waits"), 0);
      const data = new TextEncoder().encode("end");
      await ${write};
      console.log("written");
      conn.close();`,
      async (line) => {
        if (line === "waits") await peers.drain();
      },
    );
    assertEquals(output, {
      out: ["begins", "waits", "written"],
      err: "",
      code: 0,
      signal: null,
    }, write);
    assertEquals(peers.drained.slice(-3), "end", write);
  }
});

test("A stream that was told not to keep the process alive does not do so when it is read again", async () => {
  await using peers = new Peers();
  const output = await endOf(
    `${peers.prelude}
    const child = await orphanage("stdout");
    child.unref();
    const reader = child.stdout.getReader();
    await leave(() => reader.read());
    reader.read();
    const conn = await Deno.connect(SILENT);
    conn.unref();
    await leave(() => conn.read(buffer()));
    conn.read(buffer());
    const other = await Deno.connect(SILENT);
    other.unref();
    const stream = other.readable.getReader();
    await leave(() => stream.read());
    stream.read();
    console.log("over");`,
  );
  peers.end();
  assertEquals(output, {
    out: ["begins", "over"],
    err: "",
    code: 0,
    signal: null,
  });
});
