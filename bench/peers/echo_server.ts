/**
 * The same server by `StreamServer`, which needs no `patch()`.
 *
 * @module
 */

import { StreamServer } from "@gevent/gevent";
import { echo } from "./_echo.ts";
import { tellPort } from "./_server.ts";

const server = new StreamServer({ hostname: "127.0.0.1", port: 0 }, echo);
server.start();
tellPort((server.address as Deno.NetAddr).port);
