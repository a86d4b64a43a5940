/**
 * Preloaded, it hides the runtime's own functions behind `AsyncLocalStorage`, as a runtime
 * may that is not the one at hand.
 *
 * @module
 */

const { core } = Reflect.get(Deno, Reflect.get(Deno, "internal"));
Reflect.deleteProperty(core, "setAsyncContext");
console.log("hidden", !("setAsyncContext" in core));
