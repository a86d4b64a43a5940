/**
 * The pages that are fetched: `/` is short, and each number has a page of 10 KB.
 *
 * @module
 */

import { pageText } from "./_pages.ts";
import { tellPort } from "./_server.ts";

const { addr } = Deno.serve({
  hostname: "127.0.0.1",
  port: 0,
  onListen() {},
}, (request) => {
  const { pathname } = new URL(request.url);
  return new Response(pageText(pathname.slice(1)));
});
await tellPort(addr.port);
