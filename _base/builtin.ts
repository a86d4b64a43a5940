/**
 * Node's built-in modules, loaded when they are first used. Importing `node:process` with the
 * library would make the import 20 ms slower.
 *
 * @module
 */

import type nodeProcess from "node:process";

/** Returns `process` of Node. */
export function getProcess(): typeof nodeProcess {
  return globalThis.process as typeof nodeProcess;
}

/** Returns a built-in module of Node; `undefined` in a runtime without it, such as a browser. */
export const findBuiltin: typeof nodeProcess.getBuiltinModule = (
  name: string,
) => getProcess()?.getBuiltinModule?.(name);

/** Returns a built-in module of Node. */
export const getBuiltin: typeof nodeProcess.getBuiltinModule = (name: string) =>
  getProcess().getBuiltinModule(name);
