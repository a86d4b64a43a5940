/**
 * Makes code that never heard of gevent cooperate.
 *
 * {@linkcode patch} replaces the runtime's own waiting functions with cooperative ones, so
 * that whatever waits in them, in a greenlet, can be killed and timed out. Outside
 * greenlets they behave as before.
 *
 * ```ts
 * import { patch, sleep, spawn } from "@gevent/gevent";
 *
 * // Somebody else's code
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
 * What was taken from a global or an object before `patch()` stays what it was, as for
 * instance `const { fetch } = globalThis` at the top of a module: patch first. Timers are
 * patched wherever they come from. The methods of sockets are found by the first socket or
 * listener of a kind that is made under `patch()`.
 *
 * @module
 */

import { NO_OPTIONS } from "./_base/language.ts";
import { patchDns } from "./_patch/dns.ts";
import { patchFetch } from "./_patch/fetch.ts";
import { patchFs } from "./_patch/fs.ts";
import { type HttpOptions, httpOptions, patchHttp } from "./_patch/http.ts";
import { patchNet } from "./_patch/net.ts";
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
 * A part of what {@linkcode patch} replaces.
 *
 * - `timers`: `setTimeout`, `setInterval`, `setImmediate`, what clears them, `node:timers`
 *   and `node:timers/promises`; the callbacks of `PerformanceObserver` and of `Deno.cron`
 *   (with `--unstable-cron`) run outside greenlets
 * - `net`: `Deno.connect`, `Deno.listen`, `Deno.listenDatagram` (with `--unstable-net`), and
 *   the methods `accept`, `read`, `write`, `closeWrite`, `receive`, `send`, `close`, `ref`,
 *   `unref` and the stream `readable` of what they give; the events of `node:net`,
 *   `node:dgram` and `node:stream` are told outside greenlets, where the own functions of the
 *   streams of `node:stream` run, too
 * - `tls`: `Deno.connectTls`, `Deno.startTls`, `Deno.listenTls`, and the same of what they
 *   give, with `handshake`
 * - `fetch`: `fetch`, and the readers of the bodies of `Request`, `Response` and `Blob`
 * - `streams`: readers, writers, `pipeTo` and async iteration of streams; their own functions,
 *   such as `pull` and `write`, run as nobody's part
 * - `dns`: `Deno.resolveDns`
 * - `fs`: the asynchronous functions and methods of files, directories and watchers, and
 *   the standard streams; the events of the watchers of `node:fs` are told outside greenlets
 * - `process`: `Deno.Command`, `Deno.ChildProcess`; signals, and the events of the children
 *   of `node:child_process` and of their pipes, are told outside greenlets
 * - `http`: the handlers of `Deno.serve`, and what waits of the server
 * - `websocket`: `WebSocketStream` (with `--unstable-net`); the events of `WebSocket`,
 *   `EventSource`, `Worker`, `MessagePort`, `BroadcastChannel` and `FileReader`, those of
 *   `node:worker_threads` too, those of errors and rejections of the global object, and the
 *   messages of `Deno.Kv.listenQueue` (with `--unstable-kv`) are told outside greenlets
 *
 * So a callback that a greenlet registers and the runtime calls later belongs to no greenlet,
 * or has one of its own (a timer's, a server's handler): a kill of the one that has registered
 * it does not reach it. What goes on with the call that it was given to, as in
 * `fs.readFile(path, callback)`, `queueMicrotask(callback)` or `promise.then(callback)`, is a
 * part of the greenlet, as the code after an `await` is.
 *
 * What a timer's callback throws is the runtime's business, as it is unpatched: an `error`
 * event, `uncaughtException`, or the end of the process.
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
  | "websocket";

/** Options that parts have of their own. */
export interface PartOptions {
  /** Options of the part `http`. */
  http: HttpOptions;
  /** Options of the part `process`. */
  process: ProcessOptions;
}

/**
 * Options of {@linkcode patch}: a part that is `false` is left as it is. The parts `http`
 * and `process` take options of their own as well.
 */
export type PatchOptions =
  & { [P in Exclude<Part, keyof PartOptions>]?: boolean }
  & { [P in keyof PartOptions]?: boolean | PartOptions[P] };

/** What is in force of the options of parts, and their names. */
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
};

/** The parts that are patched, by how many, and what restores them. */
const patched = new Map<
  Part,
  { count: number; readonly restore: Disposable }
>();

/**
 * Replaces the runtime's waiting functions with cooperative ones. gevent's `patch_all`.
 *
 * To patch twice is to patch once: a part is restored when all have been disposed of that
 * asked for it. Operations that are pending then go on. Of a part's own options the last
 * hold that are in force.
 *
 * @param options Which parts to leave out, and options of parts.
 * @returns What restores the originals, when it is disposed of.
 * @throws {TypeError} If there is no such part or option, or it is not a boolean.
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
  if (typeof options !== "object" || options === null) {
    throw new TypeError(
      `Cannot patch as the options must be an object: received ${options}`,
    );
  }
  for (const [name, value] of Object.entries(options)) {
    checkPart(name, "patch");
    if (name in partOptions) {
      checkOptionsOf(name as keyof PartOptions, value);
    } else if (typeof value !== "boolean" && value !== undefined) {
      throw new TypeError(
        `Cannot patch as '${name}' must be a boolean: received ${value}`,
      );
    }
  }
  using stack = new DisposableStack();
  for (const part of Object.keys(parts) as Part[]) {
    if (options[part] ?? true) stack.use(patchPart(part));
  }
  for (const part of Object.keys(partOptions) as (keyof PartOptions)[]) {
    const own = options[part];
    if (typeof own === "object") {
      stack.use(partOptions[part].inForce.ask(own));
    }
  }
  return stack.move();
}

function checkOptionsOf(part: keyof PartOptions, options: unknown): void {
  if (typeof options === "boolean" || options === undefined) return;
  if (typeof options !== "object" || options === null) {
    throw new TypeError(
      `Cannot patch as '${part}' must be a boolean or options: received ${options}`,
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
        `Cannot patch as '${name}' must be a boolean: received ${value}`,
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
  if (Object.hasOwn(parts, name)) return;
  throw new TypeError(
    `Cannot ${what} as the part must be one of ${
      Object.keys(parts).join(", ")
    }: received ${JSON.stringify(name)}`,
  );
}

/**
 * Whether a part is patched. gevent's `is_module_patched`.
 *
 * @param part The part.
 * @returns Whether it is.
 * @throws {TypeError} If there is no such part.
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
  checkPart(part, "tell what is patched");
  return patched.has(part);
}

/**
 * How far a part of {@linkcode patch} reaches in this runtime.
 *
 * - `full`: it keeps all that it promises
 * - `reduced`: the runtime's insides are not as expected, and it keeps less; see
 *   {@linkcode support}
 */
export type Support = "full" | "reduced";

/** The parts that lean on the runtime's insides, and what tries those. */
const probes: Partial<Record<Part, () => boolean>> = {
  timers: areTimersKnown,
  net: areSocketOpsKnown,
  tls: areSocketOpsKnown,
  streams: knowStreams,
};

/**
 * Tells how far each part of {@linkcode patch} reaches in this runtime. gevent has none.
 * Not a switch point.
 *
 * What leans on the runtime's insides is tried before it is used. Where it is not as
 * expected, as a new version of the runtime may have it, the part is `reduced` and `patch()`
 * does not fail:
 *
 * - `timers`: those that a module has taken from `node:timers` before stay as they were
 * - `net`, `tls`: connections are read and written by their own methods, which is slower
 * - `streams`: streams stay the runtime's own, so that an interrupt comes with the next wait
 *
 * @returns The support of each part.
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
    found[part] = probes[part]?.() ?? true ? "full" : "reduced";
  }
  return found;
}
