/**
 * The observers of greenlets and of their waits: a trace, a monitor. Without observers, each
 * place that would call them only compares a variable with `null`.
 *
 * @module
 */

import type { Greenlet } from "../greenlet.ts";

/** Is told what greenlets do. Its methods must not throw. */
export interface Observer {
  /** A greenlet is to be started. */
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

/** Tells all observers. */
class Observers {
  readonly #all = new Set<Observer>();
  /** The greenlets of waits that have ended and whose promises are not resolved yet. */
  readonly #resuming = new WeakMap<object, Greenlet>();

  add(one: Observer): void {
    this.#all.add(one);
  }

  /** Removes an observer. Returns whether others are left. */
  remove(one: Observer): boolean {
    this.#all.delete(one);
    return this.#all.size > 0;
  }

  spawned(greenlet: Greenlet): void {
    for (const one of this.#all) one.spawned?.(greenlet);
  }

  begins(greenlet: Greenlet): void {
    for (const one of this.#all) one.begins?.(greenlet);
  }

  waits(greenlet: Greenlet): void {
    for (const one of this.#all) one.waits?.(greenlet);
  }

  woken(greenlet: Greenlet, wait: object): void {
    for (const one of this.#all) one.woken?.(greenlet);
    // A wait without a promise of its own, such as a timer, calls the body's code now.
    if ("wake" in wait) this.#resuming.set(wait, greenlet);
    else this.#resumes(greenlet);
  }

  /** The promise of a wait that has ended is about to be resolved. */
  resolves(wait: object): void {
    const greenlet = this.#resuming.get(wait);
    if (greenlet === undefined) return;
    this.#resuming.delete(wait);
    // This microtask is right before the one in which the body goes on.
    queueMicrotask(() => this.#resumes(greenlet));
  }

  #resumes(greenlet: Greenlet): void {
    for (const one of this.#all) one.resumes?.(greenlet);
  }

  ended(greenlet: Greenlet): void {
    for (const one of this.#all) one.ended?.(greenlet);
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
