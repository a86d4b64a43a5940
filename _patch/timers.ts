/**
 * The part `timers` of `patch()`: the timers of the language, and of `node:timers`.
 *
 * This replaces properties of the global object and of the modules' default exports. A module
 * may have a copy of a function from before, as from `import { setTimeout } from
 * "node:timers/promises"`. So it also replaces the runtime's method with which all these
 * functions make their timers.
 *
 * @module
 */

import { argumentAt, markHandled, property, then } from "../_base/language.ts";
import { isObject } from "../_base/checks.ts";
import { getBuiltin } from "../_base/builtin.ts";
import { findSymbol } from "../_base/runtime.ts";
import timers, { setImmediate } from "node:timers";
import { current, interruptibleScope, scopeOf } from "../_hub/current.ts";
import { isInterrupt } from "../_hub/interrupts.ts";
import { main } from "../_hub/main.ts";
import {
  addPending,
  type Pending,
  removePending,
  type Scope,
} from "../_hub/scope.ts";
import { checkpoint } from "../_hub/suspension.ts";
import {
  getCurrent as getRunning,
  type Greenlet as CoreGreenlet,
  GreenletExit,
} from "../greenlet.ts";
import { getOriginal } from "../_base/properties.ts";
import { operate } from "../_hub/operation.ts";
import { cooperate, cooperateBySignal } from "./cooperate.ts";
import { keepIfDying } from "./foreign.ts";
import { patchCron, patchObservers } from "./callbacks.ts";
import { patchAll, type Patches } from "./patch_set.ts";
import { raise } from "../_hub/rejections.ts";
import { isResolver, rejectBy } from "./resolver.ts";
import {
  internalCallbacks,
  isMovedByHand,
  isSetInternally,
  type QueuedWait,
  setInternally,
  startTimer,
  stopTimer,
  takePlace,
  type Timer,
} from "../_hub/timers.ts";
import { NO_BLOCKERS } from "../_hub/waits.ts";
import { Greenlet } from "../gevent.ts";

type Callback = (...args: unknown[]) => unknown;
type SetTimer = (callback: Callback, ...rest: unknown[]) => unknown;
type ClearTimer = (timer: unknown) => void;
type Asking = (...args: unknown[]) => Promise<unknown>;

/** A pair of functions, and how to find the key of one of their timers. */
interface Kind {
  readonly set: "setTimeout" | "setInterval" | "setImmediate";
  readonly clear: "clearTimeout" | "clearInterval" | "clearImmediate";
  keyOf(timer: unknown): unknown;
}

const KINDS: Kind[] = [
  { set: "setTimeout", clear: "clearTimeout", keyOf: Number },
  { set: "setInterval", clear: "clearInterval", keyOf: Number },
  // An immediate can't be converted to a number.
  {
    set: "setImmediate",
    clear: "clearImmediate",
    keyOf: (immediate) => immediate,
  },
];

/** The waits in `new Promise((resolve) => setTimeout(resolve, ms))`, by timer. */
const waits = new Map<unknown, TimerWait>();

/** A wait for a promise that the program has made. We have only its `resolve` or `reject`. */
class TimerWait implements Pending {
  scope: Scope | null = null;
  readonly #settle: Callback;
  readonly #clear: () => void;
  /** The delay in milliseconds; `null` for an immediate. */
  readonly #ms: number | null;
  #key: unknown;

  constructor(settle: Callback, clear: () => void, ms: number | null) {
    this.#settle = settle;
    this.#clear = clear;
    this.#ms = ms;
  }

  begin(scope: Scope, key: unknown): void {
    this.#key = key;
    waits.set(key, this);
    addPending(scope, this);
  }

  /** Ends the wait, as the timer has fired. */
  fire(args: unknown[]): void {
    this.forget();
    Reflect.apply(this.#settle, undefined, args);
  }

  /** Ends the wait, as the timer was cleared. The promise stays pending. */
  forget(): void {
    waits.delete(this.#key);
    removePending(this);
  }

  interrupt(error: unknown): void {
    this.forget();
    this.#clear();
    rejectBy(this.#settle, error);
  }

  unhold(): void {}

  describe(): string {
    return this.#ms === null
      ? "setImmediate(resolve)"
      : `setTimeout(resolve, ${this.#ms})`;
  }

  get isTimer(): boolean {
    return true;
  }

  get blockers(): readonly CoreGreenlet[] {
    return NO_BLOCKERS;
  }
}

/** A timer that will be set. */
interface Setting<T> {
  /** Sets the timer, with another callback and perhaps another delay. */
  set(callback: Callback, ms?: number): T;
  clear(timer: T): void;
  keyOf(timer: T): unknown;
  /** The delay in milliseconds; `null` for an immediate. */
  readonly ms: number | null;
  /** Whether it is an interval. */
  readonly repeats: boolean;
  /** Returns the arguments for its callback. */
  argsOf(timer: T): unknown[];
  /** The object that the program gets, if it is known before the timer is set. */
  readonly object?: object;
}

/** The places of timers in the order of the hub's timers, by timer. */
const places = new Map<unknown, QueuedWait>();

/** Drops the place of a timer that was cleared or has fired. */
function leavePlace(key: unknown): void {
  places.get(key)?.drop();
  places.delete(key);
}

/**
 * A timer that a test clock moves. It uses a timer of the library. A timer of the runtime is set
 * as well, for a time that never comes: its object is for the program, and it lets the test
 * runner report a timer that is left.
 */
class HandMovedTimer<T> implements QueuedWait {
  #running: Timer | null = null;
  #isDropped = false;
  /** Counts its starts: `refresh()` may come between a deadline and the call. */
  #starts = 0;
  readonly #inContext = current.capture();
  readonly setting: Setting<T>;
  readonly callback: Callback;
  timer: T;

  constructor(setting: Setting<T>, callback: Callback, timer: T) {
    this.setting = setting;
    this.callback = callback;
    this.timer = timer;
    this.#start();
  }

  #start(): void {
    this.#starts++;
    this.#running = startTimer(this.setting.ms!, this);
  }

  /**
   * Starts it again, also when it has fired.
   *
   * @param setAgain Sets the timer of the runtime again, and returns it.
   */
  refresh(setAgain: () => T): void {
    if (this.#isDropped) return;
    stopTimer(this.#running);
    const key = this.setting.keyOf(this.timer);
    if (places.get(key) !== this) {
      this.timer = setAgain();
      places.set(this.setting.keyOf(this.timer), this);
    }
    this.#start();
  }

  expired(): "a turn" {
    const start = this.#starts;
    // Called by the runtime, which handles what the callback throws.
    setImmediate(() => {
      if (start === this.#starts) this.proceed(() => this.#call());
    });
    return "a turn";
  }

  proceed(run: () => void): void {
    if (!this.#isDropped && !this.#isCleared) run();
  }

  /** Whether the program has cleared it after the end of the patch, when no call tells that. */
  get #isCleared(): boolean {
    const { object } = this;
    return isObject(object) && Reflect.get(object, "_destroyed") === true;
  }

  /** What the program has got: an object, or a number. */
  get object(): unknown {
    return this.setting.object ?? this.timer;
  }

  #call(): void {
    const { repeats, argsOf, clear, keyOf } = this.setting;
    const args = argsOf(this.timer);
    if (repeats) {
      this.#start();
    } else {
      places.delete(keyOf(this.timer));
      clear(this.timer);
    }
    this.#inContext(() => Reflect.apply(this.callback, this.object, args));
  }

  drop(): void {
    this.#isDropped = true;
    stopTimer(this.#running);
  }
}

/** Sets a timer that a test clock moves. */
function setByHand<T>(setting: Setting<T>, callback: Callback): T {
  const timer = setting.set(nothing, LONGEST);
  const key = setting.keyOf(timer);
  const moved = new HandMovedTimer(setting, callback, timer);
  places.set(key, moved);
  if (isObject(moved.object)) handMoved.set(moved.object, moved);
  return timer;
}

/** The timers that a test clock moves, by the objects that the program has got. */
const handMoved = new WeakMap<object, HandMovedTimer<unknown>>();

const capture = () => current.capture();

/** Makes a timer fire in order with the hub's timers that are due at the same time. */
function inLine<T>(setting: Setting<T>): (callback: Callback) => T {
  const { ms, repeats, set, keyOf } = setting;
  if (ms === null) return set;
  if (isMovedByHand()) return (callback) => setByHand(setting, callback);
  return (callback) => {
    let place = takePlace(ms, capture);
    const fire = function (this: unknown, ...args: unknown[]): void {
      place.proceed(() => {
        if (!repeats) places.delete(key);
        else if (places.has(key)) {
          places.set(key, place = takePlace(ms, capture));
        }
        Reflect.apply(callback, this, args);
      });
    };
    internalCallbacks.add(fire);
    const timer = set(fire);
    const key = keyOf(timer);
    places.set(key, place);
    return timer;
  };
}

/** Sets a timer in a greenlet. */
function setIn<T>(
  scope: Scope,
  callback: Callback,
  setting: Setting<T>,
): T {
  const { clear, keyOf } = setting;
  const set = inLine(setting);
  if (!isResolver(callback)) {
    return set(asGreenlet(keepIfDying(scope, callback)));
  }
  const due = checkpoint(scope);
  if (due !== null) {
    then(due, undefined, (error) => rejectBy(callback, error));
    const timer = setting.set(nothing);
    // Cleared later, as the timer's constructor may be running.
    queueMicrotask(() => clear(timer));
    return timer;
  }
  const wait = new TimerWait(callback, () => {
    clear(timer);
    leavePlace(keyOf(timer));
  }, setting.ms);
  const fire: Callback = (...args) => wait.fire(args);
  internalCallbacks.add(fire);
  const timer = set(fire);
  wait.begin(scope, keyOf(timer));
  return timer;
}

function nothing(): void {}
internalCallbacks.add(nothing);

/**
 * Makes a callback run as a greenlet of its own, in the context of the code that set the timer,
 * which the runtime restores. The greenlet that set the timer may be dead by then. The runtime
 * handles errors, as without `patch()`: an error is thrown to the runtime, or the promise of an
 * async callback is an unhandled rejection.
 */
function asGreenlet(callback: Callback): Callback {
  const fire = function (this: unknown, ...args: unknown[]): void {
    // False if a fake clock of a test calls this, not the event loop.
    const isAtOnce = getRunning() === main;
    const run = () => {
      try {
        return follow(scope, Reflect.apply(callback, this, args));
      } catch (error) {
        if (!isAtOnce && !(error instanceof GreenletExit)) throwSoon(error);
        throw error;
      }
    };
    Object.defineProperty(run, "name", property({ value: callback.name }));
    const greenlet = new Greenlet(run);
    const scope = scopeOf(greenlet);
    scope.errorIsHandled = true;
    if (!isAtOnce) return greenlet.start();
    // Starts at once, as it is too late to clear the timer.
    greenlet.switch();
    if (greenlet.dead && !greenlet.successful()) throw greenlet.exception;
  };
  internalCallbacks.add(fire);
  return fire;
}

/** Returns the promise of an async callback, to wait for. */
function follow(scope: Scope, result: unknown): Promise<unknown> | undefined {
  // Only native promises: the runtime ignores the result of a callback, and calling the `then` of
  // another object may start an operation.
  const isPromise = result instanceof Promise && result.constructor === Promise;
  if (!isPromise) return undefined;
  then(result, undefined, (error) => {
    // The greenlet itself reports the error of an interrupt.
    if (isInterrupt(error)) scope.errorIsHandled = false;
    else raise(result, error);
  });
  return result;
}

function throwSoon(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

function cooperativeSetTimer(
  original: SetTimer,
  clear: ClearTimer,
  kind: Kind,
): SetTimer {
  return function (this: unknown, callback, ...rest) {
    const scope = interruptibleScope();
    const isLeftAlone = isSetInternally() || scope === null && !isMovedByHand();
    if (isLeftAlone || typeof callback !== "function") {
      return Reflect.apply(original, this, arguments as never);
    }
    const setting: Setting<unknown> = {
      set: (fire, ms = argumentAt(rest, 0) as number) =>
        setInternally(() =>
          Reflect.apply(
            original,
            this,
            ([fire, ms] as unknown[]).concat(rest.slice(1)),
          )
        ),
      clear,
      keyOf: kind.keyOf,
      ms: kind.set === "setImmediate" ? null : delayOf(argumentAt(rest, 0)),
      repeats: kind.set === "setInterval",
      argsOf: () => rest.slice(1),
    };
    return scope === null
      ? inLine(setting)(callback)
      : setIn(scope, callback, setting);
  };
}

/** Returns the delay as the runtime converts it. */
function delayOf(ms: unknown): number {
  const delay = Number(ms);
  return delay >= 1 && delay <= LONGEST ? Math.trunc(delay) : 1;
}

function cooperativeClearTimer(
  original: ClearTimer,
  { keyOf }: Kind,
): ClearTimer {
  return function (this: unknown, timer): void {
    Reflect.apply(original, this, arguments as never);
    if (timer === undefined || timer === null) return;
    if (waits.size > 0) waits.get(keyOf(timer))?.forget();
    if (places.size > 0) leavePlace(keyOf(timer));
  };
}

/** Patches the timers; disposing of the result restores the originals. */
export function patchTimers(): Disposable {
  return patchAll((patches) => {
    const { promises } = timers;
    const timeouts = findTimeouts();
    if (timeouts === null) patchPromises(patches);
    else patchTimeouts(patches, timeouts);
    replaceWhilePatched(patches, promises, "setImmediate", cooperate);
    // In Deno, the default export of that module is another object.
    const own = getBuiltin("node:timers/promises");
    if (!replacements.has(own.setImmediate)) {
      replaceWhilePatched(patches, own, "setImmediate", cooperate);
    }
    patchFunctions(patches);
    patchCron(patches);
    patchObservers(patches);
    const { prototype } = promises.setInterval;
    if (prototype?.next !== undefined) {
      patches.replace(prototype, "next", cooperativeNext);
    }
  });
}

function patchFunctions(patches: Patches): void {
  // If two properties have the same function, both get the same replacement.
  const made = new Map<unknown, unknown>();
  const once = <F>(original: F, make: () => F): F => {
    if (!made.has(original)) made.set(original, make());
    return made.get(original) as F;
  };
  for (const object of [globalThis, timers]) {
    for (const kind of KINDS) {
      const clear = getOriginal(object, kind.clear) as ClearTimer;
      patches.replace<SetTimer>(
        object,
        kind.set,
        (set) => once(set, () => cooperativeSetTimer(set, clear, kind)),
      );
      patches.replace<ClearTimer>(
        object,
        kind.clear,
        (clear) => once(clear, () => cooperativeClearTimer(clear, kind)),
      );
    }
  }
}

let isPatched = false;

/** The replacements that {@linkcode replaceWhilePatched} has made. */
const replacements = new WeakSet<object>();

/**
 * Replaces a function of `node:timers/promises`. That module copies its exports when it is
 * loaded, and so may keep a replacement for good. After the patch has ended, the replacement
 * calls the original.
 */
function replaceWhilePatched(
  patches: Patches,
  object: object,
  name: string,
  wrap: (original: Asking) => Asking,
): void {
  isPatched = true;
  patches.beforeRestore(() => isPatched = false);
  patches.replace<Asking>(object, name, (original) => {
    const cooperative = wrap(original);
    const replacement = function (this: unknown) {
      const chosen = isPatched ? cooperative : original;
      return Reflect.apply(chosen, this, arguments as never);
    };
    replacements.add(replacement);
    return replacement;
  });
}

/** The internals with which the runtime makes timers. */
interface Timeouts {
  /** The prototype of timers. */
  readonly prototype: object;
  /** The method that starts a timer, when all its properties are set. */
  readonly create: symbol;
  /** The method that ends a timer. */
  readonly destroy: symbol;
  /** The property that marks timers of the runtime itself. */
  readonly system: symbol;
}

interface Timeout {
  _onTimeout: Callback | null;
  _idleTimeout?: number | undefined;
  readonly _timerArgs?: unknown[];
  _repeat: boolean;
  readonly [property: symbol]: unknown;
}

/**
 * The delay of timers that are only tried, in ms. They are cleared at once, but until then the
 * runtime keeps a list that looks like a timer, and no `LoopExit` would come.
 */
const TRIED = 1;

/** The longest delay of a timer, in ms. The runtime turns a longer one into 1. */
const LONGEST = 2 ** 31 - 1;

/** Whether the runtime makes timers in the way that we know. */
export function areTimersKnown(): boolean {
  return findTimeouts() !== null;
}

/** Finds how the runtime makes timers; returns `null` if that is not the way that we know. */
function findTimeouts(): Timeouts | null {
  const set = getOriginal(timers, "setTimeout") as SetTimer;
  const clear = getOriginal(timers, "clearTimeout") as ClearTimer;
  const timer = set(nothing, TRIED);
  clear(timer);
  const prototype = Object.getPrototypeOf(timer);
  const create = findTyped(prototype, "createTimer", "function");
  const destroy = findTyped(prototype, "destroy", "function");
  const system = findTyped(timer, "system", "boolean");
  if (create === null || destroy === null || system === null) return null;
  // Tests whether the methods do what their names say.
  const seen: unknown[] = [];
  const trialPatches = patchAll((patches) => {
    patches.replace(prototype, create, (original) =>
      function (this: Timeout) {
        seen.push(this._onTimeout, this._repeat, this[system]);
        const id = original.call(this);
        seen.push(id);
        return id;
      });
    patches.replace(prototype, destroy, (original) =>
      function () {
        seen.push(this);
        return original.call(this);
      });
  });
  const trial = set(nothing, TRIED);
  const id = Number(trial);
  clear(trial);
  trialPatches[Symbol.dispose]();
  const expected = [nothing, false, false, id, trial];
  const isAsExpected = seen.length === expected.length &&
    expected.every((value, i) => value === seen[i]);
  return isAsExpected ? { prototype, create, destroy, system } : null;
}

/** Finds the symbol of a property by its description. The runtime does not export it. */
function findTyped(
  object: unknown,
  name: string,
  type: string,
): symbol | null {
  const symbol = findSymbol(object, name);
  return symbol !== undefined &&
      typeof Reflect.get(object as object, symbol) === type
    ? symbol
    : null;
}

/** Patches timers that are made by copies of the original functions. */
function patchTimeouts(patches: Patches, timeouts: Timeouts): void {
  const { prototype, create, destroy, system } = timeouts;
  patches.replace(prototype, create, (original) =>
    function (this: Timeout) {
      const callback = this._onTimeout;
      if (iterating !== null && callback !== null) {
        ticks.set(iterating, callback);
      }
      const isOrdinary = iterating === null && !this[system];
      const scope = isOrdinary ? interruptibleScope() : null;
      const isLeftAlone = isSetInternally() ||
        scope === null && (this[system] || !isMovedByHand());
      if (isLeftAlone || callback === null || internalCallbacks.has(callback)) {
        return original.call(this);
      }
      const delay = this._idleTimeout;
      const setting: Setting<unknown> = {
        set: (fire, ms = delay) => {
          this._onTimeout = fire;
          this._idleTimeout = ms;
          const id = original.call(this);
          this._idleTimeout = delay;
          return id;
        },
        clear: () => (this[destroy] as () => void)(),
        keyOf: Number,
        ms: delayOf(delay),
        repeats: this._repeat,
        argsOf: () => this._timerArgs ?? [],
        object: this,
      };
      return scope === null
        ? inLine(setting)(callback)
        : setIn(scope, callback, setting);
    });
  patches.replace(prototype, destroy, (original) =>
    function (this: Timeout) {
      if (waits.size > 0) waits.get(Number(this))?.forget();
      if (places.size > 0) leavePlace(Number(this));
      return original.call(this);
    });
  if (!("refresh" in prototype)) return;
  patches.replace<Refresh>(
    prototype,
    "refresh",
    (original) =>
      function (this: Timeout) {
        const moved = handMoved.get(this);
        if (moved === undefined) return original.call(this);
        moved.refresh(() => {
          // Fired timers have these values no more.
          this._onTimeout = nothing;
          this._idleTimeout = LONGEST;
          original.call(this);
          return isObject(moved.timer) ? this : Number(this);
        });
        return this;
      },
  );
}

type Refresh = (this: Timeout) => Timeout;

/** Patches the functions of `node:timers/promises`, which make their own promises. */
function patchPromises(patches: Patches): void {
  const { promises } = timers;
  const wait = (at: number) => (original: Asking) =>
    cooperateBySignal(original, at);
  replaceWhilePatched(patches, promises, "setTimeout", wait(2));
  patches.replace(Object.getPrototypeOf(promises.scheduler), "wait", wait(1));
}

/** The iterator of `setInterval(ms)` that is being started. */
let iterating: object | null = null;
/** The callbacks of the timers of such iterators. */
const ticks = new WeakMap<object, Callback>();

type Next = (this: AsyncGenerator) => Promise<IteratorResult<unknown>>;

/** Makes `next` of the iterator of `setInterval(ms)` cooperative. An interrupt ends the loop. */
function cooperativeNext(original: Next): Next {
  return function () {
    const scope = interruptibleScope();
    const due = checkpoint(scope);
    if (due !== null) {
      finish(this);
      return due;
    }
    iterating = this;
    let promise;
    try {
      promise = Reflect.apply(original, this, arguments as never);
    } finally {
      iterating = null;
    }
    return scope === null ? promise : operate(
      scope,
      promise,
      "the next of setInterval()",
      () => finish(this),
    );
  };
}

/** Makes the iterator clear its timer. It does so when it goes on, so its callback is called. */
function finish(iterator: AsyncGenerator): void {
  markHandled(iterator.return(undefined));
  ticks.get(iterator)?.();
}
