/**
 * What the runtime keeps of streams. What their standard calls internal slots are properties
 * in Deno, under symbols of the same names.
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

/** Under which symbols the slots are. */
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
  /** The method of the runtime's queue. */
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

/** What is in a slot; `undefined` if it is no object that has it. */
// deno-lint-ignore no-explicit-any -- of the runtime
export function get(object: unknown, slot: symbol): any {
  return (object as Record<symbol, unknown> | null | undefined)?.[slot];
}

/** Puts something into a slot. */
export function set(object: object, slot: symbol, value: unknown): void {
  (object as Record<symbol, unknown>)[slot] = value;
}

/** Set before anything is patched, as it costs 2 ms to load the runtime's streams. */
export let slots: Slots;

/**
 * - `unknown`: nothing has asked for them
 * - `known`: the slots are where they were when this was written
 * - `strange`: they are not
 */
let streams: "unknown" | "known" | "strange" = "unknown";

/** Looks for the slots of the runtime's streams, and tells whether they were found. */
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

/** Whether they were looked for and found, as by the part `streams`. */
export function areStreamsKnown(): boolean {
  return streams === "known";
}
