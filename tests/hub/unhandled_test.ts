import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import process from "node:process";
import {
  Event as Signal,
  joinAll,
  patch,
  Queue,
  Semaphore,
  sleep,
  spawn,
  until,
} from "../../mod.ts";
import { runScript, testBoth } from "../_bodies.ts";

/** How often each call is made: several turns of the event loop come in between. */
const ROUNDS = 64;

/** Uses up the time that greenlets have until the event loop has to turn. */
function burn(): void {
  const end = performance.now() + 0.2;
  while (performance.now() < end);
}

/** Collects the events of rejections that reach the application while this is in use. */
class Told implements Disposable {
  readonly unhandled: [unknown, unknown][] = [];
  readonly handled: [unknown, unknown][] = [];
  readonly contexts: unknown[] = [];
  readonly processUnhandled: [unknown, unknown][] = [];
  readonly processHandled: unknown[] = [];
  readonly #prevents: boolean;
  readonly #onUnhandled = (event: PromiseRejectionEvent) => {
    this.unhandled.push([event.promise, event.reason]);
    this.contexts.push(storage.getStore());
    if (this.#prevents) event.preventDefault();
  };
  readonly #onHandled = (event: PromiseRejectionEvent) => {
    this.handled.push([event.promise, event.reason]);
  };
  readonly #onProcessUnhandled = (reason: unknown, promise: unknown) => {
    this.processUnhandled.push([promise, reason]);
  };
  readonly #onProcessHandled = (...told: unknown[]) => {
    this.processHandled.push(told);
  };

  constructor(prevents: boolean) {
    this.#prevents = prevents;
    addEventListener("unhandledrejection", this.#onUnhandled);
    addEventListener("rejectionhandled", this.#onHandled);
    process.on("unhandledRejection", this.#onProcessUnhandled);
    process.on("rejectionHandled", this.#onProcessHandled);
  }

  /** The number of events. */
  get count(): number {
    return this.unhandled.length + this.handled.length +
      this.processUnhandled.length + this.processHandled.length;
  }

  [Symbol.dispose](): void {
    removeEventListener("unhandledrejection", this.#onUnhandled);
    removeEventListener("rejectionhandled", this.#onHandled);
    process.off("unhandledRejection", this.#onProcessUnhandled);
    process.off("rejectionHandled", this.#onProcessHandled);
  }
}

const storage = new AsyncLocalStorage<string>();

/** Lets the event loop turn, without us, until no event is left. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

async function fail(): Promise<never> {
  await null;
  throw new Error("handled one step later");
}

/** A stream that always has a chunk. */
function stocked(): ReadableStream<Uint8Array> {
  return new ReadableStream({
    pull: (controller) => controller.enqueue(new Uint8Array(1)),
  }, { highWaterMark: 8 });
}

/** Calls that are over at once, in plain Deno by microtasks only; made in a greenlet. */
const patched: Record<string, () => () => PromiseLike<unknown>> = {
  "ReadableStreamDefaultReader.read()": () => {
    const reader = stocked().getReader();
    return () => reader.read();
  },
  "next() of a ReadableStream's iterator": () => {
    const chunks = stocked()[Symbol.asyncIterator]();
    return () => chunks.next();
  },
  "ReadableStreamBYOBReader.read()": () => {
    const reader = new ReadableStream({
      type: "bytes",
      pull: (controller) => controller.enqueue(new Uint8Array(1)),
    }).getReader({ mode: "byob" });
    return () => reader.read(new Uint8Array(1));
  },
  "WritableStreamDefaultWriter.ready": () => {
    const writer = new WritableStream().getWriter();
    return () => writer.ready;
  },
  "WritableStreamDefaultWriter.write()": () => {
    const writer = new WritableStream().getWriter();
    return () => writer.write(1);
  },
  "Response.text()": () => () => new Response("short").text(),
  "Blob.text()": () => () => new Blob(["short"]).text(),
  "Request.json()": () => () =>
    new Request("http://localhost", { method: "POST", body: "1" }).json(),
};

const own: Record<string, () => () => PromiseLike<unknown>> = {
  "sleep(0)": () => () => sleep(0),
  "Queue.get()": () => {
    const queue = new Queue<number>();
    return () => {
      queue.put(1);
      return queue.get();
    };
  },
  "Queue.put()": () => {
    const queue = new Queue<number>();
    return () => queue.put(1);
  },
  "Event.wait()": () => {
    const event = new Signal();
    event.set();
    return () => event.wait();
  },
  "Semaphore.acquire()": () => {
    const semaphore = new Semaphore(1000);
    return () => semaphore.acquire();
  },
  "until()": () => () => until(Promise.resolve()),
  "Greenlet.get()": () => () => spawn(() => {}).get(),
  "joinAll()": () => () => joinAll([spawn(() => {})]),
};

type Make = () => () => PromiseLike<unknown>;

const rounds = {
  async async(make: Make): Promise<number> {
    let caught = 0;
    const call = make();
    for (let i = 0; i < ROUNDS; i++) {
      const failed = fail();
      burn();
      await call();
      try {
        await failed;
      } catch {
        caught++;
      }
    }
    return caught;
  },
  *generator(make: Make): Generator<unknown, number, unknown> {
    let caught = 0;
    const call = make();
    for (let i = 0; i < ROUNDS; i++) {
      const failed = fail();
      burn();
      yield* until(call());
      try {
        yield* until(failed);
      } catch {
        caught++;
      }
    }
    return caught;
  },
};

for (const [name, make] of Object.entries({ ...patched, ...own })) {
  testBoth(
    `${name} that is ready lets a rejection be handled in the next step`,
    rounds,
    async (body) => {
      using _ = patch();
      using told = new Told(true);
      const caught = await spawn(body, make).get();
      await turns();
      assertEquals(caught, ROUNDS);
      assertEquals(told.count, 0);
    },
  );
}

Deno.test("sleep(0) lets a rejection be handled by another greenlet that is ready", async () => {
  using told = new Told(true);
  const promises = new Queue<Promise<never>>();
  let caught = 0;
  const handler = spawn(async () => {
    for await (const promise of promises) await promise.catch(() => caught++);
  });
  await spawn(async () => {
    for (let i = 0; i < ROUNDS; i++) {
      const failed = fail();
      burn();
      await sleep(0);
      await promises.put(failed);
    }
  }).get();
  promises.shutdown();
  await handler.join();
  await turns();
  assertEquals(caught, ROUNDS);
  assertEquals(told.count, 0);
});

/** Leaves a promise unhandled while greenlets wait for the event loop to turn. */
async function leave(failed: Promise<never>, rounds = ROUNDS): Promise<void> {
  await spawn(async () => {
    for (let i = 0; i < rounds; i++) {
      burn();
      await sleep(0);
    }
  }).join();
  assert(failed instanceof Promise);
  await turns();
}

Deno.test("unhandledrejection tells once of a rejection that no step has handled, with the promise and in its context", async () => {
  using told = new Told(true);
  const failed = storage.run("here", fail);
  await leave(failed);
  const error = await failed.catch((error) => error);
  await turns();
  assertEquals(told.unhandled.length, 1);
  assert(told.unhandled[0]![0] === failed);
  assert(told.unhandled[0]![1] === error);
  assertEquals(told.contexts, ["here"]);
  assertEquals(told.processUnhandled, []);
  assertEquals(told.handled.length, 1);
  assert(told.handled[0]![0] === failed);
  assert(told.handled[0]![1] === error);
  assertEquals(told.processHandled.length, 1);
});

Deno.test("process tells once of a rejection that no step has handled, with the promise", async () => {
  using told = new Told(false);
  const failed = fail();
  await leave(failed);
  const error = await failed.catch((error) => error);
  await turns();
  assertEquals(told.unhandled.length, 1);
  assertEquals(told.processUnhandled.length, 1);
  assert(told.processUnhandled[0]![0] === failed);
  assert(told.processUnhandled[0]![1] === error);
  assertEquals(told.processHandled.length, 1);
});

Deno.test("rejectionhandled does not tell of a rejection that was handled before it was reported", async () => {
  using told = new Told(true);
  const failed = fail();
  await spawn(async () => {
    for (let i = 0; i < ROUNDS; i++) {
      burn();
      await sleep(0);
    }
    await failed.catch(() => {});
    const late = fail();
    for (let i = 0; i < ROUNDS; i++) {
      burn();
      await sleep(0);
    }
    await turns();
    await late.catch(() => {});
  }).get();
  await turns();
  assertEquals(told.unhandled.length, 1);
  assertEquals(told.handled.length, 1);
  assertEquals(told.processHandled.length, 1);
});

const PROGRAM = `
  const burn = () => {
    const end = performance.now() + 0.2;
    while (performance.now() < end);
  };
  const steps = async () => {
    for (let i = 0; i < 64; i++) { burn(); await step(); }
  };
  const failing = async () => {
    const failed = (async () => { throw new Error("left alone"); })();
    await steps();
    return failed;
  };
  console.log("begins");
`;

const ends: Record<string, string> = {
  "by the error": "",
  "by a listener that exits": `
    addEventListener("unhandledrejection", (event) => {
      console.log("told", event.reason.message);
      Deno.exit(7);
    });`,
  "by a listener of process that exits": `
    process.on("unhandledRejection", (error) => {
      console.log("told", error.message);
      process.exit(7);
    });`,
  "by uncaughtException": `
    process.on("uncaughtException", (error, origin) => {
      console.log("told", error.message, origin);
      process.exit(7);
    });`,
  "not, as a listener prevents it": `
    addEventListener("unhandledrejection", (event) => {
      console.log("told", event.reason.message);
      event.preventDefault();
    });`,
};

for (const [how, listener] of Object.entries(ends)) {
  Deno.test(`A process that leaves a rejection alone ends ${how}, as without greenlets`, async () => {
    const plain = await runScript(`${PROGRAM} ${listener}
      const step = async () => {};
      (async () => { (async () => { throw new Error("left alone"); })(); await steps(); })();`);
    const ours = await runScript(`${PROGRAM} ${listener}
      const step = () => sleep(0);
      spawn(async () => { (async () => { throw new Error("left alone"); })(); await steps(); });`);
    assertEquals(ours.out, plain.out);
    assertEquals(ours.code, plain.code);
    const first = (text: string) => text.split("\n")[0];
    assertEquals(first(ours.err), first(plain.err));
    assert(plain.code !== 0 || how.startsWith("not"));
  });
}

for (const players of ["Queue", "streams"]) {
  Deno.test(`A process ends by a rejection although greenlets hand each other items for ever, by ${players}`, async () => {
    const hand = players === "Queue"
      ? `const [a, b] = [new Queue(1), new Queue(1)];
        spawn(async () => { for (;;) { await a.put(1); await b.get(); } });
        spawn(async () => { for (;;) { await a.get(); await b.put(1); } });`
      : `patch();
        const reader = new ReadableStream({ pull: (it) => it.enqueue(1) }).getReader();
        spawn(async () => { for (;;) await reader.read(); });`;
    const { out, err, code } = await runScript(`${hand}
      setTimeout(() => console.log("timers have their turn"), 1);
      spawnLater(5, () => { Promise.reject(new Error("left alone")); });`);
    assertEquals(out, ["timers have their turn"]);
    assertStringIncludes(err, "Uncaught (in promise) Error: left alone");
    assertEquals(code, 1);
  });
}

Deno.test("A listener that is older than the library does not hear of a rejection that is handled in time", async () => {
  const { out, code } = await runScript(`const plain = new Worker(
    "data:text/javascript," + encodeURIComponent(\`
      addEventListener("unhandledrejection", (event) => postMessage("told"));
      const { spawn, sleep } = await import("\${import.meta.resolve(${
    JSON.stringify(new URL("../../mod.ts", import.meta.url).href)
  })}");
      ${PROGRAM}
      const step = () => sleep(0);
      await spawn(async () => { await failing().catch(() => {}); }).get();
      setTimeout(() => postMessage("end"), 1);
    \`), { type: "module" });
    plain.onmessage = ({ data }) => {
      console.log(data);
      if (data === "end") plain.terminate();
    };`);
  assertEquals(out, ["begins", "end"]);
  assertEquals(code, 0);
});

Deno.test("process tells of a rejection that no step has handled, where there are no events of rejections", async () => {
  const library = JSON.stringify(new URL("../../mod.ts", import.meta.url).href);
  const { out, code } = await runScript(`const worker = new Worker(
    "data:text/javascript," + encodeURIComponent(\`
      import process from "node:process";
      globalThis.addEventListener = undefined;
      const { spawn, sleep } = await import(\${JSON.stringify(${library})});
      ${PROGRAM}
      const step = () => sleep(0);
      process.on("unhandledRejection", (error, promise) => {
        postMessage(error.message + (promise === left ? "" : " in another's place"));
        setTimeout(() => promise.catch(() => {}), 1);
      });
      process.on("rejectionHandled", () => { postMessage("handled"); postMessage("end"); });
      let left;
      await spawn(async () => {
        await failing().catch(() => {});
        postMessage("none yet");
        left = Promise.reject(new Error("left alone"));
        await steps();
      }).get();
    \`), { type: "module" });
    worker.onmessage = ({ data }) => {
      console.log(data);
      if (data === "end") worker.terminate();
    };`);
  assertEquals(out, ["begins", "none yet", "left alone", "handled", "end"]);
  assertEquals(code, 0);
});
