/**
 * Signals: listeners of the program, and the signals that end a program: SIGINT (Ctrl-C) and
 * SIGTERM.
 *
 * @module
 */

import { nameClasses, showAs } from "../_base/inspecting.ts";
import { show } from "../_base/checks.ts";
import { type Pausable, pauseAtEnd } from "./loop_end.ts";

/** The signals that end a program, and the exit status that a shell shows for each. */
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/** A signal that ends a program. */
export type EndingSignal = keyof typeof EXIT_CODES;

/** Sets the exit code of the process as if the signal had ended it. */
export function setExitCode(signal: EndingSignal): void {
  const { Deno } = globalThis;
  const target = Deno ?? findProcess();
  if (target !== null) target.exitCode = EXIT_CODES[signal];
}

/** The runtime's own way to listen to a signal, or to stop that. */
type Change = (name: Deno.Signal, listener: () => void) => void;

/** The part of `node:process` that is used. */
interface Process {
  exitCode?: number;
  on(name: string, listener: () => void): unknown;
  off(name: string, listener: () => void): unknown;
}

/** The program's own listeners, by signal. */
const listening = new Map<string, number>();

/** Whether the program itself listens to a signal. */
export function isListenedTo(name: string): boolean {
  return listening.has(name);
}

/** One listener of the program for one signal. It does not keep the process alive. */
export class OwnListener implements Disposable {
  readonly #name: Deno.Signal;
  readonly #pausing: Disposable | null;
  #listener: (() => void) | null;

  static {
    showAs(this, (one) => ({
      signal: one.#name,
      state: one.#listener === null ? "disposed" : "listening",
    }));
  }

  /**
   * Listens from now on.
   *
   * @param name The signal.
   * @param told Called each time that the signal arrives.
   * @param wakes Whether that may end what something waits in.
   * @throws {TypeError} If there is no such signal, or none that can be listened to.
   */
  constructor(name: Deno.Signal, told: () => void, wakes = true) {
    // A new function for each listener, as the runtime adds the same function only once.
    this.#listener = () => told();
    this.#name = name;
    if (typeof name !== "string") throw notListenable(name);
    const runtime = findListening();
    if (runtime === null) {
      throw new TypeError(
        "Cannot listen for a signal as this runtime has neither Deno.addSignalListener() nor process.on()",
      );
    }
    try {
      runtime.add(name, this.#listener);
    } catch (error) {
      throw notListenable(name, error);
    }
    listening.set(name, (listening.get(name) ?? 0) + 1);
    const listener = this.#listener;
    this.#pausing = wakes ? null : pauseAtEnd({
      operations: 1,
      pause: () => runtime.remove(name, listener),
      goOn: () => runtime.add(name, listener),
    });
  }

  /** The signal. */
  get name(): Deno.Signal {
    return this.#name;
  }

  /** Stops listening. */
  [Symbol.dispose](): void {
    const listener = this.#listener;
    if (listener === null) return;
    this.#listener = null;
    this.#pausing?.[Symbol.dispose]();
    findListening()?.remove(this.#name, listener);
    const left = listening.get(this.#name)! - 1;
    if (left > 0) listening.set(this.#name, left);
    else listening.delete(this.#name);
  }
}

function findProcess(): Process | null {
  const process = Reflect.get(globalThis, "process") as Process | undefined;
  return typeof process?.on === "function" ? process : null;
}

/** Finds how this runtime listens to signals; `null` if it can't, as in a browser. */
function findListening(): { add: Change; remove: Change } | null {
  const { Deno } = globalThis;
  if (Deno !== undefined) {
    return { add: Deno.addSignalListener, remove: Deno.removeSignalListener };
  }
  const process = findProcess();
  return process && {
    add: (name, listener) => void process.on(name, listener),
    remove: (name, listener) => void process.off(name, listener),
  };
}

function notListenable(name: unknown, cause?: unknown): TypeError {
  return new TypeError(
    `Cannot listen for a signal as its name must be one that this system can listen to, such as "SIGHUP": received ${
      show(name)
    }`,
    cause === undefined ? undefined : { cause },
  );
}

/**
 * Listens until the first signal arrives; a second one ends the process. Ignores a signal that
 * the program itself listens to.
 *
 * A listener is a pending operation of the runtime. It does not keep the process alive. But while
 * there is one, the runtime believes that a module which waits at its top level may still go on.
 * So the listener can be paused; see `loop_end.ts`.
 */
export class SignalListener implements Disposable, Pausable {
  readonly #told: (signal: EndingSignal) => void;
  readonly #listeners: readonly (readonly [EndingSignal, () => void])[];
  #listens = false;
  #isOver = false;
  /** @param told Called once, with the signal. */
  constructor(told: (signal: EndingSignal) => void) {
    this.#told = told;
    const signals = Object.keys(EXIT_CODES) as EndingSignal[];
    this.#listeners = signals.map((name) => [name, () => this.#tell(name)]);
    this.goOn();
  }

  #tell(signal: EndingSignal): void {
    if (this.#isOver || isListenedTo(signal)) return;
    this[Symbol.dispose]();
    this.#told(signal);
  }

  /** The number of pending operations of the listeners. */
  get operations(): number {
    return this.#listeners.length;
  }

  /** Listens again. */
  goOn(): void {
    if (this.#isOver || this.#listens) return;
    this.#listens = true;
    this.#change("add");
  }

  /** Stops listening until {@linkcode SignalListener.goOn}. */
  pause(): void {
    if (!this.#listens) return;
    this.#listens = false;
    this.#change("remove");
  }

  #change(how: "add" | "remove"): void {
    const runtime = findListening();
    for (const [signal, listener] of this.#listeners) {
      try {
        runtime?.[how](signal, listener);
      } catch {
        // There is no such signal on this system.
      }
    }
  }

  /** Stops listening. */
  [Symbol.dispose](): void {
    this.#isOver = true;
    this.pause();
  }
}

nameClasses({ OwnListener });
