/**
 * Scripts, run to see how their process ends, and child processes.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { runScript } from "./_bodies.ts";
import { turns, when } from "./_waits.ts";

/** How a statement of a script has ended. */
export interface StatementEnd {
  /** What it has printed. */
  out: string[];
  /** True if something would have kept the process alive at its end. */
  livesOn: boolean;
}

/** The statements of a script, and how they are begun and cleaned up after. */
export interface Statements {
  /** What comes before each, in the same scope. */
  before: string;
  statements: string[];
  /** Closes what a statement has left, so that nothing keeps the process alive. */
  cleanUp: string;
  /** Flags of the runtime. */
  flags?: string[];
}

/**
 * Runs statements one after the other in a process of its own, and sees of each whether the
 * process would end with it. The runtime tells when it would, and may be told to go on. If
 * it does not, timers that do not keep the process alive go off: they are several, one
 * after the other, as one may be due before the runtime has looked. After a statement is
 * cleaned up, the process would end in any case, or the next one is not begun.
 */
export async function runToEnds(
  { before, statements, cleanUp, flags = [] }: Statements,
): Promise<StatementEnd[]> {
  const functions = statements.map((statement) => `
    async () => {
      ${before}
      ${statement}
      return () => { ${cleanUp} };
    }`);
  const { out, err, code } = await runScript(
    `
    const startTimer = setTimeout;
    let tell;
    addEventListener("beforeunload", (event) => {
      if (tell === undefined) return;
      event.preventDefault();
      tell(true);
    });
    const wouldEnd = (left) => new Promise((resolve) => {
      const answer = tell = (ends) => {
        tell = undefined;
        resolve(ends);
      };
      const look = () => {
        if (tell !== answer) return;
        if (left-- > 0) Deno.unrefTimer(startTimer(look, 1));
        else answer(false);
      };
      look();
    });
    // What still waits fails when it is closed.
    const isOfClosing = (error) =>
      error instanceof Deno.errors.Interrupted ||
      error instanceof Deno.errors.BadResource;
    addEventListener("unhandledrejection", (event) => {
      if (isOfClosing(event.reason)) event.preventDefault();
    });
    const { handleError } = getHub();
    getHub().handleError = (context, error) => {
      if (!isOfClosing(error)) handleError.call(getHub(), context, error);
    };
    (async () => {
      for (const run of [${functions.join()}]) {
        const close = await run();
        console.log(await wouldEnd(15) ? "would end" : "lives on");
        close();
        if (!await wouldEnd(5_000)) throw new Error("Cannot end");
      }
    })();
    `,
    undefined,
    flags,
  );
  assertEquals([err, code], ["", 0], out.join("\n"));
  const ends: StatementEnd[] = [];
  let printed: string[] = [];
  for (const line of out) {
    if (line !== "would end" && line !== "lives on") {
      printed.push(line);
      continue;
    }
    ends.push({ out: printed, livesOn: line === "lives on" });
    printed = [];
  }
  assertEquals(ends.length, statements.length, out.join("\n"));
  return ends;
}

/** How many processes a test runs at a time. */
const AT_A_TIME = navigator.hardwareConcurrency + 1;

/** Does something with each item, with a few of them at a time, and gives the results. */
export async function inParallel<T, R>(
  items: readonly T[],
  run: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const left = items.entries();
  async function work(): Promise<void> {
    for (const [i, item] of left) results[i] = await run(item);
  }
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
  return results;
}

/** Waits until the runtime has no child processes left, for its sanitizers. */
export async function childrenEnded(): Promise<void> {
  await when(() =>
    new Deno.Command("pgrep", { args: ["-P", `${Deno.pid}`] })
      .outputSync().stdout.length === 0
  );
  await turns(3);
}
