/**
 * The signals that end a program: SIGINT, which Ctrl-C sends, and SIGTERM.
 *
 * @module
 */

import { hasTimers } from "./timers.ts";
import { wakeups } from "./run_queue.ts";

/** The signals, and what a shell gives as the exit code of a process that one has ended. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/** A signal that ends a program. */
export type EndingSignal = keyof typeof EXIT_CODES;

/** Sets the exit code of the process to that of one that a signal has ended. */
export function setExitCode(signal: EndingSignal): void {
  const { Deno } = globalThis;
  if (Deno !== undefined) Deno.exitCode = EXIT_CODES[signal];
}

/** For how many milliseconds nothing has to happen, before it may be a deadlock. */
const QUIET = 1000;
/**
 * For how many milliseconds nobody listens, so that the runtime can notice a deadlock. A
 * signal in that time is not lost: it ends the process at once, with nothing unwound.
 */
const PAUSE = 1;

/**
 * Listens until the first of the signals comes; the second is left to the process.
 *
 * A listener is an operation of the runtime that has not ended. It holds up no process, but
 * as long as there is one, the runtime takes a module that waits at its top level for one
 * that may still go on, and a program in a deadlock would hang in silence. So, when nothing
 * has happened for a while and no timer is to go off, nobody listens for a moment, and a
 * runtime that has nothing else to do ends the program, as it does without a listener.
 */
export class SignalListener implements Disposable {
  readonly #told: (signal: EndingSignal) => void;
  readonly #listeners: readonly (readonly [EndingSignal, () => void])[];
  #listens = false;
  #isOver = false;
  /** Tells by whether it has changed that something has happened. */
  #wakeups = wakeups();
  /** For how long nothing has to happen until the next pause. */
  #quiet = QUIET;

  /** @param told Called once, with the signal. */
  constructor(told: (signal: EndingSignal) => void) {
    this.#told = told;
    const signals = Object.keys(EXIT_CODES) as EndingSignal[];
    this.#listeners = signals.map((name) => [name, () => this.#tell(name)]);
    this.#listen();
    this.#lookIn(QUIET);
  }

  #tell(signal: EndingSignal): void {
    if (this.#isOver) return;
    this[Symbol.dispose]();
    this.#told(signal);
  }

  #listen(): void {
    this.#listens = true;
    for (const [signal, listener] of this.#listeners) {
      try {
        globalThis.Deno?.addSignalListener(signal, listener);
      } catch {
        // There is no such signal on this system.
      }
    }
  }

  #pause(): void {
    if (!this.#listens) return;
    this.#listens = false;
    for (const [signal, listener] of this.#listeners) {
      try {
        globalThis.Deno?.removeSignalListener(signal, listener);
      } catch {
        // See above.
      }
    }
  }

  #lookIn(ms: number): void {
    after(ms, () => {
      if (this.#isOver) return;
      const isQuiet = wakeups() === this.#wakeups && !hasTimers();
      this.#wakeups = wakeups();
      // A server that is idle for long is not to be deaf again and again.
      this.#quiet = isQuiet ? 2 * this.#quiet : QUIET;
      if (!isQuiet) return this.#lookIn(QUIET);
      this.#pause();
      after(PAUSE, () => {
        if (this.#isOver) return;
        this.#listen();
        this.#lookIn(this.#quiet);
      });
    });
  }

  /** Listens no more. */
  [Symbol.dispose](): void {
    this.#isOver = true;
    this.#pause();
  }
}

/** What nobody changes, to wait for. */
const cell = new Int32Array(new SharedArrayBuffer(4));

/** Calls back after a time, without a timer that the runtime would wait for. */
function after(ms: number, callback: () => void): void {
  const { value } = Atomics.waitAsync(cell, 0, 0, ms);
  if (typeof value !== "string") value.then(callback);
}
