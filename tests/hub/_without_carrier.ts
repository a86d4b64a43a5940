/**
 * Preloaded, it hides the runtime's own functions behind `AsyncLocalStorage`, as a runtime
 * may that is not the one at hand.
 *
 * @module
 */

const internals = Reflect.get(Deno, Reflect.get(Deno, "internal"));
internals.core = { ...internals.core, setAsyncContext: undefined };
console.log("hidden", internals.core.setAsyncContext === undefined);
