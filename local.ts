/**
 * Data that each greenlet has its own of.
 *
 * ```ts
 * import { joinAll, local, sleep, spawn } from "@gevent/gevent";
 *
 * const request = local(() => ({ id: 0 }));
 * async function handle(id: number) {
 *   request.id = id;
 *   await sleep(1);
 *   console.log(request.id === id); // true
 * }
 * await joinAll([spawn(handle, 1), spawn(handle, 2)]);
 * ```
 *
 * @module
 */

import { getCurrent } from "./hub.ts";
import type { Greenlet } from "./greenlet.ts";

/**
 * Makes an object whose properties each greenlet has its own of, as has main. They are
 * gone with the greenlet. gevent's `local`.
 *
 * @typeParam T The type of the object.
 * @param init Makes a greenlet's own, when it first looks; by default an empty object.
 * @returns The object: it stands for that of the current greenlet.
 * @throws {TypeError} If `init` is not a function.
 *
 * @example Usage
 * ```ts
 * import { local, spawn } from "@gevent/gevent";
 *
 * const mine = local<{ name?: string }>();
 * mine.name = "main";
 * await spawn(() => console.log(mine.name)).join(); // undefined
 * console.log(mine.name); // main
 * ```
 */
export function local<T extends object>(init: () => T = () => ({} as T)): T {
  if (typeof init !== "function") {
    throw new TypeError(
      `Cannot create local as 'init' must be a function: received ${init}`,
    );
  }
  const own = new WeakMap<Greenlet, T>();
  const mine = (): T => {
    const greenlet = getCurrent();
    let object = own.get(greenlet);
    if (object === undefined) own.set(greenlet, object = init());
    return object;
  };
  // What is asked of the proxy is asked of the greenlet's own object.
  return new Proxy({} as T, {
    get: (_, name) => Reflect.get(mine(), name),
    set: (_, name, value) => Reflect.set(mine(), name, value),
    has: (_, name) => Reflect.has(mine(), name),
    deleteProperty: (_, name) => Reflect.deleteProperty(mine(), name),
    ownKeys: () => Reflect.ownKeys(mine()),
    getOwnPropertyDescriptor: (_, name) =>
      Reflect.getOwnPropertyDescriptor(mine(), name),
    defineProperty: (_, name, descriptor) =>
      Reflect.defineProperty(mine(), name, descriptor),
    getPrototypeOf: () => Reflect.getPrototypeOf(mine()),
  });
}
