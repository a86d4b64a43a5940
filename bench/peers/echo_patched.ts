/**
 * The same server under `patch()`, with a greenlet for each connection.
 *
 * @module
 */

import { patch, run, spawn } from "@gevent/gevent";
import { echo } from "./_echo.ts";
import { tellPort } from "./_server.ts";

const listening = Promise.withResolvers<number>();
listening.promise.then(tellPort);

using _ = patch();
await run(async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  listening.resolve(listener.addr.port);
  for await (const conn of listener) spawn(echo, conn);
});
