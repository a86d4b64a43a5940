/**
 * Operations of the runtime that are pending and whose end wakes nothing: those that interrupted
 * calls have left behind, and those of the library's own that only look on.
 *
 * @module
 */

import { findInternals } from "./runtime.ts";

const { hasPromise, promiseIdSymbol } = findInternals();

/** The numbers of the operations. */
const left = new Set<number>();
/** With how many numbers those are dropped whose operations are over. */
let mostLeft = 1000;

/**
 * Notes an operation that is left behind.
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

/** Notes that something waits again for an operation that was left behind. */
export function noteTaken(operation: object | number): void {
  if (left.size === 0) return;
  const id = idOf(operation);
  if (id !== undefined) left.delete(id);
}

/** Whether an operation is left behind. */
export function isLeft(id: number): boolean {
  return left.has(id);
}

function idOf(operation: object | number): number | undefined {
  if (typeof operation === "number") return operation;
  if (promiseIdSymbol === undefined) return undefined;
  const id: unknown = Reflect.get(operation, promiseIdSymbol);
  return typeof id === "number" ? id : undefined;
}
