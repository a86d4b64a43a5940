/**
 * Stands in for `@std/net` where JSR can't be reached.
 *
 * @module
 */

/** Options for {@linkcode getAvailablePort}. */
export interface GetAvailablePortOptions {
  /** The port to try first; any free one if it is taken. */
  preferredPort?: number;
}

/** Returns a TCP port that is not in use. */
export function getAvailablePort(options?: GetAvailablePortOptions): number {
  if (options?.preferredPort) {
    try {
      using listener = Deno.listen({ port: options.preferredPort });
      return listener.addr.port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
  using listener = Deno.listen({ port: 0 });
  return listener.addr.port;
}
