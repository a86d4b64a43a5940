/**
 * Tells whether the body of a request that the runtime's HTTP server has received is still
 * arriving.
 *
 * No function of the runtime tells that, and reading the body would take it from the handler. So
 * the internal fields are read instead. If they are not as expected, no body counts as arriving.
 *
 * @module
 */

import { findSymbol } from "./runtime.ts";

/**
 * Finds the stream by which the body of a request arrives. Must be called before the request is
 * answered.
 *
 * @returns The stream; `null` if there is no body, or if it has arrived as a whole.
 */
export function uploadOf(request: Request): ReadableStream | null {
  try {
    const inner = Reflect.get(request, findSymbol(request, "request")!);
    // The runtime takes the body out of its buffers here if it has all of it, as for a handler
    // that reads it.
    const stream: unknown = inner.body?.streamOrStatic;
    return stream instanceof ReadableStream ? stream : null;
  } catch {
    // The request is answered, or the runtime has changed.
    return null;
  }
}

/**
 * - `arriving`: its end has not been read
 * - `read`: its end was read, or it was cancelled
 * - `lost`: it has failed, as the connection has
 */
export type UploadState = "arriving" | "read" | "lost";

const STATES: Record<string, UploadState> = {
  readable: "arriving",
  errored: "lost",
};

/** Tells what has become of the body of a request. */
export function stateOf(upload: ReadableStream | null): UploadState {
  if (upload === null) return "read";
  const symbol = findSymbol(upload, "[[state]]");
  return STATES[String(symbol && Reflect.get(upload, symbol))] ?? "read";
}
