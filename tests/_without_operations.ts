/**
 * Preloaded, it hides the operations by which the runtime reads and writes connections, as a
 * runtime may that is not the one at hand.
 *
 * @module
 */

const internals = Reflect.get(Deno, Reflect.get(Deno, "internal"));
internals.core = { ...internals.core, promiseIdSymbol: undefined };
console.log("hidden", internals.core.promiseIdSymbol === undefined);
