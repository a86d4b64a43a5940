/**
 * The scopes of streams.
 *
 * A stream calls its own functions (`pull`, `write`, `transform`, ...) when it is made, during a
 * read, or long after. They must not belong to the greenlet that happens to run then: an
 * interrupt of it would break the stream and lose its chunks. So each stream has a scope for
 * its functions. When an interrupt ends the stream, this scope is interrupted, which ends the
 * waits of the functions.
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

/** The number of calls of streams' functions so far. */
export let calls = 0;

/** Makes a stream whose functions run in a scope of its own from the start. */
export function makeWithScope<T extends object>(make: () => T): T {
  const scope = new Scope(main);
  const stream = runIn(scope, make);
  setScopeOf(stream, scope);
  return stream;
}

/** Makes the functions of a stream run in a scope of its own from now on. */
export function giveScope(stream: object): void {
  const isStream = get(stream, slots.controller) !== undefined;
  if (isStream && !scopes.has(stream)) setScopeOf(stream, new Scope(main));
}

/** Ends the waits of a stream's functions with an error. */
export function endScopeOf(stream: object, error: unknown): void {
  const scope = scopes.get(stream);
  if (scope !== undefined) endWith(scope, error);
}

function setScopeOf(stream: object, scope: Scope): void {
  scopes.set(stream, scope);
  const controller = get(stream, slots.controller);
  if (slots.transformAlgorithm in controller) {
    // The readable and the writable side have functions of the runtime, which call those of the
    // transform stream.
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

/** Returns the interrupt in a reason. A `tee()` has the reasons of both branches, in an array. */
function interruptIn(reason: unknown): unknown {
  if (!Array.isArray(reason)) return isInterrupt(reason) ? reason : undefined;
  return reason.map(interruptIn).find((interrupt) => interrupt !== undefined);
}

/** Replaces an algorithm, if the stream has it and has not ended. */
function wrap(
  controller: object,
  name: symbol,
  by: (algorithm: Algorithm) => Algorithm,
): void {
  const algorithm: Algorithm | undefined = get(controller, name);
  if (algorithm !== undefined) set(controller, name, by(algorithm));
}
