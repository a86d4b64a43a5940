import { assert, assertEquals, assertGreaterOrEqual } from "@std/assert";
import childProcess from "node:child_process";
import crypto from "node:crypto";
import dns from "node:dns";
import events, { EventEmitter } from "node:events";
import fs from "node:fs";
import files from "node:fs/promises";
import http from "node:http";
import { PassThrough, Readable, Writable } from "node:stream";
import consumers from "node:stream/consumers";
import streams from "node:stream/promises";
import timers from "node:timers/promises";
import { promisify } from "node:util";
import zlib from "node:zlib";
import readline from "node:readline/promises";
import { patch, spawn } from "../../mod.ts";
import { test } from "../_random.ts";

/** What a call may use. */
interface Place {
  /** An empty directory. */
  dir: string;
  /** A server that answers with the method and the path. */
  url: string;
  port: number;
  /** Notes an event. */
  log(what: unknown): void;
}

type Call = (place: Place) => unknown;

/** The same call with several arguments each, some of which are mistakes. */
function each<A>(values: readonly A[], call: (value: A, at: Place) => unknown) {
  return values.map((value): Call => (place) => call(value, place));
}

const bytes = (text: string) => new TextEncoder().encode(text);
const NONE = "/no/such/file";

type OnPath = (path: unknown) => Promise<unknown>;

/** Writes a file to work with. */
function written(dir: string, text = "some text\nand more"): string {
  const path = `${dir}/file`;
  Deno.writeTextFileSync(path, text);
  return path;
}

const groups: Record<string, Call[]> = {
  "fetch and bodies": [
    ...each(["", "/a?b=1", "/status/404"], async (path, { url }) => {
      const response = await fetch(url + path);
      return [response.status, await response.text()];
    }),
    ...each(
      ["POST", "PUT", "DELETE", "PATCH", "bad method"],
      async (method, { url }) =>
        await (await fetch(url, { method, body: "body" })).text(),
    ),
    ...each(["nope:", "http://", 1 as never], (url) => fetch(url)),
    ({ url }) => fetch(url, { signal: AbortSignal.abort() }),
    ({ url }) => fetch(url, { signal: AbortSignal.abort("reason") }),
    ...each(
      ["text", "json", "bytes", "arrayBuffer", "blob", "formData"] as const,
      async (name) => Deno.inspect(await new Response("1")[name]()),
    ),
    ...each(["text", "bytes"] as const, async (name) => {
      const response = new Response("1");
      await response[name]();
      return await response[name]();
    }),
    ...each(
      ["text", "bytes", "arrayBuffer"] as const,
      async (name) => Deno.inspect(await new Blob(["abc"])[name]()),
    ),
    () => Response.prototype.text.call({} as never),
  ],
  "Deno.*": [
    ...each(
      ["stat", "lstat", "realPath", "readTextFile", "readFile"] as const,
      async (name, { dir }) => typeof await Deno[name](written(dir)),
    ),
    ...each(
      [
        "stat",
        "lstat",
        "realPath",
        "readTextFile",
        "readFile",
        "remove",
        "open",
        "readLink",
      ] as const,
      (name) => Deno[name](NONE),
    ),
    ...each([1, null, {}, "", "\0"], (path) => Deno.stat(path as never)),
    ...each(
      ["readDir", "chmod", "truncate", "mkdir", "rename"] as const,
      (name) => (Deno[name] as (path: string) => unknown)(NONE),
    ),
    async ({ dir }) => {
      const names: string[] = [];
      written(dir);
      for await (const { name } of Deno.readDir(dir)) names.push(name);
      return names;
    },
    async () => {
      for await (const _ of Deno.readDir(NONE));
    },
    ...each([0, 3, 100], async (size, { dir }) => {
      using file = await Deno.open(written(dir));
      const buffer = new Uint8Array(size);
      return [await file.read(buffer), [...buffer].slice(0, 5)];
    }),
    async ({ dir }) => {
      using file = await Deno.open(`${dir}/new`, { write: true, create: true });
      const count = await file.write(bytes("abc"));
      await file.seek(1, Deno.SeekMode.Start);
      await file.truncate(2);
      return [count, Deno.readTextFileSync(`${dir}/new`)];
    },
    ({ dir }) => Deno.mkdir(dir),
    ({ port }) =>
      Deno.connect({ port }).then(async (conn) => {
        await conn.write(bytes("GET / HTTP/1.0\r\n\r\n"));
        const buffer = new Uint8Array(8);
        await conn.read(buffer);
        conn.close();
        return [...buffer];
      }),
    ...each([1 << 20, -1], (port) => Deno.connect({ port })),
    () => Deno.connect({ hostname: "127.0.0.1", port: 1 }),
  ],
  "timers": [
    ...each(
      [0, 1, 2, "1", undefined, NaN, -5],
      (ms, { log }) =>
        new Promise((resolve) => {
          setTimeout(() => log("fired"), ms as number);
          setTimeout(resolve, 3, "value");
        }),
    ),
    ...each([undefined, "value"], (value) => timers.setTimeout(1, value)),
    () => timers.setTimeout(1, 1, null as never),
    () => timers.setTimeout(1, 1, { signal: AbortSignal.abort() }),
    () => timers.setTimeout("x" as never),
    () => timers.setImmediate("value"),
    () => timers.setImmediate(1, { signal: AbortSignal.abort() }),
    ({ log }) =>
      new Promise<void>((resolve) => {
        queueMicrotask(() => log("microtask"));
        setTimeout(() => log("timeout 1"), 1);
        setTimeout(() => log("timeout 2"), 1);
        Promise.resolve().then(() => log("then"));
        setTimeout(resolve, 4);
      }),
    async () => {
      let count = 0;
      for await (const value of timers.setInterval(1, "x")) {
        if (++count === 3) return value;
      }
    },
  ],
  "streams of the language": [
    ...each([0, 1, 2, 3], async (count, { log }) => {
      const stream = new ReadableStream({
        start(controller) {
          for (let i = 0; i < count; i++) controller.enqueue(i);
          controller.close();
        },
      });
      for await (const chunk of stream) log(chunk);
    }),
    async ({ log }) => {
      const { readable, writable } = new TransformStream();
      const writer = writable.getWriter();
      writer.write("a").then(() => log("written"));
      writer.close().then(() => log("closed"));
      const reader = readable.getReader();
      log(await reader.read());
      log(await reader.read());
    },
    () => ReadableStream.from([1, 2]).pipeTo(new WritableStream()),
    () =>
      ReadableStream.from([1, 2]).pipeTo(
        new WritableStream({ write: () => Promise.reject(new Error("full")) }),
      ),
    async () => {
      const stream = new ReadableStream();
      stream.getReader();
      await stream.cancel();
    },
    () => new ReadableStream().getReader().releaseLock(),
    async () => {
      const reader = new ReadableStream().getReader();
      reader.releaseLock();
      await reader.read();
    },
    () => ReadableStream.from(1 as never),
  ],
  "node:events": [
    ...each(["tick", Symbol.iterator], (name) => {
      const emitter = new EventEmitter();
      queueMicrotask(() => emitter.emit(name, 1, 2));
      return events.once(emitter, name);
    }),
    () => {
      const emitter = new EventEmitter();
      queueMicrotask(() => emitter.emit("error", new Error("bad")));
      return events.once(emitter, "tick");
    },
    () => {
      const emitter = new EventEmitter();
      queueMicrotask(() => emitter.emit("error", "value"));
      return events.once(emitter, "error");
    },
    ...each(
      [null, 1, {}, undefined],
      (emitter) => events.once(emitter as never, "tick"),
    ),
    ...each(
      [null, 1, "options", []],
      (options) => events.once(new EventEmitter(), "tick", options as never),
    ),
    ...each(
      [null, 1, { highWaterMark: 0 }],
      (options) => events.on(new EventEmitter(), "tick", options as never),
    ),
    () =>
      events.once(new EventEmitter(), "tick", { signal: AbortSignal.abort() }),
    ...each([1, 3], async (count, { log }) => {
      const emitter = new EventEmitter();
      queueMicrotask(() => {
        for (let i = 0; i < count; i++) emitter.emit("tick", i);
      });
      let left = count;
      for await (const values of events.on(emitter, "tick")) {
        log(values);
        if (--left === 0) break;
      }
      return emitter.eventNames();
    }),
    async ({ log }) => {
      const emitter = new EventEmitter();
      emitter.once("tick", function named() {
        log("listener");
      });
      emitter.on("removeListener", (name) => log(["removed", name]));
      emitter.once("error", function errorListener() {});
      emitter.emit("tick");
      emitter.removeAllListeners("error");
      return await Promise.resolve(emitter.eventNames());
    },
    ...each(
      [null, 1],
      (listener) => new EventEmitter().once("error", listener as never),
    ),
    ...each(
      [null, 1],
      (listener) =>
        new EventEmitter().removeListener("error", listener as never),
    ),
  ],
  "node:stream": [
    ...each(
      [[], ["a"], ["a", "b", "c"], ["", 1, {}]],
      async (chunks, { log }) => {
        const readable = Readable.from(chunks);
        readable.on("close", () => log("close"));
        for await (const chunk of readable) log(chunk);
        return readable.destroyed;
      },
    ),
    async ({ log }) => {
      const readable = Readable.from(["a", "b"]);
      for await (const chunk of readable) {
        log(chunk);
        break;
      }
      return readable.destroyed;
    },
    async () => {
      const readable = new Readable({
        read() {
          this.destroy(new Error("broken"));
        },
      });
      for await (const _ of readable);
    },
    ...each(
      ["text", "json", "buffer"] as const,
      async (name) => String(await consumers[name](Readable.from(["1", "2"]))),
    ),
    () => Readable.from([1, 2]).toArray(),
    () => Readable.from([1, 2]).map((one: number) => one * 2).toArray(),
    () => Readable.from([1, 2]).reduce((one, two) => one + two),
    async ({ log }) => {
      const sink = new Writable({
        objectMode: true,
        write(chunk, _encoding, done) {
          log(chunk);
          done();
        },
      });
      sink.on("finish", () => log("finish"));
      await streams.pipeline(
        Readable.from(["a", "b"]),
        new PassThrough({ objectMode: true }),
        sink,
      );
    },
    () =>
      streams.pipeline(["a"], async function (source) {
        let text = "";
        for await (const chunk of source) text += chunk;
        return await Promise.resolve(text);
      }),
    () =>
      streams.pipeline(
        new Readable({ read: () => {} }),
        new PassThrough(),
        { signal: AbortSignal.abort() },
      ),
    ...each(
      [[], [1], [null]],
      (args) =>
        streams.pipeline(...args as unknown as [PassThrough, PassThrough]),
    ),
    ...each([undefined, null, {}], (options) => {
      const readable = Readable.from([]).resume();
      return streams.finished(readable, options as never);
    }),
    () => streams.finished(1 as never),
  ],
  "node:fs": [
    ...each(
      ["stat", "lstat", "realpath", "readdir", "statfs"] as const,
      async (name, { dir }) => typeof await (files[name] as OnPath)(dir),
    ),
    ...each(
      [
        "stat",
        "lstat",
        "realpath",
        "readdir",
        "readlink",
        "rmdir",
        "unlink",
        "open",
        "opendir",
        "readFile",
        "truncate",
      ] as const,
      (name) => files[name](NONE),
    ),
    ...each(
      ["stat", "readFile", "open", "readdir"] as const,
      (name) => (files[name] as OnPath)({}),
    ),
    ...each(
      [undefined, "utf8", { encoding: "utf8" }, "bad"],
      (options, at) => files.readFile(written(at.dir), options as never),
    ),
    ({ dir }) => files.readFile(written(dir), { signal: AbortSignal.abort() }),
    async ({ dir }) => {
      const path = `${dir}/new`;
      await files.writeFile(path, "abc");
      await files.appendFile(path, "def");
      await files.copyFile(path, `${path}2`);
      await files.truncate(path, 2);
      await files.rename(path, `${path}3`);
      return [await files.readFile(`${path}2`, "utf8"), fs.readdirSync(dir)];
    },
    ...each([0, 4], async (position, { dir }) => {
      const handle = await files.open(written(dir), "r+");
      const { bytesRead, buffer } = await handle.read(
        new Uint8Array(4),
        0,
        4,
        position,
      );
      const { size } = await handle.stat();
      await handle.write("x");
      await handle.close();
      return [bytesRead, [...buffer], size];
    }),
    async ({ dir }) => {
      const handle = await files.open(written(dir));
      await handle.close();
      await handle.read(new Uint8Array(1), 0, 1);
    },
    ...each(
      ["stat", "readFile", "open", "readlink"] as const,
      (name) => (promisify(fs[name]) as (path: string) => unknown)(NONE),
    ),
    ({ dir }) =>
      (promisify(fs.readFile) as typeof files.readFile)(
        written(dir),
        "utf8",
      ),
    ({ dir, log }) =>
      new Promise<void>((resolve) => {
        fs.readFile(written(dir), "utf8", (error, text) => {
          log([error, text]);
          resolve();
        });
        log("called");
      }),
  ],
  "node:crypto and node:zlib": [
    ...each(
      [0, 8, -1, "x"],
      async (size) =>
        (await promisify(crypto.randomBytes)(size as number)).length,
    ),
    ...each(
      [8, -1],
      async (size) =>
        String(
          await promisify(crypto.scrypt)("password", "salt", size as number),
        ),
    ),
    ...each(["sha256", "bad"], async (digest) =>
      String(
        await promisify(crypto.pbkdf2)("password", "salt", 1, 8, digest),
      )),
    async () => {
      const generate = promisify(crypto.generateKeyPair);
      return Object.keys(await generate("ed25519"));
    },
    ...each(["SHA-256", "bad", 1], async (name) =>
      Deno.inspect(
        await globalThis.crypto.subtle.digest(name as string, bytes("a")),
      )),
    () => SubtleCrypto.prototype.digest.call({}, "SHA-256", bytes("a")),
    ...each(
      ["gzip", "deflate", "deflateRaw", "brotliCompress"] as const,
      async (name) => [...await promisify(zlib[name])("text")],
    ),
    ...each(
      ["gunzip", "inflate", "unzip"] as const,
      (name) => promisify(zlib[name])("bad data"),
    ),
    () => promisify(zlib.gzip)(1 as never),
    ({ log }) =>
      new Promise<void>((resolve) =>
        zlib.deflate("text", (error, result) => {
          log([error, [...result]]);
          resolve();
        })
      ),
  ],
  "node:dns, node:http, node:child_process, node:readline": [
    ...each(
      ["127.0.0.1", "::1"],
      (name) => dns.promises.lookup(name),
    ),
    ...each([1, {}, []], (name) => dns.promises.lookup(name as never)),
    () => dns.promises.resolve4(1 as never),
    () => promisify(dns.lookup)("127.0.0.1"),
    ...each(
      ["/", "/a"],
      ({ length }, { url, log }) =>
        new Promise<void>((resolve, reject) => {
          http.get(`${url}/${length}`, (response) => {
            response.setEncoding("utf8");
            response.on("data", log);
            response.on("end", resolve);
          }).on("error", reject);
        }),
    ),
    () => promisify(childProcess.execFile)("/no/such/program"),
    async () => {
      const input = new PassThrough();
      const lines = readline.createInterface({ input });
      const answer = lines.question("?");
      input.write("one\n");
      const got = [await answer];
      lines.close();
      return got;
    },
    async () => {
      const input = new PassThrough();
      const lines = readline.createInterface({ input });
      queueMicrotask(() => input.end("one\ntwo\n"));
      const got: string[] = [];
      for await (const line of lines) got.push(line);
      return got;
    },
    async () => {
      const lines = readline.createInterface({ input: new PassThrough() });
      try {
        await lines.question("?", { signal: AbortSignal.abort() });
      } finally {
        lines.close();
      }
    },
  ],
};

/** How a call has ended: the result or the error, and the order of what happened. */
async function outcome(call: Call, at: Omit<Place, "dir" | "log">) {
  const dir = Deno.makeTempDirSync();
  const events: unknown[] = [];
  let end: unknown[];
  try {
    const called = call({ ...at, dir, log: (what) => void events.push(what) });
    events.push(called instanceof Promise ? "a promise" : "no promise");
    const result = await called;
    end = ["gave", typeof result === "object" ? Deno.inspect(result) : result];
  } catch (error) {
    const { name, message, code } = error as Error & { code?: unknown };
    end = [
      "threw",
      (error as object)?.constructor?.name,
      name ?? error,
      message,
      code,
    ];
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
  return { end, events, text: Deno.inspect([end, events]).replaceAll(dir, "") };
}

for (const [name, calls] of Object.entries(groups)) {
  test(`patch() leaves ${name} as they are, in greenlets and outside`, async () => {
    await using server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => {
        const { pathname } = new URL(request.url);
        const status = Number(pathname.match(/status\/(\d+)/)?.[1] ?? 200);
        return new Response(`${request.method} ${pathname}`, { status });
      },
    );
    const { port } = server.addr;
    const at = { port, url: `http://127.0.0.1:${port}` };
    const differences: string[] = [];
    for (const [i, call] of calls.entries()) {
      const plain = await outcome(call, at);
      const inGreenlet = await spawn(() => outcome(call, at)).get();
      using _ = patch();
      const patched = await outcome(call, at);
      const both = await spawn(() => outcome(call, at)).get();
      for (
        const [how, { text }] of Object.entries({ inGreenlet, patched, both })
      ) {
        if (text === plain.text) continue;
        differences.push(`${i} ${call}: ${how} ${text}, plain ${plain.text}`);
      }
    }
    assertEquals(differences, []);
    assert(calls.length > 0);
  });
}

Deno.test("patch() is compared in 200 calls", () => {
  assertGreaterOrEqual(Object.values(groups).flat().length, 200);
});
