/**
 * Replaces functions, and restores them. Each part of `patch()` uses this.
 *
 * @module
 */

import { Disposals } from "../_base/disposals.ts";
import { bare } from "../_base/language.ts";
import { getOriginal, mimic, patchProperty } from "../_base/properties.ts";

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Method = (this: any, ...args: any[]) => any;

/** Replaces properties, until it is disposed of. */
export class Patches implements Disposable {
  readonly #patched: Disposals = new Disposals();
  /** The prototypes for which `onFirstInstance` has called its callback. */
  readonly #seen = new Set<object>();
  readonly #beforeRestore: (() => void)[] = [];

  /** Whether the originals were restored. Copies of the replacements may still be called. */
  get isOver(): boolean {
    return this.#patched.isDisposed;
  }

  /** Calls `last` before the first original is restored. */
  beforeRestore(last: () => void): void {
    this.#beforeRestore.push(last);
  }

  /**
   * Replaces a function with what `wrap` makes of it, with the name and the properties of the
   * original. If `object` inherits the function, other objects that inherit it keep the
   * original. A function that this runtime does not have is left out.
   */
  replace<F extends Method>(
    object: object,
    name: PropertyKey,
    wrap: (original: F) => F,
  ): void {
    const original = getOriginal(object as Record<PropertyKey, F>, name);
    if (typeof original !== "function") return;
    const replacement = mimic(wrap(original), original);
    this.#patched.use(patchProperty(object, name, {
      value: replacement,
      writable: true,
      enumerable: descriptor(object, name).enumerable ?? true,
    }));
  }

  /**
   * Replaces a method, unless the property is read-only. Used while the program runs, so that a
   * runtime in which the property has changed stops no program.
   */
  replaceIfAllowed<F extends Method>(
    object: object,
    name: PropertyKey,
    wrap: (original: F) => F,
  ): void {
    const own = Object.getOwnPropertyDescriptor(object, name);
    // The properties of a module's namespace are writable and not configurable.
    const isAllowed = own === undefined
      ? Object.isExtensible(object)
      : own.configurable;
    if (isAllowed) this.replace(object, name, wrap);
  }

  /**
   * Replaces a class with a proxy that makes instances in a call of `wrap`, which must call its
   * argument.
   */
  replaceClass(
    object: object,
    name: string,
    wrap: (make: () => object) => object,
  ): void {
    const original = getOriginal(object as Record<string, Method>, name);
    const replacement = new Proxy(
      original,
      bare<ProxyHandler<Method>>({
        construct: (_target, args, newTarget): object =>
          wrap(() => Reflect.construct(original, args, newTarget)),
      }),
    );
    this.replace(object, name, () => replacement);
    this.replace(original.prototype, "constructor", () => replacement);
  }

  /** Replaces the getter of a property with what `wrap` makes of it. */
  replaceGetter<T>(
    object: object,
    name: PropertyKey,
    wrap: (original: (this: unknown) => T) => (this: unknown) => T,
  ): void {
    const accessor = descriptor(object, name);
    const original = accessor.get!;
    const get = mimic(wrap(original), original);
    this.#patched.use(patchProperty(object, name, { ...accessor, get }));
  }

  /**
   * Calls `patch` with the prototype of `instance` that has the method, if this is its first
   * instance. So a class is patched that can be reached only through its instances.
   *
   * @returns The prototype; `null` if there is none.
   */
  onFirstInstance(
    instance: object,
    method: PropertyKey,
    patch: (prototype: object) => void,
  ): object | null {
    let prototype = Object.getPrototypeOf(instance);
    while (prototype !== null && !Object.hasOwn(prototype, method)) {
      prototype = Object.getPrototypeOf(prototype);
    }
    if (prototype !== null && !this.#seen.has(prototype) && !this.isOver) {
      this.#seen.add(prototype);
      patch(prototype);
    }
    return prototype;
  }

  /** Restores the originals. */
  [Symbol.dispose](): void {
    this.#beforeRestore.splice(0).forEach((last) => last());
    this.#patched[Symbol.dispose]();
  }
}

/** The options of a part, from all calls of `patch()` that are not disposed of. */
export class OptionsInForce<O extends object> {
  readonly #all = new Set<Partial<O>>();

  /** Adds options, until the result is disposed of. */
  ask(options: O): Disposable {
    const own = { __proto__: null, ...options };
    this.#all.add(own);
    return { [Symbol.dispose]: () => void this.#all.delete(own) };
  }

  /** Returns the latest value of an option, or the default value. */
  get<N extends keyof O>(
    name: N,
    byDefault: NonNullable<O[N]>,
  ): NonNullable<O[N]> {
    let value = byDefault;
    this.#all.forEach((options) => value = options[name] ?? value);
    return value;
  }
}

/** Returns the descriptor of a property that an object has or inherits. */
function descriptor(object: object, name: PropertyKey): PropertyDescriptor {
  for (
    let owner: object | null = object;
    owner !== null;
    owner = Object.getPrototypeOf(owner)
  ) {
    const found = Object.getOwnPropertyDescriptor(owner, name);
    if (found !== undefined) return found;
  }
  return {};
}

/** Makes the patches of a part. If one fails, the others are undone. */
export function patchAll(make: (patches: Patches) => void): Disposable {
  const patches = new Patches();
  try {
    make(patches);
  } catch (error) {
    patches[Symbol.dispose]();
    throw error;
  }
  return patches;
}
