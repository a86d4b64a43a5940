/**
 * Greenlets on the event loop of any runtime: prints what they do, which has to be the same
 * everywhere.
 *
 *     node hub.js <folder of the modules> <.ts or .js>
 */

// A browser gets them by the address.
const [folder, extension] = globalThis.process?.argv.slice(2) ??
  location.search.slice(1).split("&");
const {
  GreenletExit,
  joinAll,
  killAll,
  run,
  sleep,
  spawn,
  spawnLater,
} = await import(`${folder}/gevent${extension}`).then(async (gevent) => ({
  ...gevent,
  ...await import(`${folder}/greenlet${extension}`),
}));
const { Timeout, withTimeout } = await import(`${folder}/timeout${extension}`);
const { getHub, until } = await import(`${folder}/hub${extension}`);
const { Queue } = await import(`${folder}/queue${extension}`);
const { Event } = await import(`${folder}/event${extension}`);
const { Lock } = await import(`${folder}/lock${extension}`);
const { Pool } = await import(`${folder}/pool${extension}`);
const { local } = await import(`${folder}/local${extension}`);

/** Prints values alike in all runtimes. */
const print = (...values) => console.log(JSON.stringify(values));

const FOREVER = 1_000_000;

// Results, of each kind of body.
const bodies = [
  async (n) => {
    await sleep(1);
    return n;
  },
  function* (n) {
    yield* sleep(1);
    return n;
  },
  (n) => n,
];
const greenlets = bodies.map((body, n) => spawn(body, n));
await joinAll(greenlets);
print(greenlets.map((greenlet) => greenlet.value));

// A kill runs the clean-up, which may wait.
const log = [];
const killed = [
  spawn(async () => {
    try {
      await sleep(FOREVER);
    } finally {
      await sleep(1);
      log.push("async");
    }
  }),
  spawn(function* () {
    try {
      yield* sleep(FOREVER);
    } finally {
      yield* sleep(1);
      log.push("generator");
    }
  }),
];
await sleep(1);
await killAll(killed);
print(
  log.sort(),
  killed.map(({ value }) => value instanceof GreenletExit),
);

// A kill insists.
const stubborn = spawn(async () => {
  for (;;) {
    try {
      await sleep(FOREVER);
    } catch {
      await sleep(1);
    }
  }
});
await sleep(1);
const { handleError } = getHub();
getHub().handleError = (_, error) => print(error.name);
await stubborn.kill(undefined, { grace: 5 });
print(stubborn.dead);
getHub().handleError = handleError;

// The error that the language, or a compiler in its place, throws when clean-up fails as
// well.
const suppressed = spawn(async () => {
  try {
    await sleep(FOREVER);
  } catch (error) {
    const wrapped = new Error("An error was suppressed during disposal");
    throw Object.assign(wrapped, {
      name: "SuppressedError",
      error,
      suppressed: error,
    });
  }
});
await sleep(1);
await suppressed.kill();
print(suppressed.successful());

// Limits.
print(await withTimeout(1, () => sleep(FOREVER), { value: "late" }));
print(
  await withTimeout(1, () => new Promise(() => {}), { value: "late" }),
);
try {
  await withTimeout(1, function* () {
    yield* sleep(FOREVER);
  });
} catch (error) {
  print(error instanceof Timeout);
}
const timeout = Timeout.start(1, { error: RangeError });
try {
  await until(new Promise(() => {}));
} catch (error) {
  print(error instanceof RangeError);
}
timeout.close();

// Order: of timers that are due at once.
let order;
for (let isQuick = false; !isQuick;) {
  order = [];
  const start = performance.now();
  const all = [
    spawn(async () => {
      const pause = () => sleep(30);
      await pause();
      order.push("slept");
    }),
    spawnLater(20, () => order.push("later")),
    spawn(async () => {
      await withTimeout(10, () => sleep(FOREVER), { value: "late" });
      order.push("limit");
    }),
  ];
  await sleep(0);
  // On a machine that was slower, they need not be due in this order.
  isQuick = performance.now() - start < 10;
  while (performance.now() - start < 50);
  await joinAll(all);
}
print(order);

// Queues, events, locks, pools and locals.
const queue = new Queue(1);
spawn(async () => {
  for (const item of ["a", "b", "c"]) await queue.put(item);
});
const getter = spawn(function* () {
  const items = [];
  while (items.length < 3) items.push(yield* queue.get());
  return items;
});
print(await getter.get());
const event = new Event();
const awaiting = spawn(() => event.wait());
event.set();
print(await awaiting.get());
const lock = new Lock();
await lock.acquire();
print(await lock.acquire({ timeout: 1 }));
lock.release();
const double = async (n) => {
  await sleep(1);
  return 2 * n;
};
print(await new Pool(2).map(double, [1, 2, 3]));
const mine = local(() => ({ n: 0 }));
const own = [1, 2].map((n) =>
  spawn(async () => {
    mine.n = n;
    await sleep(1);
    return mine.n;
  })
);
await joinAll(own);
print(own.map(({ value }) => value), mine.n);

print(
  await run(async () => {
    spawn(async () => {
      try {
        await sleep(FOREVER);
      } finally {
        print("cut short");
      }
    });
    await sleep(1);
    return "done";
  }),
);
