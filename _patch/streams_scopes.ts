/**
 * The scopes of streams.
 *
 * The functions of a stream's own (`pull`, `write`, `transform`, ...) are called whenever
 * the stream sees fit, which may be when it is made, in the midst of a read, or long after.
 * They are no part of the greenlet in which that happens to be: to interrupt it would break
 * the stream, and lose what is in it. So each stream has a scope for them; and when the stream
 * is over because somebody was interrupted, what they wait for ends with it.
 *
 * @module
 */

import { runDetached, runIn } from "../_hub/current.ts";
import { isInterrupt } from "../_hub/interrupts.ts";
import { main } from "../_hub/main.ts";
import { endWith, Scope } from "../_hub/scope.ts";
import { get, set, slots } from "./streams_slots.ts";

type Algorithm = (this: unknown, ...args: unknown[]) => unknown;

const scopes = new WeakMap<object, Scope>();

/** How often a function of a stream's own was called. */
export let calls = 0;

/** Makes a stream, and has its functions run in a scope of its own from the start. */
export function makeWithScope<T extends object>(make: () => T): T {
  const scope = new Scope(main);
  const stream = runIn(scope, make);
  setScopeOf(stream, scope);
  return stream;
}

/** Has the functions of a stream run in a scope of its own from now on. */
export function giveScope(stream: object): void {
  const isStream = get(stream, slots.controller) !== undefined;
  if (isStream && !scopes.has(stream)) setScopeOf(stream, new Scope(main));
}

/** What the functions of a stream wait for ends with an error. */
export function endScopeOf(stream: object, error: unknown): void {
  const scope = scopes.get(stream);
  if (scope !== undefined) endWith(scope, error);
}

function setScopeOf(stream: object, scope: Scope): void {
  scopes.set(stream, scope);
  const controller = get(stream, slots.controller);
  if (slots.transformAlgorithm in controller) {
    // Its two ends have functions of the runtime's only, which call those of the whole.
    const { readable, writable } = stream as TransformStream;
    scopes.set(readable, scope);
    scopes.set(writable, scope);
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
  [
    closeAlgorithm,
    flushAlgorithm,
    pullAlgorithm,
    transformAlgorithm,
    writeAlgorithm,
  ].forEach((name) => {
    wrap(controller, name, (algorithm) =>
      function () {
        calls++;
        return runIn(scope, () => Reflect.apply(algorithm, this, arguments));
      });
  });
  [abortAlgorithm, cancelAlgorithm].forEach((name) => {
    wrap(controller, name, (algorithm) =>
      function (reason) {
        const interrupt = interruptIn(reason);
        if (interrupt !== undefined) endWith(scope, interrupt);
        return runDetached(() => Reflect.apply(algorithm, this, arguments));
      });
  });
}

/** By what interrupt a stream ends; a `tee()` ends by the reasons of both branches. */
function interruptIn(reason: unknown): unknown {
  if (!Array.isArray(reason)) return isInterrupt(reason) ? reason : undefined;
  return reason.map(interruptIn).find((interrupt) => interrupt !== undefined);
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
