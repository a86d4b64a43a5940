/**
 * Makes the machine slow, at random: timers are late, in another order than usual, and now
 * and then the process does nothing for some milliseconds. A test that depends on how fast
 * the machine is fails sooner or later:
 *
 * ```sh
 * deno test -P=test --preload=tests/_slow_machine.ts tests/lock_test.ts
 * ```
 *
 * Not for the tests of `patch()`, which would not recognize the runtime's functions. Scripts that
 * a test runs in a process of their own are slowed down as well. In real time a seed would not
 * repeat a run, so there is none: run it often.
 *
 * @module
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { createRequire, syncBuiltinESMExports } from "node:module";

/** The most ms that a timer is late, and that the process is blocked at a time. */
const LATE = 30;
const STALL = 5;

const now = performance.now.bind(performance);

const began = now();
let stalled = 0;

/** Blocks up to `ms`, in one of `oneOf` calls; in all, no more than half of the time. */
function stall(oneOf: number, ms: number): void {
  if (Math.random() * oneOf >= 1) return;
  const start = now();
  if (stalled > (start - began) / 2) return;
  const end = start + ms * Math.random();
  while (now() < end);
  stalled += end - start;
}

/** By how much a timer is late: half of them not at all, most others a little. */
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
  // Copies the symbol by which `node:util` promisifies it, too.
  Object.defineProperties(late, {
    ...Object.getOwnPropertyDescriptors(original),
    prototype: { value: undefined },
  });
  scope[name] = late;
}

// The library reads the clock while it works.
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
