/**
 * Preloaded, it changes the operations by which the runtime reads and writes connections,
 * as they may be in another version of the runtime: the environment says how.
 *
 * @module
 */

const internals = Reflect.get(Deno, Reflect.get(Deno, "internal"));
const { read, write, refOpPromise, unrefOpPromise, promiseIdSymbol } =
  internals.core;

/** Does not take what stands for a promise. */
const strict = (call: (promise: unknown) => void) => (promise: unknown) => {
  if (!(promise instanceof Promise)) throw new TypeError("expected Promise");
  call(promise);
};

/** Gives what is not over another promise. */
const nameless =
  (begin: (...args: unknown[]) => Promise<unknown>) => (...args: unknown[]) => {
    const operation = begin(...args);
    return promiseIdSymbol in operation ? operation.finally() : operation;
  };

const changes: Record<string, object> = {
  "are missing": { promiseIdSymbol: undefined },
  "take other arguments": {
    read: (buffer: unknown, rid: unknown) => read(rid, buffer),
    write: (data: unknown, rid: unknown) => write(rid, data),
  },
  "give promises without an id": {
    read: nameless(read),
    write: nameless(write),
  },
  "are known by their promise only": {
    refOpPromise: strict(refOpPromise),
    unrefOpPromise: strict(unrefOpPromise),
  },
};

const change = changes[Deno.env.get("OPERATIONS")!]!;
internals.core = { ...internals.core, ...change };
console.log("changed", Object.keys(change).join());
