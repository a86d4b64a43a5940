import { assertEquals } from "@std/assert";
import { runScript } from "../_bodies.ts";

// Programs change what the language has made: a polyfill, an instrument, a mistake. What
// survives that outside greenlets has to survive it in them, under patch().

/** The changes, each by the statement that makes it. */
const changes: Record<string, string> = {
  "Array.prototype[Symbol.iterator]":
    `change(Array.prototype, Symbol.iterator, fail);`,
  "the next() of arrays' iterators":
    `change(Object.getPrototypeOf([][Symbol.iterator]()), "next", fail);`,
  "Promise.prototype.then": `change(Promise.prototype, "then", fail);`,
  "Promise.prototype.catch and finally": `
    change(Promise.prototype, "catch", fail);
    change(Promise.prototype, "finally", fail);`,
  // As the tests of the runtime itself do it.
  "Promise.prototype.then and Array.prototype[Symbol.iterator]": `
    change(Promise.prototype, "then", fail);
    change(Array.prototype, Symbol.iterator, fail);`,
  "Object.prototype.get and set": `
    change(Object.prototype, "get", fail);
    change(Object.prototype, "set", fail);`,
  "Object.prototype.value": `change(Object.prototype, "value", "polluted");`,
  "Object.prototype, the names of options": `
    for (
      const name of [
        "append", "create", "createNew", "mode", "recursive", "timeout",
        "preventCancel", "preventClose", "preventAbort", "method", "body",
        "args", "stdin", "detached", "handler", "cert", "min", "block",
        "grace", "error", "refed", "highWaterMark", "type",
      ]
    ) change(Object.prototype, name, "polluted");`,
  "Object.prototype.signal":
    `change(Object.prototype, "signal", AbortSignal.abort("polluted"));`,
  "Array.prototype[0] to [3]": `
    for (let i = 0; i < 4; i++) change(Array.prototype, i, "polluted");`,
  "Set.prototype[Symbol.iterator] and Map's": `
    change(Set.prototype, Symbol.iterator, fail);
    change(Map.prototype, Symbol.iterator, fail);`,
};

/** Functions of programs, each of which gives a value that can be printed. */
const doors: Record<string, Record<string, string>> = {
  "timers": {
    "a pause": `
      return await new Promise((resolve) => setTimeout(resolve, 1, "late"));`,
    "a callback": `
      return await new Promise((resolve) =>
        setTimeout((a, b) => resolve(a + b), 1, 1, 2)
      );`,
    "an interval": `
      let count = 0;
      return await new Promise((resolve) => {
        const timer = setInterval(() => {
          if (++count < 3) return;
          clearInterval(timer);
          resolve(count);
        }, 1);
      });`,
    "a timer that is cleared": `
      clearTimeout(setTimeout(() => {}, 1));
      return "cleared";`,
    "node:timers/promises": `return await pause(1, "late");`,
  },
  "sockets": {
    "an echo": `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const conn = await Deno.connect(listener.addr);
      const other = await listener.accept();
      await conn.write(hello);
      const bytes = new Uint8Array(10);
      const count = await other.read(bytes);
      await other.closeWrite();
      const end = await conn.read(bytes);
      conn.close();
      other.close();
      listener.close();
      return count + " " + end;`,
    "streams of connections": `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const conn = await Deno.connect(listener.addr);
      const other = await listener.accept();
      const writer = conn.writable.getWriter();
      await writer.ready;
      await writer.write(hello);
      const result = await other.readable.getReader().read();
      await writer.close();
      other.close();
      listener.close();
      return result.value.length;`,
    "a loop over a listener": `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const conn = await Deno.connect(listener.addr);
      for await (const other of listener) {
        other.close();
        break;
      }
      conn.close();
      return "over";`,
  },
  "fetch": {
    "text()": `return await (await fetch(url)).text();`,
    "json() of a post": `
      const response = await fetch(url, {
        __proto__: null,
        method: "POST",
        body: '{"a":1}',
      });
      return (await response.json()).a;`,
    "a body": `
      const reader = (await fetch(url)).body.getReader();
      let length = 0;
      for (;;) {
        const result = await reader.read();
        if (result.done) return length;
        length += result.value.length;
      }`,
    "a clone": `
      const response = await fetch(url);
      const clone = response.clone();
      return await response.text() + await clone.text();`,
    "a Request": `return await (await fetch(new Request(url))).text();`,
    "a failure": `return (await fetch("http://127.0.0.1:1")).status;`,
  },
  "streams": {
    "read()": `
      const reader = numbers().getReader();
      return (await reader.read()).value + (await reader.read()).value;`,
    "a loop": `
      let sum = 0;
      for await (const n of numbers()) sum += n;
      return sum;`,
    "many reads, and turns of the loop between them": `
      let n = 0;
      const stream = new ReadableStream(bare({
        pull(controller) {
          controller.enqueue(++n);
          if (n === 3000) controller.close();
        },
      }));
      let sum = 0;
      for await (const n of stream) sum += n;
      return sum;`,
    "a loop that is left": `
      for await (const n of numbers()) return n;`,
    "cancel()": `
      await numbers().cancel("enough");
      return "cancelled";`,
    "pipeTo()": `
      let sum = 0;
      const sink = new WritableStream(bare({ write: (n) => void (sum += n) }));
      await numbers().pipeTo(sink);
      return sum;`,
    "tee()": `
      const branches = numbers().tee();
      const one = branches[0].getReader();
      const two = branches[1].getReader();
      return (await one.read()).value + (await two.read()).value;`,
    "write(), close()": `
      let sum = 0;
      const sink = bare({ write: (n) => void (sum += n) });
      const writer = new WritableStream(sink).getWriter();
      await writer.ready;
      await writer.write(1);
      await writer.close();
      await writer.closed;
      return sum;`,
    "a failing source": `
      const stream = new ReadableStream(bare({
        pull() {
          throw new Error("no");
        },
      }));
      return (await stream.getReader().read()).value;`,
    "a buffer of one's own": `
      const stream = new ReadableStream(bare({
        type: "bytes",
        pull: (controller) => controller.enqueue(new Uint8Array(5)),
      }));
      const reader = stream.getReader(bare({ mode: "byob" }));
      return (await reader.read(new Uint8Array(3))).value.length;`,
  },
  "files": {
    "readTextFile(), writeTextFile()": `
      const path = directory + "/text";
      await Deno.writeTextFile(path, "one");
      await Deno.writeTextFile(path, "two");
      return await Deno.readTextFile(path);`,
    "writeTextFile() with options": `
      const path = directory + "/more";
      await Deno.writeTextFile(path, "one", bare({ append: false }));
      await Deno.writeTextFile(path, "two", bare({ append: true }));
      return (await Deno.readTextFile(path)).slice(-6);`,
    "writeFile(), readFile()": `
      const path = directory + "/bytes";
      await Deno.writeFile(path, hello);
      return (await Deno.readFile(path)).length;`,
    "open(), read(), seek(), write()": `
      const file = await Deno.open(
        directory + "/file",
        bare({ read: true, write: true, create: true, truncate: true }),
      );
      await file.write(hello);
      await file.seek(0, Deno.SeekMode.Start);
      const bytes = new Uint8Array(10);
      const count = await file.read(bytes);
      await file.lock();
      await file.unlock();
      const size = (await file.stat()).size;
      file.close();
      return count + " " + size;`,
    "a pipe": `
      const file = await Deno.open(fifo, bare({ read: true, write: true }));
      await file.write(hello);
      const bytes = new Uint8Array(10);
      const count = await file.read(bytes);
      file.close();
      return count;`,
    "readDir()": `
      let names = 0;
      for await (const entry of Deno.readDir(directory)) names++;
      return names > 0;`,
    "mkdir(), rename(), remove()": `
      await Deno.mkdir(directory + "/sub");
      await Deno.rename(directory + "/sub", directory + "/other");
      await Deno.remove(directory + "/other");
      return "done";`,
    "a failure": `return await Deno.readTextFile(directory + "/none");`,
  },
  "children": {
    "command.output()": `
      const output = await new Deno.Command("echo", bare({})).output();
      return output.code + " " + output.stdout.length;`,
    "command.output() without options": `
      return (await new Deno.Command("true").output()).code;`,
    "child.output()": `
      const child = new Deno.Command(
        "echo",
        bare({ stdout: "piped", stderr: "piped" }),
      ).spawn();
      return (await child.output()).stdout.length;`,
    "child.status": `
      const child = new Deno.Command("true", bare({})).spawn();
      return (await child.status).code;`,
    "child.stdout.text()": `
      const child = new Deno.Command("echo", bare({ stdout: "piped" })).spawn();
      const text = await child.stdout.text();
      await child.status;
      return text.length;`,
  },
  "servers": {
    "a server": `
      const server = Deno.serve(bare({
        hostname: "127.0.0.1",
        port: 0,
        onListen() {},
        handler: () => new Response("served"),
      }));
      const text = await (await fetch("http://127.0.0.1:" + server.addr.port))
        .text();
      await server.shutdown();
      await server.finished;
      return text;`,
    "a handler that waits": `
      const server = Deno.serve(bare({
        hostname: "127.0.0.1",
        port: 0,
        onListen() {},
        handler: async (request) => {
          await new Promise((resolve) => setTimeout(resolve, 1));
          return new Response(await request.text());
        },
      }));
      const response = await fetch(
        "http://127.0.0.1:" + server.addr.port,
        bare({ method: "POST", body: "posted" }),
      );
      const text = await response.text();
      await server.shutdown();
      return text;`,
    "a signal": `
      // By which the runtime's own server never ends.
      if ("signal" in {}) return "finished";
      const abort = new AbortController();
      const server = Deno.serve(bare({
        hostname: "127.0.0.1",
        port: 0,
        onListen() {},
        signal: abort.signal,
        handler: () => new Response("served"),
      }));
      abort.abort();
      await server.finished;
      return "finished";`,
  },
  "events": {
    "a WebSocket": `
      new WebSocket(new URL("ws://localhost:4242/"), protocols());`,
    "an EventTarget": `
      const target = new EventTarget();
      return await new Promise((resolve) => {
        target.addEventListener("hello", () => resolve("heard"));
        target.dispatchEvent(new Event("hello"));
      });`,
    "an EventEmitter": `
      const emitter = new EventEmitter();
      return await new Promise((resolve) => {
        emitter.on("hello", resolve);
        emitter.emit("hello", "heard");
      });`,
  },
};

const PRELUDE = `
  import { setTimeout as pause } from "node:timers/promises";
  import { EventEmitter } from "node:events";
  import process from "node:process";
  // The runtime's own queue of ticks reads its first places before they are written to.
  for (let i = 0; i < 10; i++) process.nextTick(() => {});
  await new Promise((resolve) => setTimeout(resolve, 0));
  const directory = Deno.makeTempDirSync();
  const fifo = directory + "/fifo";
  new Deno.Command("mkfifo", { args: [fifo] }).outputSync();
  const hello = new TextEncoder().encode("hello");
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    async (request) => new Response(await request.text() || "hello"),
  );
  const url = "http://127.0.0.1:" + server.addr.port;
  const { defineProperty, deleteProperty, getOwnPropertyDescriptor, setPrototypeOf } =
    Reflect;
  /** An object in which nothing is found but its own. */
  function bare(object) {
    setPrototypeOf(object, null);
    return object;
  }
  function* protocols() {
    yield "soap";
    yield "soap";
  }
  function numbers() {
    let n = 0;
    return new ReadableStream(bare({
      pull(controller) {
        controller.enqueue(++n);
        if (n === 3) controller.close();
      },
    }));
  }
  const fail = function () {
    throw new Error("polluted");
  };
  let changed = [];
  function change(object, name, value) {
    const before = getOwnPropertyDescriptor(object, name);
    changed[changed.length] = bare({ object, name, before: before && bare(before) });
    defineProperty(
      object,
      name,
      bare({ value, writable: true, configurable: true }),
    );
  }
  function putBack() {
    for (let i = changed.length - 1; i >= 0; i--) {
      const { object, name, before } = changed[i];
      if (before === undefined) deleteProperty(object, name);
      else defineProperty(object, name, before);
    }
    changed = [];
  }
  /** Gives the outcome of a function in a program that is changed. */
  async function outcome(pollute, run) {
    pollute();
    let result;
    try {
      result = await run();
    } catch (error) {
      result = error;
    }
    putBack();
    return result instanceof Error
      ? result.name + ": " + result.message.replaceAll(/\\d+/g, "N")
      : String(result);
  }
  addEventListener("error", ({ error }) => {
    putBack();
    console.log("uncaught:", trying, error.message);
    Deno.exit(1);
  });
  /** The function that is tried now, to name it if it never ends. */
  let trying = "";
  let guard;
  function watch(what) {
    trying = what;
    clearTimeout(guard);
    guard = setTimeout(() => {
      putBack();
      console.log("never ends:", trying);
      Deno.exit(1);
    }, 30_000);
  }
`;

/** Begins the line after those that the functions of a kind have led to. */
const END = "end of ";

/** Tries all functions in one process; the lines that were printed, by kind. */
async function tryAll(): Promise<Map<string, string[]>> {
  const kinds = Object.entries(doors).map(([kind, ofKind]) => {
    const table = Object.entries(ofKind).map(([name, door]) =>
      `[${JSON.stringify(name)}, async () => { ${door} }]`
    );
    return `[${JSON.stringify(kind)}, [${table.join(",\n")}]]`;
  });
  const pollutions = Object.entries(changes).map(([name, statements]) =>
    `[${JSON.stringify(name)}, () => { ${statements} }]`
  );
  const { out, err } = await runScript(`
      ${PRELUDE}
      const kinds = [${kinds.join(",\n")}];
      const changes = [${pollutions.join(",\n")}];
      for (const [kind, doors] of kinds) {
        const expected = new Map();
        for (const [what, pollute] of changes) {
          for (const [door, run] of doors) {
            const which = what + ": " + door;
            watch(which + " outside greenlets");
            expected.set(which, await outcome(pollute, run));
          }
        }
        using _ = patch();
        for (const [what, pollute] of changes) {
          for (const [door, run] of doors) {
            const which = what + ": " + door;
            watch(which);
            const found = await spawn(() => outcome(pollute, run)).get();
            const limited = await withTimeout(
              100_000,
              () => outcome(pollute, run),
            );
            const before = expected.get(which);
            for (const [how, one] of [["", found], [", limited", limited]]) {
              if (one !== before) {
                console.log(which + how + " gives " + one +
                  " where it gave " + before);
              }
            }
          }
        }
        console.log(${JSON.stringify(END)} + kind);
      }
      Deno.removeSync(directory, { recursive: true });
      Deno.exit();`);
  const all = new Map<string, string[]>();
  let lines: string[] = [];
  for (const line of out) {
    if (!line.startsWith(END)) {
      lines.push(line);
      continue;
    }
    all.set(line.slice(END.length), lines);
    lines = [];
  }
  assertEquals([lines, err], [[], ""]);
  return all;
}

let all: Promise<Map<string, string[]>> | undefined;

for (const kind of Object.keys(doors)) {
  if (Deno.build.os === "windows") continue;
  Deno.test(`patch() leaves ${kind} at work in greenlets where a program has changed the language, as they are outside`, async () => {
    assertEquals((await (all ??= tryAll())).get(kind), []);
  });
}
