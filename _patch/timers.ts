/**
 * The part `timers` of `patch()`: the timers of the language, and of `node:timers`.
 *
 * Their properties are replaced, of the global object and of the modules' default exports.
 * That doesn't reach who has taken a function before, as `import { setTimeout } from
 * "node:timers/promises"` does at the top of a module. So the method is replaced, too, by
 * which every one of those functions has the runtime make its timer.
 *
 * @module
 */

import { argumentAt, markHandled, property, then } from "../_base/language.ts";
import { AsyncResource } from "node:async_hooks";
import timers, { setImmediate } from "node:timers";
import { interruptibleScope, scopeOf } from "../_hub/current.ts";
import { isInterrupt } from "../_hub/interrupts.ts";
import { main } from "../_hub/main.ts";
import {
  addPending,
  type Pending,
  removePending,
  type Scope,
} from "../_hub/scope.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { getCurrent as getRunning, GreenletExit } from "../greenlet.ts";
import { getOriginal } from "../_base/properties.ts";
import { operate } from "../_hub/operation.ts";
import { cooperate, cooperateBySignal } from "./cooperate.ts";
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
import { Greenlet } from "../gevent.ts";

type Callback = (...args: unknown[]) => unknown;
type SetTimer = (callback: Callback, ...rest: unknown[]) => unknown;
type ClearTimer = (timer: unknown) => void;
type Asking = (...args: unknown[]) => Promise<unknown>;

/** A pair of functions, and what tells one of their timers from the others. */
interface Kind {
  readonly set: "setTimeout" | "setInterval" | "setImmediate";
  readonly clear: "clearTimeout" | "clearInterval" | "clearImmediate";
  keyOf(timer: unknown): unknown;
}

const KINDS: Kind[] = [
  { set: "setTimeout", clear: "clearTimeout", keyOf: Number },
  { set: "setInterval", clear: "clearInterval", keyOf: Number },
  // An immediate has no number.
  {
    set: "setImmediate",
    clear: "clearImmediate",
    keyOf: (immediate) => immediate,
  },
];

/** The waits in `new Promise((resolve) => setTimeout(resolve, ms))`, by timer. */
const waits = new Map<unknown, TimerWait>();

/** A wait that the language made: what we know of its promise is a resolver. */
class TimerWait implements Pending {
  scope: Scope | null = null;
  readonly #settle: Callback;
  readonly #clear: () => void;
  #key: unknown;

  constructor(settle: Callback, clear: () => void) {
    this.#settle = settle;
    this.#clear = clear;
  }

  begin(scope: Scope, key: unknown): void {
    this.#key = key;
    waits.set(key, this);
    addPending(scope, this);
  }

  /** The time is over. */
  fire(args: unknown[]): void {
    this.forget();
    Reflect.apply(this.#settle, undefined, args);
  }

  /** The timer was cleared, and the promise is left as it is. */
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
}

/** A timer that is to be set. */
interface Setting<T> {
  /** Sets it, with what it is to call in its callback's place, and maybe another delay. */
  set(callback: Callback, ms?: number): T;
  clear(timer: T): void;
  keyOf(timer: T): unknown;
  /** In how many milliseconds it is due; `null` for an immediate. */
  readonly ms: number | null;
  /** Whether it calls again and again. */
  readonly repeats: boolean;
  /** What its callback is called with. */
  argsOf(timer: T): unknown[];
}

/** The places among the hub's timers that some have, by timer. */
const places = new Map<unknown, QueuedWait>();

/** There is no such timer any more. */
function leavePlace(key: unknown): void {
  places.get(key)?.drop();
  places.delete(key);
}

/**
 * A timer that a clock moves, not the runtime: it takes one of the library's timers. The
 * runtime's is set as well, for a time that never comes, so that the user is given what the
 * runtime gives, and the test runner sees what is left.
 */
class HandMovedTimer<T> implements QueuedWait {
  #running: Timer | null = null;
  #isDropped = false;

  constructor(
    readonly setting: Setting<T>,
    readonly callback: Callback,
    readonly timer: T,
  ) {
    this.#start();
  }

  #start(): void {
    this.#running = startTimer(this.setting.ms!, this);
  }

  expired(): "a turn" {
    // What it throws is the runtime's business.
    setImmediate(() => this.proceed(() => this.#call()));
    return "a turn";
  }

  proceed(run: () => void): void {
    if (!this.#isDropped) run();
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
    Reflect.apply(this.callback, this.timer, args);
  }

  drop(): void {
    this.#isDropped = true;
    stopTimer(this.#running);
  }
}

/** Sets a timer that a clock moves. */
function setByHand<T>(setting: Setting<T>, callback: Callback): T {
  const timer = setting.set(nothing, LONGEST);
  const key = setting.keyOf(timer);
  const bound = AsyncResource.bind(callback) as Callback;
  places.set(key, new HandMovedTimer(setting, bound, timer));
  return timer;
}

/** Has a timer be in line with the hub's, where several are due at once. */
function inLine<T>(setting: Setting<T>): (callback: Callback) => T {
  const { ms, repeats, set, keyOf } = setting;
  if (ms === null) return set;
  if (isMovedByHand()) return (callback) => setByHand(setting, callback);
  return (callback) => {
    let place = takePlace(ms);
    const fire = function (this: unknown, ...args: unknown[]): void {
      place.proceed(() => {
        if (!repeats) places.delete(key);
        else if (places.has(key)) places.set(key, place = takePlace(ms));
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
  if (!isResolver(callback)) return set(asGreenlet(callback));
  const due = checkpoint(scope);
  if (due !== null) {
    then(due, undefined, (error) => rejectBy(callback, error));
    const timer = setting.set(nothing);
    // Not now, as its constructor may be at work.
    queueMicrotask(() => clear(timer));
    return timer;
  }
  const wait = new TimerWait(callback, () => {
    clear(timer);
    leavePlace(keyOf(timer));
  });
  const fire: Callback = (...args) => wait.fire(args);
  internalCallbacks.add(fire);
  const timer = set(fire);
  wait.begin(scope, keyOf(timer));
  return timer;
}

function nothing(): void {}
internalCallbacks.add(nothing);

/**
 * Has a callback run as a greenlet of its own, in the setter's context, as the runtime's
 * timers restore that: whoever has set it may be dead by then. Its error is the runtime's
 * business, as it is without us: it is thrown where the runtime has called, or the promise of
 * an async function is an unhandled rejection.
 */
function asGreenlet(callback: Callback): Callback {
  const fire = function (this: unknown, ...args: unknown[]): void {
    // Unless it isn't the event loop that calls us, but a clock made for tests.
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
    // At once, as nothing can clear the timer any more.
    greenlet.switch();
    if (greenlet.dead && !greenlet.successful()) throw greenlet.exception;
  };
  internalCallbacks.add(fire);
  return fire;
}

/** What a callback is to be waited for by, when it has returned. */
function follow(scope: Scope, result: unknown): Promise<unknown> | undefined {
  // The runtime ignores what is returned: who calls a `then` of somebody else's making may
  // have it begin something.
  const isPromise = result instanceof Promise && result.constructor === Promise;
  if (!isPromise) return undefined;
  then(result, undefined, (error) => {
    // The greenlet itself tells of what has interrupted it.
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
    const isApart = isSetInternally() || scope === null && !isMovedByHand();
    if (isApart || typeof callback !== "function") {
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

/** The delay as the runtime takes it. */
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

/** Patches the timers; disposing of what it returns restores them. */
export function patchTimers(): Disposable {
  return patchAll((patches) => {
    const { promises } = timers;
    const timeouts = findTimeouts();
    if (timeouts === null) patchPromises(patches);
    else patchTimeouts(patches, timeouts);
    putAsLongAsPatched(patches, promises, "setImmediate", cooperate);
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
  // What was the same function remains the same.
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

/**
 * Replaces a function of `node:timers/promises`. That module takes its exports when it is
 * loaded, and may take a replacement, for good.
 */
function putAsLongAsPatched(
  patches: Patches,
  object: object,
  name: string,
  wrap: (original: Asking) => Asking,
): void {
  isPatched = true;
  patches.beforeRestore(() => isPatched = false);
  patches.replace<Asking>(object, name, (original) => {
    const cooperative = wrap(original);
    return function (this: unknown) {
      const chosen = isPatched ? cooperative : original;
      return Reflect.apply(chosen, this, arguments as never);
    };
  });
}

/** What we have to know of the runtime's timers to replace the making of them. */
interface Timeouts {
  /** What they inherit from. */
  readonly prototype: object;
  /** The method that makes one, when all of its properties are set. */
  readonly create: symbol;
  /** The method that ends one. */
  readonly destroy: symbol;
  /** The property by which the runtime marks its own. */
  readonly system: symbol;
}

interface Timeout {
  _onTimeout: Callback | null;
  _idleTimeout?: number | undefined;
  readonly _timerArgs?: unknown[];
  _repeat: boolean;
  readonly [property: symbol]: unknown;
}

/** The longest delay that a timer takes for what it is. */
const LONGEST = 2 ** 31 - 1;

/** Whether the runtime's timers are made as they were when this was written. */
export function areTimersKnown(): boolean {
  return findTimeouts() !== null;
}

/** Finds how the runtime makes its timers: `null` when that is not what we know. */
function findTimeouts(): Timeouts | null {
  const set = getOriginal(timers, "setTimeout") as SetTimer;
  const clear = getOriginal(timers, "clearTimeout") as ClearTimer;
  const timer = set(nothing, LONGEST);
  clear(timer);
  const prototype = Object.getPrototypeOf(timer);
  const create = findSymbol(prototype, "createTimer", "function");
  const destroy = findSymbol(prototype, "destroy", "function");
  const system = findSymbol(timer, "system", "boolean");
  if (create === null || destroy === null || system === null) return null;
  // Do they do what their names say?
  const seen: unknown[] = [];
  using _ = patchAll((patches) => {
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
  const trial = set(nothing, LONGEST);
  const id = Number(trial);
  clear(trial);
  const expected = [nothing, false, false, id, trial];
  const isAsExpected = seen.length === expected.length &&
    expected.every((value, i) => value === seen[i]);
  return isAsExpected ? { prototype, create, destroy, system } : null;
}

/** A property that is under a symbol, which nobody hands out. */
function findSymbol(
  object: unknown,
  name: string,
  type: string,
): symbol | null {
  if (typeof object !== "object" || object === null) return null;
  return Object.getOwnPropertySymbols(object).find((symbol) =>
    symbol.description === name &&
    typeof Reflect.get(object, symbol) === type
  ) ?? null;
}

/** Patches the timers that the replaced functions don't see. */
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
      const isApart = isSetInternally() ||
        scope === null && (this[system] || !isMovedByHand());
      if (isApart || callback === null || internalCallbacks.has(callback)) {
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
}

/** Patches what makes a promise of its own, where its timers can't be seen. */
function patchPromises(patches: Patches): void {
  const { promises } = timers;
  const wait = (at: number) => (original: Asking) =>
    cooperateBySignal(original, at);
  putAsLongAsPatched(patches, promises, "setTimeout", wait(2));
  patches.replace(Object.getPrototypeOf(promises.scheduler), "wait", wait(1));
}

/** The iterator of `setInterval(ms)` that is about to begin. */
let iterating: object | null = null;
/** What the timers of such iterators call. */
const ticks = new WeakMap<object, Callback>();

type Next = (this: AsyncGenerator) => Promise<IteratorResult<unknown>>;

/** Of the iterator of `setInterval(ms)`, which an interrupt ends. */
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
    return scope === null
      ? promise
      : operate(scope, promise, () => finish(this));
  };
}

/** Has it clear its timer, for which it has to go on: so it is told that time is over. */
function finish(iterator: AsyncGenerator): void {
  markHandled(iterator.return(undefined));
  ticks.get(iterator)?.();
}
