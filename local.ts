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

import { bare } from "./_base/language.ts";
import { checkCallable, show } from "./_base/checks.ts";
import { currentScope, scopeOf } from "./_hub/current.ts";

/**
 * Makes an object whose properties each greenlet has its own of, as has main. They are
 * gone when the greenlet ends. gevent's `local`.
 *
 * Methods are called on the local itself: what looks for private fields, as a `Map` does,
 * is to be a property of it.
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
  checkCallable(init, "create local", "init");
  const target = {} as T;
  const mine = (): T => {
    // Not in a map of ours: a greenlet that is dead and kept for its result keeps nothing.
    const { locals } = scopeOf(currentScope().greenlet);
    let object = locals.get(target) as T | undefined;
    if (object === undefined) {
      object = init();
      if (!isObject(object)) {
        throw new TypeError(
          `Cannot make what is local as init() must give an object: received ${
            show(object)
          }`,
        );
      }
      locals.set(target, object);
    }
    return object;
  };
  // What is asked of the proxy is asked of the greenlet's own object.
  const handler: ProxyHandler<T> = bare({
    get: (_, name) => Reflect.get(mine(), name),
    set: (_, name, value) => Reflect.set(mine(), name, value),
    has: (_, name) => Reflect.has(mine(), name),
    deleteProperty: (_, name) => Reflect.deleteProperty(mine(), name),
    ownKeys: () => Reflect.ownKeys(mine()),
    getOwnPropertyDescriptor: (_, name) => {
      const descriptor = Reflect.getOwnPropertyDescriptor(mine(), name);
      // A proxy may not say otherwise of what its target does not have.
      return descriptor && { ...descriptor, configurable: true };
    },
    defineProperty: (_, name, descriptor) =>
      Reflect.defineProperty(mine(), name, descriptor),
    getPrototypeOf: () => Reflect.getPrototypeOf(mine()),
    setPrototypeOf: (_, prototype) => Reflect.setPrototypeOf(mine(), prototype),
    // Of one target, and so for all greenlets.
    preventExtensions: () => false,
  });
  return new Proxy(target, handler);
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null ||
    typeof value === "function";
}
