import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
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
import { Failures, runScript, settle, testBoth } from "../_bodies.ts";
import { inParallel } from "../_processes.ts";
import { inVain, outcome, test, testRandomly, tick } from "../_random.ts";
import {
  Gate,
  Interrupts,
  Operations,
  PATIENCE,
  turns,
  when,
} from "../_waits.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

const { Start, Current, End } = Deno.SeekMode;

/** Longer than any test. */
const LONG = 100_000_000;

/** A directory of the test's own. */
class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "gevent_fs_" });

  /** The path of a file that has this text. */
  file(text = "0123456789abcdefghij", name = "file"): string {
    const path = this.at(name);
    Deno.writeTextFileSync(path, text);
    return path;
  }

  open(text?: string, name?: string): Deno.FsFile {
    return Deno.openSync(this.file(text, name), { read: true, write: true });
  }

  at(name: string): string {
    return `${this.path}/${name}`;
  }

  fifo(name = "fifo"): string {
    const path = this.at(name);
    const { success } = new Deno.Command("mkfifo", { args: [path] })
      .outputSync();
    assert(success);
    return path;
  }

  get names(): string[] {
    return [...Deno.readDirSync(this.path)].map(({ name }) => name).sort();
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/**
 * The number of files that the process has opened, as another process sees it; 0 where none
 * can.
 */
function countOpen(): number {
  if (Deno.build.os !== "linux") return 0;
  // Deno itself refuses to look there without all permissions.
  const { stdout } = new Deno.Command("ls", { args: [`/proc/${Deno.pid}/fd`] })
    .outputSync();
  return decoder.decode(stdout).split("\n").length;
}

/** Checks that nothing was left open; what was begun may have to end first. */
async function assertOpen(expected: number): Promise<void> {
  let count = countOpen();
  const end = performance.now() + PATIENCE / 2;
  while (count > expected && performance.now() < end) {
    await tick(5);
    count = countOpen();
  }
  assert(count <= expected, `${count} are open, and not ${expected}`);
}

/** By what the runtime reads directories. */
const generators: object = Object.getPrototypeOf(
  (async function* () {}).prototype,
);

/** Watches reads of files and pipes. */
function watchReads(): Operations {
  return new Operations(Deno.FsFile.prototype, "read");
}

/** Watches reads of directories. */
function watchListings(): Operations {
  return new Operations(generators, "next", "return");
}

/** Watches waits for events of files. */
function watchEvents(folder: Folder): Operations {
  using watcher = watch(folder.path);
  return new Operations(Object.getPrototypeOf(watcher), "next");
}

/** Waits until all is over that is under way in a file. */
async function over(file: Deno.FsFile): Promise<void> {
  await file.stat();
  await settle();
}

/** As a rule there are no pipes with names on Windows. */
const hasFifos = Deno.build.os !== "windows";

async function readText(
  file: { read(buffer: Uint8Array): Promise<number | null> },
  most = 100,
): Promise<string | null> {
  const buffer = new Uint8Array(most);
  const count = await file.read(buffer);
  return count === null ? null : decoder.decode(buffer.subarray(0, count));
}

function readTextSync(
  file: { readSync(buffer: Uint8Array): number | null },
  most = 100,
): string | null {
  const buffer = new Uint8Array(most);
  const count = file.readSync(buffer);
  return count === null ? null : decoder.decode(buffer.subarray(0, count));
}

/** The same when a read that was interrupted is over. */
async function readTextSyncSoon(
  file: Deno.FsFile,
  most?: number,
): Promise<string | null> {
  for (;;) {
    try {
      return readTextSync(file, most);
    } catch (error) {
      if (!(error instanceof Deno.errors.Busy)) throw error;
      await tick(1);
    }
  }
}

/**
 * A file whose asynchronous operations stand still until it is let go: the first of them
 * waits for a lock that another process holds.
 */
class Stuck implements AsyncDisposable {
  readonly file: Deno.FsFile;
  readonly #other: Deno.FsFile;
  readonly #locked: Promise<void>;

  constructor(folder: Folder, text?: string, name?: string) {
    this.file = folder.open(text, name);
    this.#other = folder.open(text, name);
    this.#other.lockSync(true);
    this.#locked = this.file.lock(true);
  }

  async letGo(): Promise<void> {
    this.#other[Symbol.dispose]();
    await this.#locked;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.letGo();
    this.file[Symbol.dispose]();
  }
}

/**
 * Runs something that is interrupted at some moment, in one of the ways there are, or now and
 * then not at all; waits until that is over.
 *
 * @returns What it has given, or `null`.
 */
async function killSometime<T>(
  next: () => number,
  run: () => Promise<T>,
  interrupts?: Interrupts,
): Promise<{ value: T } | null> {
  let result: { value: T } | null = null;
  // A call whose peer waits for interrupts is interrupted nearly always.
  const patient = interrupts === undefined ? 0.6 : 0.42;
  const ended = Promise.withResolvers<void>();
  let begun = false;
  const whole = async () => {
    begun = true;
    try {
      const value = await run();
      result = { value };
    } finally {
      ended.resolve();
    }
  };
  const limited = () => withTimeout(next() * 0.6, whole, { value: undefined });
  const kind = next();
  if (kind < 0.15) {
    await limited();
  } else if (kind < 0.3) {
    await spawn(limited).get();
  } else if (kind < 0.4) {
    await spawn(async () => {
      using timeout = Timeout.start(next() * 0.6);
      try {
        await whole();
      } catch (error) {
        if (error !== timeout) throw error;
      }
    }).get();
  } else if (kind < patient) {
    await (interrupts?.patiently(whole) ?? whole());
  } else {
    const greenlet = spawn(
      kind < 0.8 ? whole : (function* () {
        yield* until(whole());
      }) as unknown as () => Promise<void>,
    ) as Greenlet;
    await someTime(next);
    await greenlet.kill(undefined, { grace: next() < 0.5 ? 0 : LONG });
    if (greenlet.exception !== undefined) throw greenlet.exception;
  }
  // It may have been stopped before its first line.
  if (begun) await ended.promise;
  if (result === null) interrupts?.note();
  return result;
}

/** From a few microtasks to a few turns of the event loop. */
async function someTime(next: () => number): Promise<void> {
  if (next() < 0.6) await turns(Math.floor(next() ** 2 * 80));
  if (next() < 0.5) {
    // Something has ended meanwhile, and its greenlet is about to hear of it.
    const end = performance.now() + next() * 0.2;
    while (performance.now() < end);
  }
  const microturns = Math.floor(next() * 10);
  for (let n = 0; n < microturns; n++) await Promise.resolve();
}

test("FsFile.read() that is interrupted leaves the position where it was", async () => {
  using _ = patch();
  using folder = new Folder();
  using file = folder.open();
  assertEquals(await readText(file, 2), "01");
  const buffer = new Uint8Array(5);
  for (
    const [name, next] of Object.entries({
      "read": async () => assertEquals(await readText(file, 3), "234"),
      "read in a greenlet": async () =>
        assertEquals(await spawn(readText, file, 3).get(), "234"),
      "seek": async () => assertEquals(await file.seek(0, Current), 2),
      "seek in a greenlet": async () =>
        assertEquals(await spawn(() => file.seek(0, Current)).get(), 2),
      "write": async () => {
        await file.write(encoder.encode("23"));
        assertEquals(file.seekSync(0, Current), 4);
      },
      "write in a greenlet": async () => {
        await spawn(() => file.write(encoder.encode("23"))).get();
        assertEquals(await spawn(() => file.seek(0, Current)).get(), 4);
      },
      "stat, then seekSync": async () => {
        assertEquals((await file.stat()).size, 20);
        await settle();
        assertEquals(file.seekSync(0, Current), 2);
      },
      "readable": async () => {
        using other = folder.open();
        await other.seek(2, Start);
        await inVain(() => other.read(buffer));
        const text = await new Response(other.readable).text();
        assertEquals(text, "23456789abcdefghij");
      },
    })
  ) {
    await inVain(() => file.read(buffer));
    await next();
    assert(buffer.every((byte) => byte === 0), name);
    await file.seek(2, Start);
  }
  assertEquals(
    Deno.readTextFileSync(folder.at("file")),
    "0123456789abcdefghij",
  );
});

test("FsFile after an interrupted read runs later operations in their order", async () => {
  using _ = patch();
  using folder = new Folder();
  await using stuck = new Stuck(folder);
  const { file } = stuck;
  await inVain(() => file.read(new Uint8Array(5)));
  let done = 0;
  const all: Promise<unknown>[] = [];
  for (
    const call of [
      () => file.write(encoder.encode("XYZ")),
      () => inside(() => readText(file, 2)),
      () => inside(() => file.write(encoder.encode("!"))),
      () => file.seek(2, Current),
      () => readText(file, 3),
    ] as (() => Promise<unknown>)[]
  ) {
    all.push(call().finally(() => done++));
    await turns();
  }
  await inVain(() => file.read(new Uint8Array(7)));
  const last = spawn(readText, file, 1);
  await settle();
  assertEquals(done, 0);
  await stuck.letGo();
  assertEquals(await Promise.all(all), [3, "34", 1, 8, "89a"]);
  assertEquals(await last.get(), "b");
  assertEquals(
    Deno.readTextFileSync(folder.at("file")),
    "XYZ34!6789abcdefghij",
  );
});

test("FsFile while an interrupted read is under way refuses calls that can't wait", async () => {
  using _ = patch();
  using folder = new Folder();
  await using stuck = new Stuck(folder);
  const { file } = stuck;
  const bytes = () => new Uint8Array(2);
  const reading = spawn(() => file.read(bytes()));
  await sleep(0);
  // No greenlet is interrupted: the runtime does it, as before.
  assertEquals(file.seekSync(0, Current), 0);
  await reading.kill();
  for (
    const call of [
      () => file.readSync(bytes()),
      () => file.writeSync(bytes()),
      () => file.seekSync(0, Start),
      () => file.writable,
    ]
  ) assertThrows(call, Deno.errors.Busy, "interrupted");
  // These don't depend on the position.
  file.statSync();
  file.syncSync();
  file.syncDataSync();
  file.utimeSync(0, 0);
  const next = file.seek(1, Current);
  await stuck.letGo();
  assertEquals(await next, 1);
  assertEquals(readTextSync(file, 3), "123");
  assertEquals(file.writeSync(encoder.encode("-")), 1);
  assertEquals(file.seekSync(0, Current), 5);
  assertInstanceOf(file.writable, WritableStream);
});

test("FsFile.read() that fails when it is interrupted fails no other call", async () => {
  using _ = patch();
  using folder = new Folder();
  using file = Deno.openSync(folder.file(), { write: true });
  const read = () => file.read(new Uint8Array(5));
  await inVain(read);
  assertEquals(await file.seek(3, Current), 3);
  await inVain(read);
  assertEquals(await inside(() => file.write(encoder.encode("ab"))), 2);
  assertEquals(file.seekSync(0, Current), 5);
  await assertRejects(() => inside(read), Error);
});

test("FsFile.read() that is interrupted while it waits for its turn has begun nothing", async () => {
  using _ = patch();
  using folder = new Folder();
  await using stuck = new Stuck(folder);
  const { file } = stuck;
  const first = spawn(readText, file, 2);
  const others = [1, 2, 3].map(() => spawn(readText, file, 4));
  const seeking = spawn(() => file.seek(3, Current));
  await sleep(0);
  await others[1]!.kill();
  await seeking.kill();
  await stuck.letGo();
  assertEquals(await first.get(), "01");
  assertEquals(await others[0]!.get(), "2345");
  assertEquals(await others[2]!.get(), "6789");
  assertEquals(file.seekSync(0, Current), 10);
});

testBoth(
  "FsFile.read() keeps the bytes that were read before the interrupt",
  {
    async: async (file: Deno.FsFile) => {
      const buffer = new Uint8Array(10);
      const count = await file.read(buffer);
      return decoder.decode(buffer.subarray(0, count!));
    },
    *generator(file: Deno.FsFile) {
      const buffer = new Uint8Array(10);
      const count = yield* until(file.read(buffer));
      return decoder.decode(buffer.subarray(0, count!));
    },
  },
  async (body) => {
    using _ = patch();
    using folder = new Folder();
    let before = 0;
    let after = 0;
    for (let i = 0; i < 60; i++) {
      using file = folder.open("text");
      const greenlet = spawn(body, file);
      await turns(i);
      for (let n = 0; n < i % 12; n++) await Promise.resolve();
      await greenlet.kill();
      const interrupted = greenlet.value as unknown instanceof GreenletExit;
      if (interrupted) before++;
      else after++;
      const text = interrupted ? await readText(file) : greenlet.value;
      assertEquals(text, "text", `after ${i} turns`);
      assertEquals(await readText(file), null);
    }
    assertGreaterOrEqual(before + after, 60);
  },
);

test("FsFile.read() into a buffer that was transferred meanwhile takes no byte", async () => {
  using _ = patch();
  using folder = new Folder();
  using file = folder.open();
  const buffer = new Uint8Array(10);
  const greenlet = spawn(async () => {
    const promise = file.read(buffer);
    buffer.buffer.transfer();
    return await promise;
  });
  assertEquals(await greenlet.get(), 0);
  assertEquals(await readText(file, 3), "012");
});

test("FsFile.read() reads as much at once as outside", async () => {
  using _ = patch();
  using folder = new Folder();
  const size = 1_000_000;
  const bytes = Uint8Array.from({ length: size }, (_, i) => i * 7 >> 3);
  Deno.writeFileSync(folder.at("file"), bytes);
  using file = Deno.openSync(folder.at("file"));
  const buffer = new Uint8Array(size + 10);
  const view = buffer.subarray(4, size + 4);
  await inVain(() => file.read(view));
  assertEquals(await spawn(() => file.read(view)).get(), size);
  assert(view.every((byte, i) => byte === bytes[i]));
  assertEquals([...buffer.subarray(0, 4)], [0, 0, 0, 0]);
  assertEquals([...buffer.subarray(-6)], [0, 0, 0, 0, 0, 0]);
  assertEquals(await spawn(() => file.read(view)).get(), null);
});

test("FsFile.read() throws an error that was held, and takes no byte", async () => {
  using _ = patch();
  using folder = new Folder();
  using file = folder.open();
  const { promise, resolve } = Promise.withResolvers<void>();
  const held = new Error("held");
  const calls = [
    () => file.read(new Uint8Array(10)),
    () => file.write(encoder.encode("no")),
    () => file.seek(5, Start),
    () => file.lock(true),
    () => Deno.mkdir(folder.at("no")),
    () => Deno.readTextFile(folder.at("file")),
    () => Deno.writeTextFile(folder.at("no"), "no"),
    () => Deno.makeTempFile({ dir: folder.path }),
    () => Deno.open(folder.at("no"), { write: true, create: true }),
    () => Deno.readDir(folder.path)[Symbol.asyncIterator]().next(),
  ];
  for (const call of calls) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      await promise;
      return await Promise.resolve(call()).catch((error) => error);
    });
    await sleep(0);
    greenlet.throw(held);
    resolve();
    assertStrictEquals(await greenlet.get(), held, String(call));
  }
  resolve();
  await promise;
  assertEquals(file.seekSync(0, Current), 0);
  assertEquals(folder.names, ["file"]);
  assertEquals(
    Deno.readTextFileSync(folder.at("file")),
    "0123456789abcdefghij",
  );
  using other = folder.open();
  assert(other.tryLockSync(true));
});

test("FsFile.close() while an interrupted read is under way is as outside", async () => {
  using underway = watchReads();
  using _ = patch();
  using folder = new Folder();
  for (const method of ["close", Symbol.dispose] as const) {
    const file = folder.open();
    await inVain(() => file.read(new Uint8Array(5)));
    file[method]();
    await assertRejects(() => readText(file), Deno.errors.BadResource);
    const inside = spawn(() => readText(file).catch((error) => error));
    assertInstanceOf(await inside.get(), Deno.errors.BadResource);
    assertThrows(() => file.seekSync(0, Current), Deno.errors.BadResource);
    assertThrows(() => file.close(), Deno.errors.BadResource);
    file[Symbol.dispose]();
    await underway.over();
  }
});

test("FsFile.close() ends pending operations as it does unpatched", async () => {
  const look = async (wrap: typeof outside) => {
    using folder = new Folder();
    await using stuck = new Stuck(folder);
    const { file } = stuck;
    const calls = [
      () => file.write(encoder.encode("AB")),
      () => readText(file, 4),
      () => readText(file, 4),
    ];
    const results = calls.map((call) => wrap(() => outcome(call)));
    await settle();
    file.close();
    results.push(
      outcome(() => readText(file)),
      wrap(() => outcome(() => readText(file))),
    );
    await stuck.letGo();
    const all = await Promise.all(results);
    return [all, Deno.readTextFileSync(folder.at("file"))];
  };
  const unpatched = await look(outside);
  using _ = patch();
  assertEquals(await look(outside), unpatched);
  assertEquals(await look(inside), unpatched);
});

function outside<T>(run: () => Promise<T>): Promise<T> {
  return run();
}

function inside<T>(run: () => Promise<T>): Promise<T> {
  return spawn(run).get();
}

test("FsFile.readable is the runtime's own where nothing is kept, and always the same", async () => {
  using _ = patch();
  using folder = new Folder();
  {
    using file = folder.open();
    await inside(() => readText(file, 2));
    const { readable } = file;
    assertStrictEquals(
      await inside(() => Promise.resolve(file.readable)),
      readable,
    );
    await inVain(() => file.read(new Uint8Array(2)));
    assertStrictEquals(file.readable, readable);
    await over(file);
    assertEquals(await new Response(readable).text(), "23456789abcdefghij");
  }
  {
    using file = folder.open();
    await inVain(() => file.read(new Uint8Array(2)));
    const { readable } = file;
    assertStrictEquals(file.readable, readable);
    assertStrictEquals(
      Object.getPrototypeOf(readable),
      ReadableStream.prototype,
    );
    const reader = readable.getReader({ mode: "byob" });
    const { value } = await reader.read(new Uint16Array(2));
    assertEquals(decoder.decode(value), "0123");
    await reader.cancel();
    assertThrows(() => file.statSync(), Deno.errors.BadResource);
  }
});

if (hasFifos) {
  test("FsFile.read() of a pipe loses nothing when it is interrupted", async () => {
    using _ = patch();
    using folder = new Folder();
    using file = Deno.openSync(folder.fifo(), { read: true, write: true });
    const write = (text: string) => file.writeSync(encoder.encode(text));
    const buffer = new Uint8Array(5);
    await inVain(() => file.read(buffer));
    assertThrows(
      () => file.readSync(buffer),
      Deno.errors.Busy,
      "interrupted",
    );
    write("abcdefgh");
    // As much as was asked for.
    assertEquals(await readTextSyncSoon(file, 2), "ab");
    assertEquals(await inside(() => readText(file, 1)), "c");
    assertEquals(await readText(file), "de");
    assertEquals(await readText(file), "fgh");
    await inVain(() => file.read(buffer));
    // The interrupted call is still under way when this one begins.
    const next = readText(file);
    write("ij");
    assertEquals(await next, "ij");
    await inVain(() => file.read(buffer));
    write("klmnop");
    const stream = file.readable.pipeThrough(new TextDecoderStream());
    const reader = stream.getReader();
    assertEquals((await reader.read()).value, "klmno");
    assertEquals((await reader.read()).value, "p");
    assert(buffer.every((byte) => byte === 0));
    const last = reader.read();
    write("qr");
    assertEquals((await last).value, "qr");
    await reader.cancel();
  });

  test("FsFile.read() of a pipe keeps its end for the next one", async () => {
    using reads = watchReads();
    using _ = patch();
    using folder = new Folder();
    const path = folder.fifo();
    const both = Deno.openSync(path, { read: true, write: true });
    using file = Deno.openSync(path);
    await inVain(() => file.read(new Uint8Array(5)));
    both.writeSync(encoder.encode("end"));
    await reads.over();
    both.close();
    assertEquals(await inside(() => readText(file)), "end");
    await inVain(() => file.read(new Uint8Array(5)));
    assertEquals(await readTextSyncSoon(file), null);
    assertEquals(await readText(file), null);
    await inVain(() => file.read(new Uint8Array(5)));
    await reads.over();
    assertEquals(await inside(() => new Response(file.readable).text()), "");
    assertThrows(() => file.statSync(), Deno.errors.BadResource);
  });

  test("FsFile.close() of a pipe drops the bytes that were kept", async () => {
    using reads = watchReads();
    using _ = patch();
    using folder = new Folder();
    const path = folder.fifo();
    const before = countOpen();
    for (const kept of [true, false]) {
      const file = Deno.openSync(path, { read: true, write: true });
      const other = Deno.openSync(path, { read: true, write: true });
      await inVain(() => file.read(new Uint8Array(5)));
      if (kept) {
        other.writeSync(encoder.encode("kept"));
        await reads.over();
      }
      file.close();
      await assertRejects(() => readText(file), Deno.errors.BadResource);
      assertThrows(() => readTextSync(file), Deno.errors.BadResource);
      other.writeSync(encoder.encode("not for us"));
      await reads.over();
      other.close();
    }
    await assertOpen(before);
  });
}

test("FsFile.read() of a device that has no position can be interrupted as well", async () => {
  if (Deno.build.os === "windows") return;
  using _ = patch();
  using zero = Deno.openSync("/dev/zero");
  const buffer = new Uint8Array(3).fill(1);
  await inVain(() => zero.read(buffer.subarray(1)));
  await over(zero);
  assertEquals([...buffer], [1, 1, 1]);
  // Seeking does nothing to some devices, and so they keep what is there.
  assertEquals(await inside(() => zero.read(buffer)), 2);
  assertEquals([...buffer], [0, 0, 1]);
  using nothing = Deno.openSync("/dev/null");
  await inVain(() => nothing.read(buffer));
  assertEquals(await inside(() => nothing.read(buffer)), null);
});

test("FsFile.write() that is interrupted goes on, in its order, with a copy", async () => {
  using _ = patch();
  using folder = new Folder();
  await using stuck = new Stuck(folder, "");
  const { file } = stuck;
  const data = encoder.encode("first ");
  await inVain(() => file.write(data));
  data.set(encoder.encode("second"));
  const second = spawn(() => file.write(data));
  await sleep(0);
  data.fill(33);
  const third = file.write(encoder.encode(" third"));
  await stuck.letGo();
  assertEquals([await second.get(), await third], [6, 6]);
  assertEquals(Deno.readTextFileSync(folder.at("file")), "first second third");
});

test("FsFile.write() writes as much at once as outside", async () => {
  using _ = patch();
  using folder = new Folder();
  using file = folder.open("");
  const size = 5_000_000;
  assertEquals(await inside(() => file.write(new Uint8Array(size))), size);
  assertEquals(file.statSync().size, size);
  const all = encoder.encode("0123456789");
  assertEquals(await inside(() => file.write(all.subarray(3, 6))), 3);
  file.seekSync(-3, End);
  assertEquals(await readText(file), "345");
});

test("FsFile.write() before close() in a greenlet is not lost, awaited or not", async () => {
  using writes = new Operations(Deno.FsFile.prototype, "write");
  using _ = patch();
  using folder = new Folder();
  const file = folder.open("");
  await inside(() => {
    for (let i = 0; i < 5; i++) file.write(encoder.encode(`${i}`));
    file.close();
    return Promise.resolve();
  });
  await writes.over();
  assertEquals(Deno.readTextFileSync(folder.at("file")), "01234");
});

test("FsFile.lock() that is granted too late is unlocked", async () => {
  using _ = patch();
  using folder = new Folder();
  using file = folder.open();
  using other = folder.open();
  using third = folder.open();
  for (const exclusive of [true, false]) {
    // It does not matter that the lock was held before.
    if (exclusive) {
      file.lockSync(true);
      file.unlockSync();
    } else {
      await inside(() => file.lock(true));
      await inside(() => file.unlock());
    }
    other.lockSync(true);
    const locking = spawn(() => file.lock(exclusive));
    await settle();
    assertFalse(locking.dead);
    await locking.kill();
    other.unlockSync();
    await over(file);
    assert(third.tryLockSync(true), "was left locked");
    third.unlockSync();
    await inVain(() => file.tryLock(exclusive));
    await over(file);
    assert(third.tryLockSync(true), "was left locked");
    third.unlockSync();
  }
});

test("FsFile.lock() that is granted too late is left to the greenlet that has asked for it meanwhile", async () => {
  using _ = patch();
  using folder = new Folder();
  const again: Record<string, (file: Deno.FsFile) => Promise<unknown>> = {
    "lock": (file) => file.lock(true),
    "lock in a greenlet": (file) => inside(() => file.lock(true)),
    "tryLock": (file) => file.tryLock(true),
    "tryLock in a greenlet": (file) => inside(() => file.tryLock(true)),
  };
  for (const [name, lock] of Object.entries(again)) {
    using file = folder.open();
    using other = folder.open();
    using third = folder.open();
    other.lockSync(true);
    await inVain(() => file.lock(true));
    await inVain(() => file.lock(true));
    const locked = lock(file);
    await settle();
    other.unlockSync();
    assert(await locked !== false, name);
    await over(file);
    assertFalse(third.tryLockSync(true), name);
    await inside(() => file.unlock());
    assert(third.tryLockSync(true), name);
  }
  // It is there already.
  for (const lock of ["lockSync", "tryLockSync"] as const) {
    using file = folder.open();
    using third = folder.open();
    await inVain(() => file.lock(true));
    file[lock](true);
    await over(file);
    assertFalse(third.tryLockSync(true));
    await inVain(() => file.lock(true));
    await over(file);
    assertFalse(third.tryLockSync(true), "was unlocked, being held");
    file.unlockSync();
    assert(third.tryLockSync(true));
  }
});

test("FsFile.unlock() unlocks although an error is due", async () => {
  using _ = patch();
  using failures = new Failures();
  using folder = new Folder();
  using file = folder.open();
  using other = folder.open();
  for (const grace of [0, LONG]) {
    const isLocked = new Gate();
    const greenlet = spawn(async () => {
      await file.lock(true);
      isLocked.open();
      try {
        await sleep(LONG);
      } finally {
        await file.unlock();
      }
    });
    await isLocked.opened;
    assertFalse(other.tryLockSync(true));
    await greenlet.kill(undefined, { grace });
    await over(file);
    assert(other.tryLockSync(true));
    other.unlockSync();
  }
  assertEquals(failures.errors, []);
});

for (
  const method of ["truncate", "stat", "sync", "syncData", "utime"] as const
) {
  test(`FsFile.${method}() can be interrupted, and goes on`, async () => {
    using _ = patch();
    using folder = new Folder();
    await using stuck = new Stuck(folder);
    const { file } = stuck;
    const call = {
      truncate: () => file.truncate(4),
      stat: () => file.stat(),
      sync: () => file.sync(),
      syncData: () => file.syncData(),
      utime: () => file.utime(1000, 2000),
    }[method];
    const greenlet = spawn(call as () => Promise<unknown>);
    await sleep(0);
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
    await stuck.letGo();
    await inside(call as () => Promise<unknown>);
    if (method === "truncate") assertEquals(file.statSync().size, 4);
    if (method === "utime") {
      assertEquals(file.statSync().mtime?.getTime(), 2_000_000);
    }
  });
}

if (hasFifos) {
  test("Deno.open() that ends too late closes the file", async () => {
    using _ = patch();
    using folder = new Folder();
    const path = folder.fifo();
    const before = countOpen();
    const opens: (() => Promise<Deno.FsFile | null>)[] = [
      () => Deno.open(path),
      () => withTimeout(1, () => Deno.open(path), { value: null }),
    ];
    for (const open of opens) {
      // It waits for a writer.
      const greenlet = spawn(open) as Greenlet;
      if (open === opens[0]) {
        await sleep(0);
        await greenlet.kill();
      } else assertEquals(await greenlet.get(), null);
      using writer = await Deno.open(path, { write: true });
      let error: unknown;
      while (error === undefined) {
        await tick(1);
        error = await writer.write(Uint8Array.of(1)).then(
          () => undefined,
          (error) => error,
        );
      }
      assertInstanceOf(error, Deno.errors.BrokenPipe);
    }
    await assertOpen(before);
  });

  for (const name of ["readFile", "readTextFile"] as const) {
    test(`Deno.${name}() is cancelled when it is interrupted`, async () => {
      using _ = patch();
      using folder = new Folder();
      const path = folder.fifo();
      const before = countOpen();
      const { promise, resolve } = Promise.withResolvers<string>();
      const greenlet = spawn(async () => {
        try {
          await Deno[name](path);
        } finally {
          resolve("cleaned up");
        }
      });
      await sleep(0);
      await greenlet.kill();
      assertEquals(await promise, "cleaned up");
      // The sanitizers see that no operation is left; this lets the runtime's thread go:
      Deno.openSync(path, { write: true }).close();
      await assertOpen(before);
    });
  }

  test("Deno.writeFile() is cancelled when it is interrupted", async () => {
    using _ = patch();
    using folder = new Folder();
    const path = folder.fifo();
    const before = countOpen();
    for (
      const write of [
        () => Deno.writeFile(path, encoder.encode("text")),
        () => Deno.writeTextFile(path, "text"),
      ]
    ) {
      const greenlet = spawn(write);
      await sleep(0);
      await greenlet.kill();
      assertInstanceOf(greenlet.value, GreenletExit);
      Deno.openSync(path, { read: true }).close();
    }
    await assertOpen(before);
  });
}

test("Deno.writeFile() of a stream that is interrupted closes the file and cancels the stream", async () => {
  using _ = patch();
  using folder = new Folder();
  const before = countOpen();
  for (const name of ["writeFile", "writeTextFile"] as const) {
    for (const early of [true, false]) {
      const cancelled = Promise.withResolvers<unknown>();
      const stream = new ReadableStream({
        start(controller) {
          controller.enqueue(
            name === "writeFile" ? encoder.encode("some") : "some",
          );
        },
        cancel: cancelled.resolve,
      });
      const file = `${name} ${early}`;
      const write = () => Deno[name](folder.at(file), stream as never);
      if (early) {
        await inVain(write);
      } else {
        const greenlet = spawn(write);
        await when(() => folder.names.includes(file));
        await settle();
        await greenlet.kill();
        assertInstanceOf(greenlet.value, GreenletExit);
      }
      assertInstanceOf(await cancelled.promise, GreenletExit);
    }
  }
  await assertOpen(before);
});

for (
  const [name, call] of Object.entries({
    readFile: (path, signal) => Deno.readFile(path, { signal }),
    readTextFile: (path, signal) => Deno.readTextFile(path, { signal }),
    writeFile: (path, signal) =>
      Deno.writeFile(path, new Uint8Array(10), { signal, append: true }),
    writeTextFile: (path, signal) =>
      Deno.writeTextFile(path, "text", { signal, append: true }),
  } as Record<string, (path: string, signal: AbortSignal) => Promise<unknown>>)
) {
  test(`Deno.${name}() takes a signal, inside as outside`, async () => {
    using _ = patch();
    using folder = new Folder();
    const path = folder.file();
    const reason = new Error("stop");
    for (const wrap of [outside, inside]) {
      const aborted = AbortSignal.abort(reason);
      const error = await wrap(() => call(path, aborted).catch((e) => e));
      assertStrictEquals(error, reason);
      const controller = new AbortController();
      const late = await wrap(async () => {
        const promise = call(path, controller.signal);
        controller.abort(reason);
        return await promise.catch((e) => e);
      });
      assertStrictEquals(late, reason);
      // A signal that is aborted later does nothing.
      const other = new AbortController();
      const result = await wrap(() => call(path, other.signal));
      assertFalse(result instanceof Error);
      other.abort(reason);
      if (!hasFifos) continue;
      const fifo = folder.fifo(`fifo ${wrap.name}`);
      const third = new AbortController();
      const stopped = wrap(() => call(fifo, third.signal).catch((e) => e));
      await settle();
      third.abort(reason);
      assertStrictEquals(await stopped, reason);
      // Lets the runtime's thread go, which is at the other end.
      const end = name.startsWith("read") ? { write: true } : { read: true };
      Deno.openSync(fifo, end).close();
    }
    await settle();
  });
}

for (const name of ["makeTempDir", "makeTempFile"] as const) {
  test(`Deno.${name}() that ends too late removes its result`, async () => {
    using underway = new Operations(Deno, name);
    using _ = patch();
    using folder = new Folder();
    const make = () => Deno[name]({ dir: folder.path, prefix: "late" });
    for (let i = 0; i < 20; i++) {
      await inVain(make);
      await withTimeout(0, make, { value: "" }).then((path) => {
        if (path !== "") Deno.removeSync(path);
      });
    }
    await underway.over();
    assertEquals(folder.names, []);
    const made = await inside(make);
    assertEquals(folder.names.map((name) => folder.at(name)), [made]);
  });
}

test("Deno.makeTempDir() that is not allowed to remove the directory leaves it", async () => {
  using _ = patch();
  using folder = new Folder();
  const worker = new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `
      import { patch, spawn } from ${
        JSON.stringify(new URL("../../mod.ts", import.meta.url).href)
      };
      using _ = patch();
      const greenlet = spawn(async () => {
        const made = Deno.makeTempDir({ dir: ${JSON.stringify(folder.path)} });
        queueMicrotask(() => greenlet.kill());
        // The condition that makes the removal fail.
        Deno.removeSync = () => { throw new Error("no") };
        await made;
      });
      await greenlet.join();
      `,
    ],
  });
  const { code, stderr } = await worker.output();
  assertEquals([code, decoder.decode(stderr)], [0, ""]);
});

/** Each call on files by their paths, and the outcome that is wanted. */
const byPath: Record<string, (folder: Folder) => Promise<unknown>> = {
  chmod: (folder) => Deno.chmod(folder.at("file"), 0o600),
  chown: (folder) => Deno.chown(folder.at("file"), null, null),
  copyFile: (folder) => Deno.copyFile(folder.at("file"), folder.at("copy")),
  link: (folder) => Deno.link(folder.at("file"), folder.at("link")),
  lstat: (folder) => Deno.lstat(folder.at("file")),
  mkdir: (folder) => Deno.mkdir(folder.at("a/b"), { recursive: true }),
  readLink: (folder) => Deno.readLink(folder.at("symlink")),
  realPath: (folder) => Deno.realPath(folder.at("symlink")),
  remove: (folder) => Deno.remove(folder.at("file")),
  rename: (folder) => Deno.rename(folder.at("file"), folder.at("new")),
  stat: (folder) => Deno.stat(folder.at("file")),
  symlink: (folder) => Deno.symlink(folder.at("file"), folder.at("other")),
  truncate: (folder) => Deno.truncate(folder.at("file"), 4),
  utime: (folder) => Deno.utime(folder.at("file"), 1, 2),
};

for (const [name, call] of Object.entries(byPath)) {
  test(`Deno.${name}() can be interrupted, and goes on`, async () => {
    if (Deno.build.os === "windows") return;
    using underway = new Operations(Deno, name);
    using _ = patch();
    const before = countOpen();
    async function look(
      run: (call: () => Promise<unknown>) => Promise<unknown>,
    ) {
      using folder = new Folder();
      folder.file();
      Deno.symlinkSync(folder.at("file"), folder.at("symlink"));
      await run(() => call(folder));
      await underway.over();
      return folder.names.map((name) => {
        const { isSymlink, mode, size, mtime } = Deno.lstatSync(
          folder.at(name),
        );
        // Its size is that of a path of random length.
        if (isSymlink) return name;
        return [name, mode, size, mtime!.getTime() === 2000];
      });
    }
    const expected = await look(outside);
    assertEquals(await look(inside), expected);
    assertEquals(await look(inVain), expected);
    assertEquals(
      await look((call) => withTimeout(LONG, () => call())),
      expected,
    );
    await assertOpen(before);
  });
}

async function namesIn(path: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(path)) names.push(name);
  return names.sort();
}

test("Deno.readDir() in a loop that is left by an interrupt closes the directory", async () => {
  using listings = watchListings();
  using _ = patch();
  using folder = new Folder();
  for (let i = 0; i < 50; i++) folder.file("", `${i}`);
  const before = countOpen();
  for (let seen = 0; seen < 6; seen++) {
    const log: string[] = [];
    const greenlet = spawn(async () => {
      try {
        for await (const { name } of Deno.readDir(folder.path)) {
          if (log.push(name) >= seen) {
            queueMicrotask(() => greenlet.kill(undefined, { block: false }));
          }
        }
      } finally {
        log.push("cleaned up");
      }
    }) as Greenlet;
    if (seen === 0) {
      queueMicrotask(() => greenlet.kill(undefined, { block: false }));
    }
    await greenlet.join();
    assertInstanceOf(greenlet.value, GreenletExit);
  }
  // The sanitizers see as well that no directory is left open.
  await listings.over();
  await assertOpen(before);
  assertEquals((await inside(() => namesIn(folder.path))).length, 50);
});

test("Deno.readDir() throws an error that was held, and leaves no directory open", async () => {
  using listings = watchListings();
  using _ = patch();
  using folder = new Folder();
  folder.file();
  const { promise, resolve } = Promise.withResolvers<void>();
  const held = new Error("held");
  let iterated = 0;
  const greenlet = spawn(async () => {
    for await (const _ of Deno.readDir(folder.path)) {
      iterated++;
      await promise;
    }
  });
  await when(() => iterated > 0);
  greenlet.throw(held);
  resolve();
  await assertRejects(() => greenlet.get(), Error, "held");
  assertEquals(iterated, 1);
  // As after `break`.
  const iterator = Deno.readDir(folder.path)[Symbol.asyncIterator]();
  const before = countOpen();
  await inVain(() => iterator.next());
  assertEquals(await iterator.next(), { value: undefined, done: true });
  await listings.over();
  await assertOpen(before);
});

test("Deno.readDir() looks and fails as before", async () => {
  using folder = new Folder();
  folder.file();
  const look = async () => {
    const entries = Deno.readDir(folder.path);
    const iterate = entries[Symbol.asyncIterator];
    const iterator = entries[Symbol.asyncIterator]() as AsyncIterableIterator<
      Deno.DirEntry
    >;
    const functions = [iterate, iterator.next, iterator.return!];
    const results = [
      Reflect.ownKeys(entries),
      Reflect.ownKeys(iterator),
      iterator[Symbol.asyncIterator]() === iterator,
      functions.map(({ name, length }) => [name, length]),
      await iterator.next(),
      await iterator.next(),
      await iterator.next(),
      await iterator.return!(5),
      await outcome(() => namesIn("/no/such/directory")),
      await outcome(() => namesIn(undefined as never)),
    ];
    const other = Deno.readDir(folder.path)[Symbol.asyncIterator]();
    results.push(await other.return!(1), await other.next());
    const third = Deno.readDir(folder.path)[Symbol.asyncIterator]();
    results.push(
      await third.next(),
      await third.return!(2),
      await third.next(),
    );
    return results;
  };
  const unpatched = await look();
  using _ = patch();
  assertEquals(await look(), unpatched);
  assertEquals(await inside(look), unpatched);
});

/** A watcher, with what the types do not tell of. */
function watch(path: string) {
  return Deno.watchFs(path) as
    & Deno.FsWatcher
    & AsyncIterableIterator<Deno.FsEvent>;
}

/** The names of the files in a watcher's events, in the order of their creation. */
class Created {
  readonly names: string[] = [];

  add({ kind, paths }: Deno.FsEvent): void {
    if (kind !== "create") return;
    for (const path of paths) {
      this.names.push(path.slice(path.lastIndexOf("/") + 1));
    }
  }
}

test("Deno.watchFs() keeps an event that comes after an interrupt for the next", async () => {
  using folder = new Folder();
  using events = watchEvents(folder);
  using _ = patch();
  for (const wrap of [outside, inside]) {
    using watcher = watch(folder.path);
    const next = async () => (await watcher.next()).value as Deno.FsEvent;
    await inVain(next);
    Deno.mkdirSync(folder.at(`a ${wrap.name}`));
    await events.over();
    assertEquals((await wrap(next)).paths[0]?.at(-1), wrap.name.at(-1));
    const created = new Created();
    await inVain(next);
    await inVain(next);
    const waiting = wrap(next);
    Deno.mkdirSync(folder.at(`b ${wrap.name}`));
    created.add(await waiting);
    while (created.names.length === 0) created.add(await wrap(next));
    assertEquals(created.names, [`b ${wrap.name}`]);
  }
});

test("Deno.watchFs() in a loop that is left by an interrupt closes the watcher", async () => {
  using _ = patch();
  using folder = new Folder();
  const before = countOpen();
  for (const seen of [0, 1]) {
    const watcher = watch(folder.path);
    const created = new Created();
    const log: string[] = [];
    const greenlet = spawn(async () => {
      try {
        for await (const event of watcher) created.add(event);
      } finally {
        log.push("cleaned up");
      }
    });
    await sleep(0);
    if (seen > 0) {
      Deno.mkdirSync(folder.at("new"));
      await when(() => created.names.length >= seen);
    }
    await greenlet.kill();
    assertEquals(log, ["cleaned up"]);
    assertEquals(await watcher.next(), { value: undefined, done: true });
    assertEquals(await inside(() => watcher.next()), {
      value: undefined,
      done: true,
    });
  }
  await assertOpen(before);
});

test("Deno.watchFs() in a loop gives the events that were kept, and lets others run in between", async () => {
  using _ = patch();
  using folder = new Folder();
  const watcher = watch(folder.path);
  const created = new Created();
  await inVain(() => watcher.next());
  Deno.mkdirSync(folder.at("1"));
  const greenlet = spawn(async () => {
    for await (const event of watcher) {
      created.add(event);
      // Waits until nothing has happened for a while.
      const iterator = watcher[Symbol.asyncIterator]();
      for (;;) {
        const result = await withTimeout(1, () => iterator.next(), {
          value: null,
        });
        if (result === null) break;
        created.add(result.value);
      }
      if (created.names.length === 3) break;
    }
    return "left";
  });
  for (const count of [1, 2]) {
    await when(() => created.names.length === count);
    await tick(2);
    Deno.mkdirSync(folder.at(`${count + 1}`));
  }
  assertEquals(await greenlet.get(), "left");
  assertEquals(created.names, ["1", "2", "3"]);
  // `break` closes it.
  assertEquals((await watcher.next()).done, true);
});

test("Deno.watchFs() throws an error that was held, and closes in a loop only", async () => {
  using _ = patch();
  using folder = new Folder();
  const held = new Error("held");
  for (const looping of [true, false]) {
    using watcher = watch(folder.path);
    const { promise, resolve } = Promise.withResolvers<void>();
    const greenlet = spawn(async () => {
      await promise;
      if (looping) { for await (const _ of watcher); }
      else await watcher.next();
    });
    await sleep(0);
    greenlet.throw(held);
    resolve();
    await assertRejects(() => greenlet.get(), Error, "held");
    Deno.mkdirSync(folder.at(`${looping}`));
    assertEquals((await watcher.next()).done, looping);
  }
});

test("Deno.watchFs() of a node:fs watch goes on for its listeners when its maker is killed", async () => {
  const fs = await import("node:fs");
  using _ = patch();
  using folder = new Folder();
  const names: unknown[] = [];
  const timedOut = new Gate();
  let watcher: { close(): void } | undefined;
  const greenlet = spawn(async () => {
    watcher = fs.watch(folder.path, (_, name) => names.push(name));
    using _timeout = Timeout.start(1);
    await sleep(LONG).catch(timedOut.open.bind(timedOut));
    await sleep(LONG);
  });
  await timedOut.opened;
  await greenlet.kill();
  Deno.mkdirSync(folder.at("new"));
  await when(() => names.length > 0);
  assertEquals(names[0], "new");
  watcher!.close();
  await settle();
});

test("Deno.watchFs() of a node:fs/promises watch in a loop is closed when that is interrupted", async () => {
  const { watch } = await import("node:fs/promises");
  using _ = patch();
  using folder = new Folder();
  const before = countOpen();
  const names: unknown[] = [];
  const greenlet = spawn(async () => {
    for await (const { filename } of watch(folder.path)) names.push(filename);
  });
  // Nothing tells when the watch has begun.
  for (let i = 0; names.length === 0; i++) {
    Deno.mkdirSync(folder.at(`${i}`));
    await tick(2);
  }
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  await assertOpen(before);
});

test("Deno.watchFs() keeps the process alive for a pending wait, and not for an interrupted one", async () => {
  using folder = new Folder();
  Deno.mkdirSync(folder.at("quiet"));
  const { out, err, code } = await runScript(
    `
    using _ = patch();
    const path = ${JSON.stringify(folder.path)};
    const watchers = [path, path + "/quiet"].map((it) => Deno.watchFs(it));
    for (const watcher of watchers) {
      const late = { value: "interrupted" };
      console.log(await withTimeout(1, () => watcher.next(), late));
    }
    watchers[0].next().then(({ value }) => console.log(value.kind));
    setTimeout(() => console.log("waiting"), 1);
    `,
    (line) => {
      if (line === "waiting") Deno.mkdirSync(folder.at("new"));
    },
  );
  const expected = ["interrupted", "interrupted", "waiting", "create"];
  assertEquals([err, out, code], ["", expected, 0]);
});

for (const method of ["close", "return", Symbol.dispose] as const) {
  test(`Deno.watchFs() when ${String(method)}() is called ends pending waits, as before`, async () => {
    using folder = new Folder();
    const look = async (wrap: typeof outside) => {
      const watcher = watch(folder.path);
      const waiting = [
        wrap(() => watcher.next()),
        wrap(() => watcher.next()),
        wrap(async () => {
          for await (const _ of watcher);
          return "left";
        }),
      ] as Promise<unknown>[];
      await settle();
      const closed = await (watcher as unknown as Record<
        PropertyKey,
        (value: number) => unknown
      >)[method]!(5);
      return [closed, ...await Promise.all(waiting), await watcher.next()];
    };
    const unpatched = await look(outside);
    using _ = patch();
    assertEquals(await look(outside), unpatched);
    assertEquals(await look(inside), unpatched);
  });

  test(`Deno.watchFs() when ${String(method)}() is called drops the events that were kept`, async () => {
    using folder = new Folder();
    using events = watchEvents(folder);
    using _ = patch();
    for (const kept of [true, false]) {
      const watcher = watch(folder.path);
      await inVain(() => watcher.next());
      if (kept) {
        Deno.mkdirSync(folder.at("new"));
        await events.over();
      }
      (watcher as unknown as Record<PropertyKey, () => unknown>)[method]!();
      const over = { value: undefined, done: true };
      assertEquals(await watcher.next() as unknown, over);
      assertEquals(await inside(() => watcher.next()) as unknown, over);
    }
  });
}

/** Describes a result, whenever and wherever it was made. */
function plain(result: unknown, folder: Folder): unknown {
  if (Array.isArray(result)) return result.map((item) => plain(item, folder));
  if (typeof result === "string") return result.replaceAll(folder.path, "...");
  if (typeof result !== "object" || result === null) return result;
  if ("close" in result) {
    (result as Deno.FsFile | Deno.FsWatcher).close();
    return `an open ${result.constructor.name}`;
  }
  if ("isFile" in result) {
    const { isFile, size, mode } = result as Deno.FileInfo;
    return { isFile, size, mode };
  }
  return Symbol.asyncIterator in result ? "entries" : result;
}

type Call = (folder: Folder, file: Deno.FsFile) => unknown;

const odd: unknown[] = [undefined, null, 1, "text", {}, [1, 2], -1, 1n, {
  signal: null,
}];

/** Calls as they are meant, with odd arguments, with none, and with another `this`. */
const calls: Record<string, Call> = {
  ...byPath as Record<string, Call>,
  "open": (folder) => Deno.open(folder.at("file")),
  "open, no such file": (folder) => Deno.open(folder.at("none")),
  "open by URL": (folder) => Deno.open(new URL(`file://${folder.at("file")}`)),
  "open, no option true": (folder) => Deno.open(folder.at("file"), {}),
  "open, append": (folder) => Deno.open(folder.at("file"), { append: true }),
  "create": (folder) => Deno.create(folder.at("new")),
  "create in no directory": (folder) => Deno.create(folder.at("no/new")),
  "makeTempDir in none": (folder) => Deno.makeTempDir({ dir: folder.at("no") }),
  "makeTempFile in none": (folder) =>
    Deno.makeTempFile({ dir: folder.at("no"), prefix: "x" }),
  "readFile": (folder) => Deno.readFile(folder.at("file")),
  "readTextFile": (folder) => Deno.readTextFile(folder.at("file")),
  "readTextFile, none": (folder) => Deno.readTextFile(folder.at("none")),
  "readFile of a directory": (folder) => Deno.readFile(folder.path),
  "writeFile": (folder) => Deno.writeFile(folder.at("file"), new Uint8Array(7)),
  "writeFile, not created": (folder) =>
    Deno.writeFile(folder.at("new"), new Uint8Array(7), { create: false }),
  "writeFile, mode and append": async (folder) => {
    const data = encoder.encode("more");
    const options = { mode: 0o640, append: true };
    await Deno.writeFile(folder.at("new"), data, options);
    await Deno.writeFile(folder.at("new"), data, options);
    return [
      await Deno.stat(folder.at("new")),
      await Deno.readTextFile(folder.at("new")),
    ];
  },
  "writeTextFile of a stream": async (folder) => {
    const stream = ReadableStream.from(["one ", "two"]);
    await Deno.writeTextFile(folder.at("new"), stream);
    return await Deno.readTextFile(folder.at("new"));
  },
  "writeTextFile of a symbol": (folder) =>
    Deno.writeTextFile(folder.at("new"), Symbol("text") as never),
  "readDir": (folder) => namesIn(folder.path),
  "watchFs": (folder) => Deno.watchFs(folder.path).close(),
  "watchFs, none": (folder) => Deno.watchFs(folder.at("none")).close(),
  "FsFile": async (_, file) => [
    await readText(file, 3),
    await file.write(encoder.encode("abc")),
    await file.seek(-2, Current),
    await readText(file, 3),
    await file.truncate(15),
    await file.seek(-2, End),
    await readText(file, 9),
    await readText(file, 9),
    await file.stat(),
    await file.sync(),
    await file.syncData(),
    await file.utime(1, 2),
    await file.lock(true),
    await file.unlock(),
    await file.tryLock(),
    await file.truncate(),
    await file.seek(0n as never, Start),
  ],
  "FsFile.readable": (_, file) => new Response(file.readable).text(),
  "FsFile.writable": async (folder, file) => {
    await ReadableStream.from([encoder.encode("abc")]).pipeTo(file.writable);
    return await Deno.readTextFile(folder.at("file"));
  },
  "FsFile.seek before the start": (_, file) => file.seek(-1, Start),
  "FsFile.read of nothing": (_, file) => file.read(new Uint8Array(0)),
  "FsFile.write of nothing": (_, file) => file.write(new Uint8Array(0)),
  "FsFile.write of other numbers": (_, file) =>
    file.write(new Uint16Array([1, 2, 3]) as never),
  "FsFile.read of a directory": async (folder) => {
    using file = await Deno.open(folder.path);
    return await file.read(new Uint8Array(5));
  },
  "FsFile.read of what is open to be written": async (folder) => {
    using file = await Deno.open(folder.at("file"), { write: true });
    return await file.read(new Uint8Array(5));
  },
  "FsFile.write of what is open to be read": async (folder) => {
    using file = await Deno.open(folder.at("file"));
    return await file.write(new Uint8Array(5));
  },
  "stdin.read of nothing": () => Deno.stdin.read(new Uint8Array(0)),
  "stdout.write of nothing": () => Deno.stdout.write(new Uint8Array(0)),
};

const methods = [
  "read",
  "readSync",
  "write",
  "writeSync",
  "seek",
  "seekSync",
  "truncate",
  "stat",
  "sync",
  "syncData",
  "utime",
  "lock",
  "lockSync",
  "tryLock",
  "tryLockSync",
  "unlock",
  "unlockSync",
  "close",
  Symbol.dispose,
] as const;

type AnyMethod = (this: unknown, ...args: unknown[]) => unknown;

for (const method of methods) {
  const name = `FsFile.${String(method)}()`;
  const call = (self: unknown, ...args: unknown[]) =>
    (Deno.FsFile.prototype[method] as AnyMethod).apply(self, args);
  calls[`${name} without arguments`] = (_, file) => call(file);
  calls[`${name} of a closed file`] = (_, file) => {
    file.close();
    return call(file, new Uint8Array(2));
  };
  for (const value of [...odd, new Uint16Array(4)]) {
    const of = `of ${Object.prototype.toString.call(value)} ${String(value)}`;
    calls[`${name} ${of}`] = (_, file) => call(file, value, value);
    calls[`${name} as a method ${of}`] = () => call(value, new Uint8Array(2));
  }
}

const functions = [
  ...Object.keys(byPath),
  "open",
  "create",
  "readFile",
  "readTextFile",
  "writeFile",
  "writeTextFile",
  "makeTempDir",
  "makeTempFile",
  "readDir",
  "watchFs",
] as (keyof typeof Deno)[];

for (const name of functions) {
  const call = (...args: unknown[]) => (Deno[name] as AnyMethod)(...args);
  for (const value of odd) {
    const of = `of ${Object.prototype.toString.call(value)} ${String(value)}`;
    // A string is a path: it leads nowhere.
    const inFolder = (folder: Folder) =>
      typeof value === "string" ? folder.at("none/of it") : value;
    if (name.startsWith("makeTemp")) {
      calls[`${name} ${of}`] = (folder) =>
        call({ dir: folder.at("none"), prefix: value });
      continue;
    }
    calls[`${name} ${of}`] = (folder) => {
      const it = inFolder(folder);
      return call(it, it, it);
    };
    if (name === "watchFs" || name === "readDir") continue;
    calls[`${name} of a path, ${of}`] = (folder) => {
      const it = inFolder(folder);
      return call(folder.at("file"), it, it);
    };
    if (name.startsWith("write")) {
      calls[`${name} of data, ${of}`] = (folder) =>
        call(folder.at("file"), new Uint8Array(2), value);
    }
  }
}

/** The outcomes of all the calls without `patch()`. */
let unpatchedResults: Map<string, unknown> | undefined;

for (const wrap of [outside, inside]) {
  test(`patch() leaves results and errors of files as they are, ${wrap.name} greenlets`, async () => {
    async function callAll(wrap: typeof outside) {
      const all = Object.entries(calls);
      const results = await inParallel(all, async ([name, call]) => {
        using folder = new Folder();
        using file = folder.open();
        Deno.symlinkSync("file", folder.at("symlink"));
        const result = await wrap(() => outcome(() => call(folder, file)));
        return [name, [plain(result, folder), folder.names]] as const;
      });
      return new Map<string, unknown>(results);
    }
    const unpatched = unpatchedResults ??= await callAll(outside);
    using _ = patch();
    const patched = await callAll(wrap);
    for (const [name, expected] of unpatched) {
      assertEquals(patched.get(name), expected, name);
    }
  });
}

/** Where properties are replaced, and which. */
const patchedObjects: [object, PropertyKey[]][] = [
  [Deno, functions],
  [Deno.FsFile.prototype, [...methods, "readable", "writable"]],
  [Object.getPrototypeOf(Deno.stdin), [
    "read",
    "readSync",
    "readable",
    "close",
  ]],
  [Object.getPrototypeOf(Deno.stdout), ["write"]],
  [Object.getPrototypeOf(Deno.stderr), ["write"]],
];

test("patch() leaves names, lengths and kinds of what it replaces, and restores it", async () => {
  using folder = new Folder();
  using watcher = watch(folder.path);
  const all: typeof patchedObjects = [...patchedObjects, [
    Object.getPrototypeOf(watcher),
    ["next", "return", "close", Symbol.dispose, Symbol.asyncIterator],
  ]];
  const look = () =>
    all.flatMap(([object, names]) =>
      names.map((name) => Object.getOwnPropertyDescriptor(object, name)!)
    );
  const shape = ({ value, get, ...rest }: PropertyDescriptor) => {
    const { name, length } = value ?? get;
    return [name, length, value !== undefined, rest];
  };
  const before = look();
  for (let i = 0; i < 2; i++) {
    using _ = patch();
    watch(folder.path).close();
    const patched = look();
    assertEquals(patched.map(shape), before.map(shape));
    for (const [i, { value, get }] of patched.entries()) {
      const original = before[i]!;
      assertFalse((value ?? get) === (original.value ?? original.get));
    }
    using file = folder.open();
    await inside(() => readText(file));
    assertEquals(Object.keys(file), []);
  }
  for (const [i, { value, get }] of look().entries()) {
    assertStrictEquals(value, before[i]!.value);
    assertStrictEquals(get, before[i]!.get);
  }
});

test("patch() without `fs` leaves files alone", () => {
  const { open } = Deno;
  const { read } = Deno.FsFile.prototype;
  using _ = patch({ fs: false });
  assertStrictEquals(Deno.open, open);
  assertStrictEquals(Deno.FsFile.prototype.read, read);
  return Promise.resolve();
});

test("patch() disposed of while a read is under way leaves the position in order", async () => {
  using folder = new Folder();
  const restore = patch();
  await using interrupted = new Stuck(folder);
  await using waiting = new Stuck(folder, undefined, "other");
  using untouched = folder.open();
  await inVain(() => interrupted.file.read(new Uint8Array(5)));
  const reading = spawn(readText, waiting.file, 3);
  const victim = spawn(readText, waiting.file, 3);
  await inside(() => readText(untouched, 2));
  restore[Symbol.dispose]();

  const { file } = interrupted;
  const position = file.seek(0, Current);
  const written = file.write(encoder.encode("01"));
  assertThrows(() => file.writeSync(encoder.encode("no")), Deno.errors.Busy);
  assertThrows(
    () => interrupted.file.seekSync(0, Current),
    Deno.errors.Busy,
  );
  await interrupted.letGo();
  assertEquals([await position, await written], [0, 2]);
  assertEquals(readTextSync(interrupted.file, 2), "23");
  assertEquals(await inside(() => readText(interrupted.file, 3)), "456");

  await victim.kill();
  const next = readText(waiting.file, 4);
  await waiting.letGo();
  assertEquals(await reading.get(), "012");
  assertEquals(await next, "3456");

  assertEquals(Reflect.ownKeys(untouched).length, 1);
  assertEquals(await readText(untouched, 2), "23");
});

test("patch() disposed of while operations are under way whose results have to be removed removes them", async () => {
  using folder = new Folder();
  using underway = new Operations(Deno, "makeTempDir", "makeTempFile", "open");
  using listings = watchListings();
  const before = countOpen();
  using file = folder.open();
  using other = folder.open();
  using third = folder.open();
  const restore = patch();
  other.lockSync(true);
  await inVain(() => file.lock(true));
  await inVain(() => Deno.makeTempDir({ dir: folder.path }));
  await inVain(() => Deno.makeTempFile({ dir: folder.path }));
  await inVain(() => Deno.open(folder.at("file")));
  await inVain(() => namesIn(folder.path));
  const reading = spawn(() => Deno.readTextFile(folder.at("file")));
  const listing = spawn(namesIn, folder.path);
  await sleep(0);
  restore[Symbol.dispose]();
  assertEquals((await reading.get()).length, 20);
  await listing.get();
  // It is counted although `lock` is the original's otherwise.
  const locking = file.lock(true);
  await settle();
  other.unlockSync();
  await locking;
  await over(file);
  assertFalse(third.tryLockSync(true));
  await file.unlock();
  assert(third.tryLockSync(true));
  await underway.over();
  await listings.over();
  assertEquals(folder.names, ["file"]);
  await assertOpen(before + 3);
});

test("patch() disposed of while events are kept and awaited loses none", async () => {
  using folder = new Folder();
  using events = watchEvents(folder);
  const restore = patch();
  using kept = watch(folder.path);
  using pending = watch(folder.path);
  await inVain(() => kept.next());
  await inVain(() => pending.next());
  Deno.mkdirSync(folder.at("1"));
  await events.over();
  restore[Symbol.dispose]();
  for (const watcher of [kept, pending]) {
    assertEquals((await watcher.next()).value.paths[0].at(-1), "1");
    const next = watcher.next();
    Deno.mkdirSync(folder.at(watcher === kept ? "2" : "3"));
    assertEquals((await next).value.kind, "create");
  }
});

if (hasFifos) {
  test("patch() disposed of while bytes of a pipe are kept loses none", async () => {
    using reads = watchReads();
    using folder = new Folder();
    const files = ["a", "b"].map((name) =>
      Deno.openSync(folder.fifo(name), { read: true, write: true })
    );
    const [kept, pending] = files as [Deno.FsFile, Deno.FsFile];
    {
      using _ = patch();
      await inVain(() => kept.read(new Uint8Array(9)));
      kept.writeSync(encoder.encode("kept"));
      await reads.over();
      await inVain(() => pending.read(new Uint8Array(9)));
    }
    assertEquals(await readTextSyncSoon(kept, 2), "ke");
    const reading = readText(pending);
    pending.writeSync(encoder.encode("pending"));
    assertEquals(await reading, "pending");
    assertEquals(await readText(kept), "pt");
    for (const file of files) file.close();
  });
}

testRandomly(
  "FsFile is where it should be when a thousand reads are interrupted at random moments",
  async (next) => {
    using _ = patch();
    const before = countOpen();
    const size = 50_000;
    const content = Uint8Array.from({ length: size }, () => next() * 256);
    let interrupts = 0;
    let reads = 0;
    {
      using folder = new Folder();
      Deno.writeFileSync(folder.at("file"), content);
      const left: Uint8Array[] = [];
      await Promise.all([1, 2, 3, 4].map(async (number) => {
        Deno.copyFileSync(folder.at("file"), folder.at(`${number}`));
        using file = Deno.openSync(folder.at(`${number}`), {
          read: true,
          write: true,
        });
        const bytes = content.slice();
        let position = 0;
        const check = (buffer: Uint8Array, count: number | null) => {
          const end = Math.min(position + buffer.length, size);
          assertEquals(count, position === end ? null : end - position);
          for (let i = position; i < end; i++) {
            assertEquals(buffer[i - position], bytes[i]);
          }
          position = end;
        };
        const newBuffer = () => {
          const length = 1 + Math.floor(next() ** 3 * 20_000);
          return new Uint8Array(length);
        };
        const newBytes = () =>
          Uint8Array.from({
            length: Math.min(size - position, Math.floor(next() * 100)),
          }, () => next() * 256);
        for (let i = 0; i < 250; i++) {
          reads++;
          const buffer = newBuffer();
          const result = await killSometime(next, () => file.read(buffer));
          if (result === null) {
            interrupts++;
            left.push(buffer);
          } else {
            check(buffer, result.value);
          }
          const wrap = next() < 0.5 ? inside : outside;
          const what = next();
          try {
            if (what < 0.1) {
              const where = await wrap(() => file.seek(0, Current));
              assertEquals(where, position);
            } else if (what < 0.15) {
              assertEquals(file.seekSync(0, Current), position);
            } else if (what < 0.2) {
              position = Math.floor(next() * size);
              await wrap(() => file.seek(position, Start));
            } else if (what < 0.3) {
              const buffer = newBuffer();
              check(buffer, file.readSync(buffer));
            } else if (what < 0.4) {
              const data = newBytes();
              const count = await wrap(() => file.write(data));
              assertEquals(count, data.length);
              bytes.set(data, position);
              position += data.length;
            } else if (what < 0.5) {
              const data = newBytes();
              assertEquals(file.writeSync(data), data.length);
              bytes.set(data, position);
              position += data.length;
            } else if (what < 0.55) {
              assertEquals((await wrap(() => file.stat())).size, size);
            } else if (what < 0.8) {
              const buffer = newBuffer();
              check(buffer, await wrap(() => file.read(buffer)));
            }
          } catch (error) {
            // Too early: an asynchronous call has to be next.
            if (!(error instanceof Deno.errors.Busy)) throw error;
          }
          if (position === size) position = await file.seek(0, Start);
        }
        await file.stat();
        assertEquals(Deno.readFileSync(folder.at(`${number}`)), bytes);
      }));
      assert(left.every((buffer) => buffer.every((byte) => byte === 0)));
    }
    await assertOpen(before);
    assertGreaterOrEqual(interrupts, reads / 20);
    assertGreaterOrEqual(reads - interrupts, reads / 50);
  },
);

if (hasFifos) {
  testRandomly(
    "FsFile.read() of a pipe loses nothing when hundreds of reads are interrupted",
    async (next) => {
      using _ = patch();
      using folder = new Folder();
      const length = 20_000;
      const sent = Uint8Array.from({ length }, () => next() * 256);
      const received: number[] = [];
      const left: Uint8Array[] = [];
      const path = folder.fifo();
      using writer = Deno.openSync(path, { read: true, write: true });
      using reader = Deno.openSync(path);
      const interrupts = new Interrupts();
      const sending = (async () => {
        for (let at = 0; at < length;) {
          const end = Math.min(length, at + Math.floor(next() * 200));
          await writer.write(sent.subarray(at, end));
          at = end;
          await interrupts.more(Math.floor(next() * 4));
        }
        writer.close();
      })();
      for (let ended = false; !ended;) {
        const buffer = new Uint8Array(1 + Math.floor(next() * 200));
        const read = () => reader.read(buffer);
        const result = await killSometime(next, read, interrupts);
        if (result === null) {
          left.push(buffer);
        } else if (result.value === null) {
          ended = true;
        } else {
          received.push(...buffer.subarray(0, result.value));
        }
      }
      await sending;
      assertEquals(received.length, length);
      assert(received.every((byte, i) => byte === sent[i]));
      assert(left.every((buffer) => buffer.every((byte) => byte === 0)));
      assertGreaterOrEqual(interrupts.count, 200);
    },
  );
}

testRandomly(
  "FsFile.write() keeps the order when hundreds of writes are interrupted",
  async (next) => {
    using _ = patch();
    using folder = new Folder();
    using file = folder.open("");
    const reused = new Uint8Array(200_000);
    const written: { byte: number; size: number; sure: boolean }[] = [];
    let interrupts = 0;
    for (let i = 0; i < 250; i++) {
      const byte = i % 200;
      const size = 1 + Math.floor(next() ** 4 * reused.length);
      const data = reused.subarray(0, size).fill(byte);
      const result = await killSometime(next, () => file.write(data));
      written.push({ byte, size, sure: result !== null });
      if (result === null) interrupts++;
      reused.fill(255);
    }
    await file.sync();
    const content = Deno.readFileSync(folder.at("file"));
    let at = 0;
    for (const { byte, size, sure } of written) {
      const isThere = content[at] === byte;
      if (sure) assert(isThere);
      if (!isThere) continue;
      assert(content.subarray(at, at + size).every((b) => b === byte));
      at += size;
    }
    assertEquals(at, content.length);
    assertGreaterOrEqual(interrupts, 10);
  },
);

testRandomly(
  "Deno.open() and its like leave nothing behind when hundreds are interrupted",
  async (next) => {
    using underway = new Operations(
      Deno,
      "open",
      "create",
      "makeTempFile",
      "makeTempDir",
      "readTextFile",
      "writeTextFile",
      "copyFile",
    );
    using listings = watchListings();
    using _ = patch();
    using folder = new Folder();
    const before = countOpen();
    for (let i = 0; i < 30; i++) folder.file(`${i}`, `${i}`);
    const names = folder.names;
    let interrupts = 0;
    let opened = 0;
    const doors: (() => Promise<unknown>)[] = [
      async () => {
        using file = await Deno.open(folder.at("1"));
        opened++;
        await file.stat();
      },
      async () => {
        using file = await Deno.create(folder.at("2"));
        opened++;
        await file.write(Uint8Array.of(1, 2));
      },
      async () => {
        const path = await Deno.makeTempFile({ dir: folder.path });
        Deno.removeSync(path);
      },
      async () => {
        const path = await Deno.makeTempDir({ dir: folder.path });
        Deno.removeSync(path);
      },
      async () => {
        assertGreaterOrEqual((await namesIn(folder.path)).length, 30);
      },
      async () => {
        assertEquals(await Deno.readTextFile(folder.at("3")), "3");
      },
      async () => {
        const text = ReadableStream.from(["a", "stream"]);
        await Deno.writeTextFile(folder.at("4"), text);
      },
      async () => {
        await Deno.writeTextFile(folder.at("5"), "text");
        await Deno.copyFile(folder.at("5"), folder.at("6"));
      },
      async () => {
        const { readable } = await Deno.open(folder.at("7"));
        assertEquals(await until(new Response(readable).text()), "7");
      },
    ];
    await Promise.all([1, 2, 3].map(async () => {
      for (let i = 0; i < 150; i++) {
        const door = doors[Math.floor(next() * doors.length)]!;
        if (await killSometime(next, door) === null) interrupts++;
      }
    }));
    await underway.over();
    await listings.over();
    assertEquals(folder.names, names);
    await assertOpen(before);
    assertGreaterOrEqual(interrupts, 50);
    assertGreaterOrEqual(opened, 5);
  },
);

testRandomly(
  "FsFile.lock() excludes, and is free at the end, when hundreds are interrupted",
  async (next) => {
    using _ = patch();
    using folder = new Folder();
    folder.file();
    let inside = 0;
    let held = 0;
    let interrupts = 0;
    await Promise.all([1, 2, 3].map(async () => {
      using file = Deno.openSync(folder.at("file"), {
        read: true,
        write: true,
      });
      for (let i = 0; i < 100; i++) {
        const result = await killSometime(next, async () => {
          if (next() < 0.5) await file.lock(true);
          else if (!await file.tryLock(true)) return;
          try {
            held++;
            assertEquals(++inside, 1);
            if (next() < 0.5) await sleep(next());
          } finally {
            inside--;
            if (next() < 0.5) await file.unlock();
            else file.unlockSync();
          }
        });
        if (result === null) interrupts++;
      }
      // The operations that are still under way.
      await over(file);
    }));
    using file = folder.open();
    assert(file.tryLockSync(true), "was left locked");
    assertGreaterOrEqual(held, 20);
    assertGreaterOrEqual(interrupts, 20);
  },
);

testRandomly(
  "Deno.watchFs() loses no event when hundreds of its waits are interrupted",
  async (next) => {
    using _ = patch();
    using folder = new Folder();
    using watcher = watch(folder.path);
    const count = 60;
    const created = new Created();
    const expected = Array.from({ length: count }, (_, i) => `${i}`);
    const interrupts = new Interrupts();
    const creating = (async () => {
      for (const name of expected) {
        Deno.mkdirSync(folder.at(name));
        await interrupts.more(Math.floor(next() * 8));
      }
    })();
    while (created.names.length < count) {
      const wait = () => watcher.next();
      const result = await killSometime(next, wait, interrupts);
      if (result !== null) created.add(result.value.value);
    }
    await interrupts.patiently(() => creating);
    assertEquals(created.names, expected);
    assertGreaterOrEqual(interrupts.count, 60);
  },
);
