/**
 * `LoopExit`: the error of a program in which no greenlet can go on.
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
import { placeLater, withoutFrames } from "./stacks.ts";
import { describeWaits, FOREIGN, nameOf } from "./waits.ts";

/**
 * Thrown into the wait of the main greenlet when nothing is left that could end it: no other
 * greenlet can go on, and the event loop has no timer, socket, child process, signal listener or
 * other operation. gevent's `LoopExit`.
 *
 * The wait of the function of `run` throws it; without `run`, the wait of the program at its top
 * level. The message lists all greenlets and what each waits in. If the program has loaded
 * `mod.ts` or `inspect.ts`, the list is a tree that marks greenlets which wait for each other
 * with `deadlock`. A function that catches the error goes on. If nothing catches it, the process
 * ends with the exit code 1.
 *
 * Deno fires no event when the event loop of a program that waits at its top level is empty. So
 * the library looks when nothing has happened for a while, and throws the error some tenths of a
 * second later. A cleared timer counts as work until its time has come.
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

/** Lists the greenlets and what each waits in. Lists only main until a better list is set. */
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

/** Replaces the list by a function that knows more greenlets. */
export function listGreenletsBy(better: () => string): void {
  list = better;
}

/** Makes the error. */
export function newLoopExit(): LoopExit {
  // Runs in a greenlet that is in no list: to it, all listed greenlets look suspended.
  const greenlets = runIn(new Scope(new Greenlet(() => {})), list);
  const error = new LoopExit(
    `Nothing can end what the main greenlet waits in, as no greenlet can go on and the event loop is empty:\n${greenlets}`,
  );
  return placeLater(withoutFrames(error));
}

/** The wait of a program at its top level, outside greenlets. */
class MainWait implements TopWait {
  /** The error that was thrown last, if the program has not begun another wait since. */
  #thrown: LoopExit | null = null;

  get waits(): boolean {
    return mainScope.pending !== null || this.#thrown !== null;
  }

  loopEnds(): void {
    if (mainScope.pending === null) {
      // The program has caught the error and awaits a foreign promise. The runtime ends it.
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
