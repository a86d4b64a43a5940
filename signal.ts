/**
 * Signals, each handled in a greenlet or taken in a loop.
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
 * Neither keeps a process alive that has nothing else to do. Where a program waits at its top
 * level, the runtime takes it that a signal may still end the wait.
 *
 * A signal that a program listens to does not end it any more. `run` leaves SIGINT and
 * SIGTERM to a program as long as that listens to them.
 *
 * @module
 */

import { showAs } from "./_base/inspecting.ts";
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
 * Has a function run in a new greenlet each time that a signal comes. gevent's
 * `signal_handler`. Not a switch point.
 *
 * The greenlet has the name of the signal, belongs to none of the greenlets that run, and
 * tells of its error as any does. Several handlers of one signal are independent, and are
 * begun in the order in which they were added.
 *
 * As long as there is one for SIGINT or SIGTERM, `run` leaves that signal to it.
 *
 * @typeParam A The types of the arguments.
 * @param name The signal, such as `"SIGHUP"`.
 * @param handler What handles it: an async function, a generator function or a plain one.
 * @param args Its arguments.
 * @returns What ends the listening, by `using`. A handler that runs goes on.
 * @throws {TypeError} If there is no such signal, or none that can be listened to, as SIGKILL;
 * or if `handler` is not a function.
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
 * What {@linkcode signals} returns: for `for await`, and for `using`. A generator body calls
 * `yield* iterator.next()`.
 */
export interface SignalIterator extends AsyncIterableIterator<Deno.Signal> {
  /** Waits for the next signal. A switch point. */
  next(): Wait<IteratorResult<Deno.Signal, undefined>>;
  /** Listens no more: what waits for a signal gets the end. Not a switch point. */
  return(): Wait<IteratorResult<Deno.Signal, undefined>>;
  /** Itself. */
  [Symbol.asyncIterator](): SignalIterator;
  /** Listens no more. */
  [Symbol.dispose](): void;
}

/**
 * Gives the signals that come, each by its name, in the order in which they do. It listens
 * from this call on, so that none is missed between two steps of a loop.
 *
 * A `for await` loop that is left in any way, by an interrupt as well, listens no more. What
 * asks by hand may go on after an interrupt, and closes it by `using`.
 *
 * As long as it listens to SIGINT or SIGTERM, `run` leaves that signal to it.
 *
 * @param names The signals, such as `"SIGHUP"`.
 * @returns An iterator, that ends when it is closed.
 * @throws {TypeError} If there is none, or one can't be listened to.
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

  /** @param isLoop Whether a loop of the language asks, which an interrupt ends. */
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
    // The language does not call return() then.
    if (this.#isLoop) this.#signals[Symbol.dispose]();
  }
}

class Signals implements SignalIterator {
  readonly #listeners: OwnListener[] = [];
  /** Those that have come, and were not taken. */
  readonly #come = new Deque<Deno.Signal>();
  readonly #line = new List<NextSignal>();
  /** Where a loop of the language was begun; elsewhere it is asked by hand. */
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
