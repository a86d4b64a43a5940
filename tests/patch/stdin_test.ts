import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertMatch,
} from "@std/assert";
import { argsOf } from "../_bodies.ts";
import { test, testRandomly, tick } from "../_random.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The address of a module of the library: each process loads all of it in 40 ms more. */
function moduleOf(name: string): string {
  return import.meta.resolve(`../../${name}.ts`);
}

/** The code before each script: the library, and reads of standard input. */
const preamble = `
  import { idle, sleep, spawn } from "${moduleOf("gevent")}";
  import { patch } from "${moduleOf("monkey")}";
  import { Timeout, withTimeout } from "${moduleOf("timeout")}";
  const decoder = new TextDecoder();
  const text = (count, buffer) =>
    count === null ? "the end" : decoder.decode(buffer.subarray(0, count));
  async function read(most = 100) {
    const buffer = new Uint8Array(most);
    return text(await Deno.stdin.read(buffer), buffer);
  }
  function readSync(most = 100) {
    const buffer = new Uint8Array(most);
    return text(Deno.stdin.readSync(buffer), buffer);
  }
  const pause = () => new Promise((resolve) => setTimeout(resolve, 1));
  /** When what was interrupted is over, and what was typed is kept for the next one. */
  async function readSyncSoon(most) {
    for (;;) {
      try {
        return readSync(most);
      } catch (error) {
        if (!(error instanceof Deno.errors.Busy)) throw error;
        await pause();
      }
    }
  }
  const inside = (run) => spawn(run).get();
  const late = { value: "interrupted" };
  const readInVain = () => withTimeout(1, read, late);
  /** Tells that the process does not end: a timer that does not hold it up. */
  const tellAlive = () =>
    Deno.unrefTimer(setTimeout(() => console.log("alive"), 20));
`;

/**
 * Lets a script wait until so many reads of the runtime have ended, whichever code has
 * begun them.
 */
const COUNTING = `
  let reads = 0;
  const prototype = Object.getPrototypeOf(Deno.stdin);
  const { read: original } = prototype;
  prototype.read = function (buffer) {
    return original.call(this, buffer).finally(() => reads++);
  };
  async function readsAreOver(count) {
    while (reads < count) await pause();
  }
`;

/** A script in a process of its own, and the user at its keyboard. */
class Session implements AsyncDisposable {
  readonly process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #errors: Promise<string>;
  readonly #keyboard: WritableStreamDefaultWriter<Uint8Array>;

  constructor(body: string) {
    this.process = new Deno.Command(Deno.execPath(), {
      args: argsOf(preamble + body),
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    this.#lines = this.process.stdout
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(lines())
      .getReader();
    this.#errors = new Response(this.process.stderr).text();
    this.#keyboard = this.process.stdin.getWriter();
  }

  async type(bytes: string | Uint8Array): Promise<void> {
    await this.#keyboard.write(
      typeof bytes === "string" ? encoder.encode(bytes) : bytes,
    );
  }

  /** No more is typed. */
  async end(): Promise<void> {
    await this.#keyboard.close();
  }

  /** Waits until the script prints something, which is to be this. */
  async expect(line: string): Promise<void> {
    const { value } = await this.#lines.read();
    if (value === undefined) assertEquals(await this.#errors, "");
    assertEquals(value, line);
  }

  /** Waits until the script has ended, as a good one. */
  async over(): Promise<void> {
    assertEquals((await this.#lines.read()).value, undefined);
    assertEquals(await this.#errors, "");
    assertEquals((await this.process.status).code, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#keyboard.close().catch(() => {});
    await this.process[Symbol.asyncDispose]();
    await this.#lines.cancel();
    await this.#errors;
  }
}

function lines(): TransformStream<string, string> {
  let rest = "";
  return new TransformStream({
    transform(chunk, controller) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) controller.enqueue(line);
    },
    flush(controller) {
      if (rest !== "") controller.enqueue(rest);
    },
  });
}

test("Deno.stdin.read() loses no line that is typed after an interrupt", async () => {
  await using session = new Session(`
    ${COUNTING}
    using _ = patch();
    console.log(await readInVain());
    await readsAreOver(1);
    console.log(await inside(() => read(5)));
    console.log(await read(4));
    console.log(await inside(readInVain));
    console.log(await read());
    console.log(await readInVain());
    // The one outside begins first.
    const waiting = [read(), inside(read)];
    console.log("waiting");
    for (const each of waiting) console.log(await each);
  `);
  await session.expect("interrupted");
  await session.type("firstline");
  await session.expect("first");
  await session.expect("line");
  await session.expect("interrupted");
  await session.type("second");
  await session.expect("second");
  await session.expect("interrupted");
  await session.expect("waiting");
  await session.type("third");
  await session.expect("third");
  await session.type("fourth");
  await session.expect("fourth");
  await session.over();
});

test("Deno.stdin.read() keeps the end for the next one", async () => {
  await using session = new Session(`
    ${COUNTING}
    using _ = patch();
    console.log(await readInVain());
    await readsAreOver(1);
    console.log(await inside(read));
    // It is there at once, and so this may not be interrupted.
    await readInVain();
    await readsAreOver(2);
    console.log(await read());
    await readInVain();
    console.log(await readSyncSoon());
  `);
  await session.expect("interrupted");
  await session.end();
  for (let i = 0; i < 3; i++) await session.expect("the end");
  await session.over();
});

test("Deno.stdin.readSync() gets the bytes that an interrupted read has received", async () => {
  await using session = new Session(`
    using _ = patch();
    console.log(await readInVain());
    try {
      readSync();
    } catch (error) {
      console.log(error.name);
    }
    console.log(await readSyncSoon(2));
    console.log(readSync());
    console.log(readSync());
  `);
  await session.expect("interrupted");
  await session.expect("Busy");
  await session.type("typed");
  await session.expect("ty");
  await session.expect("ped");
  await session.type("more");
  await session.expect("more");
  await session.over();
});

test("Deno.stdin.readable gets the bytes that an interrupted read has received, and the rest", async () => {
  for (const early of [true, false]) {
    await using session = new Session(`
      ${COUNTING}
      using _ = patch();
      console.log(await readInVain());
      ${early ? "" : "await readsAreOver(1);"}
      const { readable } = Deno.stdin;
      console.log(readable === Deno.stdin.readable);
      const reader = readable.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await inside(() => reader.read());
        if (done) break;
        console.log(value);
      }
      // Unlike a file, it was not closed.
      console.log(await read());
    `);
    await session.expect("interrupted");
    if (early) await session.expect("true");
    await session.type("first");
    if (!early) await session.expect("true");
    await session.expect("first");
    await session.type("second");
    await session.expect("second");
    await session.end();
    await session.expect("the end");
    await session.over();
  }
});

test("Deno.stdin.readable is the runtime's own where nothing is kept", async () => {
  await using session = new Session(`
    const { readable } = Deno.stdin;
    using _ = patch();
    console.log(readable === Deno.stdin.readable);
    for await (const line of readable.pipeThrough(new TextDecoderStream())) {
      console.log(line);
    }
  `);
  await session.expect("true");
  await session.type("line");
  await session.expect("line");
  await session.end();
  await session.over();
});

test("Deno.stdin.read() that is interrupted does not keep the process alive", async () => {
  await using session = new Session(`
    using _ = patch();
    console.log(await readInVain());
    console.log(await inside(readInVain));
    const greenlet = spawn(read);
    await sleep(0);
    await greenlet.kill();
    console.log("bye");
  `);
  await session.expect("interrupted");
  await session.expect("interrupted");
  await session.expect("bye");
  // Nothing was typed.
  await session.over();
});

for (
  const [name, read] of Object.entries({
    "in a greenlet": "inside(read).then(console.log)",
    "outside": "read().then(console.log)",
    "after all bytes that were kept were read": `
      console.log(await readSyncSoon());
      read().then(console.log);
    `,
  })
) {
  test(`Deno.stdin.read() keeps the process alive for a read that still waits, ${name}`, async () => {
    await using session = new Session(`
      const restore = patch();
      console.log(await readInVain());
      ${read}
      console.log("waiting");
      tellAlive();
    `);
    await session.expect("interrupted");
    if (read.includes("Sync")) {
      await session.type("first");
      await session.expect("first");
    }
    await session.expect("waiting");
    await session.expect("alive");
    await session.type("last");
    await session.expect("last");
    await session.over();
  });
}

test("Deno.stdin.close() drops the bytes that were kept", async () => {
  await using session = new Session(`
    ${COUNTING}
    using _ = patch();
    console.log(await readInVain());
    await readsAreOver(1);
    Deno.stdin.close();
    for (const wrap of [(run) => run(), inside]) {
      console.log(await wrap(() => read().catch((error) => error.name)));
    }
    try {
      readSync();
    } catch (error) {
      console.log(error.name);
    }
  `);
  await session.expect("interrupted");
  await session.type("kept");
  for (let i = 0; i < 3; i++) await session.expect("BadResource");
  await session.over();
});

test("Deno.stdin.read() from a file loses nothing", async () => {
  const path = await Deno.makeTempFile();
  await Deno.writeTextFile(path, "0123456789");
  const script = `
    using _ = patch();
    const results = [];
    for (let i = 0; i < 5; i++) {
      const greenlet = spawn(read, 3);
      await sleep(0);
      await greenlet.kill();
      if (typeof greenlet.value === "string") results.push(greenlet.value);
      results.push(i % 2 ? readSyncOrWait : await read(2));
    }
    for (let i = 0; i < results.length; i++) {
      if (results[i] === readSyncOrWait) results[i] = "";
    }
    for (let rest; (rest = await read()) !== "the end";) results.push(rest);
    console.log(results.join("").replaceAll("the end", ""));
    function readSyncOrWait() {}
  `;
  const { stdout, stderr } = await new Deno.Command("sh", {
    args: [
      "-c",
      `exec "$0" eval -q "$1" < "$2"`,
      Deno.execPath(),
      preamble + script,
      path,
    ],
  }).output();
  assertEquals(decoder.decode(stderr), "");
  assertEquals(decoder.decode(stdout), "0123456789\n");
  await Deno.remove(path);
});

test("patch() disposed of while a line is awaited or kept loses none", async () => {
  await using session = new Session(`
    {
      using _ = patch();
      console.log(await readInVain());
    }
    console.log(await read());
    {
      using _ = patch();
      console.log(await readInVain());
    }
    console.log(await readSyncSoon(2));
    console.log(await inside(read));
  `);
  await session.expect("interrupted");
  await session.type("first");
  await session.expect("first");
  await session.expect("interrupted");
  await session.type("second");
  await session.expect("se");
  await session.expect("cond");
  await session.over();
});

test("process.stdin gives a line to the next question after a greenlet is timed out in one", async () => {
  await using session = new Session(`
    import process from "node:process";
    import { createInterface } from "node:readline/promises";
    using _ = patch();
    await inside(async () => {
      const lines = createInterface({ input: process.stdin });
      try {
        using timeout = Timeout.start(1);
        console.log("asking");
        await lines.question("");
      } catch (error) {
        console.log(error.name);
      }
      console.log(await lines.question(""));
      console.log(await lines.question(""));
      lines.close();
    });
  `);
  await session.expect("asking");
  await session.expect("Timeout");
  await session.type("first\n");
  await session.expect("first");
  await session.type("second\n");
  await session.expect("second");
  await session.over();
});

test("process.stdin gets the bytes that an interrupted Deno.stdin.read() has left first", async () => {
  await using session = new Session(`
    import process from "node:process";
    import { createInterface } from "node:readline";
    ${COUNTING}
    using _ = patch();
    console.log(await inside(readInVain));
    await readsAreOver(1);
    console.log(await inside(() => read(2)));
    const greenlet = spawn(async () => {
      createInterface({ input: process.stdin }).on("line", (line) => {
        console.log(line);
      });
      await sleep(1e6);
    });
    await sleep(0);
    await greenlet.kill();
  `);
  await session.expect("interrupted");
  await session.type("1 first\n");
  await session.expect("1 ");
  await session.expect("first");
  await session.type("second\n");
  await session.expect("second");
  await session.end();
  await session.over();
});

testRandomly(
  "Deno.stdin.read() loses nothing when hundreds of reads are interrupted",
  async (next) => {
    await using session = new Session(`
      using _ = patch();
      let failed = null;
      let length = 0, interrupts = 0;
      const take = (buffer, count) => {
        if (count === null) return false;
        for (let i = 0; i < count; i++) {
          if (buffer[i] !== (length + i) * 7 % 251) failed ??= length + i;
        }
        length += count;
        return true;
      };
      const left = [];
      for (let going = true; going;) {
        const buffer = new Uint8Array(1 + Math.floor(Math.random() * 200));
        const kind = Math.random();
        const interrupted = () => {
          left.push(buffer);
          if (++interrupts % 2 === 0 && interrupts <= 200) console.log("more");
        };
        if (kind < 0.4) {
          const count = await withTimeout(Math.random(), () =>
            Deno.stdin.read(buffer), { value: "late" });
          if (count === "late") interrupted();
          else going = take(buffer, count);
        } else if (kind < 0.8) {
          let taken = false;
          const greenlet = spawn(async () => {
            const count = await Deno.stdin.read(buffer);
            taken = true;
            going = take(buffer, count);
          });
          await greenlet.join({ timeout: Math.random() });
          await greenlet.kill();
          if (!taken) interrupted();
        } else if (kind < 0.82 && interrupts >= 200) {
          going = take(buffer, await Deno.stdin.read(buffer));
        }
      }
      const untouched = left.every((buffer) => buffer.every((b) => b === 0));
      console.log(failed, untouched, length);
    `);
    const total = 20_000;
    let stops = 100;
    for (let sent = 0; sent < total;) {
      const count = Math.min(total - sent, 1 + Math.floor(next() * 300));
      await session.type(
        Uint8Array.from({ length: count }, (_, i) => (sent + i) * 7 % 251),
      );
      sent += count;
      // Goes on when some reads were interrupted.
      if (stops-- > 0) await session.expect("more");
    }
    for (; stops > 0; stops--) await session.expect("more");
    await session.end();
    await session.expect(`null true ${total}`);
    await session.over();
  },
);

for (
  const [name, other] of [["stdout", "stderr"], ["stderr", "stdout"]] as const
) {
  testRandomly(
    `Deno.${name}.write() keeps the order when writes are interrupted`,
    async (next) => {
      const sizes = Array.from(
        { length: 60 },
        () => 1 + Math.floor(next() * 70_000),
      );
      const script = `
        using _ = patch();
        const data = new Uint8Array(70_000);
        let interrupts = 0;
        for (const [i, size] of [${sizes}].entries()) {
          const bytes = data.subarray(0, size).fill(65 + i % 50);
          const greenlet = spawn(() => Deno.${name}.write(bytes));
          await greenlet.join({ timeout: i % 3 });
          await greenlet.kill();
          if (typeof greenlet.value !== "number" && ++interrupts === 5) {
            Deno.${other}.writeSync(new TextEncoder().encode("enough"));
          }
          // An interrupted write goes on with a copy.
          data.fill(33);
        }
        await Deno.${name}.write(new TextEncoder().encode("\\n" + interrupts));
      `;
      const process = new Deno.Command(Deno.execPath(), {
        args: argsOf(preamble + script),
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const others = process[other].pipeThrough(new TextDecoderStream())
        .getReader();
      // As long as nothing is read, writes have to wait.
      assertEquals((await others.read()).value, "enough");
      let text = "";
      const decoder = new TextDecoder();
      for await (const chunk of process[name]) {
        text += decoder.decode(chunk, { stream: true });
        await tick(next() * 2);
      }
      assertEquals((await others.read()).value, undefined);
      assert((await process.status).success);
      const [letters, interrupts] = text.split("\n") as [string, string];
      assertMatch(letters, /^[A-r]+$/);
      const runs = letters.match(/(.)\1*/g)!;
      assertEquals(runs.map((run) => run.length), sizes);
      assertGreaterOrEqual(Number(interrupts), 5);
    },
  );
}

const listening = {
  "readline": `
    const { createInterface } = await import("node:readline");
    createInterface({ input: process.stdin }).on("line", tell);
  `,
  "data": `process.stdin.on("data", tell);`,
};

for (const [name, listen] of Object.entries(listening)) {
  test(`process.stdin reads on for its listeners when the greenlet that has added them is killed, ${name}`, async () => {
    await using session = new Session(`
      patch(); // For longer than this module's own code runs
      const tell = async (line) => {
        // It belongs to no greenlet, so this is not the killed greenlet's wait.
        await new Promise((resolve) => setTimeout(resolve, 1));
        console.log(String(line).trim());
      };
      const ready = Promise.withResolvers();
      const user = spawn(async () => {
        ${listen}
        ready.resolve();
        await sleep(60_000);
      });
      await ready.promise;
      for (let i = 0; i < 10; i++) await idle();
      await user.kill();
      console.log("killed");
    `);
    await session.expect("killed");
    for (const line of ["one", "two"]) {
      await session.type(`${line}\n`);
      await session.expect(line);
    }
    await session.end();
    await session.over();
  });
}
