/**
 * The error of a program in which nothing can go on any more.
 *
 * @module
 */

import { nameClasses } from "../_base/inspecting.ts";
import { Greenlet, GreenletError } from "../greenlet.ts";
import { knownScopeOf, runDetached, runIn, ScopedGreenlet } from "./current.ts";
import { setMain, type TopWait } from "./loop_end.ts";
import { main } from "./main.ts";
import { printError } from "./print.ts";
import { mainScope, Scope } from "./scope.ts";
import { placeLater } from "./stacks.ts";
import { describeWaits, FOREIGN, nameOf } from "./waits.ts";

/**
 * Thrown into the wait of the main greenlet when nothing is left that could end it: no other
 * greenlet can go on, and the event loop has no timer, socket, child process, signal listener or
 * other operation. gevent's `LoopExit`.
 *
 * It is thrown by what the function of `run` waits in, and without `run` by what a program waits
 * in at its top level. The message lists all greenlets and what each waits in: as their tree, in
 * which greenlets that wait for each other are marked `deadlock`, if the program has loaded
 * `mod.ts` or `inspect.ts`. A function that catches it goes on. If nothing catches it, the
 * process ends with the exit code 1.
 *
 * Deno does not tell a program that waits at its top level when the event loop is empty. The
 * library looks when nothing has happened for a while, so the error comes some tenths of a second
 * later. A timer that was cleared counts as one until its time has come.
 *
 * @example Usage
 * ```ts
 * import { LoopExit, Queue, run } from "@gevent/gevent";
 *
 * async function main() {
 *   try {
 *     await new Queue().get(); // Nothing puts
 *   } catch (error) {
 *     if (!(error instanceof LoopExit)) throw error;
 *     console.log("Nothing is left to do");
 *   }
 * }
 * if (Deno.args.includes("--stuck")) await run(main);
 * ```
 */
export class LoopExit extends GreenletError {
  static {
    this.prototype.name = "LoopExit";
  }
}

/** Lists the greenlets and what each waits in; main alone where no module spawns any. */
let list = (): string => lineOf(main);

/** Says what a greenlet waits in. */
export function lineOf(greenlet: Greenlet): string {
  const scope = greenlet === main
    ? mainScope
    : greenlet instanceof ScopedGreenlet
    ? knownScopeOf(greenlet)
    : null;
  const waits = scope === null ? null : describeWaits(scope);
  return `${nameOf(greenlet)} waits in ${waits ?? FOREIGN}`;
}

/** Has greenlets listed by a function that knows more of them. */
export function listGreenletsBy(better: () => string): void {
  list = better;
}

/** Makes the error. */
export function newLoopExit(): LoopExit {
  // As seen by a greenlet that is in no list, for which none of the others runs.
  const greenlets = runIn(new Scope(new Greenlet(() => {})), list);
  const error = new LoopExit(
    `Nothing can end what the main greenlet waits in, as no greenlet can go on and the event loop is empty:\n${greenlets}`,
  );
  return placeLater(error);
}

/** What a program waits in at its top level, outside greenlets. */
class MainWait implements TopWait {
  /** The error that was thrown last, if the program has not begun another wait since. */
  #thrown: LoopExit | null = null;

  get waits(): boolean {
    return mainScope.pending !== null || this.#thrown !== null;
  }

  loopEnds(): void {
    if (mainScope.pending === null) {
      // The program awaits something else, which nothing can interrupt. The runtime ends it.
      if (this.#thrown !== null) printError(main, this.#thrown);
      this.#thrown = null;
      return;
    }
    this.#thrown = newLoopExit();
    runDetached(() => mainScope.interrupt(this.#thrown));
  }
}

setMain(new MainWait());

nameClasses({ LoopExit });
