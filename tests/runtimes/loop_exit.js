/**
 * The end of the event loop in any runtime: prints what happens, which has to be the same
 * everywhere.
 *
 *     node loop_exit.js <folder of the modules> <.ts or .js>
 */

const [folder, extension] = process.argv.slice(2);
const { run, sleep, spawn } = await import(`${folder}/gevent${extension}`);
const { LoopExit } = await import(`${folder}/hub${extension}`);
const { Event } = await import(`${folder}/event${extension}`);
await import(`${folder}/inspect${extension}`);

async function tell(name, stuck) {
  try {
    console.log(name, await stuck());
  } catch (error) {
    console.log(name, error instanceof LoopExit, error.message);
  }
}

await tell("run", () =>
  run(async function main() {
    try {
      await spawn(() => new Event().wait()).join();
    } finally {
      await sleep(1);
      console.log("cleaned up");
    }
  }));
await tell("foreign", () => run(() => new Promise(() => {})));
await tell("top", () => new Event().wait());
await tell("goes on", () =>
  run(async () => {
    const event = new Event();
    setTimeout(() => event.set(), 400);
    await event.wait();
    return "went on";
  }));
