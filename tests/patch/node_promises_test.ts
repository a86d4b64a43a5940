import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import crypto from "node:crypto";
import dns from "node:dns";
import dnsPromises from "node:dns/promises";
import fs from "node:fs";
import files, {
  glob as globByName,
  readFile as readFileByName,
} from "node:fs/promises";
import { createRequire } from "node:module";
import readline from "node:readline";
import lines from "node:readline/promises";
import { PassThrough } from "node:stream";
import { promisify } from "node:util";
import zlib, { gunzipSync } from "node:zlib";
import { type Greenlet, GreenletExit, patch, sleep, spawn } from "../../mod.ts";
import { isSettled } from "../../_base/runtime.ts";
import { Failures, settle } from "../_bodies.ts";
import { test } from "../_random.ts";
import { when } from "../_waits.ts";
import { interruptInEveryWay } from "./_interrupted.ts";

const require = createRequire(import.meta.url);
const SELF = "tests/patch/node_promises_test.ts";

/** A pipe in the file system, whose readers wait until something is written. */
class Pipe implements Disposable {
  readonly path: string = `${Deno.makeTempDirSync()}/pipe`;

  constructor() {
    new Deno.Command("mkfifo", { args: [this.path] }).outputSync();
  }

  /** Opens both ends, so that what waits for either goes on. */
  open(): Deno.FsFile {
    return Deno.openSync(this.path, { read: true, write: true });
  }

  /** Opens it for a reader that was left, and waits until that has closed its end. */
  async letReaderEnd(): Promise<void> {
    using file = Deno.openSync(this.path, { write: true });
    await whenReaderEnds(file);
  }

  /** Opens it for a writer that was left, and waits until that has closed its end. */
  async letWriterEnd(): Promise<void> {
    using file = await Deno.open(this.path);
    await file.readable.pipeTo(new WritableStream());
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path.replace(/\/pipe$/, ""), { recursive: true });
  }
}

/** Writes into a pipe until its reader has closed its end. */
function whenReaderEnds(file: Deno.FsFile): Promise<void> {
  return when(() => {
    try {
      file.writeSync(new Uint8Array(1));
      return false;
    } catch {
      return true;
    }
  });
}

/** Kills a greenlet in a call; it has to end at once. */
async function killIn(call: () => PromiseLike<unknown>): Promise<void> {
  let cleaned = false;
  const greenlet = spawn(async () => {
    try {
      await call();
    } finally {
      await sleep(0);
      cleaned = true;
    }
  });
  await settle();
  await greenlet.kill(undefined, { grace: Infinity });
  assertInstanceOf(greenlet.value, GreenletExit);
  assert(cleaned);
}

test("functions of node:fs/promises end with their greenlet, and leave no file open", async () => {
  using _ = patch();
  using pipe = new Pipe();
  const { path } = pipe;
  for (
    const call of [
      () => files.open(path, "r"),
      () => files.readFile(path),
      () => files.readFile(path, "utf8"),
      () => promisify(fs.open)(path, "r"),
    ]
  ) {
    await killIn(call);
    // The runtime's thread goes on.
    await pipe.letReaderEnd();
  }
  for (
    const call of [
      () => files.writeFile(path, "data"),
      () => files.appendFile(path, "data"),
      () => fs.promises.open(path, "w"),
    ]
  ) {
    await killIn(call);
    await pipe.letWriterEnd();
  }
  await settle();
});

test("a method of a FileHandle ends with its greenlet", async () => {
  using _ = patch();
  using pipe = new Pipe();
  const other = pipe.open();
  const handle = await files.open(pipe.path, "r");
  const buffer = new Uint8Array(8);
  await killIn(() => handle.read(buffer));
  await killIn(() => handle.readv([buffer]));
  for (let i = 0; i < 2; i++) other.writeSync(new Uint8Array(8));
  // The runtime's reads go on, and what they get is for the next ones.
  for (let left = 16; left > 0;) left -= (await handle.read(buffer)).bytesRead;
  await handle.close();
  other.close();
});

test("a loop over glob() of node:fs/promises ends with its greenlet", async () => {
  using failures = new Failures();
  const folder = await Deno.makeTempDir();
  for (const name of ["one", "two"]) Deno.mkdirSync(`${folder}/${name}`);
  const patches = patch();
  for (const glob of [files.glob, fs.promises.glob, globByName]) {
    const found: string[] = [];
    const greenlet = spawn(async () => {
      // A loop that would never end.
      for (;;) {
        const paths = glob("*/../*", { cwd: folder });
        queueMicrotask(() => greenlet.kill(undefined, { block: false }));
        for await (const path of paths) found.push(path);
      }
    });
    await greenlet.join();
    assertInstanceOf(greenlet.value, GreenletExit);
    const all: string[] = await spawn(() =>
      Array.fromAsync(glob("*", { cwd: folder }))
    ).get();
    assertEquals(all.sort(), ["one", "two"]);
    assertEquals(found, []);
  }
  await settle();
  assertEquals(failures.errors, []);
  const paths = globByName("*", { cwd: folder });
  patches[Symbol.dispose]();
  assertEquals((await Array.fromAsync(paths)).sort(), ["one", "two"]);
  await Deno.remove(folder, { recursive: true });
});

test("readFile() of node:fs/promises that was imported by name ends with its greenlet", async () => {
  using _ = patch();
  using pipe = new Pipe();
  const greenlet = spawn(() => readFileByName(pipe.path));
  // It has opened the pipe now.
  const file = await Deno.open(pipe.path, { write: true });
  await settle();
  const killed = greenlet.kill(undefined, { grace: 0 });
  await killed;
  assertInstanceOf(greenlet.value, GreenletExit);
  // The runtime's read goes on.
  await whenReaderEnds(file);
  file.close();
  await settle();
});

test("functions that can't be taken back let go of a greenlet in every way", async () => {
  using _ = patch();
  const subtle = globalThis.crypto.subtle;
  const data = new Uint8Array(1 << 20);
  let waiting = 0;
  for (
    const call of [
      () => files.stat(SELF),
      () => files.readdir("."),
      () => files.realpath(SELF),
      () => dnsPromises.lookup("localhost"),
      () => dns.promises.lookup("localhost", { all: true }),
      () => subtle.digest("SHA-256", data),
      () =>
        subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt"]),
      () => promisify(crypto.scrypt)("password", "salt", 8),
      () => promisify(crypto.randomBytes)(8),
      () => promisify(crypto.generateKeyPair)("ed25519"),
      () => promisify(zlib.gzip)(data),
      () => promisify(zlib.brotliCompress)(data),
      () => promisify(dns.lookup)("localhost"),
      () => promisify(fs.stat)(SELF),
    ]
  ) {
    const error = new Error(String(call));
    const log: unknown[] = [];
    let isWaiting = false;
    const greenlet: Greenlet = spawn(async () => {
      try {
        const called = call();
        // In the call, and before anything else can happen
        queueMicrotask(() => {
          // Some end as soon as they begin.
          isWaiting = !isSettled(called);
          greenlet.throw(error);
        });
        await called;
        log.push("over");
      } finally {
        log.push("cleaned up");
        await sleep(0);
      }
    });
    greenlet.linkException(() => {});
    await greenlet.join();
    if (isWaiting) assertEquals(log, ["cleaned up"], String(call));
    waiting += Number(isWaiting);
    assertStrictEquals(greenlet.exception, error);
    // The one that goes on ends before this one does.
    await call();
    await settle();
  }
  assert(waiting > 5);
});

test("functions of Node's modules give in a greenlet what they give outside", async () => {
  using _ = patch();
  const scrypt = promisify(crypto.scrypt);
  const gzip = promisify(zlib.gzip);
  const calls: (() => Promise<unknown>)[] = [
    async () => (await files.readFile(SELF, "utf8")).length,
    async () => (await readFileByName(SELF)).length,
    async () => (await files.stat(SELF)).size,
    async () => [...await scrypt("password", "salt", 4) as Buffer],
    async () => String(gunzipSync(await gzip("text"))),
    async () => (await promisify(dns.lookup)("127.0.0.1")).address,
    () => dnsPromises.lookup("127.0.0.1"),
    async () => {
      const handle = await files.open(SELF);
      const { bytesRead } = await handle.read(new Uint8Array(4), 0, 4);
      await handle.close();
      return bytesRead;
    },
    () => files.stat("/no/such/file"),
    () => files.readFile("/no/such/file"),
    () => promisify(fs.readFile)("/no/such/file"),
    () => files.open(1 as never as string, 2 as never as string),
    () => scrypt("password", "salt", -1),
    () => gzip(1 as never),
  ];
  const outcome = async (call: () => Promise<unknown>) => {
    try {
      return [await call()];
    } catch (error) {
      const { name, message, code } = error as Error & { code?: string };
      return [name, message, code, error!.constructor.name];
    }
  };
  for (const call of calls) {
    const expected = await outcome(call);
    assertEquals(
      await spawn(() => outcome(call)).get(),
      expected,
      String(call),
    );
  }
});

test("question() of node:readline/promises ends with its greenlet, and loses no line", async () => {
  using _ = patch();
  const input = new PassThrough();
  const output = new PassThrough();
  const reader = lines.createInterface({ input, output });
  await interruptInEveryWay(() => () => reader.question("name? "));
  const greenlet = spawn(() => reader.question("name? "));
  await settle();
  input.write("rose\n");
  assertEquals(await greenlet.get(), "rose");
  reader.close();
});

test("for await over readline ends with its greenlet", async () => {
  using _ = patch();
  for (const { createInterface } of [readline, lines]) {
    await interruptInEveryWay(() => {
      const input = new PassThrough();
      const reader = createInterface({ input });
      input.write("rose\n");
      return async () => {
        try {
          for await (const line of reader) assertEquals(line, "rose");
        } finally {
          reader.close();
        }
      };
    });
  }
  const input = new PassThrough();
  const reader = readline.createInterface({ input });
  const got: string[] = [];
  const greenlet = spawn(async () => {
    for await (const line of reader) got.push(line);
  });
  await settle();
  input.end("one\ntwo\nthree");
  await greenlet.get();
  assertEquals(got, ["one", "two", "three"]);
});

/** The properties of a function that a program may look at. */
function keysOf(of: object): PropertyKey[] {
  return Reflect.ownKeys(of).filter((key) => key !== "prototype");
}

Deno.test("the functions of Node's modules are restored, and look the same meanwhile", () => {
  const objects: Record<string, object> = {
    fs,
    promises: fs.promises,
    files,
    dns,
    dnsPromises,
    resolver: dnsPromises.Resolver.prototype,
    crypto,
    subtle: SubtleCrypto.prototype,
    lines: lines.Interface.prototype,
    zlib,
    required: require("fs"),
  };
  const before = Object.entries(objects).map(([, object]) =>
    Object.getOwnPropertyDescriptors(object)
  );
  {
    using _ = patch();
    Object.values(objects).forEach((object, i) => {
      const now = Object.getOwnPropertyDescriptors(object);
      for (const [name, { value }] of Object.entries(before[i]!)) {
        if (typeof value !== "function") continue;
        const found = now[name]!.value;
        assertEquals([found.name, found.length], [value.name, value.length]);
        assertEquals(keysOf(found), keysOf(value));
      }
    });
    assert(files.stat !== before[2]!.stat!.value);
  }
  Object.values(objects).forEach((object, i) =>
    assertEquals(Object.getOwnPropertyDescriptors(object), before[i])
  );
});

test("the functions of Node's modules do not begin where an interrupt is due", async () => {
  using _ = patch();
  const due = new Error("Due");
  const path = "/no/such/directory/for/this";
  const greenlet: Greenlet = spawn(async () => {
    await Promise.resolve().then(() => greenlet.throw(due));
    assertStrictEquals(await assertRejects(() => files.mkdtemp(path)), due);
    await assertRejects(() => files.mkdtemp(path), Error, "ENOENT");
  }) as Greenlet;
  await greenlet.get();
});
