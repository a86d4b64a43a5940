/**
 * The messages between a pool and its workers.
 *
 * @module
 */

import type { SentError } from "./pack.ts";

/** A message to a worker: a call. */
export type Request = readonly [
  tag: "call",
  /** Which call of this worker, as its answer has to say. */
  id: number,
  module: string | null,
  /** The name of the function, or its code. */
  name: string,
  args: readonly unknown[],
];

/** A message from a worker. */
export type Answer =
  | readonly [tag: "ready"]
  | readonly [tag: "value", id: number, value: unknown]
  | readonly [tag: "error", id: number, error: SentError]
  /** It ends itself, of which a thread tells nothing else. */
  | readonly [tag: "exit", code: number];

/** Whether a message is from the worker's side of the pool: functions may also send messages. */
export function isAnswer(message: unknown): message is Answer {
  return Array.isArray(message) &&
    /^(ready|value|error|exit)$/.test(String(message[0]));
}

/** Values, each with the objects in it that are moved when it is sent. */
const moved = new WeakMap<object, readonly Transferable[]>();

/** Notes the objects that are moved when a value is sent. */
export function markMoved(
  value: object,
  list: readonly Transferable[],
): void {
  moved.set(value, list);
}

/** Returns the objects that are moved with a value, which is sent now. */
export function takeMoved(value: unknown): readonly Transferable[] {
  if (typeof value !== "object" || value === null) return NOTHING;
  const list = moved.get(value);
  if (list === undefined) return NOTHING;
  moved.delete(value);
  return list;
}

export const NOTHING: readonly Transferable[] = [];

/** The URL of a module that consists of `code`. */
export function dataUrl(code: string): string {
  return `data:application/javascript,${encodeURIComponent(code)}`;
}
