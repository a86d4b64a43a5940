/**
 * Scripts that are run to see whether their process would end, and child processes.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { runScript } from "./_bodies.ts";
import { turns, whenSeen } from "./_waits.ts";

/** The result of one statement of a script. */
export interface StatementEnd {
  /** The lines that it has printed. */
  out: string[];
  /** Whether the process would have gone on after it. */
  livesOn: boolean;
}

/** The statements of a script, and the code before and after each. */
export interface Statements {
  /** The code before each statement, in the same scope. */
  before: string;
  statements: string[];
  /** The code after each: closes what would keep the process alive. */
  cleanUp: string;
  /** Flags of the runtime. */
  flags?: string[];
}

/**
 * Runs statements one after the other in one process, and finds out for each whether the process
 * would end after it: then the runtime fires `beforeunload`, which the script cancels. Otherwise
 * timers that don't keep the process alive go off first. They are several, one after the other,
 * as the first may be due before the runtime has looked. The next statement begins when the
 * process would end after the clean-up.
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
    // Calls that still wait fail when the clean-up closes their resource.
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

/** The number of processes that a test runs at a time. */
const AT_A_TIME = navigator.hardwareConcurrency + 1;

/** Calls a function with each item, a few at a time. Returns the results in order. */
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
  await whenSeen(() =>
    new Deno.Command("pgrep", { args: ["-P", `${Deno.pid}`] })
      .outputSync().stdout.length === 0
  );
  await turns(3);
}
