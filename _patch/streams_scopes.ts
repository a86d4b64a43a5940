/**
 * The flows of streams.
 *
 * The functions of a stream's own (`pull`, `write`, `transform`, ...) are called whenever
 * the stream sees fit, which may be when it is made, in the midst of a read, or long after.
 * They are no part of the greenlet in which that happens to be: to interrupt it would break
 * the stream, and lose what is in it. So each stream has a flow for them; and when the stream
 * is over because somebody was interrupted, what they wait for ends with it.
 *
 * @module
 */

import {
  callApart,
  callIn,
  endWith,
  Flow,
  isInterrupt,
  main,
} from "../_hub/flow.ts";
import { get, set, slots } from "./streams_slots.ts";

type Algorithm = (this: unknown, ...args: unknown[]) => unknown;

const flows = new WeakMap<object, Flow>();

/** How often a function of a stream's own was called. */
export let calls = 0;

/** Makes a stream, and has its functions run in a flow of its own from the start. */
export function makeWithFlow<T extends object>(make: () => T): T {
  const flow = new Flow(main);
  const stream = callIn(flow, make);
  setFlowOf(stream, flow);
  return stream;
}

/** Has the functions of a stream run in a flow of its own from now on. */
export function giveFlow(stream: object): void {
  const isStream = get(stream, slots.controller) !== undefined;
  if (isStream && !flows.has(stream)) setFlowOf(stream, new Flow(main));
}

/** What the functions of a stream wait for ends with an error. */
export function endFlowOf(stream: object, error: unknown): void {
  const flow = flows.get(stream);
  if (flow !== undefined) endWith(flow, error);
}

function setFlowOf(stream: object, flow: Flow): void {
  flows.set(stream, flow);
  const controller = get(stream, slots.controller);
  if (slots.transformAlgorithm in controller) {
    // Its two ends have functions of the runtime's only, which call those of the whole.
    const { readable, writable } = stream as TransformStream;
    flows.set(readable, flow);
    flows.set(writable, flow);
  }
  const {
    abortAlgorithm,
    cancelAlgorithm,
    closeAlgorithm,
    flushAlgorithm,
    pullAlgorithm,
    transformAlgorithm,
    writeAlgorithm,
  } = slots;
  for (
    const name of [
      closeAlgorithm,
      flushAlgorithm,
      pullAlgorithm,
      transformAlgorithm,
      writeAlgorithm,
    ]
  ) {
    wrap(controller, name, (algorithm) =>
      function () {
        calls++;
        return callIn(flow, () => Reflect.apply(algorithm, this, arguments));
      });
  }
  for (const name of [abortAlgorithm, cancelAlgorithm]) {
    wrap(controller, name, (algorithm) =>
      function (reason) {
        const interrupt = interruptIn(reason);
        if (interrupt !== undefined) endWith(flow, interrupt);
        return callApart(() => Reflect.apply(algorithm, this, arguments));
      });
  }
}

/** By what interrupt a stream ends; a `tee()` ends by the reasons of both branches. */
function interruptIn(reason: unknown): unknown {
  if (!Array.isArray(reason)) return isInterrupt(reason) ? reason : undefined;
  for (const one of reason) {
    const interrupt = interruptIn(one);
    if (interrupt !== undefined) return interrupt;
  }
}

/** Replaces an algorithm, if the stream has such a one and is not over. */
function wrap(
  controller: object,
  name: symbol,
  by: (algorithm: Algorithm) => Algorithm,
): void {
  const algorithm: Algorithm | undefined = get(controller, name);
  if (algorithm !== undefined) set(controller, name, by(algorithm));
}
