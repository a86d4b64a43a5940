/**
 * What a pool and its workers tell each other, and values on their way.
 *
 * @module
 */

import type { SentError } from "./pack.ts";

/** What a worker is to do. */
export type Request = readonly [
  tag: "call",
  /** Which call of this worker, as its answer has to say. */
  id: number,
  module: string | null,
  /** The name of the function, or its code. */
  name: string,
  args: readonly unknown[],
];

/** What a worker tells. */
export type Answer =
  | readonly [tag: "ready"]
  | readonly [tag: "value", id: number, value: unknown]
  | readonly [tag: "error", id: number, error: SentError]
  /** It ends itself, of which a thread tells nothing else. */
  | readonly [tag: "exit", code: number];

/** Whether it is what a worker of ours has sent: its functions may send as well. */
export function isAnswer(message: unknown): message is Answer {
  return Array.isArray(message) &&
    /^(ready|value|error|exit)$/.test(String(message[0]));
}

/** Which objects are to be moved along with a value. */
const moved = new WeakMap<object, readonly Transferable[]>();

/** Notes what is to be moved along with a value when it is sent. */
export function markMoved(
  value: object,
  list: readonly Transferable[],
): void {
  moved.set(value, list);
}

/** What is to be moved along with a value that is sent now. */
export function takeMoved(value: unknown): readonly Transferable[] {
  if (typeof value !== "object" || value === null) return NOTHING;
  const list = moved.get(value);
  if (list === undefined) return NOTHING;
  moved.delete(value);
  return list;
}

export const NOTHING: readonly Transferable[] = [];

/** The address of a module that is its own code. */
export function dataUrl(code: string): string {
  return `data:application/javascript,${encodeURIComponent(code)}`;
}
