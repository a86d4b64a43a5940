/**
 * Finds out whether the runtime has work left, apart from the library's own.
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
import { countUnnumbered, isLeft } from "./left.ts";
import { ignore, markHandled } from "./language.ts";

/** The highest number of an operation. The next number is 0. */
const MASK = 0x7fffffff;
/** The most numbers of operations to check in one look. Each takes 50 ns. */
const MOST_LOOKS = 100_000;
/**
 * The duration of the timer that keeps the loop going, in ms: nearly 25 days. The timer of each
 * look lasts 1 ms more than the one before, up to the longest possible duration.
 */
const LONG = 2 ** 31 - 1_000_000;
const NO_BYTES = new Uint8Array(0);
/** How many operations to begin, until one has a number. */
const MOST_TRIES = 1000;
/** The share of a processor's time above which a background thread counts as computing. */
const BUSY = 0.2;

/** The durations of timers that the library has cleared. */
const cleared = new Set<number>();
/** The most durations to keep. */
const MOST_CLEARED = 1000;

/**
 * Must be called when the library clears one of its timers. The runtime keeps one list of timers
 * for each duration. It keeps a list that has become empty until its time has come, and such a
 * list must not look like a timer.
 *
 * @param ms The duration with which the timer was set.
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
 * - `empty`: no work is left
 * - `own`: only operations of the library are left
 * - `unsure`: not everything is checked yet
 * - `busy`: work is left
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

/** Looks for work of the runtime. */
export class PendingWork {
  readonly #core: Needed;
  /** Operations that were pending at the last look. */
  #known: number[] = [];
  /** The ranges of numbers that were not checked: the first, and the one after the last. */
  readonly #unseen: [number, number][] = [];
  /** All lower numbers were put into ranges. */
  #next = 0;
  /** The number of timers that were set to look. Each has left a list. */
  #probes = 0;
  #hold: ListedTimer | null = null;
  /** Whether `#hold` was ever set: the list of its timer stays. */
  #hasHeld = false;
  #imports = 0;
  #cpu = 0;
  #time = 0;

  private constructor(core: Needed) {
    this.#core = core;
  }

  /** Tries the internals that it needs. Returns `null` if one is missing or works differently. */
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
   * Keeps the event loop going while a module waits at its top level: without it, the runtime
   * would end the process at once. It keeps no other process alive, and sanitizers don't see it.
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

  /** Whether a module waits at its top level. Only valid when no other work is left. */
  get isModuleWaiting(): boolean {
    return this.#core.eventLoopHasMoreWork();
  }

  /** Notes the processor time used so far, for {@linkcode PendingWork.isComputing}. */
  note(): void {
    const { user, system } = getProcess().cpuUsage();
    this.#cpu = user + system;
    this.#time = performance.now();
  }

  /** Whether a thread, such as a compiler's, has computed since {@linkcode PendingWork.note}. */
  get isComputing(): boolean {
    const { user, system } = getProcess().cpuUsage();
    const ms = performance.now() - this.#time;
    return (user + system - this.#cpu) / 1000 > BUSY * ms;
  }

  /** Looks for timers and handles, and for more operations than `own`. */
  look(own: number): Pending {
    const { hasPromise } = this.#core;
    this.#known = this.#known.filter((id) => hasPromise(id));
    const unnumbered = countUnnumbered();
    const most = own + unnumbered;
    // What costs least comes first, as a server is looked at again and again.
    if (this.#countKnown() > most || this.#hasHandles()) return "busy";
    const count = this.#operations(most + 1);
    if (count === null) return "unsure";
    if (count > most || this.#hasTimers()) return "busy";
    return count <= unnumbered ? "empty" : "own";
  }

  /**
   * Whether the runtime's heap has a list of timers that is not the library's. A new list with
   * the latest time comes last in the heap, so its position is the number of lists.
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

  /** Sets a timer, clears it, and returns its fields from before it was cleared. */
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

  /** The number of an operation that begins now. It writes no bytes to stderr or stdout. */
  #newId(): number | undefined {
    const { write, promiseIdSymbol } = this.#core;
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      const operation = write(2 - tries % 2, NO_BYTES);
      markHandled(operation);
      // An operation that has ended already has no number. That happens often.
      const id: unknown = Reflect.get(operation, promiseIdSymbol);
      if (typeof id === "number") return id;
    }
  }

  /**
   * Waits until all modules that are being imported are loaded. The runtime loads modules one
   * after the other, so a new one is loaded last.
   */
  async modulesLoaded(): Promise<void> {
    const specifier = `data:text/javascript,//${++this.#imports}`;
    try {
      await import(specifier);
    } catch {
      // The program may have no permission. Then its own imports have failed as well.
    }
  }
}

/**
 * Whether the program runs under `deno test`, whose sanitizers would report the operations of a
 * look as leaks. Elsewhere `Deno.test` does nothing, with any arguments.
 */
function isTesting(): boolean {
  try {
    Reflect.apply(Deno.test, undefined, []);
    return false;
  } catch {
    return true;
  }
}

/** Whether no other timer has the same duration: both neighbours are then the list itself. */
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
