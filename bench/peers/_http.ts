/**
 * Code of all HTTP servers in TypeScript, so that they differ in one thing only.
 *
 * @module
 */

import { tellPort } from "./_server.ts";

/** Answers a request, as most handlers do: in an async function. */
// deno-lint-ignore require-await
export async function handle(_request: Request): Promise<Response> {
  return new Response("hello, world\n");
}

/**
 * Serves HTTP on some port of this machine.
 *
 * @param handler What is called for each request.
 */
export function serve(handler: Deno.ServeHandler): void {
  Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => void tellPort(port),
  }, handler);
}
