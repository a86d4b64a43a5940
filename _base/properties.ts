/**
 * Replaced properties, and what they were before.
 *
 * @module
 */

import { property } from "./language.ts";

/** What is on top of an original property: the last of `layers` is in force. */
interface Item {
  readonly original: PropertyDescriptor | undefined;
  readonly layers: PropertyDescriptor[];
}

const items = new WeakMap<object, Map<PropertyKey, Item>>();

/**
 * Replaces one property of an object. gevent's `patch_item`.
 *
 * Replacements of one property may be taken back in any order: what is in force is the
 * last of those that are left, or the original.
 *
 * @param object Whose property it is: an object or a function, and not the namespace of a
 * module, which JavaScript makes read-only.
 * @param name The property; need not be there.
 * @param value The replacement.
 * @returns What puts the original back, when it is disposed of.
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

/** Replaces one property by another, which may be an accessor. */
export function patchProperty(
  object: object,
  name: PropertyKey,
  layer: PropertyDescriptor,
): Disposable {
  const what = `patch item ${String(name)}`;
  checkObject(object, what);
  const ofObject = items.get(object) ?? new Map<PropertyKey, Item>();
  const item = ofObject.get(name) ?? {
    original: Object.getOwnPropertyDescriptor(object, name),
    layers: [],
  };
  item.layers.push(layer);
  if (!put(object, name, item)) {
    item.layers.pop();
    throw new TypeError(
      `Cannot ${what} as the property is read-only: patch an object that can be changed, as a module's namespace can't`,
    );
  }
  ofObject.set(name, item);
  items.set(object, ofObject);
  return {
    [Symbol.dispose]() {
      const i = item.layers.indexOf(layer);
      if (i < 0) return;
      item.layers.splice(i, 1);
      put(object, name, item);
      if (item.layers.length === 0) ofObject.delete(name);
    },
  };
}

/** Puts in force what is on top; returns whether the object has let it happen. */
function put(object: object, name: PropertyKey, item: Item): boolean {
  const { original, layers } = item;
  const layer = layers.at(-1);
  if (layer !== undefined) {
    return Reflect.defineProperty(
      object,
      name,
      property({
        ...layer,
        enumerable: original?.enumerable ?? layer.enumerable ?? true,
        // A sealed object's property can be replaced, as long as it is not to be unsealed.
        configurable: original?.configurable ?? true,
      }),
    );
  }
  return original !== undefined
    ? Reflect.defineProperty(object, name, property(original))
    : Reflect.deleteProperty(object, name);
}

/**
 * Replaces several properties of an object. gevent's `patch_module`.
 *
 * @param target Whose properties they are.
 * @param replacements The replacements, under the properties' names; its enumerable own
 * properties are taken.
 * @returns What puts the originals back, when it is disposed of.
 * @throws {TypeError} If a property can't be replaced; none is, then.
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
  const patched = new DisposableStack();
  try {
    for (const name of Reflect.ownKeys(replacements) as (keyof T)[]) {
      // Of a module's namespace, all but the tag by which it calls itself a module.
      if (!Object.prototype.propertyIsEnumerable.call(replacements, name)) {
        continue;
      }
      patched.use(patchItem(target, name, replacements[name] as never));
    }
  } catch (error) {
    patched.dispose();
    throw error;
  }
  return patched;
}

/**
 * What a property was before it was replaced. gevent's `get_original`.
 *
 * @param object Whose property it is.
 * @param name The property.
 * @returns The original, or what is there if that was not replaced.
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
  const isObject = typeof object === "object" && object !== null ||
    typeof object === "function";
  if (!isObject) {
    throw new TypeError(
      `Cannot ${what} as it must be of an object: received ${String(object)}`,
    );
  }
}

/** Makes `replacement` look like `original` to those who ask for its properties. */
export function mimic<F extends (...args: never[]) => unknown>(
  replacement: F,
  original: (...args: never[]) => unknown,
): F {
  // Name and length, and by a symbol what `util.promisify` makes of `setTimeout`.
  Reflect.ownKeys(original).forEach((name) => {
    if (name === "prototype") return;
    const descriptor = Object.getOwnPropertyDescriptor(original, name)!;
    Object.defineProperty(replacement, name, property(descriptor));
  });
  return replacement;
}
