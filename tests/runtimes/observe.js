/**
 * What shows what is going on, in any runtime: prints what is seen, which has to be the same
 * everywhere.
 *
 *     node observe.js <folder of the modules> <.ts or .js>
 */

const [folder, extension] = process.argv.slice(2);
const { Greenlet, sleep, spawn } = await import(
  `${folder}/gevent${extension}`
);
const { assertSwitches, formatRunInfo, GreenletTree } = await import(
  `${folder}/inspect${extension}`
);
const { monitor } = await import(`${folder}/monitor${extension}`);
const { startTrace } = await import(`${folder}/trace${extension}`);
const { TestClock } = await import(`${folder}/testing${extension}`);

/** Prints values alike in all runtimes. */
const print = (...values) => console.log(JSON.stringify(values));

/** Holds up the event loop for some milliseconds. */
function holdUp(ms) {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

// The tree, and what each waits in.
const sleeper = new Greenlet(() => sleep(20));
sleeper.name = "sleeper";
sleeper.start();
await sleep(1);
print(sleeper.waitsIn, /sleeper.*\n?.*sleep\(20\)/.test(formatRunInfo()));
print(GreenletTree.forest()[0].children.some((it) => it.greenlet === sleeper));
await sleeper.join();

const assertion = assertSwitches({ maxBlocking: 20 });
holdUp(60);
try {
  assertion[Symbol.dispose]();
} catch (error) {
  print(error.name);
}

const recording = startTrace();
const traced = spawn(() => sleep(1));
traced.name = "traced";
await traced.join();
const trace = recording.stop();
print(trace.traceEvents.some(({ args }) => args?.name === "traced"));
print(trace.toHtml().includes("<script>"));

const watch = monitor({ maxBlocking: 50 });
const blocked = new Promise((resolve) =>
  watch.addEventListener("blocked", (event) => {
    event.preventDefault();
    // On a loaded machine other code may hold up the event loop as well.
    if (event.detail.greenlet === "busy") resolve(event.detail.greenlet);
  })
);
const busy = spawn(async () => {
  // The thread that watches may take its time to begin.
  for (let isSeen = false; !isSeen;) {
    await sleep(10);
    holdUp(200);
    isSeen = await Promise.race([blocked.then(() => true), sleep(10)]);
  }
});
busy.name = "busy";
await busy.join();
print(await blocked);
watch[Symbol.dispose]?.();

const clock = new TestClock();
const patient = spawn(() => sleep(10_000));
await clock.advance(9_999);
print(patient.dead);
await clock.advance(1);
print(patient.dead);
clock[Symbol.dispose]?.();
