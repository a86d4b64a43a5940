/**
 * An echo server in plain Deno.
 *
 * @module
 */

import { echo } from "./_echo.ts";
import { tellPort } from "./_server.ts";

using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
tellPort(listener.addr.port);
for await (const conn of listener) echo(conn);
