/**
 * The server side of TLS over a connection, by `node:tls`.
 *
 * A handshake of the runtime's own `TlsConn` can't be stopped: its file stays open until the
 * peer ends it. Here the underlying connection can be closed.
 *
 * @module
 */

import type { Duplex } from "node:stream";
import type { SecureContextOptions, TLSSocket } from "node:tls";
import { getBuiltin } from "../_base/builtin.ts";
import { show } from "../_base/checks.ts";
import { markHandled } from "../_base/language.ts";
import { runDetached } from "./current.ts";
import { startTimer, stopTimer } from "./timers.ts";

/** The options of a server in `node:tls`: `cert` and `key` in PEM format, and more. */
export type TlsOptions = SecureContextOptions & {
  /** The certificate and its intermediate certificates, in PEM format. */
  cert: string;
  /** Its key, in PEM format. */
  key: string;
  /** The offered protocols, in order of preference. */
  alpnProtocols?: string[];
};

/** The most bytes that are read at once. */
const MOST_READ = 64 * 1024;
/** The time that a peer has to take the last bytes when the connection is closed, in ms. */
const CLOSING = 1000;

/**
 * Checks that there are a certificate and a key.
 *
 * @param what For the message: the action that failed, such as `wait`.
 * @throws {TypeError} If one is missing or not a string.
 */
export function checkTls(tls: unknown, what: string): void {
  const { cert, key } = (tls ?? {}) as Record<string, unknown>;
  if (typeof cert === "string" && typeof key === "string") return;
  throw new TypeError(
    `Cannot ${what} as 'tls' must have 'cert' and 'key' in PEM format: received ${
      show(tls)
    }`,
  );
}

/** A certificate and its key, checked. */
export class TlsIdentity {
  readonly #options: Record<string, unknown>;

  /** @throws {Error} The error of `node:crypto`, if one is invalid or they don't match. */
  constructor({ alpnProtocols, ...options }: TlsOptions) {
    checkPair(options.cert, options.key, options.passphrase);
    const secureContext = getBuiltin("node:tls")
      .createSecureContext(options);
    this.#options = {
      ...options,
      secureContext,
      ...alpnProtocols && { ALPNProtocols: alpnProtocols },
    };
  }

  /** Begins TLS as the server of a connection. */
  wrap(conn: Deno.Conn): ServerTlsConn {
    const { TLSSocket } = getBuiltin("node:tls");
    const options = { ...this.#options, isServer: true, allowHalfOpen: true };
    const duplex = duplexOf(conn);
    const tls = new TLSSocket(duplex as never, options);
    // TLS does not see this error by itself, and a write would wait for ever.
    duplex.on("error", (error) => tls.destroy(error));
    return new ServerTlsConn(conn, tls);
  }
}

/** Without this check, the error would appear only when the first client connects. */
function checkPair(cert: string, key: string, passphrase?: string): void {
  const { createPrivateKey, X509Certificate } = getBuiltin(
    "node:crypto",
  );
  const isPair = new X509Certificate(cert).checkPrivateKey(
    createPrivateKey(passphrase === undefined ? key : { key, passphrase }),
  );
  if (isPair) return;
  throw new TypeError(
    "Cannot use the certificate as 'key' does not belong to 'cert'",
  );
}

/** A connection as a duplex stream of Node. */
function duplexOf(conn: Deno.Conn): Duplex {
  const { Duplex } = getBuiltin("node:stream");
  return new Duplex({
    allowHalfOpen: true,
    read() {
      const buffer = new Uint8Array(MOST_READ);
      // Belongs to no greenlet: the bytes may be for another greenlet than the one that asked.
      runDetached(() => conn.read(buffer)).then(
        (count) =>
          void this.push(count === null ? null : buffer.subarray(0, count)),
        (error) => void this.destroy(error),
      );
    },
    write(chunk: Uint8Array, _encoding, done) {
      writeAll(conn, chunk).then(() => done(), done);
    },
    final(done) {
      runDetached(() => conn.closeWrite()).then(() => done(), done);
    },
    destroy(error, done) {
      conn[Symbol.dispose]();
      done(error);
    },
  });
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await runDetached(() => conn.write(bytes.subarray(at)));
  }
}

/** The server side of a TLS connection. */
export class ServerTlsConn implements Deno.Conn {
  readonly #conn: Deno.Conn;
  readonly #tls: TLSSocket;
  readonly #handshake = Promise.withResolvers<Deno.TlsHandshakeInfo>();
  readonly localAddr: Deno.Addr;
  readonly remoteAddr: Deno.Addr;
  /** The bytes that were read and not taken. */
  #rest: Uint8Array | null = null;
  #isEnded = false;
  #failure: Error | null = null;
  #isClosed = false;
  /** Wakes a read that waits for bytes. */
  #wake: (() => void) | null = null;

  constructor(conn: Deno.Conn, tls: TLSSocket) {
    this.#conn = conn;
    this.#tls = tls;
    this.localAddr = conn.localAddr;
    this.remoteAddr = conn.remoteAddr;
    markHandled(this.#handshake.promise);
    const wake = () => {
      this.#wake?.();
      this.#wake = null;
    };
    tls.on("secure", () => {
      this.#handshake.resolve({ alpnProtocol: tls.alpnProtocol || null });
    });
    tls.on("readable", wake);
    tls.on("end", () => this.#ended(wake));
    tls.on("error", (error: Error) => {
      this.#failure = error;
      this.#handshake.reject(error);
      wake();
    });
    tls.on("close", () => this.#ended(wake));
  }

  #ended(wake: () => void): void {
    this.#isEnded = true;
    // Does nothing if the handshake is over.
    this.#handshake.reject(
      this.#failure ??
        new Deno.errors.UnexpectedEof(
          "The peer has left before the TLS handshake was over",
        ),
    );
    wake();
  }

  /** Waits for the handshake. */
  handshake(): Promise<Deno.TlsHandshakeInfo> {
    return this.#handshake.promise;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    for (;;) {
      if (this.#isClosed) throw badResource();
      const chunk: Uint8Array | null = this.#rest ?? this.#tls.read();
      if (chunk !== null) {
        const count = Math.min(buffer.length, chunk.length);
        buffer.set(chunk.subarray(0, count));
        this.#rest = count < chunk.length ? chunk.subarray(count) : null;
        return count;
      }
      if (this.#failure !== null) throw this.#failure;
      if (this.#isEnded) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  write(data: Uint8Array): Promise<number> {
    if (this.#isClosed) return Promise.reject(badResource());
    if (this.#tls.writableEnded || this.#tls.destroyed) {
      const error = this.#failure ??
        new Deno.errors.BrokenPipe("The connection is closed for writing");
      return Promise.reject(error);
    }
    const copy = data.slice();
    return new Promise((resolve, reject) => {
      this.#tls.write(copy, (error) => {
        if (error) reject(this.#isClosed ? badResource() : error);
        else resolve(copy.length);
      });
    });
  }

  closeWrite(): Promise<void> {
    if (this.#isClosed) return Promise.reject(badResource());
    return new Promise((resolve) => this.#tls.end(() => resolve()));
  }

  /**
   * Closes the connection. The bytes that were written are sent first, and then the end, if the
   * peer reads them in time.
   */
  close(): void {
    if (this.#isClosed) throw badResource();
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#wake?.();
    this.#wake = null;
    const tls = this.#tls;
    const isBusy = tls.writableLength > 0 || tls.destroyed ||
      this.#failure !== null;
    if (isBusy) return this.abort();
    const timer = startTimer(CLOSING, { expired: () => this.abort() });
    tls.end(() => {
      stopTimer(timer);
      this.abort();
    });
  }

  /** Closes the connection at once, without sending the rest. */
  abort(): void {
    this.#isClosed = true;
    this.#tls.destroy();
    this.#conn[Symbol.dispose]();
  }

  ref(): void {
    this.#conn.ref();
  }

  unref(): void {
    this.#conn.unref();
  }

  get readable(): never {
    throw notHere("readable");
  }

  get writable(): never {
    throw notHere("writable");
  }
}

/** The `Socket` above has addresses of its own, so these are never asked for. */
function notHere(name: string): TypeError {
  return new TypeError(
    `Cannot give ${name} of a connection that a Socket uses`,
  );
}

function badResource(): Error {
  return new Deno.errors.BadResource("The connection is closed");
}
