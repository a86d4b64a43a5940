/**
 * Which greenlets are alive: started, or to be started, and not dead.
 *
 * @module
 */

import {
  type Flow,
  flowOf,
  getCurrent,
  Suspension,
  type Wait,
} from "./_flow.ts";

let first: Flow | null = null;
let count = 0;
const watchers = new Set<Quiet>();

/** `flow` belongs to a greenlet that is to be started. */
export function enlist(flow: Flow): void {
  flow.nextAlive = first;
  if (first !== null) first.previousAlive = flow;
  first = flow;
  count++;
}

/** Its greenlet is dead. */
export function delist(flow: Flow): void {
  const { previousAlive, nextAlive } = flow;
  if (previousAlive !== null) previousAlive.nextAlive = nextAlive;
  else if (first === flow) first = nextAlive;
  else return;
  if (nextAlive !== null) nextAlive.previousAlive = previousAlive;
  flow.previousAlive = flow.nextAlive = null;
  count--;
  for (const watcher of watchers) watcher.look();
}

/** All that are alive, the youngest first. */
export function* aliveFlows(): Generator<Flow> {
  for (let flow = first; flow !== null;) {
    const next: Flow | null = flow.nextAlive;
    yield flow;
    flow = next;
  }
}

function isAlive(flow: Flow): boolean {
  return flow === first || flow.previousAlive !== null;
}

/** Waits until nobody is alive but the one who waits. */
class Quiet extends Suspension<boolean> {
  readonly #caller: Flow;

  constructor(caller: Flow) {
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
export function whenQuiet(timeout: number): Wait<boolean> {
  const quiet = new Quiet(flowOf(getCurrent()));
  quiet.limit(timeout).look();
  return quiet.get();
}
