/**
 * The part `tls` of `patch()`: TLS.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { cooperateLoosely } from "./cooperate.ts";
import { patchAll } from "./patch_set.ts";
import { obstacle, Prototypes, Sockets } from "./sockets.ts";
import { Inboxes } from "../_hub/inbox.ts";

type ConnectTls = (
  this: unknown,
  options: Deno.ConnectTlsOptions,
) => Promise<Deno.TlsConn>;
type StartTls = (
  this: unknown,
  conn: Deno.TcpConn,
  options?: Deno.StartTlsOptions,
) => Promise<Deno.TlsConn>;
type ListenTls = (options: Deno.ListenTlsOptions) => Deno.TlsListener;

const inboxes = new Inboxes();
const seen = new Prototypes();

/** Patches TLS; disposing of the result restores the originals. */
export function patchTls(): Disposable {
  return patchAll((patches) => {
    const sockets = new Sockets(patches, inboxes, seen);
    patches.replace<ConnectTls>(
      Deno,
      "connectTls",
      (connect) =>
        cooperateLoosely(function connectTls(this: unknown) {
          return then(
            Reflect.apply(connect, this, arguments as never),
            sockets.onConn,
          );
        } as ConnectTls, close),
    );
    patches.replace<StartTls>(
      Deno,
      "startTls",
      (start) => cooperativeStartTls(start, sockets.onConn),
    );
    patches.replace<ListenTls>(
      Deno,
      "listenTls",
      (listen) =>
        function (this: unknown) {
          return sockets.onListener(
            Reflect.apply(listen, this, arguments as never),
          );
        },
    );
  });
}

function close(conn: Deno.Conn): void {
  conn.close();
}

function cooperativeStartTls(
  original: StartTls,
  onConn: (conn: Deno.TlsConn) => Deno.TlsConn,
): StartTls {
  return cooperateLoosely(function startTls(this: unknown, conn) {
    // Plain bytes that were received and not read came before TLS. Going on would lose them, or
    // would accept bytes that an attacker has inserted as the peer's.
    const error = obstacle(conn);
    return error === null
      ? then(Reflect.apply(original, this, arguments as never), onConn)
      : Promise.reject(error);
  } as StartTls, close);
}
