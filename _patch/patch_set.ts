/**
 * What a part of `patch()` has replaced.
 *
 * @module
 */

import { bare } from "../_base/language.ts";
import { getOriginal, mimic, patchProperty } from "../_base/properties.ts";

// deno-lint-ignore no-explicit-any -- whatever it takes and gives
type Method = (this: any, ...args: any[]) => any;

/** Replaces properties, until it is disposed of. */
export class Patches implements Disposable {
  readonly #patched: DisposableStack = new DisposableStack();
  /** The prototypes that were met. */
  readonly #met = new Set<object>();
  readonly #beforehand: (() => void)[] = [];

  /** Whether what was there before was restored: what was replaced may still be in use. */
  get isOver(): boolean {
    return this.#patched.disposed;
  }

  /** Calls `last` before the first of the patches is undone. */
  beforeRestore(last: () => void): void {
    this.#beforehand.push(last);
  }

  /**
   * Replaces a function by what `wrap` makes of it, and looks like it. One that is
   * inherited is left as it is for other heirs.
   */
  replace<F extends Method>(
    object: object,
    name: PropertyKey,
    wrap: (original: F) => F,
  ): void {
    const original = getOriginal(object as Record<PropertyKey, F>, name);
    const replacement = mimic(wrap(original), original);
    this.#patched.use(patchProperty(object, name, {
      value: replacement,
      writable: true,
      enumerable: descriptor(object, name).enumerable ?? true,
    }));
  }

  /**
   * Replaces a class by one that is the same, but for what makes its instances: `wrap` calls
   * what it is given.
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

  /** Replaces the getter of an accessor by what `wrap` makes of it. */
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
   * Calls `patch` with the prototype that has the method, if it is new to us. So are
   * classes patched that can be reached through their instances only.
   *
   * @returns The prototype, if there is one.
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
    if (prototype !== null && !this.#met.has(prototype) && !this.isOver) {
      this.#met.add(prototype);
      patch(prototype);
    }
    return prototype;
  }

  /** Restores what was there before. */
  [Symbol.dispose](): void {
    this.#beforehand.splice(0).forEach((last) => last());
    this.#patched.dispose();
  }
}

/** Options of a part that were asked for, and are in force: of each the last holds. */
export class OptionsInForce<O extends object> {
  readonly #all = new Set<Partial<O>>();

  /** Puts options in force, until what it returns is disposed of. */
  ask(options: O): Disposable {
    const own = { __proto__: null, ...options };
    this.#all.add(own);
    return { [Symbol.dispose]: () => void this.#all.delete(own) };
  }

  /** What holds of an option, or what does unless something is said of it. */
  get<N extends keyof O>(
    name: N,
    unlessSaid: NonNullable<O[N]>,
  ): NonNullable<O[N]> {
    let value = unlessSaid;
    this.#all.forEach((options) => value = options[name] ?? value);
    return value;
  }
}

/** How a property is defined that an object has, or inherits. */
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

/** Makes the patches of a part; they are undone if one can't be made. */
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
