/**
 * Decides how `console.log`, `Deno.inspect` and `util.inspect` of Node show an object.
 *
 * All runtimes call a method under a symbol of Node, and show its result in place of the object.
 * They apply depth and colours, and mark circular objects. So a class only says which fields to
 * show.
 *
 * @module
 */

const INSPECT = Symbol.for("nodejs.util.inspect.custom");
/** Other symbols that Deno looks for first. */
const OTHERS = ["Deno.customInspect", "Deno.privateCustomInspect"].map((name) =>
  Symbol.for(name)
);

/**
 * The views that were made of objects. If an object contains itself, the runtime must find the
 * same view again. Dropped in the next microtask, as views keep the objects' values alive.
 */
let views: Map<object, object> | null = null;

/**
 * Says how to show the instances of a class and of its subclasses.
 *
 * @param shown The class.
 * @param stateOf Returns the fields to show, or a text. If it returns the object itself, or
 * throws (as for a prototype, which has no private fields), the runtime shows the object as it
 * shows any other. Called while a person debugs: must not change anything.
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
  // `EventTarget` defines one of these.
  for (const key of OTHERS) {
    if (key in shown.prototype) hide(shown.prototype, key, undefined);
  }
}

/** Shows an object as another one or as a text; see {@linkcode showAs}. */
export function showObjectAs(
  object: object,
  other: () => object | string,
): void {
  hide(object, INSPECT, other);
}

/** Makes an object of the same class, with the fields of a state and fields that users added. */
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
      // Skips fields of the object that have no value.
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
