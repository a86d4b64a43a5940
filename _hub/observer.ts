/**
 * The observers of greenlets and of their waits: a trace, a monitor. Without observers, each
 * place that would call them only compares a variable with `null`.
 *
 * @module
 */

import type { Greenlet } from "../greenlet.ts";

/** Gets calls about greenlets and their waits. The methods must not throw. */
export interface Observer {
  /** A greenlet is made, in code of its spawner. */
  made?(greenlet: Greenlet, spawner: Greenlet): void;
  /** A greenlet will start. */
  spawned?(greenlet: Greenlet): void;
  /** The body of a greenlet begins. */
  begins?(greenlet: Greenlet): void;
  /** A wait of a greenlet has begun. */
  waits?(greenlet: Greenlet): void;
  /** A wait of a greenlet has ended, and the body will go on. */
  woken?(greenlet: Greenlet): void;
  /** The body goes on: at once, or in the microtask after this one. */
  resumes?(greenlet: Greenlet): void;
  /** A greenlet has ended. */
  ended?(greenlet: Greenlet): void;
}

/** The observers that have a method for one event. */
type Told<K extends keyof Observer> = Required<Pick<Observer, K>>[];

/**
 * Calls all observers. There is a list of observers for each event: a `for`-`of` loop over all of
 * them made a hand-off 100 ns slower.
 */
class Observers {
  readonly #all = new Set<Observer>();
  #made: Told<"made"> = [];
  #spawned: Told<"spawned"> = [];
  #begins: Told<"begins"> = [];
  #waits: Told<"waits"> = [];
  #woken: Told<"woken"> = [];
  #resumes: Told<"resumes"> = [];
  #ended: Told<"ended"> = [];
  /** The wait that ended last. Its promise is nearly always resolved at once. */
  #last: { wait: object; greenlet: Greenlet } | null = null;
  /** The greenlets of waits that have ended and whose promises are not resolved yet. */
  readonly #resuming = new WeakMap<object, Greenlet>();

  add(one: Observer): void {
    this.#all.add(one);
    this.#sort();
  }

  /** Removes an observer. Returns whether others are left. */
  remove(one: Observer): boolean {
    this.#all.delete(one);
    this.#sort();
    return this.#all.size > 0;
  }

  #sort(): void {
    const those = <K extends keyof Observer>(name: K): Told<K> =>
      [...this.#all].filter((one) => one[name] !== undefined) as never;
    this.#made = those("made");
    this.#spawned = those("spawned");
    this.#begins = those("begins");
    this.#waits = those("waits");
    this.#woken = those("woken");
    this.#resumes = those("resumes");
    this.#ended = those("ended");
  }

  made(greenlet: Greenlet, spawner: Greenlet): void {
    const told = this.#made;
    for (let i = 0; i < told.length; i++) told[i]!.made(greenlet, spawner);
  }

  spawned(greenlet: Greenlet): void {
    const told = this.#spawned;
    for (let i = 0; i < told.length; i++) told[i]!.spawned(greenlet);
  }

  begins(greenlet: Greenlet): void {
    const told = this.#begins;
    for (let i = 0; i < told.length; i++) told[i]!.begins(greenlet);
  }

  waits(greenlet: Greenlet): void {
    const told = this.#waits;
    for (let i = 0; i < told.length; i++) told[i]!.waits(greenlet);
  }

  woken(greenlet: Greenlet, wait: object): void {
    const told = this.#woken;
    for (let i = 0; i < told.length; i++) told[i]!.woken(greenlet);
    if (this.#resumes.length === 0) return;
    // A wait without a promise of its own, such as a timer, calls the body's code now.
    if (!("wake" in wait)) return this.#tellResumes(greenlet);
    if (this.#last !== null) {
      this.#resuming.set(this.#last.wait, this.#last.greenlet);
    }
    this.#last = { wait, greenlet };
  }

  /** The promise of a wait that has ended is about to be resolved. */
  resolves(wait: object): void {
    const greenlet = this.#take(wait);
    if (greenlet === undefined) return;
    // This microtask is right before the one in which the body goes on.
    queueMicrotask(() => this.#tellResumes(greenlet));
  }

  #take(wait: object): Greenlet | undefined {
    const last = this.#last;
    if (last !== null && last.wait === wait) {
      this.#last = null;
      return last.greenlet;
    }
    const greenlet = this.#resuming.get(wait);
    if (greenlet !== undefined) this.#resuming.delete(wait);
    return greenlet;
  }

  #tellResumes(greenlet: Greenlet): void {
    const told = this.#resumes;
    for (let i = 0; i < told.length; i++) told[i]!.resumes(greenlet);
  }

  ended(greenlet: Greenlet): void {
    const told = this.#ended;
    for (let i = 0; i < told.length; i++) told[i]!.ended(greenlet);
  }
}

/** The observers; `null` nearly always. */
export let observers: Observers | null = null;

/** Adds an observer, until the result is disposed of. */
export function observe(one: Observer): Disposable {
  observers ??= new Observers();
  observers.add(one);
  return {
    [Symbol.dispose]() {
      if (observers !== null && !observers.remove(one)) observers = null;
    },
  };
}
