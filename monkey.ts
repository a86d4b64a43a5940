/**
 * Lets a kill or a timeout stop code that does not use this library.
 *
 * {@linkcode patch} replaces the runtime's own functions that wait, such as `setTimeout`,
 * `fetch` and the methods of sockets. In a greenlet, a kill or a timeout then stops code that
 * waits in them. Outside greenlets they behave as before.
 *
 * ```ts
 * import { patch, sleep, spawn } from "@gevent/gevent";
 *
 * // Code of another package
 * async function pause(ms: number) {
 *   try {
 *     await new Promise((resolve) => setTimeout(resolve, ms));
 *   } finally {
 *     console.log("cleaned up");
 *   }
 * }
 *
 * using _ = patch();
 * const greenlet = spawn(pause, 100_000);
 * await sleep(1);
 * await greenlet.kill(); // cleaned up
 * ```
 *
 * Patch first: if a module has copied a function before, as with
 * `const { fetch } = globalThis`, that copy is not patched. Timers are patched even then. The
 * methods of a socket class are patched when the first socket or listener of the class is made
 * under `patch()`.
 *
 * @module
 */

import { isObject, isRevoked, show } from "./_base/checks.ts";
import { Disposals } from "./_base/disposals.ts";
import { NO_OPTIONS } from "./_base/language.ts";
import { isInDeno } from "./_base/runtime.ts";
import { patchDns } from "./_patch/dns.ts";
import { patchFetch } from "./_patch/fetch.ts";
import { patchFs } from "./_patch/fs.ts";
import { type HttpOptions, httpOptions, patchHttp } from "./_patch/http.ts";
import { patchNet } from "./_patch/net.ts";
import { areChannelsKnown } from "./_patch/channels.ts";
import { patchNodeModules } from "./_patch/node.ts";
import {
  patchProcess,
  type ProcessOptions,
  processOptions,
} from "./_patch/process.ts";
import { areSocketOpsKnown } from "./_hub/socket_ops.ts";
import { patchStreams } from "./_patch/streams.ts";
import { knowStreams } from "./_patch/streams_slots.ts";
import { areTimersKnown, patchTimers } from "./_patch/timers.ts";
import { patchTls } from "./_patch/tls.ts";
import { patchWebsocket } from "./_patch/websocket.ts";

export { getOriginal, patchItem, patchModule } from "./_base/properties.ts";
export type { HttpOptions } from "./_patch/http.ts";
export type { ProcessOptions } from "./_patch/process.ts";

/**
 * The name of a part of {@linkcode patch}. Each part replaces:
 *
 * - `timers`: `setTimeout`, `setInterval`, `setImmediate` and the functions that clear them,
 *   `node:timers` and `node:timers/promises`. Callbacks of `PerformanceObserver` and of
 *   `Deno.cron` (with `--unstable-cron`) run outside greenlets.
 * - `net`: `Deno.connect`, `Deno.listen`, `Deno.listenDatagram` (with `--unstable-net`); of the
 *   objects that these return, the methods `accept`, `read`, `write`, `closeWrite`, `receive`,
 *   `send`, `close`, `ref`, `unref` and the stream `readable`. Listeners of events of
 *   `node:net`, `node:dgram` and `node:stream`, and the functions of a stream of `node:stream`
 *   itself, run outside greenlets.
 * - `tls`: `Deno.connectTls`, `Deno.startTls`, `Deno.listenTls`; of the objects that these
 *   return, the same methods and `handshake`.
 * - `fetch`: `fetch`, and the methods that read the body of a `Request`, `Response` or `Blob`.
 * - `streams`: readers, writers, `pipeTo` and async iteration of streams. The functions of a
 *   stream itself, such as `pull` and `write`, run outside greenlets.
 * - `dns`: `Deno.resolveDns`.
 * - `fs`: the asynchronous functions and methods of files, directories, watchers and the
 *   standard streams. Listeners of watchers of `node:fs` run outside greenlets.
 * - `process`: `Deno.Command`, `Deno.ChildProcess`. Listeners of signals, and of the children
 *   of `node:child_process` and their pipes, run outside greenlets.
 * - `http`: the handlers of `Deno.serve`, and the methods of its server that wait.
 * - `websocket`: `WebSocketStream` (with `--unstable-net`). Listeners of `WebSocket`,
 *   `EventSource`, `Worker`, `MessagePort`, `BroadcastChannel`, `FileReader` and
 *   `node:worker_threads`, of errors and rejections of the global object, and of messages of
 *   `Deno.Kv.listenQueue` (with `--unstable-kv`) run outside greenlets.
 * - `node`: `once` and `on` of `node:events`, loops over streams of `node:stream`, the functions of
 *   `node:stream/promises`, `node:fs/promises`, `node:dns/promises` and `node:readline/promises`,
 *   the methods of a `FileHandle` and of `crypto.subtle`, and functions of `node:fs`, `node:dns`,
 *   `node:crypto` and `node:zlib` that `util.promisify` calls. It also listens to
 *   `node:diagnostics_channel`: a request of `node:http`, `node:https`, `node:http2` or undici, and a
 *   child of `node:child_process`, belong to the greenlet that makes them. Sockets of `node:net`
 *   belong to no greenlet, as a pool may own them.
 *
 * A callback that the runtime calls later either runs outside greenlets or has a greenlet of
 * its own (for a timer and for a server's handler). A kill of the greenlet that registered it
 * does not reach it. A callback that continues a call, as in `fs.readFile(path, callback)`,
 * `queueMicrotask(callback)` or `promise.then(callback)`, belongs to the greenlet that made
 * the call, like the code after an `await`.
 *
 * If a timer's callback throws, the runtime handles that as without `patch()`: by an `error`
 * event, by `uncaughtException`, or by ending the process.
 */
export type Part =
  | "timers"
  | "net"
  | "tls"
  | "fetch"
  | "streams"
  | "dns"
  | "fs"
  | "process"
  | "http"
  | "websocket"
  | "node";

/** The options of single parts. */
export interface PartOptions {
  /** Options of the part `http`. */
  http: HttpOptions;
  /** Options of the part `process`. */
  process: ProcessOptions;
}

/**
 * Options of {@linkcode patch}. `false` leaves a part unpatched. For the parts `http` and
 * `process` the value may also be an object with options.
 */
export type PatchOptions =
  & { [P in Exclude<Part, keyof PartOptions>]?: boolean }
  & { [P in keyof PartOptions]?: boolean | PartOptions[P] };

/** The current options of each part that has options, and the names of these options. */
const partOptions = {
  http: { inForce: httpOptions, names: ["killOnDisconnect"] },
  process: { inForce: processOptions, names: ["killChildren"] },
};

const parts: Record<Part, () => Disposable> = {
  timers: patchTimers,
  net: patchNet,
  tls: patchTls,
  fetch: patchFetch,
  streams: patchStreams,
  dns: patchDns,
  fs: patchFs,
  process: patchProcess,
  http: patchHttp,
  websocket: patchWebsocket,
  node: patchNodeModules,
};

/** A function that each part replaces which only some runtimes have. */
const needs: Partial<Record<Part, string>> = {
  net: "connect",
  tls: "connectTls",
  dns: "resolveDns",
  fs: "readFile",
  process: "Command",
  http: "serve",
};

/** Whether this runtime has what a part replaces. */
function isThere(part: Part): boolean {
  const name = needs[part];
  return name === undefined || isInDeno(name);
}

/** The parts that are patched: the number of calls that ask for each, and how to restore it. */
const patched = new Map<
  Part,
  { count: number; readonly restore: Disposable }
>();

/**
 * Replaces the runtime's functions that wait, so that a kill or a timeout ends their waits.
 * Not a switch point. gevent's `patch_all`.
 *
 * It may be called more than once. A part is restored when every result that asked for it has
 * been disposed of. Operations that are pending then go on. If several calls give options for
 * the same part, those of the latest call that is not disposed of apply.
 *
 * In Node and Bun it patches the parts `timers`, `fetch`, `streams`, `websocket` and `node`, as
 * the others replace functions of `Deno`.
 *
 * @param options The parts to leave out, and options of parts.
 * @returns An object that restores the originals when it is disposed of.
 * @throws {TypeError} If a part or an option does not exist, or has a value of the wrong type; or
 * if the options ask for a part that this runtime does not have.
 *
 * @example Usage
 * ```ts
 * import { joinAll, patch, spawn } from "@gevent/gevent";
 *
 * using _ = patch();
 * async function task(name: string) {
 *   console.log(`${name} starts`);
 *   await new Promise((resolve) => setTimeout(resolve, 1));
 *   console.log(`${name} ends`);
 * }
 * await joinAll([spawn(task, "one"), spawn(task, "two")]);
 * ```
 */
export function patch(options: PatchOptions = NO_OPTIONS): Disposable {
  if (!isObject(options) || isRevoked(options)) {
    throw new TypeError(
      `Cannot patch as the options must be an object: received ${
        show(options)
      }`,
    );
  }
  for (const [name, value] of Object.entries(options)) {
    checkPart(name, "patch");
    if (name in partOptions) {
      checkOptionsOf(name as keyof PartOptions, value);
    } else if (typeof value !== "boolean" && value !== undefined) {
      throw new TypeError(
        `Cannot patch as '${name}' must be a boolean: received ${show(value)}`,
      );
    }
    if (value && !isThere(name)) {
      throw new TypeError(
        `Cannot patch '${name}' as this runtime has no Deno.${needs[name]}`,
      );
    }
  }
  const stack = new Disposals();
  try {
    for (const part of Object.keys(parts) as Part[]) {
      if (isThere(part) && (options[part] ?? true)) stack.use(patchPart(part));
    }
    for (const part of Object.keys(partOptions) as (keyof PartOptions)[]) {
      const own = options[part];
      if (typeof own === "object") {
        stack.use(partOptions[part].inForce.ask(own));
      }
    }
    return stack;
  } catch (error) {
    stack[Symbol.dispose]();
    throw error;
  }
}

function checkOptionsOf(part: keyof PartOptions, options: unknown): void {
  if (typeof options === "boolean" || options === undefined) return;
  if (!isObject(options) || isRevoked(options)) {
    throw new TypeError(
      `Cannot patch as '${part}' must be a boolean or options: received ${
        show(options)
      }`,
    );
  }
  const { names } = partOptions[part];
  for (const [name, value] of Object.entries(options)) {
    if (!names.includes(name)) {
      throw new TypeError(
        `Cannot patch as the option of '${part}' must be ${
          names.join(", ")
        }: received ${JSON.stringify(name)}`,
      );
    }
    if (typeof value !== "boolean" && value !== undefined) {
      throw new TypeError(
        `Cannot patch as '${name}' must be a boolean: received ${show(value)}`,
      );
    }
  }
}

function patchPart(part: Part): Disposable {
  let state = patched.get(part);
  if (state === undefined) {
    patched.set(part, state = { count: 0, restore: parts[part]() });
  }
  state.count++;
  return {
    [Symbol.dispose]() {
      if (--state.count > 0) return;
      patched.delete(part);
      state.restore[Symbol.dispose]();
    },
  };
}

function checkPart(name: string, what: string): asserts name is Part {
  if (typeof name === "string" && Object.hasOwn(parts, name)) return;
  throw new TypeError(
    `Cannot ${what} as the part must be one of ${
      Object.keys(parts).join(", ")
    }: received ${show(name)}`,
  );
}

/**
 * Returns whether a part is patched. Not a switch point. gevent's `is_module_patched`.
 *
 * @param part The name of the part.
 * @returns `true` if it is patched.
 * @throws {TypeError} If the part does not exist.
 *
 * @example Usage
 * ```ts
 * import { monkey } from "@gevent/gevent";
 *
 * using _ = monkey.patch({ net: false });
 * console.log(monkey.isPatched("timers")); // true
 * console.log(monkey.isPatched("net")); // false
 * ```
 */
export function isPatched(part: Part): boolean {
  checkPart(part, "tell whether it is patched");
  return patched.has(part);
}

/**
 * How well a part of {@linkcode patch} works in this runtime.
 *
 * - `full`: it keeps all its promises
 * - `reduced`: the runtime's internals are not as expected, and it promises less; see
 *   {@linkcode support}; or the runtime does not have what the part replaces
 */
export type Support = "full" | "reduced";

/** The tests of the runtime's internals, for each part that uses them. */
const probes: Partial<Record<Part, () => boolean>> = {
  timers: areTimersKnown,
  net: areSocketOpsKnown,
  tls: areSocketOpsKnown,
  streams: knowStreams,
  node: areChannelsKnown,
};

/**
 * Tells how well each part of {@linkcode patch} works in this runtime. Not a switch point.
 * gevent has none.
 *
 * Some parts use internals of the runtime, which a new version may change. They test the
 * internals first. If these are not as expected, the part is `reduced`, and `patch()` does not
 * fail:
 *
 * - `timers`: functions that a module has taken from `node:timers` before are not patched
 * - `net`, `tls`: connections are read and written by their public methods, which is slower
 * - `streams`: streams are not patched, so an interrupt is thrown by the next wait
 * - `node`: the runtime has no `node:diagnostics_channel`, so requests belong to no greenlet
 *
 * @returns `full` or `reduced` for each part.
 *
 * @example Usage
 * ```ts
 * import { monkey } from "@gevent/gevent";
 *
 * const reduced = Object.entries(monkey.support())
 *   .filter(([_part, support]) => support === "reduced");
 * console.log(reduced); // []
 * ```
 */
export function support(): Record<Part, Support> {
  const found = {} as Record<Part, Support>;
  for (const part of Object.keys(parts) as Part[]) {
    const isFull = isThere(part) && (probes[part]?.() ?? true);
    found[part] = isFull ? "full" : "reduced";
  }
  return found;
}
