/**
 * The same server by `HttpServer`, with a greenlet for each request.
 *
 * @module
 */

import { HttpServer } from "@gevent/gevent";
import { handle } from "./_http.ts";
import { tellPort } from "./_server.ts";

const server = new HttpServer({ hostname: "127.0.0.1", port: 0 }, handle);
server.start();
tellPort((server.address as Deno.NetAddr).port);
