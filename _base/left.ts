/**
 * Pending operations of the runtime whose end wakes no greenlet: those of interrupted calls, and
 * those with which the library only watches the program.
 *
 * @module
 */

import { findInternals } from "./runtime.ts";

const { hasPromise, promiseIdSymbol } = findInternals();

/** The numbers of the operations. */
const left = new Set<number>();
/** The size at which the numbers of operations that are over are removed. */
let mostLeft = 1000;

/**
 * Notes that nothing waits for an operation any more.
 *
 * @param operation Its promise or its number.
 */
export function noteLeft(operation: object | number): void {
  const id = idOf(operation);
  if (id === undefined) return;
  left.add(id);
  if (left.size < mostLeft) return;
  for (const one of left) if (!(hasPromise?.(one) ?? false)) left.delete(one);
  mostLeft = Math.max(1000, 2 * left.size);
}

/** Notes that a greenlet waits for such an operation again. */
export function noteTaken(operation: object | number): void {
  if (left.size === 0) return;
  const id = idOf(operation);
  if (id !== undefined) left.delete(id);
}

/** How many pending operations without a known number there are that nothing waits for. */
let unnumbered = 0;

/** As {@linkcode noteLeft}, for one pending operation whose number is not known. */
export function noteOneLeft(): void {
  unnumbered++;
}

/** Ends {@linkcode noteOneLeft}. Must be called when the operation is over, too. */
export function noteOneTaken(): void {
  unnumbered--;
}

/** How many operations {@linkcode noteOneLeft} has noted. */
export function countUnnumbered(): number {
  return unnumbered;
}

/** Whether nothing waits for an operation. */
export function isLeft(id: number): boolean {
  return left.has(id);
}

function idOf(operation: object | number): number | undefined {
  if (typeof operation === "number") return operation;
  if (promiseIdSymbol === undefined) return undefined;
  const id: unknown = Reflect.get(operation, promiseIdSymbol);
  return typeof id === "number" ? id : undefined;
}
