/**
 * What `console.log`, `Deno.inspect` and `util.inspect` of Node show of an object.
 *
 * All runtimes call the method under one symbol of Node's, and show what it returns in place
 * of the object: with the depth, the colours and the marks of circular objects that they have
 * been asked for. So an object's class only says which fields to show.
 *
 * @module
 */

const INSPECT = Symbol.for("nodejs.util.inspect.custom");
/** What Deno asks for first. */
const OTHERS = ["Deno.customInspect", "Deno.privateCustomInspect"].map((name) =>
  Symbol.for(name)
);

/**
 * What is shown of each object, until the next microtask: in an object that is in itself, the
 * runtime has to find the same again. No longer, as it refers to what is in the object.
 */
let views: Map<object, object> | null = null;

/**
 * Says what is shown of the instances of a class, and of its subclasses.
 *
 * @param shown The class.
 * @param stateOf Returns the fields, or a text. Called when a person looks; must not change
 * anything. The object itself is shown as any other. Where it throws, as for a prototype, which has no private fields, the object is
 * shown as any other.
 */
export function showAs<T extends object>(
  shown: { readonly prototype: T },
  stateOf: (object: T, colors: boolean) => object | string,
): void {
  const inspect = function (
    this: T,
    _depth?: number | null,
    options?: { readonly colors?: boolean },
  ): object | string {
    try {
      const state = stateOf(this, options?.colors ?? false);
      if (typeof state === "string" || state === this) return state;
      return viewOf(this, state);
    } catch {
      return this;
    }
  };
  hide(shown.prototype, INSPECT, inspect);
  // An `EventTarget` has one of its own.
  for (const key of OTHERS) {
    if (key in shown.prototype) hide(shown.prototype, key, undefined);
  }
}

/** Has an object be shown as another one; see {@linkcode showAs}. */
export function showObjectAs(
  object: object,
  other: () => object | string,
): void {
  hide(object, INSPECT, other);
}

/** An object of the same class that has the fields of a state, and those that users have added. */
function viewOf(object: object, state: object): object {
  if (views === null) {
    views = new Map();
    queueMicrotask(() => views = null);
  }
  let view = views.get(object);
  if (view === undefined) {
    views.set(object, view = Object.create(Object.getPrototypeOf(object)));
    for (const key of [INSPECT, ...OTHERS]) hide(view!, key, undefined);
  }
  for (const key of Object.keys(view!)) Reflect.deleteProperty(view!, key);
  for (const fields of [state, object]) {
    for (const [key, value] of Object.entries(fields)) {
      // Of fields that have no value yet nothing is to be told.
      if (fields === object && (key in state || value === undefined)) continue;
      Object.defineProperty(view, key, {
        value,
        enumerable: true,
        configurable: true,
        writable: true,
      });
    }
  }
  return view!;
}

function hide(object: object, key: symbol, value: unknown): void {
  Object.defineProperty(object, key, {
    value,
    configurable: true,
    writable: true,
  });
}

/**
 * Gives classes the names that they have here, also in a bundle whose names were shortened: a
 * minifier leaves the keys of an object as they are.
 */
export function nameClasses(classes: Readonly<Record<string, object>>): void {
  for (const [value, one] of Object.entries(classes)) {
    Object.defineProperty(one, "name", { value, configurable: true });
  }
}
