/**
 * The greenlets that are alive: started or waiting to start, and not dead.
 *
 * @module
 */

import type { Greenlet } from "../greenlet.ts";
import { getCurrent, scopeOf } from "./current.ts";
import { lineOf, listGreenletsBy } from "./deadlock.ts";
import { main } from "./main.ts";
import type { Scope } from "./scope.ts";
import { starters } from "./start_queue.ts";
import { Suspension, type Wait } from "./suspension.ts";

let first: Scope | null = null;
let count = 0;
const watchers = new Set<AllEndedWait>();

/** Counts a greenlet that will start and has no scope yet. */
export function expectLife(): void {
  count++;
}

/** Adds the scope of a counted greenlet. Does nothing if it was added before. */
export function enlist(scope: Scope): void {
  if (isAlive(scope)) return;
  scope.nextAlive = first;
  if (first !== null) first.previousAlive = scope;
  first = scope;
}

/** Removes a dead greenlet from the count, and its scope from the list if it is there. */
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

/** Iterates over the scopes of the greenlets that are alive, the youngest first. */
export function* aliveScopes(): Generator<Scope> {
  for (let scope = first; scope !== null;) {
    const next: Scope | null = scope.nextAlive;
    yield scope;
    scope = next;
  }
}

/** Returns the greenlets that were started and are not dead, the youngest first. */
export function aliveGreenlets(): Greenlet[] {
  const all = starters() as Greenlet[];
  for (const { greenlet } of aliveScopes()) all.push(greenlet);
  return [...new Set(all.filter((greenlet) => !greenlet.dead))];
}

function isAlive(scope: Scope): boolean {
  return scope === first || scope.previousAlive !== null;
}

/** The wait until all greenlets except the waiting one are dead. */
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

  override describe(): string {
    return "Hub.join()";
  }

  protected override timedOut(): void {
    this.switch(false);
  }
}

/** Waits until all greenlets except the current one are dead. Returns `false` at the timeout. */
export function whenAllEnded(timeout: number): Wait<boolean> {
  const wait = new AllEndedWait(scopeOf(getCurrent()));
  wait.limit(timeout).look();
  return wait.get();
}

listGreenletsBy(() =>
  [main, ...aliveGreenlets().reverse()].map(lineOf).join("\n")
);
