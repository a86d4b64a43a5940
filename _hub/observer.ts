/**
 * The one observer of greenlets and of their waits, for a trace. Where there is none, each place
 * that would tell it compares a variable with `null`, and does no more.
 *
 * @module
 */

import type { Greenlet } from "../greenlet.ts";

/** Is told what greenlets do. Its methods must not throw. */
export interface Observer {
  /** A greenlet is to be started. */
  spawned(greenlet: Greenlet): void;
  /** A wait of a greenlet has begun. */
  waits(greenlet: Greenlet): void;
  /** A wait of a greenlet is over, and the body will go on. */
  woken(greenlet: Greenlet, wait: object): void;
  /** The promise of a wait that is over is about to be resolved. */
  resumes(wait: object): void;
  /** A greenlet has ended. */
  ended(greenlet: Greenlet): void;
}

/** The observer; `null` nearly always. */
export let observer: Observer | null = null;

/** Sets the observer, or takes it away. */
export function setObserver(next: Observer | null): void {
  observer = next;
}
