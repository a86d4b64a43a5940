/**
 * The greenlet that code belongs to, where nothing carries a context through `await`: the code
 * that goes on after an `await` of a wait. Prints what it does, which has to be the same
 * everywhere.
 *
 *     node awaits.js <folder of the modules> <.ts or .js>
 */

// A browser gets them by the address.
const [folder, extension] = globalThis.process?.argv.slice(2) ??
  location.search.slice(1).split("&");
const { getCurrent, Greenlet, joinAll, killAll, sleep, spawn } = await import(
  `${folder}/gevent${extension}`
);
const { getHub, until } = await import(`${folder}/hub${extension}`);
const { Timeout, withTimeout } = await import(`${folder}/timeout${extension}`);
const { Queue } = await import(`${folder}/queue${extension}`);
const { Lock } = await import(`${folder}/lock${extension}`);
const { local } = await import(`${folder}/local${extension}`);
const { nursery } = await import(`${folder}/nursery${extension}`);
const { Pool } = await import(`${folder}/pool${extension}`);
const { select } = await import(`${folder}/select${extension}`);

/** Prints values alike in all runtimes. */
const print = (...values) => console.log(JSON.stringify(values));

const FOREVER = 1_000_000;
const foreign = (value) =>
  new Promise((resolve) => setTimeout(() => resolve(value), 1));

// After each kind of wait: one that waits, one that is ready, one that fails.
const log = [];
const queue = new Queue();
const me = spawn(async () => {
  const note = (text) => log.push([text, getCurrent() === me]);
  note("at the start");
  await sleep(1);
  note("sleep");
  await sleep(0);
  note("sleep(0)");
  await queue.put(1);
  note("put");
  await queue.get();
  note("ready get");
  await queue.get({ timeout: 1 }).catch(() => {});
  await sleep(0).then(() => note("then"));
  try {
    await queue.get({ timeout: 1 });
  } catch (error) {
    note(error.name);
  }
  try {
    await queue.get({ block: false });
  } catch (error) {
    note(error.name);
  }
  note(await until(foreign("until")));
  await until(Promise.all([sleep(1), foreign()]));
  note("until of several");
  const nested = async () => {
    await sleep(1);
    note("nested");
    await sleep(1);
    return "until of an async function";
  };
  note(await until(nested()));
  note((await select([() => sleep(1), () => queue.get()])).key);
  note(await withTimeout(1, () => sleep(FOREVER), { value: "late" }));
  await withTimeout(FOREVER, async () => {
    await sleep(1);
    note("in withTimeout");
    await sleep(1);
    note("still");
  });
  note("after withTimeout");
  await nursery(async (group) => {
    group.spawn(sleep, 1);
    await sleep(1);
    note("in a nursery");
  });
  note("after a nursery");
});
await me.get();
print(log);

// Main is current everywhere else.
print(getCurrent() === getHub());
await foreign();
print(getCurrent() === getHub());

// Many at a time, each with its own.
const mine = local(() => ({ n: -1 }));
const lock = new Lock();
const many = Array.from({ length: 20 }, (_, n) =>
  spawn(async () => {
    mine.n = n;
    for (let i = 0; i < 5; i++) {
      await (n % 2 === 0 ? sleep(0) : sleep(n % 3));
      await lock.acquire();
      try {
        await sleep(0);
        if (mine.n !== n) return "another's";
      } finally {
        lock.release();
      }
    }
    return mine.n === n;
  }));
await joinAll(many);
print(many.every(({ value }) => value === true), mine.n);

// Kills and limits reach a wait after any number of awaits.
const ended = [];
let waiting = 0;
const victims = [1, 2, 3].map((n) =>
  spawn(async () => {
    for (let i = 0; i < n; i++) await sleep(1);
    await until(foreign());
    try {
      waiting++;
      await sleep(FOREVER);
    } finally {
      await sleep(1);
      ended.push(n);
    }
  })
);
while (waiting < victims.length) await sleep(1);
await killAll(victims);
print(ended.sort());
try {
  await withTimeout(20, async () => {
    for (;;) await sleep(1);
  });
} catch (error) {
  print(error instanceof Timeout);
}
print(
  await new Pool(3).map(async (n) => {
    await sleep(1);
    return [n, getCurrent() instanceof Greenlet];
  }, [1, 2, 3]),
);

// An error that nothing takes is told once.
const { handleError } = getHub();
const told = [];
getHub().handleError = (greenlet, error) =>
  told.push([greenlet.name, error.message]);
const failing = spawn(async () => {
  await sleep(1);
  throw new Error("failed");
});
failing.name = "failing";
await failing.join();
await sleep(20);
getHub().handleError = handleError;
print(told);
