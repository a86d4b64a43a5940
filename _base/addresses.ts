/**
 * The addresses of servers.
 *
 * @module
 */

import { getBuiltin } from "./builtin.ts";
import {
  checkOptions,
  isObject,
  isRevoked,
  numberError,
  show,
} from "./checks.ts";
import type { AnyAddress, TcpAddress, UnixAddress } from "./server_types.ts";

/** Writes an address: `127.0.0.1:80`, `[::1]:80`, `unix:/path`. */
export function addressName(address: AnyAddress): string {
  if ("path" in address) return `unix:${address.path}`;
  const { hostname = "0.0.0.0", port } = address as TcpAddress;
  return hostname.includes(":")
    ? `[${hostname}]:${port}`
    : `${hostname}:${port}`;
}

/**
 * Checks the address of a server: the runtime would convert a wrong port to another one.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @param transports The transports that are allowed; the first is the default.
 * @throws {TypeError | RangeError} If it is not an address.
 */
export function checkAddress(
  address: unknown,
  what: string,
  transports: readonly string[] = ["tcp", "unix"],
): void {
  checkOptionsOf(address, what);
  const { transport, hostname, port, path } = address as Record<
    string,
    unknown
  >;
  const kind = transport ?? transports[0]!;
  if (transports.includes("unix")) {
    checkTransportOfPath(address as object, what);
  }
  if (!transports.includes(kind as string)) {
    throw new TypeError(
      `Cannot ${what} as 'transport' must be ${
        transports.map(show).join(" or ")
      }: received ${show(transport)}`,
    );
  }
  if (kind === "unix") {
    if (typeof path === "string" && path !== "") return;
    throw new TypeError(
      `Cannot ${what} as 'path' must be a path: received ${show(path)}`,
    );
  }
  if (hostname !== undefined && typeof hostname !== "string") {
    throw new TypeError(
      `Cannot ${what} as 'hostname' must be a string: received ${
        show(hostname)
      }`,
    );
  }
  if (
    !Number.isInteger(port) || (port as number) < 0 || (port as number) > 65535
  ) {
    throw numberError(what, "port", "an integer from 0 to 65535", port);
  }
}

/**
 * Checks the options of a call that connects or listens, as far as the runtime does not: it would
 * listen on any port if there is only a path.
 *
 * @param what For the message: the action that failed, such as `connect`.
 * @throws {TypeError} If they are not an object, or have a path and no transport.
 */
export function checkSocketOptions(options: unknown, what: string): void {
  checkOptions(options, what, "an address such as { port: 80 }");
  checkTransportOfPath(options as object, what);
}

function checkTransportOfPath(address: object, what: string): void {
  const { transport, path } = address as Partial<UnixAddress>;
  if (transport !== undefined || path === undefined) return;
  throw new TypeError(
    `Cannot ${what} as 'transport' must be "unix" for the path ${
      show(path)
    }: received undefined`,
  );
}

function checkOptionsOf(address: unknown, what: string): void {
  if (isObject(address) && !isRevoked(address) && !Array.isArray(address)) {
    return;
  }
  throw new TypeError(
    `Cannot ${what} as the address must be an object such as { port: 80 }: received ${
      show(address)
    }`,
  );
}

/**
 * Returns the IP address of a host, without a lookup.
 *
 * @param what The failed action, for the message.
 * @param family The version of IP that it must have; any, if it is left out.
 * @throws {TypeError} If the host is neither an IP address nor `localhost`.
 */
export function numericHost(
  hostname: string,
  what: string,
  family?: 4 | 6,
): string {
  if (hostname === "localhost") return family === 6 ? "::1" : "127.0.0.1";
  const version = getBuiltin("node:net").isIP(hostname);
  if (version !== 0 && version === (family ?? version)) return hostname;
  const kind = family === undefined ? "IP" : `IPv${family}`;
  throw new TypeError(
    `Cannot ${what} as 'hostname' must be an ${kind} address or localhost: received ${
      show(hostname)
    }`,
  );
}

/** Converts an error of a module of Node to the error class of the runtime. */
export function runtimeError(error: Error & { code?: string }): Error {
  const { errors } = Deno;
  const classes: Record<string, new (message: string) => Error> = {
    EADDRINUSE: errors.AddrInUse,
    EADDRNOTAVAIL: errors.AddrNotAvailable,
    EACCES: errors.PermissionDenied,
  };
  const own = classes[error.code ?? ""];
  return own === undefined ? error : new own(error.message);
}
