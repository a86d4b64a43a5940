/**
 * The internal slots of streams. In Deno they are properties, under symbols with the names that
 * the standard of streams gives them.
 *
 * @module
 */

import { findSymbol } from "../_base/runtime.ts";

/** The runtime's queue. */
export interface Queue<T> {
  readonly size: number;
  enqueue(value: T): unknown;
  dequeue(): T;
  peek(): T;
}

/** The symbols of the slots. */
class Slots {
  readonly abortAlgorithm: symbol;
  readonly byobRequest: symbol;
  readonly cancelAlgorithm: symbol;
  readonly closeAlgorithm: symbol;
  readonly controller: symbol;
  readonly flushAlgorithm: symbol;
  readonly iteratorNext: symbol;
  readonly pendingPullIntos: symbol;
  readonly preventCancel: symbol;
  readonly pullAlgorithm: symbol;
  readonly pulling: symbol;
  readonly queue: symbol;
  readonly queueTotalSize: symbol;
  readonly reader: symbol;
  readonly readIntoRequests: symbol;
  readonly readRequests: symbol;
  readonly state: symbol;
  readonly stream: symbol;
  readonly transformAlgorithm: symbol;
  readonly writeAlgorithm: symbol;
  /** A method of the runtime's queue. */
  readonly enqueue: Queue<unknown>["enqueue"];

  constructor() {
    const bytes = new ReadableStream({ type: "bytes" });
    this.controller = slot(bytes, "controller");
    this.state = slot(bytes, "state");
    const controller = get(bytes, this.controller);
    this.byobRequest = slot(controller, "byobRequest");
    this.cancelAlgorithm = slot(controller, "cancelAlgorithm");
    this.pendingPullIntos = slot(controller, "pendingPullIntos");
    this.pullAlgorithm = slot(controller, "pullAlgorithm");
    this.pulling = slot(controller, "pulling");
    this.queue = slot(controller, "queue");
    this.queueTotalSize = slot(controller, "queueTotalSize");
    const byobReader = bytes.getReader({ mode: "byob" });
    this.readIntoRequests = slot(byobReader, "readIntoRequests");
    const reader = new ReadableStream().getReader();
    this.stream = slot(reader, "stream");
    this.readRequests = slot(reader, "readRequests");
    this.enqueue = get(reader, this.readRequests).enqueue;
    const iterator = new ReadableStream().values();
    this.reader = slot(iterator, "reader");
    this.preventCancel = slot(iterator, "preventCancel");
    iterator.next();
    this.iteratorNext = slot(get(iterator, this.reader), "iteratorNext");
    const transform = new TransformStream();
    const transforming = get(transform, slot(transform, "controller"));
    this.flushAlgorithm = slot(transforming, "flushAlgorithm");
    this.transformAlgorithm = slot(transforming, "transformAlgorithm");
    const { writable } = transform;
    const writing = get(writable, slot(writable, "controller"));
    this.abortAlgorithm = slot(writing, "abortAlgorithm");
    this.closeAlgorithm = slot(writing, "closeAlgorithm");
    this.writeAlgorithm = slot(writing, "writeAlgorithm");
  }
}

function slot(object: object, name: string): symbol {
  const symbol = findSymbol(object, `[[${name}]]`);
  if (symbol !== undefined) return symbol;
  throw new TypeError(`Cannot find [[${name}]] of the runtime's streams`);
}

/** Returns the value of a slot; `undefined` if the object does not have the slot. */
// deno-lint-ignore no-explicit-any -- of the runtime
export function get(object: unknown, slot: symbol): any {
  return (object as Record<symbol, unknown> | null | undefined)?.[slot];
}

/** Sets the value of a slot. */
export function set(object: object, slot: symbol, value: unknown): void {
  (object as Record<symbol, unknown>)[slot] = value;
}

/** The slots. Set before streams are patched, not at import: it loads the runtime's streams. */
export let slots: Slots;

/**
 * - `unknown`: the slots were not looked for
 * - `known`: all slots were found
 * - `strange`: a slot was not found
 */
let streams: "unknown" | "known" | "strange" = "unknown";

/** Looks for the slots of the runtime's streams. Returns whether all were found. */
export function knowStreams(): boolean {
  if (streams === "unknown") {
    try {
      slots = new Slots();
      streams = "known";
    } catch {
      streams = "strange";
    }
  }
  return streams === "known";
}

/** Whether the slots were looked for and found. The part `streams` looks for them. */
export function areStreamsKnown(): boolean {
  return streams === "known";
}
