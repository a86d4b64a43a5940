/**
 * patch() in any runtime: prints what a patched timer does, which has to be the same
 * everywhere.
 *
 *     node patch.js <folder of the modules> <.ts or .js>
 */

const [folder, extension] = process.argv.slice(2);
const { idle, spawn } = await import(`${folder}/gevent${extension}`);
const { isPatched, patch, patchModule } = await import(
  `${folder}/monkey${extension}`
);

/** Prints values alike in all runtimes. */
const print = (...values) => console.log(JSON.stringify(values));

const { setTimeout } = globalThis;
// Of the other parts not all is there everywhere.
const others = [
  "net",
  "tls",
  "fetch",
  "streams",
  "dns",
  "fs",
  "process",
  "http",
  "websocket",
];
const none = Object.fromEntries(others.map((part) => [part, false]));
const patches = patch(none);
print(isPatched("timers"), globalThis.setTimeout !== setTimeout);

// The idiom can be killed.
const log = [];
const sleeper = spawn(async () => {
  try {
    await new Promise((resolve) => globalThis.setTimeout(resolve, 1_000_000));
  } finally {
    log.push("cleaned up");
  }
});
await idle();
await sleeper.kill();
print(log, sleeper.successful());

patches[Symbol.dispose]();
print(isPatched("timers"), globalThis.setTimeout === setTimeout);

const target = { one: 1, two: 2 };
const module = patchModule(target, { one: "one", two: "two" });
print(target);
module[Symbol.dispose]();
print(target);
