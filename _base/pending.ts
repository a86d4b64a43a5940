/**
 * Whether the runtime has anything left to do, apart from what is the library's own.
 *
 * Deno tells it to a program that has ended (`beforeunload`), but not to one that waits at its
 * top level: it ends that with an error, and calls nothing. So here the library finds out by
 * itself: whether an operation is pending that may wake something, a timer is set, or a module
 * is being loaded. What can't be seen is taken to be there.
 *
 * @module
 */

import { findInternals, type Internals, type ListedTimer } from "./runtime.ts";
import { getProcess } from "./builtin.ts";
import { isLeft } from "./left.ts";
import { ignore, markHandled } from "./language.ts";

/** The number that follows the highest one of an operation is 0. */
const MASK = 0x7fffffff;
/** How many numbers of operations to look at in one go: 50 ns each. */
const MOST_LOOKS = 100_000;
/**
 * The duration of the timer that keeps the loop going, in ms: nearly 25 days. The timers of looks
 * take 1 ms more each, up to the longest there is.
 */
const LONG = 2 ** 31 - 1_000_000;
const NO_BYTES = new Uint8Array(0);
/** How often to begin an operation, until one has a number. */
const MOST_TRIES = 1000;
/** The part of a processor that says that something is being computed in the background. */
const BUSY = 0.2;

/** The durations of timers of the library's own that were cleared. */
const cleared = new Set<number>();
/** How many of them to keep. */
const MOST_CLEARED = 1000;

/**
 * Has to be called when a timer of the library's own is cleared. The runtime keeps the empty list
 * of such a timer until its time has come, and the list must not look like a timer.
 *
 * @param ms The duration with which it was set.
 */
export function noteCleared(ms: number): void {
  if (cleared.size === MOST_CLEARED) cleared.clear();
  cleared.add(ms);
}

/** Timers of the library's own that wake nothing, with their durations. */
const idleTimers = new Map<object, number>();

/** Notes a timer of the runtime that wakes nothing, until the result is disposed of. */
export function noteIdleTimer(timer: object, ms: number): Disposable {
  idleTimers.set(timer, ms);
  return {
    [Symbol.dispose]() {
      idleTimers.delete(timer);
      noteCleared(ms);
    },
  };
}

/**
 * - `empty`: nothing is left
 * - `own`: there are operations, and no more of them than were named as the library's own
 * - `unsure`: it has not looked at everything yet
 * - `busy`: something may still happen
 */
export type Pending = "empty" | "own" | "unsure" | "busy";

type Needed = Pick<
  Internals,
  | "write"
  | "hasPromise"
  | "promiseIdSymbol"
  | "createTimer"
  | "cancelTimer"
  | "eventLoopHasMoreWork"
>;

/** Sees what the runtime has left to do. */
export class PendingWork {
  readonly #core: Needed;
  /** Operations that were pending at the last look. */
  #known: number[] = [];
  /** The ranges of numbers that nothing has looked at: first, and after the last. */
  readonly #unseen: [number, number][] = [];
  /** The numbers below were put into ranges. */
  #next = 0;
  /** How many timers there were that looked, each of which has left a list. */
  #probes = 0;
  #hold: ListedTimer | null = null;
  /** Whether a timer of `#hold` was ever made: its list stays. */
  #hasHeld = false;
  #imports = 0;
  #cpu = 0;
  #time = 0;

  private constructor(core: Needed) {
    this.#core = core;
  }

  /** Tries all that it needs; `null` where the runtime does not have it, or not as expected. */
  static find(): PendingWork | null {
    const core = findInternals();
    try {
      if (isTesting()) return null;
      if (
        typeof core.promiseIdSymbol !== "symbol" ||
        typeof core.write !== "function" ||
        typeof core.hasPromise !== "function" ||
        typeof core.eventLoopHasMoreWork !== "function"
      ) return null;
      const found = new PendingWork(core as Needed);
      found.hold();
      const { _idleNext: list, _idlePrev: last } = found.#hold!;
      found.release();
      return list === last && typeof list.priorityQueuePosition === "number"
        ? found
        : null;
    } catch {
      return null;
    }
  }

  /**
   * Keeps the event loop going while a module awaits at its top level, as otherwise the runtime
   * ends the process at once. Keeps no process alive, and no sanitizer sees it.
   */
  hold(): void {
    if (this.#hold !== null) return;
    this.#hasHeld = true;
    this.#hold = this.#timer(LONG);
  }

  /** Ends {@linkcode PendingWork.hold}. */
  release(): void {
    if (this.#hold !== null) this.#core.cancelTimer(this.#hold);
    this.#hold = null;
  }

  #timer(ms: number): ListedTimer {
    return this.#core.createTimer(ignore, ms, undefined, false, false, true);
  }

  /** Whether a module awaits at its top level; to be asked where nothing else is left. */
  get isModuleWaiting(): boolean {
    return this.#core.eventLoopHasMoreWork();
  }

  /** Notes the time of the processor, for {@linkcode PendingWork.isComputing}. */
  note(): void {
    const { user, system } = getProcess().cpuUsage();
    this.#cpu = user + system;
    this.#time = performance.now();
  }

  /** Whether threads have computed since {@linkcode PendingWork.note}, as a compiler does. */
  get isComputing(): boolean {
    const { user, system } = getProcess().cpuUsage();
    const ms = performance.now() - this.#time;
    return (user + system - this.#cpu) / 1000 > BUSY * ms;
  }

  /** Looks for timers and handles, and for more operations than `own`. */
  look(own: number): Pending {
    const { hasPromise } = this.#core;
    this.#known = this.#known.filter((id) => hasPromise(id));
    // What costs least comes first, as a server is looked at again and again.
    if (this.#countKnown() > own || this.#hasHandles()) return "busy";
    const count = this.#operations(own + 1);
    if (count === null) return "unsure";
    if (count > own || this.#hasTimers()) return "busy";
    return count === 0 ? "empty" : "own";
  }

  /**
   * Whether the runtime's heap has a list of timers that is not the library's own. A new list
   * with the latest time is its last, and so its place is their number.
   */
  #hasTimers(): boolean {
    const hold = this.#hold;
    if (hold !== null && !isAlone(hold)) return true;
    const idle = new Set(idleTimers.values());
    const timers = new Set([...idleTimers.keys()].map(listedOf));
    for (const timer of timers) if (!isAmong(timers, timer)) return true;
    // The lists that are there no more come back by this, so that their number is known.
    for (const ms of cleared) {
      if (idle.has(ms)) cleared.delete(ms);
      else if (!isAlone(this.#probe(ms))) return true;
    }
    const probe = this.#probe(LONG + ++this.#probes);
    const { priorityQueuePosition } = probe._idleNext;
    const own = this.#probes + cleared.size + idle.size +
      (this.#hasHeld ? 1 : 0);
    return !isAlone(probe) || priorityQueuePosition !== own;
  }

  /** Sets a timer and clears it, and returns it as it was while it was set. */
  #probe(ms: number): ListedTimer {
    const timer = this.#timer(ms);
    const { _idleNext, _idlePrev } = timer;
    this.#core.cancelTimer(timer);
    return { _idleNext, _idlePrev };
  }

  #hasHandles(): boolean {
    const process = getProcess() as ReturnType<typeof getProcess> & {
      _getActiveHandles?(): unknown[];
      _getActiveRequests?(): unknown[];
    };
    return (process._getActiveHandles?.() ?? []).length > 0 ||
      (process._getActiveRequests?.() ?? []).length > 0 ||
      process.getActiveResourcesInfo().some((name) => name !== "TTYWrap");
  }

  /** Counts the known operations that may wake something. */
  #countKnown(): number {
    let count = 0;
    for (const id of this.#known) if (!isLeft(id)) count++;
    return count;
  }

  /** Counts the pending operations, up to `most`; `null` if there are too many to look at. */
  #operations(most: number): number | null {
    const { hasPromise } = this.#core;
    const id = this.#newId();
    if (id === undefined) return most;
    if (id !== this.#next) this.#unseen.push([this.#next, id]);
    this.#next = (id + 1) & MASK;
    let count = this.#countKnown();
    for (let looks = 0; count < most;) {
      // The latest first: one that is pending is found soon where there is one.
      const range = this.#unseen.at(-1);
      if (range === undefined) break;
      if (range[0] === range[1]) {
        this.#unseen.pop();
        continue;
      }
      if (++looks > MOST_LOOKS) return null;
      range[1] = (range[1] - 1) & MASK;
      if (!hasPromise(range[1])) continue;
      this.#known.push(range[1]);
      if (!isLeft(range[1])) count++;
    }
    return count;
  }

  /** The number of an operation that begins now: it writes nothing to stderr or stdout. */
  #newId(): number | undefined {
    const { write, promiseIdSymbol } = this.#core;
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      const operation = write(2 - tries % 2, NO_BYTES);
      markHandled(operation);
      // One that has ended at once has no number. Often a thread is that fast.
      const id: unknown = Reflect.get(operation, promiseIdSymbol);
      if (typeof id === "number") return id;
    }
  }

  /**
   * Waits until the modules are loaded whose import has begun: the runtime loads them one after
   * the other, and so a new one comes last.
   */
  async modulesLoaded(): Promise<void> {
    const specifier = `data:text/javascript,//${++this.#imports}`;
    try {
      await import(specifier);
    } catch {
      // A program may not be allowed to: then its own imports have failed as well.
    }
  }
}

/**
 * Whether `deno test` runs, which takes the operations of a look for leaks of its tests. In other
 * programs `Deno.test` does nothing, whatever it is given.
 */
function isTesting(): boolean {
  try {
    Reflect.apply(Deno.test, undefined, []);
    return false;
  } catch {
    return true;
  }
}

/** Whether there is no other timer of the same duration: then both neighbours are the list. */
function isAlone({ _idleNext, _idlePrev }: ListedTimer): boolean {
  return _idleNext === _idlePrev;
}

/** The runtime's own timer in one of `node:timers`. */
function listedOf(timer: object): object {
  return (timer as { readonly _timer?: object })._timer ?? timer;
}

/** Whether all timers of the same duration are among these; the list itself is one of the ring. */
function isAmong(timers: ReadonlySet<object>, timer: object): boolean {
  let lists = 0;
  let one: object | null = timer;
  do {
    one = (one as { readonly _idleNext?: object | null })._idleNext ?? null;
    // One that is being called at the moment is in no list.
    if (one === null) return false;
    if (!timers.has(one) && ++lists > 1) return false;
  } while (one !== timer);
  return lists === 1;
}
