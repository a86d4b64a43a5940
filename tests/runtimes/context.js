/**
 * The greenlet that code belongs to, where the runtime carries a context through every `await`:
 * prints what it does, which has to be the same everywhere.
 *
 *     node context.js <folder of the modules> <.ts or .js>
 */

const [folder, extension] = process.argv.slice(2);
const { getCurrent, Greenlet, sleep, spawn } = await import(
  `${folder}/gevent${extension}`
);
const { AsyncLocalStorage } = await import("node:async_hooks");

const foreign = () => new Promise((resolve) => setTimeout(resolve, 1));
const log = [];

const me = spawn(async () => {
  await foreign();
  log.push(getCurrent() === me);
  const nested = async () => {
    await sleep(1);
    await foreign();
  };
  await nested();
  log.push(getCurrent() === me);
  await Promise.all([sleep(1), foreign()]);
  log.push(getCurrent() === me);
});
await me.get();

// A kill reaches a wait behind a foreign promise.
const killed = spawn(async () => {
  await foreign();
  try {
    await sleep(1_000_000);
  } finally {
    log.push("ended");
  }
});
await foreign();
await sleep(5);
await killed.kill();

// Values of other code flow into greenlets.
const storage = new AsyncLocalStorage();
const request = storage.run("request 1", () =>
  spawn(async () => {
    await sleep(1);
    await foreign();
    return storage.getStore();
  }));
log.push(await request.get(), storage.getStore() ?? "none");

// Those who wait for an end go on in the order in which they began to.
const linked = new Greenlet(() => {});
const joining = spawn(async () => {
  await linked.join();
  log.push("joined");
});
await sleep(1);
linked.rawlink(() => log.push("rawlink"));
linked.start();
await joining.join();
await sleep(1);

console.log(JSON.stringify(log));
