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
} from "./flow.ts";

let first: Flow | null = null;
let count = 0;
const watchers = new Set<Quiet>();

/** A greenlet is to be started: one more is alive, which has no flow yet. */
export function expectLife(): void {
  count++;
}

/** The flow of one that was expected is in use; to say so twice is to say so once. */
export function enlist(flow: Flow): void {
  if (isAlive(flow)) return;
  flow.nextAlive = first;
  if (first !== null) first.previousAlive = flow;
  first = flow;
}

/** One that was expected is dead. Its flow, if there is one, need not be in use. */
export function delist(flow: Flow | null): void {
  if (flow !== null && isAlive(flow)) {
    const { previousAlive, nextAlive } = flow;
    if (previousAlive !== null) previousAlive.nextAlive = nextAlive;
    else first = nextAlive;
    if (nextAlive !== null) nextAlive.previousAlive = previousAlive;
    flow.previousAlive = flow.nextAlive = null;
  }
  count--;
  if (watchers.size > 0) { for (const watcher of watchers) watcher.look(); }
}

/** The flows that are in use, the youngest first. */
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
