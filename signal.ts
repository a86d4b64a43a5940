/**
 * Signals, handled in greenlets or read in a loop.
 *
 * ```ts
 * import { Event, onSignal, run, signals, spawn } from "@gevent/gevent";
 *
 * await run(async () => {
 *   const stopping = new Event();
 *   using _ = onSignal("SIGTERM", () => stopping.set());
 *   spawn(async () => {
 *     for await (const name of signals("SIGHUP", "SIGUSR1")) {
 *       console.log(`${name}: reads the configuration again`);
 *     }
 *   });
 *   Deno.kill(Deno.pid, "SIGTERM"); // As a container does
 *   await stopping.wait({ timeout: 10_000 });
 *   console.log("closes what is open"); // closes what is open
 * });
 * ```
 *
 * Neither form keeps the process alive by itself. But if a program waits at its top level, the
 * runtime assumes that a signal may still end the wait.
 *
 * A signal that the program listens to no longer ends it. While the program listens to SIGINT
 * or SIGTERM, `run` does not handle that signal.
 *
 * @module
 */

import { nameClasses, showAs } from "./_base/inspecting.ts";
import { checkFunction } from "./_base/checks.ts";
import { Deque } from "./_base/deque.ts";
import { List } from "./_base/linked_list.ts";
import { currentScope, runDetached } from "./_hub/current.ts";
import type { Scope } from "./_hub/scope.ts";
import { OwnListener } from "./_hub/signals.ts";
import { checkpoint, readyWait } from "./_hub/suspension.ts";
import { QueuedWait } from "./_hub/wait_queue.ts";
import { Greenlet } from "./gevent.ts";
import type { Wait } from "./hub.ts";

/**
 * Runs a function in a new greenlet each time that a signal arrives. gevent's `signal_handler`.
 * Not a switch point.
 *
 * The greenlet is named after the signal and does not belong to the caller. Its error is
 * reported as any greenlet's is. Several handlers of one signal are independent, and start in
 * the order in which they were added.
 *
 * While there is a handler for SIGINT or SIGTERM, `run` does not handle that signal.
 *
 * @typeParam A The types of the arguments.
 * @param name The signal, such as `"SIGHUP"`.
 * @param handler The function to run: async, a generator function or a plain one.
 * @param args Its arguments.
 * @returns A disposable: `using` removes the handler at the end of the block. A handler that
 * runs goes on.
 * @throws {TypeError} If there is no such signal, or it can't be listened to, as SIGKILL; or if
 * `handler` is not a function.
 *
 * @example Usage
 * ```ts
 * import { AsyncResult, onSignal } from "@gevent/gevent";
 *
 * const result = new AsyncResult<string>();
 * using _ = onSignal("SIGUSR1", (what: string) => result.set(what), "hello");
 * Deno.kill(Deno.pid, "SIGUSR1");
 * console.log(await result.get({ timeout: 1000 })); // hello
 * ```
 */
export function onSignal<A extends unknown[]>(
  name: Deno.Signal,
  handler: (...args: A) => unknown,
  ...args: A
): Disposable {
  checkFunction(handler, "listen for a signal", "handler");
  return new OwnListener(name, () => {
    runDetached(() => {
      const greenlet = new Greenlet(handler, ...args);
      greenlet.name = name;
      greenlet.start();
    });
  });
}

/**
 * The iterator that {@linkcode signals} returns, for `for await` and `using`. A generator body
 * calls `yield* iterator.next()`.
 */
export interface SignalIterator extends AsyncIterableIterator<Deno.Signal> {
  /** Waits for the next signal. A switch point. */
  next(): Wait<IteratorResult<Deno.Signal, undefined>>;
  /** Stops listening: waits for a signal end without a value. Not a switch point. */
  return(): Wait<IteratorResult<Deno.Signal, undefined>>;
  /** Returns the iterator itself. */
  [Symbol.asyncIterator](): SignalIterator;
  /** Stops listening. */
  [Symbol.dispose](): void;
}

/**
 * Returns an iterator over the names of signals, in the order in which they arrive. It listens
 * from this call on, so no signal is missed between two steps of a loop.
 *
 * Leaving a `for await` loop in any way, also by an interrupt, stops the listening. A program
 * that calls `next()` by hand may go on after an interrupt; it closes the iterator by `using`.
 *
 * While it listens to SIGINT or SIGTERM, `run` does not handle that signal.
 *
 * @param names The signals, such as `"SIGHUP"`.
 * @returns An iterator that ends when it is closed.
 * @throws {TypeError} If no name is given, or a signal can't be listened to.
 *
 * @example Usage
 * ```ts
 * import { signals, sleep, spawn } from "@gevent/gevent";
 *
 * const worker = spawn(async () => {
 *   for await (const name of signals("SIGUSR1", "SIGUSR2")) {
 *     console.log(name); // SIGUSR2
 *     if (name === "SIGUSR2") break;
 *   }
 * });
 * await sleep(1); // For it to listen
 * Deno.kill(Deno.pid, "SIGUSR2");
 * await worker.join({ timeout: 1000 });
 * ```
 */
export function signals(...names: Deno.Signal[]): SignalIterator {
  if (names.length === 0) {
    throw new TypeError(
      "Cannot listen for signals as there is no name: pass one",
    );
  }
  return new Signals(new Set(names));
}

type Step = IteratorResult<Deno.Signal, undefined>;

/** The wait of {@linkcode Signals} for the next one. */
class NextSignal extends QueuedWait<NextSignal, Step> {
  readonly #signals: Signals;
  readonly #isLoop: boolean;

  /** @param isLoop Whether a `for await` loop asks: an interrupt ends it. */
  constructor(signals: Signals, isLoop: boolean) {
    super();
    this.#signals = signals;
    this.#isLoop = isLoop;
  }

  override describe(): string {
    return "the next of signals()";
  }

  protected override undo(error: unknown): void {
    super.undo(error);
    // JavaScript does not call `return()` when `next()` throws.
    if (this.#isLoop) this.#signals[Symbol.dispose]();
  }
}

class Signals implements SignalIterator {
  readonly #listeners: OwnListener[] = [];
  /** Signals that have arrived and were not read. */
  readonly #come = new Deque<Deno.Signal>();
  readonly #line = new List<NextSignal>();
  /** The scope in which a `for await` loop was begun. Calls from other scopes are made by hand. */
  #loop: Scope | null = null;
  #isOver = false;

  static {
    showAs(this, (signals) => ({
      signals: signals.#listeners.map(({ name }) => name),
      come: [...signals.#come],
      waiting: signals.#line.length,
    }));
  }

  constructor(names: Iterable<Deno.Signal>) {
    try {
      for (const name of names) {
        this.#listeners.push(new OwnListener(name, () => this.#tell(name)));
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #tell(name: Deno.Signal): void {
    const next = this.#line.shift();
    if (next === null) this.#come.push(name);
    else next.switch({ done: false, value: name });
  }

  next(): Wait<Step> {
    const scope = currentScope();
    const isLoop = scope === this.#loop;
    const due = checkpoint(scope);
    if (due !== null) {
      if (isLoop) this[Symbol.dispose]();
      return due;
    }
    if (this.#come.length > 0) {
      return readyWait({ done: false, value: this.#come.shift() });
    }
    if (this.#isOver) return readyWait({ done: true, value: undefined });
    const next = new NextSignal(this, isLoop);
    this.#line.add(next);
    return next.suspend(scope);
  }

  return(): Wait<Step> {
    this[Symbol.dispose]();
    return readyWait({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    this.#loop = currentScope();
    return this;
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    for (const listener of this.#listeners.splice(0)) {
      listener[Symbol.dispose]();
    }
    while (this.#come.length > 0) this.#come.shift();
    for (let one; (one = this.#line.shift()) !== null;) {
      one.switch({ done: true, value: undefined });
    }
  }
}

nameClasses({ Signals });
