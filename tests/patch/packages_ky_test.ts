/**
 * ky, as it comes from npm, in greenlets: where it stops at once when it is interrupted, and
 * where it needs `until` or a signal. It is loaded before `patch()` is called.
 */

// First what real time is, then what stands in for it, and then the library that takes it
import { Gate, turns } from "../_waits.ts";
import { clock, giveBack } from "../_clock.ts";
import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import ky, { HTTPError, type Options, TimeoutError } from "ky";
import {
  getCurrent,
  type Greenlet,
  GreenletExit,
  patch,
  spawn,
  Timeout,
  until,
  withTimeout,
} from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { type Call, head, Site } from "./_site.ts";

/** Longer than any test, and not too long for the runtime's timers. */
const LONG = 100_000_000;
/** After how long calls are timed out, in milliseconds of a clock that is moved by hand. */
const SOON = 400;

/** The clock's timers, for ky. */
const { setTimeout, clearTimeout } = globalThis;
giveBack();

/** Stops time, for ky as well: by its timers. To be called before `patch()`. */
function stopTime(): Disposable {
  const real = {
    setTimeout: globalThis.setTimeout,
    clearTimeout: globalThis.clearTimeout,
  };
  const stack = new DisposableStack();
  stack.defer(() => Object.assign(globalThis, real));
  stack.use(clock.stop());
  Object.assign(globalThis, { setTimeout, clearTimeout });
  return stack;
}

/** Lets come what is on its way, be it by a socket. */
async function arrive(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await turns(100);
    await settle();
  }
}

const BUSY = head(0).replace("200 OK", "503 Busy");
const LOST = head(100).replace("200 OK", "404 Lost");

/** A call of ky, and what the server does before it stalls. */
interface Place {
  run(url: string, options?: Options): PromiseLike<unknown>;
  serve(site: Site): Promise<Call>;
}

async function serveHead(site: Site): Promise<Call> {
  return await site.next();
}

async function serveHalf(site: Site): Promise<Call> {
  const call = await site.next();
  await call.send(head(100) + "half");
  return call;
}

async function serveBusy(site: Site): Promise<Call> {
  const call = await site.next();
  await call.send(BUSY);
  call.close();
  return call;
}

/** Where ky waits for the server. */
const places: Record<string, Place> = {
  "before the headers": {
    run: (url, options) => ky(url, options),
    serve: serveHead,
  },
  "before the headers, without a timeout": {
    run: (url, options) => ky(url, { timeout: false, ...options }),
    serve: serveHead,
  },
  "before the headers, with a timeout in all": {
    run: (url, options) => ky(url, { totalTimeout: 60_000, ...options }),
    serve: serveHead,
  },
  "before the headers of what it posts": {
    run: (url, options) => ky.post(url, { json: [1], ...options }).json(),
    serve: serveHead,
  },
  "before the headers of the second attempt": {
    run: (url, options) => ky(url, { retry: { delay: () => 1 }, ...options }),
    async serve(site) {
      await serveBusy(site);
      return await site.next();
    },
  },
  ...Object.fromEntries(
    (["arrayBuffer", "blob", "bytes", "formData", "json", "text"] as const).map(
      (reader): [string, Place] => [`in the body, by ${reader}()`, {
        run: (url, options) => ky(url, options)[reader](),
        serve: serveHalf,
      }],
    ),
  ),
  "in the body, after the response": {
    run: async (url, options) => await (await ky(url, options)).json(),
    serve: serveHalf,
  },
  "in the body, without a timeout": {
    run: (url, options) => ky(url, { timeout: false, ...options }).json(),
    serve: serveHalf,
  },
  "in the body, of which a hook has a clone,": {
    run: (url, options) =>
      ky(url, { hooks: { afterResponse: [() => {}] }, ...options }).json(),
    serve: serveHalf,
  },
  "in the body, with progress": {
    run: (url, options) =>
      ky(url, { onDownloadProgress() {}, ...options }).json(),
    serve: serveHalf,
  },
};

/** Runs in a greenlet and notes by what it ends. */
function attempt(run: () => PromiseLike<unknown>): {
  greenlet: Greenlet<unknown>;
  end: Promise<unknown>;
} {
  const { promise: end, resolve } = Promise.withResolvers<unknown>();
  const greenlet = spawn(async () => {
    try {
      return await run();
    } catch (error) {
      resolve(error);
      throw error;
    }
  });
  return { greenlet, end };
}

for (const [name, { run, serve }] of Object.entries(places)) {
  Deno.test(`ky that is killed ${name} stops at once, and closes the connection`, async () => {
    using _ = patch();
    using site = new Site();
    const { greenlet, end } = attempt(() => run(site.url));
    const call = await serve(site);
    await arrive();
    await greenlet.kill(undefined, { grace: LONG });
    assertInstanceOf(greenlet.value, GreenletExit);
    assertStrictEquals(await end, greenlet.value);
    await call.gone();
  });
}

const limits: Record<
  string,
  (run: () => PromiseLike<unknown>) => Promise<unknown>
> = {
  "withTimeout": (run) => withTimeout(SOON, async () => await run()),
  "Timeout.start": async (run) => {
    using _timeout = Timeout.start(SOON);
    return await run();
  },
};

for (const [kind, limit] of Object.entries(limits)) {
  Deno.test(`ky that is timed out wherever it waits stops at once, and closes the connection, ${kind}`, async () => {
    using _ = patch();
    using _time = clock.stop();
    using sites = new DisposableStack();
    const all = await Promise.all(
      Object.entries(places).map(async ([name, { run, serve }]) => {
        const site = sites.use(new Site());
        const greenlet = spawn(() => limit(async () => await run(site.url)));
        return { name, greenlet, call: await serve(site) };
      }),
    );
    await arrive();
    await clock.pass(SOON + 1);
    for (const { name, greenlet, call } of all) {
      await assertRejects(() => greenlet.get(), Timeout, undefined, name);
      await call.gone();
    }
  });
}

/** How long ky waits before it tries again, in milliseconds. */
const DELAY = 200;

/** A server that is always busy, and what ky does about it. */
class BusySite implements AsyncDisposable {
  asked = 0;
  readonly #server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    () => {
      this.asked++;
      return new Response(null, { status: 503 });
    },
  );
  readonly #turnedDown = new Gate();

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/`;
  }

  /** Tries again after so long. */
  again(delay: number): Options {
    const retry = {
      limit: 3,
      delay: () => {
        this.#turnedDown.open();
        return delay;
      },
    };
    return { retry };
  }

  /** Waits until it has answered, and ky is between two attempts. */
  async turnedDown(): Promise<void> {
    await this.#turnedDown.opened;
    await settle();
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.#server[Symbol.asyncDispose]();
  }
}

Deno.test("ky that is killed between two attempts ends at the next one, which it does not make", async () => {
  using _time = stopTime();
  using _ = patch();
  await using site = new BusySite();
  const { greenlet, end } = attempt(() => ky(site.url, site.again(DELAY)));
  await site.turnedDown();
  const killing = greenlet.kill(undefined, { grace: LONG });
  await clock.pass(DELAY / 2);
  // Its promise is its own, and the callback of its timer no mere `resolve`.
  assertFalse(greenlet.dead);
  await clock.pass(DELAY);
  await killing;
  assertInstanceOf(await end, GreenletExit);
  assertEquals(site.asked, 1);
});

Deno.test("ky that is timed out between two attempts ends at the next one, which it does not make", async () => {
  using _time = stopTime();
  using _ = patch();
  await using site = new BusySite();
  const isLimited = new Gate();
  const greenlet = spawn(async () => {
    const asking = ky(site.url, site.again(DELAY));
    asking.catch(() => {});
    await site.turnedDown();
    using timeout = Timeout.start(1);
    isLimited.open();
    assertStrictEquals(await asking.catch((error) => error), timeout);
  });
  await isLimited.opened;
  await clock.pass(2 * DELAY);
  await greenlet.get();
  assertEquals(site.asked, 1);
});

Deno.test("withTimeout() with ky in it returns in time, and what it leaves behind makes no other attempt", async () => {
  using _time = stopTime();
  using _ = patch();
  await using site = new BusySite();
  let left: unknown;
  const limited = withTimeout(SOON, async () => {
    await ky(site.url, site.again(2 * SOON)).catch((error) => {
      left = error;
      throw error;
    });
  }).catch((error) => error);
  await site.turnedDown();
  await clock.pass(SOON + 1);
  const timeout = await limited;
  assertInstanceOf(timeout, Timeout);
  assertEquals(left, undefined);
  await clock.pass(2 * SOON);
  assertStrictEquals(left, timeout);
  assertEquals(site.asked, 1);
});

Deno.test("ky in until() that is killed between two attempts stops at once, and ky goes on without the greenlet", async () => {
  using _time = stopTime();
  using _ = patch();
  await using site = new BusySite();
  let left: unknown;
  const { greenlet, end } = attempt(() => {
    const asking = ky(site.url, site.again(DELAY));
    asking.catch((error) => left = error);
    return until(asking);
  });
  await site.turnedDown();
  await greenlet.kill();
  assertStrictEquals(await end, greenlet.value);
  assertEquals(left, undefined);
  // The greenlet has ended: the attempts that follow are a part of no greenlet
  while (left === undefined) {
    await clock.pass(DELAY);
    await arrive();
  }
  assertEquals((left as Error).name, "HTTPError");
  assert(site.asked > 1);
});

Deno.test("ky in until() with a signal that is timed out between two attempts stops at once, and makes no other", async () => {
  using _ = patch();
  await using site = new BusySite();
  await spawn(async () => {
    const { signal, abort } = aborter();
    const asking = ky(site.url, { ...site.again(LONG), signal });
    asking.catch(() => {});
    await site.turnedDown();
    using timeout = Timeout.start(1);
    const error = await until(asking, abort).catch((error) => error);
    assertStrictEquals(error, timeout);
    assertStrictEquals(await asking.catch((error) => error), timeout);
  }).get();
  assertEquals(site.asked, 1);
});

function aborter(): { signal: AbortSignal; abort: (error: unknown) => void } {
  const controller = new AbortController();
  return {
    signal: controller.signal,
    abort: (error) => controller.abort(error),
  };
}

Deno.test("ky with the greenlet's signal that is killed between two attempts stops at once", async () => {
  using _ = patch();
  await using site = new BusySite();
  const { greenlet, end } = attempt(() => {
    const { signal } = getCurrent() as Greenlet;
    return ky(site.url, { ...site.again(LONG), signal });
  });
  await site.turnedDown();
  await greenlet.kill(undefined, { grace: LONG });
  assertStrictEquals(await end, greenlet.value);
  assertEquals(site.asked, 1);
});

Deno.test("ky with the greenlet's signal that is killed wherever it waits for the server closes the connection", async () => {
  using _ = patch();
  await Promise.all(
    Object.values(places).map(async ({ run, serve }) => {
      using site = new Site();
      const { greenlet, end } = attempt(() =>
        run(site.url, { signal: (getCurrent() as Greenlet).signal })
      );
      const call = await serve(site);
      await arrive();
      await greenlet.kill(undefined, { grace: LONG });
      assertStrictEquals(await end, greenlet.value);
      await call.gone();
    }),
  );
});

Deno.test("ky with the greenlet's signal that is killed in the body of an error closes the connection", async () => {
  using _ = patch();
  using site = new Site();
  const greenlet = spawn(async () => {
    const { signal } = getCurrent() as Greenlet;
    try {
      await ky(site.url, { signal });
    } catch (error) {
      // ky takes an interrupt there for a body that can't be read.
      return error;
    }
  });
  const call = await site.next();
  await call.send(LOST + "half");
  await arrive();
  await greenlet.kill(undefined, { grace: LONG });
  assertInstanceOf(greenlet.value, HTTPError);
  await call.gone();
});

for (
  const [where, inPlace] of Object.entries({
    "in a greenlet": <T>(run: () => Promise<T>) => spawn(run).get(),
    "outside greenlets": <T>(run: () => Promise<T>) => run(),
  })
) {
  Deno.test(`ky under patch() does what it always does, ${where}`, async () => {
    using _time = stopTime();
    using _ = patch();
    using site = new Site();
    const { url } = site;
    const progress: number[] = [];
    const again = [new Gate(), new Gate()];
    const getting = inPlace(() =>
      ky.post(url, {
        json: { a: 1 },
        retry: {
          limit: 2,
          methods: ["post"],
          delay: (count) => {
            again[count - 1]!.open();
            return 1;
          },
        },
        onDownloadProgress: ({ percent }) => void progress.push(percent),
        hooks: {
          afterResponse: [async ({ response }) => void await response.text()],
        },
      }).json()
    );
    for (const isAgain of again) {
      await serveBusy(site);
      await isAgain.opened;
      await clock.pass(2);
    }
    const call = await site.next();
    while (!call.received.endsWith('{"a":1}')) assert(await call.receive());
    await call.answer("[1, 2]");
    assertEquals(await getting, [1, 2]);
    assertEquals(progress.at(-1), 1);

    const failing = inPlace(() => ky(url));
    const lost = await site.next();
    await lost.send(LOST.replace("100", "2") + "no");
    const error = await assertRejects(() => failing, HTTPError);
    assertEquals(error.data, "no");
    lost.close();

    const late = assertRejects(
      () => inPlace(() => ky(url, { timeout: SOON, retry: 0 })),
      TimeoutError,
    );
    const never = await site.next();
    await clock.pass(SOON + 1);
    await late;
    await never.gone();

    const controller = new AbortController();
    const reason = new Error("the caller's");
    const aborted = inPlace(() =>
      ky(url, { signal: controller.signal }).text()
    );
    const half = await serveHalf(site);
    await arrive();
    controller.abort(reason);
    assertStrictEquals(await aborted.catch((error) => error), reason);
    await half.gone();
  });
}
