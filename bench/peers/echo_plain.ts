/**
 * An echo server in plain Deno. Prints the port that it listens on.
 *
 * @module
 */

import { echo } from "./_echo.ts";

using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(listener.addr.port);
for await (const conn of listener) echo(conn);
