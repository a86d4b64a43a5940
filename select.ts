/**
 * Waits for the first of several waits and takes only that one.
 *
 * ```ts
 * import { Event, Queue, select, spawn } from "@gevent/gevent";
 *
 * const jobs = new Queue<string>();
 * const stopping = new Event();
 * const worker = spawn(async () => {
 *   for (;;) {
 *     const first = await select({
 *       job: () => jobs.get(),
 *       stop: () => stopping.wait(),
 *     });
 *     if (first.key === "stop") return "stopped";
 *     console.log(first.value);
 *   }
 * });
 * await jobs.put("wash up"); // wash up
 * stopping.set();
 * console.log(await worker.get()); // stopped
 * ```
 *
 * `Promise.race([a.get(), b.get()])` takes an item of each queue, sooner or later, and loses
 * one of them. In a `select`, the waits that lose take nothing: items stay in their queues,
 * permits are not taken, nothing is put.
 *
 * @module
 */

import { markHandled, NO_OPTIONS } from "./_base/language.ts";
import {
  checkCallback,
  checkOptions,
  isInstance,
  isObject,
  isRevoked,
  show,
} from "./_base/checks.ts";
import { findInternals } from "./_base/runtime.ts";
import { isThenable } from "./_base/thenable.ts";
import { currentScope, runIn } from "./_hub/current.ts";
import { Greenlet } from "./_hub/greenlet.ts";
import { errorFor, LOST, Lost } from "./_hub/interrupts.ts";
import { report } from "./_hub/main.ts";
import { PatientWait } from "./_hub/patient_wait.ts";
import { reportSuppressed } from "./_hub/reports.ts";
import { beginsAlternative, hasBegunAlternative } from "./_hub/rivals.ts";
import { runSoon } from "./_hub/run_queue.ts";
import {
  GRACE,
  type Pending,
  type Race,
  removePending,
  Scope,
} from "./_hub/scope.ts";
import {
  beneath,
  checkpoint,
  Followed,
  isTaken,
  LazyPromise,
  type Settled,
  Suspension,
} from "./_hub/suspension.ts";
import { Timeout } from "./_hub/timeout.ts";
import { noteWait, placeLater } from "./_hub/stacks.ts";
import { checkDuration } from "./_hub/timers.ts";
import { FOREIGN, several } from "./_hub/waits.ts";
import { findWrapped } from "./_hub/wrapped.ts";
import type { Wait } from "./hub.ts";

/**
 * One alternative of a {@linkcode select}: a function that begins a wait, or a greenlet or a
 * promise, which has begun already and goes on if it loses.
 *
 * @typeParam T The type of its value.
 */
export type Alternative<T = unknown> =
  | (() => Greenlet<T> | PromiseLike<T>)
  | Greenlet<T>
  | PromiseLike<T>;

/**
 * The type of the value of an {@linkcode Alternative}.
 *
 * @typeParam A The type of the alternative.
 */
export type AlternativeResult<A> = A extends Greenlet<infer T> ? T
  : A extends () => infer R ? R extends Greenlet<infer T> ? T : Awaited<R>
  : Awaited<A>;

/**
 * The result of a {@linkcode select}: the key of the alternative that was first, and its value.
 * Checking `key` narrows the type of `value`.
 *
 * @typeParam A The type of the record or the array of alternatives.
 */
export type Selected<A> = A extends readonly unknown[]
  ? number extends A["length"]
    ? { readonly key: number; readonly value: AlternativeResult<A[number]> }
  : {
    [K in keyof A & `${number}`]: {
      readonly key: K extends `${infer N extends number}` ? N : number;
      readonly value: AlternativeResult<A[K]>;
    };
  }[keyof A & `${number}`]
  : {
    [K in keyof A]: {
      readonly key: K;
      readonly value: AlternativeResult<A[K]>;
    };
  }[keyof A];

/** Options of {@linkcode select}. */
export interface SelectOptions {
  /** The time limit in milliseconds, after which a `Timeout` is thrown. @default {Infinity} */
  timeout?: number;
}

/**
 * Waits for the first of several waits, and takes only that one. A switch point. Like Go's
 * `select` for channels; gevent's `gevent.select` is for file descriptors.
 *
 * The alternatives are begun in order, in the current greenlet, until one is ready at once: so
 * of several that are ready, the first in the order wins. A wait that loses has taken nothing.
 * A greenlet that loses goes on; a foreign promise that loses is ignored, as it can't be
 * stopped. If a function such as `withTimeout(...)` loses, its wait throws a `GreenletExit`,
 * and `select` waits while it cleans up, for a second at most.
 *
 * Alternatives of one `select` don't serve each other: a `put` and a `get` of one channel wait
 * for other greenlets.
 *
 * If an alternative fails first, its error is thrown. An interrupt undoes all alternatives. If
 * a value was handed over before the interrupt, it is returned, and the next wait throws the
 * interrupt's error.
 *
 * Let each alternative be a single wait. An async function that waits several times counts as a
 * foreign promise: if it loses, items that it has already taken are not put back.
 *
 * @typeParam A The type of the record or the array of alternatives.
 * @param alternatives A record, or an array whose indices are the keys. Each alternative is a
 * greenlet, a promise that is not a wait of this library, or a function that begins a wait and
 * returns it (or returns a greenlet or a promise).
 * @param options The time limit. With 0, an alternative wins only if it is ready at once.
 * @returns The key and the value of the alternative that was taken.
 * @throws {Timeout} If no alternative ends in time.
 * @throws {unknown} The error of the first alternative, if it fails.
 * @throws {TypeError} If there is no alternative, or if one is not a function, a greenlet or a
 * promise.
 * @throws {TypeError | RangeError} If the timeout is not a number of milliseconds.
 *
 * @example Usage
 * ```ts
 * import { Queue, select, sleep } from "@gevent/gevent";
 *
 * const urgent = new Queue<string>();
 * const usual = new Queue<string>(null, ["sweep"]);
 * console.log(await select([() => urgent.get(), () => usual.get()])); // { key: 1, value: "sweep" }
 *
 * const first = await select({
 *   item: () => usual.get(),
 *   late: () => sleep(1),
 * });
 * console.log(first.key); // late
 * ```
 */
export function select<
  const A extends
    | readonly Alternative[]
    | Readonly<Record<string, Alternative>>,
>(
  alternatives: A,
  options: SelectOptions = NO_OPTIONS,
): Wait<Selected<A>> {
  checkOptions(options, "select");
  const { timeout = Infinity } = options;
  checkDuration(timeout, "select");
  const keys = !isRevoked(alternatives) && Array.isArray(alternatives)
    ? null
    : keysOf(alternatives);
  // A copy, in which each function is replaced by the wait that it began.
  const all: unknown[] = keys === null
    ? (alternatives as readonly unknown[]).slice()
    : keys.map((key) => (alternatives as Record<string, unknown>)[key]);
  if (all.length === 0) {
    throw new TypeError(
      "Cannot select as there is no alternative: pass one, or call sleep()",
    );
  }
  for (let i = 0; i < all.length; i++) {
    checkAlternative(all[i], keys === null ? i : keys[i]!);
  }
  const scope = currentScope();
  const wait = checkpoint(scope) ??
    new Selection(scope, keys, all, timeout).start();
  return wait as Wait<Selected<A>>;
}

function keysOf(alternatives: unknown): string[] {
  if (isRecord(alternatives)) return Object.keys(alternatives);
  throw new TypeError(
    `Cannot select as the alternatives must be in an object or an array: received ${
      show(alternatives)
    }`,
  );
}

/** Whether a value may have alternatives as properties: a `Map`, or a single alternative, has none. */
function isRecord(value: unknown): value is object {
  return isObject(value) && !isRevoked(value) && !(Symbol.iterator in value) &&
    !isInstance(value, Promise) && !isInstance(value, Greenlet);
}

function checkAlternative(one: unknown, key: string | number): void {
  if (typeof one === "function") {
    return checkCallback(one, "select", key as string);
  }
  if (!isRevoked(one)) {
    if (beneath(one) !== null) {
      throw new TypeError(
        `Cannot select as '${key}' is a wait that has begun, and would go on when it loses: pass a function that begins it`,
      );
    }
    if (one instanceof Greenlet || isThenable(one)) return;
  }
  throw new TypeError(
    `Cannot select as '${key}' must be a function, a greenlet or a promise: received ${
      show(one)
    }`,
  );
}

/** The end of an alternative: its value, or its error. */
interface Ended {
  readonly state: Settled;
  readonly value: unknown;
}

/** The error that a `select` throws, unless an alternative gives a value after all. */
interface Ending {
  readonly error: unknown;
  /**
   * Whether the error is an interrupt. If an alternative still gives a value, the next wait
   * throws it.
   */
  readonly isInterrupt: boolean;
}

/** A scope that has more to end than simple waits. */
interface BusyScope {
  readonly scope: Scope;
  /** The last alternative of the scope; `null` if that is a simple wait, too. */
  readonly last: Suspension<unknown> | null;
}

/** The wait for the first of several.
 *
 * The alternatives begin in scopes of their own. Simple waits share a scope. An alternative
 * that may have begun others is the last one in its scope. The alternative that ends first
 * calls `claimed()` or `ended()` synchronously, while its value is being handed over, so the
 * others have left their queues before anything else can happen.
 */
class Selection extends PatientWait<unknown> implements Race {
  /** `null` where the indices are the keys. */
  readonly #keys: readonly string[] | null;
  /** The time limit in milliseconds; `null` for none. */
  readonly #ms: number | null;
  /** The alternatives. One that was begun and was not ready is replaced by its wait. */
  readonly #all: unknown[];
  /** The index of the alternative to begin next. */
  #next = 0;
  /** The number of alternatives that were begun and have not ended. */
  #left = 0;
  /** The scope in which alternatives are being begun; `null` once all were begun. */
  #scope: Scope | null = null;
  /** The index of the alternative that is taken; -1 until one is. */
  #first = -1;
  /** The end of the alternative that is taken; `null` until it has ended. */
  #result: Ended | null = null;
  #ending: Ending | null = null;
  /** Whether the last error of an escalated greenlet is thrown, or ends its body by `return()`. */
  #lastThrow: Settled = "thrown";
  #busy: BusyScope[] | null = null;
  #lost: Lost | null = null;

  constructor(
    scope: Scope,
    keys: readonly string[] | null,
    all: unknown[],
    ms: number,
  ) {
    super(scope);
    this.#keys = keys;
    this.#ms = ms === Infinity ? null : ms;
    this.#all = all;
  }

  /** What each alternative waits for. */
  override get subject(): unknown {
    return this.#all.map((one) =>
      one instanceof Suspension ? one.subject : undefined
    );
  }

  override describe(subjects: unknown = this.subject): string {
    const texts = this.#all.map((one, i) =>
      one instanceof Suspension
        ? one.describe((subjects as readonly unknown[])[i])
        : one instanceof Greenlet
        ? `join of ${show(one)}`
        : FOREIGN
    );
    return `select of ${several(texts, "waits")}`;
  }

  start(): Wait<unknown> {
    if (this.#ms !== null) this.limit(this.#ms);
    // Suspends before the alternatives begin, as one of them may interrupt its own greenlet.
    const wait = this.suspend(this.waiter);
    do {
      const scope = this.#scope = new Scope(this.waiter.greenlet);
      scope.root = this.waiter.root;
      scope.race = this;
    } while (runIn(this.#scope, beginSome, this));
    this.#scope = null;
    // The rejection of a promise that was not reached must not count as unhandled.
    for (let i = this.#next; i < this.#all.length; i++) {
      const one = this.#all[i];
      if (isThenable(one) && !(one instanceof Greenlet)) markHandled(one);
    }
    this.#finish();
    return wait;
  }

  /** Begins alternatives in one scope. Returns whether some are left for another scope. */
  beginSome(): boolean {
    const scope = this.#scope!;
    const all = this.#all;
    let one: Suspension<unknown> | null = null;
    try {
      do {
        const i = this.#next++;
        beginsAlternative(this);
        try {
          one = this.#begin(i, scope, all[i]);
        } finally {
          hasBegunAlternative();
        }
      } while (
        // An alternative that is not a simple wait may have begun other waits: it is the last
        // in its scope.
        one !== null && isSimple(one) && scope.pending === null &&
        this.#isOpen && this.#next < all.length
      );
    } catch (error) {
      this.#take(this.#next - 1, { state: "thrown", value: error }, scope);
    }
    const last = one === null || isSimple(one) ? null : one;
    if (last !== null || scope.pending !== null) {
      (this.#busy ??= []).push({ scope, last });
    }
    if (this.#isOpen) return this.#next < all.length;
    this.#leaveLast(one, last, scope);
    return false;
  }

  /** Whether no alternative has ended yet. */
  get #isOpen(): boolean {
    return this.#first < 0 && this.#ending === null;
  }

  /**
   * Ends the last alternative, if another one ended or an interrupt came while it was being
   * begun.
   */
  #leaveLast(
    one: Suspension<unknown> | null,
    last: Suspension<unknown> | null,
    scope: Scope,
  ): void {
    const isFirst = this.#first === this.#next - 1;
    if (isFirst) return;
    if (one !== null && last === null) this.#lose(one);
    else if (one !== null || this.#first < 0) this.#end(last, scope);
  }

  /** Begins an alternative. Returns `null` if it ended at once. */
  #begin(
    i: number,
    scope: Scope,
    alternative: unknown,
  ): Suspension<unknown> | null {
    let promise = typeof alternative === "function"
      ? alternative()
      : alternative;
    let own = beneath(promise);
    if (own === null) {
      if (promise instanceof Greenlet) promise = promise.get();
      else if (promise instanceof LazyPromise) promise = promise.waitIn(scope);
      own = beneath(promise);
    }
    if (own instanceof Suspension && own.scope === scope) {
      if (own.state === "waiting") return this.#enter(i, scope, own);
    }
    const result = own === null ? settled(promise) : over(own);
    if (result !== null) {
      const { state, value } = result;
      if (state === "given") this.#take(i, result, scope);
      else {
        markHandled(promise as Promise<unknown>);
        const error = errorFor(value, this.waiter);
        this.#take(i, { state, value: error }, scope);
      }
      return null;
    }
    if (!isThenable(promise)) {
      throw new TypeError(
        `Cannot select as '${
          this.#keyOf(i)
        }' must give a wait, a greenlet or a promise: received ${
          show(promise)
        }`,
      );
    }
    const one = new OthersPromise(this.waiter).follow(promise);
    one.suspend(scope);
    this.#enter(i, scope, one);
    if (isTaken(promise)) this.claimed(one, scope);
    return one;
  }

  #enter<S extends Suspension<unknown>>(i: number, scope: Scope, one: S): S {
    this.#all[i] = one;
    this.#left++;
    one.enterRace();
    if (isSimple(one)) {
      // `interrupt()` and `#lose()` reach it by `#all`.
      removePending(one);
      one.scope = scope;
    }
    return one;
  }

  #keyOf(i: number): string | number {
    return this.#keys === null ? i : this.#keys[i]!;
  }

  /** Notes that an alternative has ended. */
  #take(i: number, result: Ended, scope: Scope): void {
    const isFirst = this.#first < 0 &&
      (this.#ending === null || result.state === "given");
    if (isFirst || i === this.#first) this.#result = result;
    else if (result.state !== "given") this.#reportLoser(result.value);
    if (isFirst) this.#choose(i, scope);
    // Calls that the first alternative has begun and not awaited go on, as after any call.
    if (
      i === this.#first && (scope.ownsSomething || scope.interrupts !== null)
    ) {
      const one = this.#all[i];
      const isOthers = this.#busy?.some(({ scope: busy, last }) =>
        busy === scope && last !== null && last !== one
      );
      if (!isOthers) scope.close(this.waiter);
    }
  }

  /** Takes an alternative, and undoes the others. */
  #choose(i: number, scope: Scope): void {
    this.#first = i;
    this.claim();
    const ending = this.#ending;
    if (ending === null) this.#loseAllBut(i, scope);
    else if (ending.isInterrupt) super.interrupt(ending.error, false);
  }

  #loseAllBut(first: number, firstScope: Scope | null): void {
    const all = this.#all;
    const count = this.#next;
    let callsBack = false;
    for (let i = 0; i < count; i++) {
      const one = all[i];
      if (i === first || !(one instanceof Suspension)) continue;
      if (one.callsBack) callsBack = true;
      else if (isSimple(one)) this.#lose(one);
    }
    // Undoing these calls functions of the user, which may for example put into a queue above.
    for (let i = 0; callsBack && i < count; i++) {
      const one = all[i];
      if (i === first || !(one instanceof Suspension)) continue;
      if (one.callsBack && isSimple(one)) this.#lose(one);
    }
    this.#busy?.forEach(({ scope, last }) => {
      const isOfFirst = last === null
        ? scope === firstScope
        : last === all[first];
      if (!isOfFirst) this.#end(last, scope);
    });
  }

  /** Undoes a simple wait, unless it has ended. */
  #lose(one: Suspension<unknown>): void {
    if (!one.isPending) return;
    this.#left--;
    one.lose(LOST);
  }

  /** Ends everything that still goes on in a scope. */
  #end(last: Suspension<unknown> | null, scope: Scope): void {
    end(last, scope, this.#lost ??= new Lost());
  }

  /** Reports the error of an alternative that lost, unless the interrupt by `select` caused it. */
  #reportLoser(error: unknown): void {
    const ending = this.#ending;
    const isOurs = (one: unknown) =>
      isInstance(one, Lost) || ending !== null && one === ending.error;
    const { greenlet } = this.waiter;
    if (findWrapped(error, isOurs) === null) report(greenlet, error);
    else reportSuppressed(greenlet, error);
  }

  ended(one: Pending, scope: Scope): void {
    this.#left--;
    const ended = one as Suspension<unknown> & Ended;
    // Nearly all losers end because `Lost` interrupted them; for these no search by index is
    // needed.
    if (ended.state === "given" || !isInstance(ended.value, Lost)) {
      this.#take(this.#all.indexOf(ended), ended, scope);
    }
    this.#finish();
  }

  claimed(one: Pending, scope: Scope): void {
    if (this.#isOpen) this.#choose(this.#all.indexOf(one), scope);
  }

  override enterRace(): void {
    super.enterRace();
    if (this.#first >= 0) this.claim();
  }

  /** Ends the wait when all alternatives have ended. */
  #finish(): void {
    if (this.#left > 0 || this.#scope !== null || !this.isPending) return;
    const result = this.#result;
    if (result === null) this.settle(this.#lastThrow, this.#ending!.error);
    else if (result.state === "given") {
      const key = this.#keyOf(this.#first);
      this.settle("given", { key, value: result.value });
    } else this.#fail(result.value);
  }

  #fail(error: unknown): void {
    const isLast = this.waiter.isEscalation(error);
    this.waiter.receiveInterrupts(error);
    this.settle(isLast ? this.#lastThrow : "thrown", error);
  }

  /** Called at the time limit. Waits that are ready go first: their wake-ups are already queued. */
  override expired(): "steps" {
    this.timer = null;
    runSoon(endInTime, this);
    return "steps";
  }

  end(): void {
    if (!this.isPending || !this.#isOpen) return;
    const error = placeLater(new Timeout(this.#ms));
    noteWait(error, this, this.subject);
    this.#ending = { error, isInterrupt: false };
    this.#loseAllBut(-1, null);
    this.#finish();
  }

  override interrupt(error: unknown, final: boolean): void {
    if (!this.isPending) return;
    if (this.#first >= 0) return super.interrupt(error, final);
    this.markInterrupted(error, final);
    this.#ending = { error, isInterrupt: true };
    if (final) this.#lastThrow = this.waiter.lastThrow;
    // The alternative that is being begun throws it in its next wait.
    this.#scope?.interrupt(error);
    for (let i = 0; i < this.#next; i++) {
      const one = this.#all[i];
      if (one instanceof Suspension && isSimple(one)) {
        one.interrupt(error, false);
      }
    }
    this.#busy?.forEach(({ scope, last }) => {
      if (final) scope.escalate(error, this.#lastThrow === "thrown");
      else if (last === null || last instanceof OthersPromise) {
        end(last, scope, error);
      } else scope.interrupt(error);
    });
  }

  override unhold(error: unknown): void {
    super.unhold(error);
    this.#busy?.forEach(({ scope }) => scope.unhold(error));
  }

  protected override hasten(): void {
    const error = this.#lost ??= new Lost();
    this.#busy?.forEach(({ scope }) => scope.escalate(error, true));
  }
}

function beginSome(selection: Selection): boolean {
  return selection.beginSome();
}

function endInTime(selection: Selection): void {
  selection.end();
}

const { interrupt } = Suspension.prototype;

/** Whether an interrupt ends the wait at once. True of nearly all waits. */
function isSimple(one: Suspension<unknown>): boolean {
  return one.interrupt === interrupt;
}

/** The wait for a foreign promise, which may come from a function that waits in our scope. */
class OthersPromise extends Followed {
  override interrupt(error: unknown, final: boolean): void {
    super.interrupt(error, final);
  }
}

/** Kills everything that still runs in a scope, and gives it time to clean up. */
function end(
  last: Suspension<unknown> | null,
  scope: Scope,
  error: unknown,
): void {
  // Stops waiting for the promise. If a function of ours made it, the wait that the function is
  // in throws the error, or its next wait does.
  if (last instanceof OthersPromise) last.interrupt(LOST, false);
  scope.kill(error, GRACE);
}

/** The end of one of the library's waits; `null` if it has not ended. */
function over(
  own: { readonly state: string; readonly value: unknown },
): Ended | null {
  const { state } = own;
  return state === "given" || state === "thrown" || state === "returned"
    ? own as Ended
    : null;
}

const { getPromiseDetails } = findInternals();

/**
 * The end of a foreign promise that is settled. Where the runtime can't be asked, a settled
 * promise counts as ready only when its reactions are called.
 */
function settled(promise: unknown): Ended | null {
  if (
    getPromiseDetails === undefined || !(promise instanceof Promise) ||
    promise.constructor !== Promise
  ) return null;
  try {
    const [state, value] = getPromiseDetails(promise);
    if (state === 1) return { state: "given", value };
    if (state === 2) return { state: "thrown", value };
  } catch {
    // The runtime's function has changed: the promise counts as pending.
  }
  return null;
}
