import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { Buffer } from "node:buffer";
import fs from "node:fs";
import files, { type FileHandle } from "node:fs/promises";
import { promisify } from "node:util";
import { patch, sleep, spawn, until } from "../../mod.ts";
import { type Body, Failures, settle } from "../_bodies.ts";
import { inVain, outcome, test } from "../_random.ts";
import { turns, when } from "../_waits.ts";

/** A file or a pipe, and its handle. */
class Opened implements AsyncDisposable {
  readonly path: string;
  readonly handle: FileHandle;
  /** The end of a pipe that is written to. */
  readonly end: Deno.FsFile | null;

  private constructor(
    path: string,
    handle: FileHandle,
    end: Deno.FsFile | null,
  ) {
    this.path = path;
    this.handle = handle;
    this.end = end;
  }

  static async file(text: string): Promise<Opened> {
    const path = await Deno.makeTempFile();
    await Deno.writeTextFile(path, text);
    return new this(path, await files.open(path, "r+"), null);
  }

  static async pipe(): Promise<Opened> {
    const path = `${await Deno.makeTempDir()}/pipe`;
    await new Deno.Command("mkfifo", { args: [path] }).output();
    const end = await Deno.open(path, { read: true, write: true });
    return new this(path, await files.open(path, "r"), end);
  }

  write(text: string): void {
    this.end!.writeSync(new TextEncoder().encode(text));
  }

  /** Lets a reader that was left end, and waits until it has closed the pipe. */
  async letReaderEnd(): Promise<void> {
    this.end!.close();
    using file = Deno.openSync(this.path, { write: true });
    await when(() => {
      try {
        file.writeSync(new Uint8Array(1));
        return false;
      } catch {
        return true;
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
    await Deno.remove(this.path);
  }
}

/** The ways to read a number of bytes: each gives the text. */
const reads: Record<
  string,
  (handle: FileHandle, count: number) => Promise<string>
> = {
  async "read(buffer)"(handle, count) {
    const buffer = new Uint8Array(count);
    const result = await handle.read(buffer);
    assert(result.buffer === buffer);
    return textOf(buffer, result.bytesRead);
  },
  async "read(buffer, offset, length, null)"(handle, count) {
    const buffer = Buffer.alloc(count + 3);
    const { bytesRead } = await handle.read(buffer, 2, count, null);
    assertEquals(buffer[0], 0);
    return textOf(buffer.subarray(2), bytesRead);
  },
  async "read(buffer, options)"(handle, count) {
    const buffer = Buffer.alloc(count + 3);
    const options = { offset: 1, length: count, position: -1 };
    const { bytesRead } = await handle.read(buffer, options);
    return textOf(buffer.subarray(1), bytesRead);
  },
  async "read(options)"(handle, count) {
    const { buffer, bytesRead } = await handle.read({ length: count });
    assertEquals(buffer.byteLength, 16 * 1024);
    return textOf(buffer, bytesRead);
  },
  async "readv()"(handle, count) {
    const one = new Uint8Array(1);
    const others = new Uint8Array(count - 1);
    const buffers = [one, others];
    const result = await handle.readv(buffers);
    assert(result.buffers === buffers);
    return textOf(Uint8Array.of(...one, ...others), result.bytesRead);
  },
};

/** The ways to read all of it. */
const wholes: Record<string, (handle: FileHandle) => Promise<string>> = {
  "readFile()": async (handle) => `${await handle.readFile()}`,
  'readFile("utf8")': (handle) => handle.readFile("utf8"),
  "readFile(options)": (handle) =>
    handle.readFile({ encoding: "utf8", signal: new AbortController().signal }),
  "createReadStream()": async (handle) =>
    Buffer.concat(
      await handle.createReadStream({ autoClose: false }).toArray(),
    ).toString(),
  "readLines()": async (handle) => {
    let text = "";
    for await (const line of handle.readLines({ autoClose: false })) {
      text += line;
    }
    return text;
  },
  "readableWebStream()": (handle) =>
    new Response(handle.readableWebStream() as ReadableStream).text(),
};

function textOf(buffer: Uint8Array, count: number): string {
  return new TextDecoder().decode(buffer.subarray(0, count));
}

const TEXT = "0123456789abcdefghijklmnopqrstuvwxyz";

for (const [name, read] of Object.entries(reads)) {
  test(`FileHandle.${name} that is interrupted loses no byte of a file`, async () => {
    using _ = patch();
    await using opened = await Opened.file(TEXT);
    const { handle } = opened;
    await inVain(() => read(handle, 5));
    assertEquals(await spawn(() => read(handle, 3)).get(), "012");
    // Several, while none is over
    await inVain(async () => {
      const first = read(handle, 4);
      await Promise.all([first, read(handle, 2)]);
    });
    // As many as it asks for, where the file has them
    assertEquals(await read(handle, 10), "3456789abc");
    await inVain(() => read(handle, 4));
    assertEquals(await spawn(() => read(handle, 1000)).get(), TEXT.slice(13));
    assertEquals(await spawn(() => read(handle, 10)).get(), "");
  });

  test(`FileHandle.${name} that is interrupted loses no byte of a pipe`, async () => {
    using _ = patch();
    await using opened = await Opened.pipe();
    const { handle } = opened;
    await inVain(() => read(handle, 5));
    opened.write("0123456");
    assertEquals(await read(handle, 3), "012");
    assertEquals(await spawn(() => read(handle, 30)).get(), "34");
    assertEquals(await spawn(() => read(handle, 30)).get(), "56");
    opened.end!.close();
    assertEquals(await read(handle, 30), "");
  });
}

for (const [name, whole] of Object.entries(wholes)) {
  test(`FileHandle.${name} gives the bytes of an interrupted read`, async () => {
    for (const inGreenlet of [true, false]) {
      using _ = patch();
      await using opened = await Opened.file(TEXT);
      const { handle } = opened;
      await inVain(() => handle.read(new Uint8Array(5)));
      const all = () => whole(handle);
      assertEquals(await (inGreenlet ? spawn(all).get() : all()), TEXT);
    }
  });
}

test("FileHandle.readFile() that is interrupted loses no byte", async () => {
  using _ = patch();
  const long = TEXT.repeat(5000);
  await using opened = await Opened.file(long);
  const { handle } = opened;
  await inVain(() => handle.readFile());
  assertEquals(await reads["read(buffer)"]!(handle, 10), "0123456789");
  const rest: string = await spawn(() => handle.readFile("utf8")).get();
  assertEquals(rest.length, long.length - 10);
  assertEquals(rest, long.slice(10));
  assertEquals(await spawn(() => handle.readFile("utf8")).get(), "");
});

test("FileHandle.readFile() of a pipe that is interrupted keeps what has come", async () => {
  using _ = patch();
  await using opened = await Opened.pipe();
  const { handle } = opened;
  const greenlet = spawn(() => handle.readFile("utf8"));
  await settle();
  opened.write("0123");
  await when(() => fs.fstatSync(handle.fd).isFIFO());
  await settle();
  await greenlet.kill(undefined, { grace: Infinity });
  opened.write("4567");
  assertEquals(await reads["read(buffer)"]!(handle, 2), "01");
  const rest = spawn(() => handle.readFile("utf8"));
  await settle();
  opened.end!.close();
  assertEquals(await rest.get(), "234567");
});

test("FileHandle.readFile() ends when its signal is aborted", async () => {
  using _ = patch();
  await using opened = await Opened.pipe();
  const { handle } = opened;
  const abort = new AbortController();
  const greenlet = spawn(() => handle.readFile({ signal: abort.signal }));
  greenlet.linkException(() => {});
  await settle();
  abort.abort("reason");
  await greenlet.join();
  const { name, code, cause } = greenlet.exception as Error & { code: string };
  assertEquals([name, code, cause], ["AbortError", "ABORT_ERR", "reason"]);
  opened.write("text");
  assertEquals(await reads["read(buffer)"]!(handle, 9), "text");
  opened.end!.close();
});

test("FileHandle.read() that is interrupted does not write to its buffer, in both kinds of body", async () => {
  using _ = patch();
  const buffer = new Uint8Array(5);
  const bodies = {
    async: (handle: FileHandle) => async () => {
      await handle.read(buffer);
    },
    generator: (handle: FileHandle) =>
      function* () {
        yield* until(handle.read(buffer));
      },
  };
  for (const bodyOf of Object.values(bodies)) {
    await using opened = await Opened.pipe();
    const greenlet = spawn(bodyOf(opened.handle) as Body<[], void>);
    await settle();
    await greenlet.kill(undefined, { grace: Infinity });
    opened.write("0123");
    assertEquals(await reads["readv()"]!(opened.handle, 4), "0123");
    assertEquals(buffer, new Uint8Array(5));
    opened.end!.close();
  }
});

test("FileHandle.read() with a position neither moves the file nor takes kept bytes", async () => {
  using _ = patch();
  await using opened = await Opened.file(TEXT);
  const { handle } = opened;
  const buffer = new Uint8Array(3);
  await inVain(() => handle.read(buffer, 0, 3, 10));
  await inVain(() => handle.read(new Uint8Array(2)));
  await spawn(() => handle.read(buffer, 0, 3, 20)).get();
  assertEquals(textOf(buffer, 3), TEXT.slice(20, 23));
  await handle.readv([buffer], 7);
  assertEquals(textOf(buffer, 3), "789");
  assertEquals(await reads["read(buffer)"]!(handle, 5), "01234");
});

test("FileHandle.close() waits for no read that was interrupted", async () => {
  using failures = new Failures();
  {
    using _ = patch();
    for (const name of ["close", Symbol.asyncDispose] as const) {
      const opened = await Opened.pipe();
      const { handle } = opened;
      const greenlet = spawn(async () => {
        try {
          await handle.read(new Uint8Array(5));
        } finally {
          await handle[name]();
          await sleep(0);
        }
      });
      await settle();
      await greenlet.kill(undefined, { grace: Infinity });
      assertEquals(handle.fd, -1);
      await opened.letReaderEnd();
      await Deno.remove(opened.path);
    }
    // One whose read is taken over waits for it, as outside.
    await using opened = await Opened.pipe();
    const { handle } = opened;
    await inVain(() => handle.read(new Uint8Array(5)));
    const read = spawn(() => reads["read(buffer)"]!(handle, 9));
    await settle();
    const closed = handle.close();
    await settle();
    assert(handle.fd >= 0);
    opened.write("text");
    assertEquals(await read.get(), "text");
    await closed;
    opened.end!.close();
  }
  await settle();
  assertEquals(failures.errors, []);
});

test("FileHandle.close() drops what was kept, and later reads fail as outside", async () => {
  const plain = await Opened.file(TEXT);
  await plain.handle.close();
  const wanted = await outcome(() => plain.handle.read(new Uint8Array(5)));
  await Deno.remove(plain.path);
  using _ = patch();
  await using opened = await Opened.file(TEXT);
  const { handle } = opened;
  await inVain(() => handle.read(new Uint8Array(5)));
  await handle.close();
  const read = () => outcome(() => handle.read(new Uint8Array(5)));
  assertEquals(await read(), wanted);
  assertEquals(await spawn(read).get(), wanted);
});

test("FileHandle.read() gives kept bytes after patch() is undone", async () => {
  const patches = patch();
  await using opened = await Opened.file(TEXT);
  const { handle } = opened;
  await inVain(() => handle.read(new Uint8Array(5)));
  patches[Symbol.dispose]();
  assertEquals(await reads["read(buffer)"]!(handle, 7), "0123456");
  assertEquals(await reads["readv()"]!(handle, 7), TEXT.slice(7, 14));
});

test("FileHandle methods that read do in a greenlet what they do outside", async () => {
  const buffer = new Uint8Array(8);
  const calls: ((handle: FileHandle) => unknown)[] = [
    (handle) => handle.read(buffer, 0, 0),
    (handle) => handle.read(buffer, 9, 1),
    (handle) => handle.read(buffer, 0, 9),
    (handle) => handle.read(buffer, -1, 2),
    (handle) => handle.read(buffer, 1.5, 2),
    (handle) => handle.read(buffer, 0, 2, -2),
    (handle) => handle.read(buffer, 0, 2, "no" as unknown as number),
    (handle) => handle.read(new Uint8Array(0)),
    (handle) => handle.read(1 as unknown as Uint8Array),
    (handle) => handle.read({ buffer: 1 as unknown as Uint8Array }),
    (handle) => handle.read({ buffer, offset: 2, length: 3 }),
    (handle) => handle.read({ buffer, position: 3 }),
    (handle) => handle.readv([]),
    (handle) => handle.readv(1 as unknown as []),
    (handle) => handle.readv([1 as unknown as Uint8Array]),
    (handle) => handle.readv([new Uint16Array(2), new DataView(buffer.buffer)]),
    (handle) => handle.readFile("no" as "utf8"),
    (handle) => handle.readFile({ encoding: null }),
    (handle) => handle.readFile({ signal: AbortSignal.abort("reason") }),
    (handle) => handle.readFile({ signal: 1 as unknown as AbortSignal }),
    (handle) => handle.readFile(1 as unknown as "utf8"),
    (handle) => Reflect.apply(handle.read, undefined, [buffer]),
    (handle) => Reflect.apply(handle.readFile, {}, []),
  ];
  const all = async () => {
    const outcomes: unknown[] = [];
    for (const call of calls) {
      await using opened = await Opened.file(TEXT);
      const { path } = opened;
      buffer.fill(0);
      const result = await outcome(() => call(opened.handle));
      outcomes.push(
        JSON.stringify([String(call), result]).replaceAll(path, ""),
        await outcome(() => reads["read(buffer)"]!(opened.handle, 3)),
      );
    }
    return outcomes;
  };
  const plain = await all();
  using _ = patch();
  assertEquals(await spawn(all).get(), plain);
});

test("FileHandle.read() reads as much of a file at once as outside", async () => {
  using _ = patch();
  const long = TEXT.repeat(10_000);
  await using opened = await Opened.file(long);
  const { handle } = opened;
  const read = reads["read(buffer)"]!;
  const half = long.length / 2;
  await inVain(() => read(handle, half));
  assertEquals(await spawn(() => read(handle, half)).get(), long.slice(half));
  const rest: string = await spawn(() => read(handle, long.length)).get();
  assertEquals(rest.length, half);
});

test("promisify(read) of node:fs loses no byte of a file", async () => {
  using _ = patch();
  await using opened = await Opened.file(TEXT);
  const { fd } = opened.handle;
  const buffer = new Uint8Array(5);
  const calls: ((fd: number) => Promise<unknown>)[] = [
    (fd) => promisify(fs.read)(fd, buffer, 0, 5, null),
    (fd) => promisify(fs.readv)(fd, [buffer]),
    (fd) => promisify(fs.read)(fd, { buffer }),
  ];
  let at = 0;
  for (const call of calls) {
    const greenlet = spawn(async () => {
      const called = call(fd);
      queueMicrotask(() => greenlet.kill(undefined, { block: false }));
      await called;
      assertEquals(textOf(buffer, 5), TEXT.slice(at, at + 5));
      at += 5;
      await sleep(0);
    });
    await greenlet.join();
    assertInstanceOf(greenlet.value, Error);
    await turns(2);
  }
  assertEquals(at, 15);
  // One that is due has begun nothing.
  const { promise, resolve } = Promise.withResolvers<void>();
  const due = spawn(async () => {
    await promise;
    await calls[0]!(fd);
  });
  await settle();
  resolve();
  await due.kill();
  await turns(2);
  assertEquals(await reads["readv()"]!(opened.handle, 4), TEXT.slice(15, 19));
});

test("readFile() of node:fs/promises gives the bytes of an interrupted read", async () => {
  using _ = patch();
  await using opened = await Opened.file(TEXT);
  const { handle } = opened;
  await inVain(() => handle.read(new Uint8Array(5)));
  await inVain(() => files.readFile(handle, "utf8"));
  assertEquals(await files.readFile(handle, "utf8"), TEXT);
});
