/**
 * Tells which greenlet is about to run, while somebody wants to know. The methods through which
 * bodies go on are replaced for that time, so that nothing is asked at any other.
 *
 * @module
 */

import type { Greenlet } from "../greenlet.ts";
import { current } from "./current.ts";
import type { Scope } from "./scope.ts";
import { Suspension } from "./suspension.ts";

/**
 * Has `note` be called with each greenlet before it runs, and with `null` when the hub does or
 * when it is not known. One caller at a time.
 *
 * @returns Ends it.
 */
export function noteRuns(
  note: (greenlet: Greenlet | null) => void,
): () => void {
  const { wake, settle } = Suspension.prototype;
  const { run } = current;
  const owners = new WeakMap<object, Greenlet>();
  let inside: Greenlet | null = null;
  Suspension.prototype.settle = function (state, value): void {
    if (this.scope !== null) owners.set(this, this.scope.greenlet);
    settle.call(this, state, value);
  };
  Suspension.prototype.wake = function (): void {
    const greenlet = owners.get(this) ?? null;
    // Right before the body goes on, as it is resumed by the microtask that is queued next.
    queueMicrotask(() => note(greenlet));
    wake.call(this);
  };
  current.run = function <A extends unknown[], R>(
    scope: Scope | undefined,
    call: (...args: A) => R,
    ...args: A
  ): R {
    const before = inside;
    inside = scope?.greenlet ?? null;
    note(inside);
    try {
      return run.call(current, scope, call as never, ...args) as R;
    } finally {
      inside = before;
      note(before);
    }
  };
  return () => {
    Suspension.prototype.wake = wake;
    Suspension.prototype.settle = settle;
    if (Object.hasOwn(current, "run")) current.run = run;
  };
}
