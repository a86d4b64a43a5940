/**
 * Makes the machine slow, at random: timers are late, in another order than usual, and now
 * and then the process does nothing for some milliseconds. A test that depends on how fast
 * the machine is fails sooner or later:
 *
 * ```sh
 * deno test -P=test --preload=tests/_slow_machine.ts tests/lock_test.ts
 * ```
 *
 * Not for the tests of `patch()`, which finds the runtime's own functions by what they are.
 * Scripts that a test runs in a process of their own are slowed down as well. What happens
 * in real time is no other the second time, so there is no seed: run it often.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { createRequire, syncBuiltinESMExports } from "node:module";

/** By how much a timer is late at most, and how long the process does nothing, in ms. */
const LATE = 30;
const STALL = 5;

const now = performance.now.bind(performance);

const began = now();
let stalled = 0;

/** Does nothing for a while, in one of so many cases, and for half of the time at most. */
function stall(oneOf: number, ms: number): void {
  if (Math.random() * oneOf >= 1) return;
  const start = now();
  if (stalled > (start - began) / 2) return;
  const end = start + ms * Math.random();
  while (now() < end);
  stalled += end - start;
}

/** Some are in time, some a little late, and some very. */
function lateness(): number {
  return Math.random() < 0.5 ? 0 : LATE * Math.random() ** 2;
}

type Callback = (...args: unknown[]) => unknown;
// deno-lint-ignore no-explicit-any
const scope = globalThis as any;

for (const name of ["setTimeout", "setInterval"]) {
  const original = scope[name];
  const late = {
    [name](callback: Callback, ms?: number, ...args: unknown[]) {
      if (typeof callback !== "function") return original(callback, ms);
      const called = function (this: unknown, ...args: unknown[]) {
        stall(3, STALL);
        return Reflect.apply(callback, this, args);
      };
      Object.defineProperty(called, "name", { value: callback.name });
      return original(called, Number(ms ?? 0) + lateness(), ...args);
    },
  }[name]!;
  // With what `node:util` promisifies it by.
  Object.defineProperties(late, {
    ...Object.getOwnPropertyDescriptors(original),
    prototype: { value: undefined },
  });
  scope[name] = late;
}

// The library asks for the time in the middle of what it does.
Object.defineProperty(Performance.prototype, "now", {
  configurable: true,
  writable: true,
  enumerable: true,
  value: {
    now() {
      stall(10, STALL / 5);
      return now();
    },
  }.now,
});

const { queueMicrotask } = globalThis;
globalThis.queueMicrotask = (callback) => {
  queueMicrotask(() => {
    stall(5, STALL);
    callback();
  });
};

// Runs before any other import; functions that other modules import later are changed as
// well.
const timers = createRequire(import.meta.url)("node:timers");
const { setImmediate } = timers;
timers.setImmediate = function (callback: Callback, ...args: unknown[]) {
  stall(10, STALL);
  return setImmediate(() => {
    stall(10, STALL);
    callback(...args);
  });
};
syncBuiltinESMExports();

const { run } = AsyncLocalStorage.prototype;
AsyncLocalStorage.prototype.run = function (...args: unknown[]) {
  stall(10, STALL / 5);
  return run.apply(this, args as Parameters<typeof run>);
};

const { Command } = Deno;
Deno.Command = Command.prototype.constructor = new Proxy(Command, {
  construct(Command, [command, options = {}], newTarget) {
    const [name, ...args] = options?.args ?? [];
    const isScript = String(command) === Deno.execPath() &&
      (name === "eval" || name === "run");
    const changed = isScript
      ? { ...options, args: [name, `--preload=${import.meta.url}`, ...args] }
      : options;
    const made = Reflect.construct(Command, [command, changed], newTarget);
    stall(2, LATE);
    return made;
  },
});
