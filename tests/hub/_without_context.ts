/**
 * Preloaded, it hides all by which a context is carried through `await`, as browsers have none.
 *
 * @module
 */

import process from "node:process";

const internals = Reflect.get(Deno, Reflect.get(Deno, "internal"));
internals.core = { ...internals.core, AsyncVariable: undefined };
const { getBuiltinModule } = process;
process.getBuiltinModule =
  ((name: string) =>
    name === "node:async_hooks"
      ? undefined
      : getBuiltinModule(name)) as typeof getBuiltinModule;
