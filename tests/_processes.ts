/**
 * Scripts, run to see how their process ends, and child processes.
 *
 * @module
 */

import { runScript, type ScriptOutput } from "./_bodies.ts";
import { turns, when } from "./_waits.ts";

/** How a script has ended. */
export interface ScriptEnd extends ScriptOutput {
  /** True if something would have kept its process alive at its end. */
  livesOn: boolean;
}

const ALIVE = "the process lives on";

/**
 * Runs a script in a process of its own, and sees whether that ends with it: timers that do
 * not keep the process alive go off only as long as something else does. They are several,
 * one after the other, as one may be due before the runtime has looked.
 *
 * @param body The script, with the whole library in scope.
 * @param flags Flags of the runtime.
 */
export async function runToEnd(
  body: string,
  flags: string[] = [],
): Promise<ScriptEnd> {
  const output = await runScript(
    `
    const startTimer = setTimeout;
    ${body}
    const goOn = (left) => {
      if (left > 0) return Deno.unrefTimer(startTimer(goOn, 1, left - 1));
      console.log(${JSON.stringify(ALIVE)});
      Deno.exit();
    };
    goOn(15);
    `,
    undefined,
    flags,
  );
  const livesOn = output.out.at(-1) === ALIVE;
  if (livesOn) output.out.pop();
  return { ...output, livesOn };
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
