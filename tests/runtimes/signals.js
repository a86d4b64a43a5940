/**
 * Signals in any runtime: prints what becomes of a program, which has to be the same everywhere.
 *
 *     node signals.js <folder of the modules> <.ts or .js>
 */

const [folder, extension] = process.argv.slice(2);
const { run, sleep } = await import(`${folder}/gevent${extension}`);
const { GreenletExit } = await import(`${folder}/greenlet${extension}`);
const { Event } = await import(`${folder}/event${extension}`);
const { onSignal } = await import(`${folder}/signal${extension}`);

/** Prints values alike in all runtimes. */
const print = (...values) => console.log(JSON.stringify(values));

// In Deno, `process` tells of the code that was set by itself only.
const owner = globalThis.Deno ?? process;

const FOREVER = 1_000_000;

for (const name of ["SIGINT", "SIGTERM"]) {
  const result = await run(async () => {
    const handled = new Event();
    const listener = onSignal(name, () => handled.set());
    process.kill(process.pid, name);
    await handled.wait({ timeout: FOREVER });
    print(name, "handled");
    listener[Symbol.dispose]();
    process.kill(process.pid, name);
    try {
      await sleep(FOREVER);
    } finally {
      print(name, "unwound");
    }
  });
  print(result instanceof GreenletExit, owner.exitCode);
}
owner.exitCode = 0;
