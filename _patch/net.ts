/**
 * The part `net` of `patch()`: TCP and Unix sockets, and datagrams.
 *
 * @module
 */

import { then } from "../_base/language.ts";
import { patchDatagrams } from "./datagrams.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { connectIn } from "../_hub/cancelling.ts";
import { patchNodeNet } from "./net_node.ts";
import { patchAll } from "./patch_set.ts";
import { Prototypes, Sockets } from "./sockets.ts";
import { Inboxes } from "../_hub/inbox.ts";

type Connect = (
  this: unknown,
  options: Deno.ConnectOptions,
) => Promise<Deno.Conn>;
type Listen = (options: Deno.ListenOptions) => Deno.Listener;

const inboxes = new Inboxes();
const seen = new Prototypes();

/** Patches sockets; disposing of the result restores the originals. */
export function patchNet(): Disposable {
  return patchAll((patches) => {
    const sockets = new Sockets(patches, inboxes, seen);
    patches.replace<Connect>(
      Deno,
      "connect",
      (connect) => cooperativeConnect(connect, sockets.onConn),
    );
    patches.replace<Listen>(
      Deno,
      "listen",
      (listen) =>
        function (this: unknown) {
          return sockets.onListener(
            Reflect.apply(listen, this, arguments as never),
          );
        },
    );
    patchDatagrams(patches, inboxes);
    patchNodeNet(patches);
  });
}

function cooperativeConnect(
  original: Connect,
  onConn: (conn: Deno.Conn) => Deno.Conn,
): Connect {
  return function (this: unknown, options) {
    const scope = interruptibleScope();
    if (scope === null) {
      return then(Reflect.apply(original, this, arguments as never), onConn);
    }
    const due = checkpoint(scope);
    if (due !== null) return due;
    return connectIn(
      scope,
      (options) => original.call(this, options),
      options,
      onConn,
    );
  };
}
