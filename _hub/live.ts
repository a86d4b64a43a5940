/**
 * Which greenlets are alive: started, or to be started, and not dead.
 *
 * @module
 */

import { getCurrent, scopeOf } from "./current.ts";
import type { Scope } from "./scope.ts";
import { Suspension, type Wait } from "./suspension.ts";

let first: Scope | null = null;
let count = 0;
const watchers = new Set<AllEndedWait>();

/** A greenlet is to be started: one more is alive, which has no scope yet. */
export function expectLife(): void {
  count++;
}

/** The scope of one that was expected is in use; to say so twice is to say so once. */
export function enlist(scope: Scope): void {
  if (isAlive(scope)) return;
  scope.nextAlive = first;
  if (first !== null) first.previousAlive = scope;
  first = scope;
}

/** One that was expected is dead. Its scope, if there is one, need not be in use. */
export function delist(scope: Scope | null): void {
  if (scope !== null && isAlive(scope)) {
    const { previousAlive, nextAlive } = scope;
    if (previousAlive !== null) previousAlive.nextAlive = nextAlive;
    else first = nextAlive;
    if (nextAlive !== null) nextAlive.previousAlive = previousAlive;
    scope.previousAlive = scope.nextAlive = null;
  }
  count--;
  if (watchers.size > 0) { for (const watcher of watchers) watcher.look(); }
}

/** The scopes that are in use, the youngest first. */
export function* aliveScopes(): Generator<Scope> {
  for (let scope = first; scope !== null;) {
    const next: Scope | null = scope.nextAlive;
    yield scope;
    scope = next;
  }
}

function isAlive(scope: Scope): boolean {
  return scope === first || scope.previousAlive !== null;
}

/** Waits until nobody is alive but the one who waits. */
class AllEndedWait extends Suspension<boolean> {
  readonly #caller: Scope;

  constructor(caller: Scope) {
    super();
    this.#caller = caller;
    watchers.add(this);
  }

  look(): void {
    if (count > (isAlive(this.#caller) ? 1 : 0)) return;
    watchers.delete(this);
    this.switch(true);
  }

  protected override undo(): void {
    watchers.delete(this);
  }

  protected override timedOut(): void {
    this.switch(false);
  }
}

/** Waits until all greenlets but the current one are dead: `false` at the timeout. */
export function whenAllEnded(timeout: number): Wait<boolean> {
  const wait = new AllEndedWait(scopeOf(getCurrent()));
  wait.limit(timeout).look();
  return wait.get();
}
