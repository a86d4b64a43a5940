/**
 * Objects whose properties are separate for each greenlet.
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

import { showObjectAs } from "./_base/inspecting.ts";
import { nameOf } from "./_hub/waits.ts";
import { bare } from "./_base/language.ts";
import {
  checkCallable,
  isInstance,
  isObjectOrFunction,
  show,
} from "./_base/checks.ts";
import { currentScope, scopeOf } from "./_hub/current.ts";

/**
 * Makes an object whose properties are separate for each greenlet, and for the main greenlet.
 * When a greenlet ends, its properties are dropped. Not a switch point. gevent's `local`.
 *
 * The result is a proxy, so it can't stand for an object with private fields, such as a
 * `Map`. Make the `Map` a property: `local(() => ({ map: new Map() }))`.
 *
 * @typeParam T The type of the object.
 * @param init Makes the object of a greenlet, when the greenlet first uses it; by default an
 * empty object.
 * @returns A proxy for the object of the current greenlet.
 * @throws {TypeError} If `init` is not a function. If it does not return an object, or returns a
 * promise, the first use in a greenlet throws.
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
    // Stored in the scope, so that a dead greenlet that is kept for its result keeps no locals.
    const { locals } = scopeOf(currentScope().greenlet);
    let object = locals.get(target) as T | undefined;
    if (object === undefined) {
      object = init();
      // The properties of a promise would be set, and not those of its result.
      if (!isObjectOrFunction(object) || isInstance(object, Promise)) {
        throw new TypeError(
          `Cannot make local object as init() must return an object: received ${
            show(object)
          }`,
        );
      }
      locals.set(target, object);
    }
    return object;
  };
  showObjectAs(target, () => {
    const { greenlet } = currentScope();
    return scopeOf(greenlet).cold?.locals?.get(target) ??
      `[local that ${nameOf(greenlet)} has not used]`;
  });
  // Passes every operation on to the greenlet's own object.
  const handler: ProxyHandler<T> = bare({
    get: (_, name) => Reflect.get(mine(), name),
    set: (_, name, value) => Reflect.set(mine(), name, value),
    has: (_, name) => Reflect.has(mine(), name),
    deleteProperty: (_, name) => Reflect.deleteProperty(mine(), name),
    ownKeys: () => Reflect.ownKeys(mine()),
    getOwnPropertyDescriptor: (_, name) => {
      const descriptor = Reflect.getOwnPropertyDescriptor(mine(), name);
      // A proxy must report this for a property that its target doesn't have.
      return descriptor && { ...descriptor, configurable: true };
    },
    defineProperty: (_, name, descriptor) => {
      if (descriptor.configurable !== false) {
        return Reflect.defineProperty(mine(), name, descriptor);
      }
      throw new TypeError(
        `Cannot define ${
          show(name)
        } of a local object as 'configurable' must not be false: a proxy can't have such a property`,
      );
    },
    getPrototypeOf: () => Reflect.getPrototypeOf(mine()),
    setPrototypeOf: (_, prototype) => Reflect.setPrototypeOf(mine(), prototype),
    preventExtensions: () => {
      throw new TypeError(
        "Cannot freeze or seal a local object, or prevent its extension, as that would apply to all greenlets",
      );
    },
  });
  return new Proxy(target, handler);
}
