/**
 * The server of `tcp_server.ts` and 500 clients of `tcp_clients.ts`, a thousand greenlets
 * in one process, on a free port.
 *
 *     deno run -q -P=local-net examples/tcp_500_clients.ts
 *
 * The exit status is 1 if a client was not served.
 */

import { patch, run, spawn } from "@gevent/gevent";
import { runClients } from "./tcp_clients.ts";
import { serve } from "./tcp_server.ts";

using _ = patch();

const allServed = await run(async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  let connections = 0;
  spawn(serve, listener, () => connections++);
  const { hostname, port } = listener.addr;
  const plan = { hostname, port, clients: 500, messages: 10 };
  const allServed = await runClients(plan);
  console.log(`server:   ${connections} connections`);
  return allServed;
});

// After Ctrl-C `allServed` is the GreenletExit.
Deno.exitCode = allServed === true ? 0 : 1;
