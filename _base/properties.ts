/**
 * Replaces properties, and restores them.
 *
 * @module
 */

import { isObjectOrFunction, isRevoked, show } from "./checks.ts";
import { Disposals } from "./disposals.ts";
import { property } from "./language.ts";
import { isInDeno } from "./runtime.ts";

/** A replaced property. It has the value of the last of `layers`. */
interface Item {
  readonly original: PropertyDescriptor | undefined;
  readonly layers: PropertyDescriptor[];
}

const items = new WeakMap<object, Map<PropertyKey, Item>>();

/**
 * Replaces one property of an object. Not a switch point. gevent's `patch_item`.
 *
 * Several replacements of one property may be disposed of in any order. The property has the
 * latest value that is left, or else the original value.
 *
 * @param object The object or function. A module's namespace is refused, as JavaScript makes it
 * read-only.
 * @param name The property. It need not exist.
 * @param value The replacement.
 * @returns An object that restores the original when it is disposed of.
 * @throws {TypeError} If the property can't be replaced.
 *
 * @example Usage
 * ```ts
 * import { monkey } from "@gevent/gevent";
 *
 * const greeting = { hello: () => "hello" };
 * {
 *   using _ = monkey.patchItem(greeting, "hello", () => "bonjour");
 *   console.log(greeting.hello()); // bonjour
 * }
 * console.log(greeting.hello()); // hello
 * ```
 */
export function patchItem<T extends object, K extends PropertyKey>(
  object: T,
  name: K,
  value: K extends keyof T ? T[K] : unknown,
): Disposable {
  return patchProperty(object, name, { value, writable: true });
}

/** Replaces one property with another, which may have a getter. */
export function patchProperty(
  object: object,
  name: PropertyKey,
  layer: PropertyDescriptor,
): Disposable {
  checkName(name, "patch item");
  const what = `patch item ${String(name)}`;
  checkObject(object, what);
  const ofObject = items.get(object) ?? new Map<PropertyKey, Item>();
  const item = ofObject.get(name) ?? {
    original: Object.getOwnPropertyDescriptor(object, name),
    layers: [],
  };
  item.layers.push(layer);
  if (!apply(object, name, item)) {
    item.layers.pop();
    throw new TypeError(
      `Cannot ${what} as the property is read-only: patch an object that can be changed, not a module's namespace`,
    );
  }
  ofObject.set(name, item);
  items.set(object, ofObject);
  return {
    [Symbol.dispose]() {
      const i = item.layers.indexOf(layer);
      if (i < 0) return;
      item.layers.splice(i, 1);
      apply(object, name, item);
      if (item.layers.length === 0) ofObject.delete(name);
    },
  };
}

/** Defines the property with its latest value. Returns whether the object has allowed that. */
function apply(object: object, name: PropertyKey, item: Item): boolean {
  const { original, layers } = item;
  const layer = layers.at(-1);
  if (layer !== undefined) {
    return Reflect.defineProperty(
      object,
      name,
      property({
        ...layer,
        enumerable: original?.enumerable ?? layer.enumerable ?? true,
        // A property of a sealed object can be replaced if it stays not configurable.
        configurable: original?.configurable ?? true,
      }),
    );
  }
  return original !== undefined
    ? Reflect.defineProperty(object, name, property(original))
    : Reflect.deleteProperty(object, name);
}

/**
 * Replaces several properties of an object. Not a switch point. gevent's `patch_module`.
 *
 * @param target The object or function.
 * @param replacements An object whose own enumerable properties are the replacements.
 * @returns An object that restores the originals when it is disposed of.
 * @throws {TypeError} If a property can't be replaced. Then none is replaced.
 *
 * @example Usage
 * ```ts
 * import { monkey } from "@gevent/gevent";
 *
 * {
 *   using _ = monkey.patchModule(JSON, { stringify: () => "patched" });
 *   console.log(JSON.stringify({})); // patched
 * }
 * console.log(JSON.stringify({})); // {}
 * ```
 */
export function patchModule<T extends object>(
  target: T,
  replacements: Partial<T>,
): Disposable {
  checkObject(target, "patch module");
  checkObject(replacements, "patch module with replacements");
  const patched = new Disposals();
  try {
    for (const name of Reflect.ownKeys(replacements) as (keyof T)[]) {
      // Leaves out the tag of a module's namespace.
      if (!Object.prototype.propertyIsEnumerable.call(replacements, name)) {
        continue;
      }
      patched.use(patchItem(target, name, replacements[name] as never));
    }
  } catch (error) {
    patched[Symbol.dispose]();
    throw error;
  }
  return patched;
}

/**
 * Returns the value that a property had before it was replaced. Not a switch point. gevent's
 * `get_original`.
 *
 * @param object The object or function.
 * @param name The property.
 * @returns The original value; the current value if the property was not replaced.
 *
 * @example Usage
 * ```ts
 * import { monkey } from "@gevent/gevent";
 *
 * using _ = monkey.patch();
 * const setTimeout = monkey.getOriginal(globalThis, "setTimeout");
 * console.log(setTimeout !== globalThis.setTimeout); // true
 * ```
 */
export function getOriginal<T extends object, K extends keyof T>(
  object: T,
  name: K,
): T[K] {
  checkName(name, "get original");
  checkObject(object, `get original ${String(name)}`);
  for (
    let owner: object | null = object;
    owner !== null;
    owner = Object.getPrototypeOf(owner)
  ) {
    const item = items.get(owner)?.get(name);
    const found = item === undefined
      ? Object.getOwnPropertyDescriptor(owner, name)
      : item.original;
    if (found === undefined) continue;
    return Object.hasOwn(found, "value")
      ? found.value
      : found.get?.call(object);
  }
  return undefined!;
}

function checkObject(object: unknown, what: string): void {
  if (!isObjectOrFunction(object) || isRevoked(object)) {
    throw new TypeError(
      `Cannot ${what} as 'object' must be an object or a function: received ${
        show(object)
      }`,
    );
  }
}

function checkName(name: unknown, what: string): void {
  if (["string", "symbol", "number"].includes(typeof name)) return;
  throw new TypeError(
    `Cannot ${what} as 'name' must be a string or a symbol: received ${
      show(name)
    }`,
  );
}

/** Gives `replacement` the properties of `original`. */
export function mimic<F extends (...args: never[]) => unknown>(
  replacement: F,
  original: (...args: never[]) => unknown,
): F {
  // These are its name, its length, and the symbol for `util.promisify` of `setTimeout`.
  Reflect.ownKeys(original).forEach((name) => {
    // Skips a property that `replacement` has and that can't be changed.
    const own = Object.getOwnPropertyDescriptor(replacement, name);
    if (name === "prototype" || own?.configurable === false) return;
    const descriptor = Object.getOwnPropertyDescriptor(original, name)!;
    Object.defineProperty(replacement, name, property(descriptor));
  });
  return replacement;
}

/**
 * Returns a function of `Deno`, the original if it is patched.
 *
 * @throws {TypeError} If this runtime does not have it.
 */
export function denoFunction<N extends keyof typeof Deno>(
  name: N,
): (typeof Deno)[N] {
  if (isInDeno(name)) return getOriginal(Deno, name);
  throw new TypeError(
    `Cannot call Deno.${name} as this runtime does not have it`,
  );
}
