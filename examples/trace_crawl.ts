/**
 * Records a timeline of a crawl, and writes it for Perfetto and as a page for a browser.
 *
 *     deno run -q -P=trace examples/trace_crawl.ts
 *
 * The program serves the pages itself, and gets them five at a time. It writes the files to a
 * temporary directory and removes them at the end. Pass a directory to keep them.
 */

import { Pool, run, sleep, startTrace, type Trace } from "@gevent/gevent";
import { get } from "./_get.ts";

const PAGES = 40;
const AT_ONCE = 5;

async function answer(request: Request): Promise<Response> {
  const page = Number(new URL(request.url).pathname.slice(1));
  await sleep(5 + page * 7 % 20);
  return new Response(new Uint8Array(100 * page));
}

/** Prints a summary of a trace. */
function summarize({ traceEvents }: Trace): void {
  const ofPhase = (phase: string) =>
    traceEvents.filter(({ ph }) => ph === phase);
  const tracks = ofPhase("M").filter(({ name }) => name === "thread_name");
  const slices = Object.groupBy(ofPhase("X"), ({ name }) => name);
  console.log(`tracks:   ${tracks.length}`);
  for (const [name, all] of Object.entries(slices)) {
    const ms = all!.reduce((sum, { dur }) => sum + dur!, 0) / 1000;
    console.log(
      `${`${name}:`.padEnd(10)}${all!.length} slices, ${ms.toFixed(1)} ms`,
    );
  }
  const arrows = Object.groupBy(ofPhase("s"), ({ name }) => name);
  for (const [name, all] of Object.entries(arrows)) {
    console.log(`arrows:   ${all!.length} for a ${name}`);
  }
}

const [kept] = Deno.args;

await run(async () => {
  const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
  await using site = Deno.serve(options, answer);
  const { port } = site.addr;
  const urls = Array.from(
    { length: PAGES },
    (_, i) => `http://127.0.0.1:${port}/${i + 1}`,
  );
  const recording = startTrace();
  await new Pool(AT_ONCE).map(get, urls);
  const trace = recording.stop();
  summarize(trace);

  const folder = kept ?? await Deno.makeTempDir();
  const files = {
    "trace.json": JSON.stringify(trace),
    "trace.html": trace.toHtml(),
  };
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(`${folder}/${name}`, text);
    console.log(`written:  ${name}, ${(text.length / 1024).toFixed(0)} KiB`);
  }
  if (kept === undefined) await Deno.remove(folder, { recursive: true });
});
