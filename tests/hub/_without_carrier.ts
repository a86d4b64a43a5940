/**
 * Preloaded, it hides the runtime's own functions behind `AsyncLocalStorage`, as another
 * version of the runtime may.
 *
 * @module
 */

const internals = Reflect.get(Deno, Reflect.get(Deno, "internal"));
internals.core = { ...internals.core, setAsyncContext: undefined };
console.log("hidden", internals.core.setAsyncContext === undefined);
