/**
 * The part `timers` of `patch()`.
 *
 * @module
 */

import { cooperativeFlow, type Flow, Pending } from "./_flow.ts";
import { disguise, getOriginal, patchItem } from "./_items.ts";
import { isThenable } from "./_body.ts";
import { isResolver, rejectBy } from "./_resolver.ts";
import { type Greenlet, spawn } from "./gevent.ts";

type Callback = (...args: unknown[]) => unknown;
type SetTimer = (callback: Callback, ms?: number, ...args: unknown[]) => number;
type ClearTimer = (id?: number) => void;

/** The waits in `new Promise((resolve) => setTimeout(resolve, ms))`, by timer. */
const waits = new Map<number, TimerWait>();

/** Callbacks whose time has come, by timer, until they begin. */
const fired = new Map<number, Greenlet>();

/** A wait that the language made: what we know of its promise is a resolver. */
class TimerWait extends Pending {
  readonly #settle: Callback;
  readonly #args: unknown[];
  readonly #clear: ClearTimer;
  #timer = 0;

  constructor(settle: Callback, args: unknown[], clear: ClearTimer) {
    super();
    this.#settle = settle;
    this.#args = args;
    this.#clear = clear;
  }

  begin(flow: Flow, timer: number): void {
    this.#timer = timer;
    waits.set(Number(timer), this);
    this.join(flow);
  }

  /** The time is over. */
  fire(): void {
    this.forget();
    this.#settle(...this.#args);
  }

  /** The timer was cleared, and the promise is left as it is. */
  forget(): void {
    waits.delete(Number(this.#timer));
    this.leave();
  }

  override interrupt(error: unknown): void {
    this.forget();
    this.#clear(this.#timer);
    rejectBy(this.#settle, error);
  }
}

function cooperativeSetTimer(
  name: "setTimeout" | "setInterval",
): SetTimer {
  const original = getOriginal(globalThis, name) as unknown as SetTimer;
  const clear = getOriginal(globalThis, "clearTimeout") as ClearTimer;
  return disguise(
    function (
      this: unknown,
      callback: Callback,
      ms?: number,
      ...args: unknown[]
    ): number {
      const flow = cooperativeFlow();
      if (flow === null || typeof callback !== "function") {
        return Reflect.apply(original, this, arguments);
      }
      if (name === "setInterval" || !isResolver(callback)) {
        // Whoever has set it may be dead by then: it is a greenlet of its own, in the
        // setter's context, as the runtime's timers restore that.
        const fire = function (this: unknown, ...args: unknown[]) {
          const id = Number(timer);
          const run = () => {
            fired.delete(id);
            const result = Reflect.apply(callback, this, args);
            return isThenable(result) ? result : undefined;
          };
          Object.defineProperty(run, "name", { value: callback.name });
          fired.set(id, spawn(run));
        };
        const timer = Reflect.apply(original, this, [fire, ms, ...args]);
        return timer;
      }
      const due = flow.checkpoint();
      if (due !== null) {
        due.catch((error) => rejectBy(callback, error));
        const timer = Reflect.apply(original, this, [() => {}, ms]);
        clear(timer);
        return timer;
      }
      const wait = new TimerWait(callback, args, clear);
      const timer = Reflect.apply(original, this, [() => wait.fire(), ms]);
      wait.begin(flow, timer);
      return timer;
    },
    original,
  );
}

function cooperativeClearTimer(
  name: "clearTimeout" | "clearInterval",
): ClearTimer {
  const original = getOriginal(globalThis, name) as ClearTimer;
  return disguise(function (this: unknown, id?: number): void {
    Reflect.apply(original, this, arguments);
    if (waits.size + fired.size === 0 || id === undefined || id === null) {
      return;
    }
    const number = Number(id);
    waits.get(number)?.forget();
    fired.get(number)?.throw();
    fired.delete(number);
  }, original);
}

/** Patches the timers; disposing of what it returns restores them. */
export function patchTimers(): Disposable {
  using patched = new DisposableStack();
  for (const name of ["setTimeout", "setInterval"] as const) {
    patched.use(
      patchItem(globalThis, name, cooperativeSetTimer(name) as never),
    );
  }
  for (const name of ["clearTimeout", "clearInterval"] as const) {
    patched.use(
      patchItem(globalThis, name, cooperativeClearTimer(name) as never),
    );
  }
  return patched.move();
}
