/** Clients of HTTP, and what is built on it. */

import { assertStringIncludes } from "@std/assert";
import axios from "axios";
import got from "got";
import ky from "ky";
import nodeFetch from "node-fetch";
import superagent from "superagent";
import { Agent, request } from "undici";
import { withSignal } from "../../mod.ts";
import { arrive } from "../patch/_stops.ts";
import { head, Site } from "../patch/_site.ts";
import { Relay } from "./_relay.ts";
import { type Scene, testPackage } from "./_scenes.ts";

/** How a client reads a page. */
type Get = (url: string, stack: AsyncDisposableStack) => PromiseLike<unknown>;

/** The three phases of a request. */
function scenes(get: Get, recipe: Get = get): Record<
  "before the connection" | "waiting for the answer" | "within the body",
  Scene
> {
  return {
    "before the connection"(stack) {
      const silent = stack.use(new Relay());
      return {
        call: () => get(`https://${silent.host}/`, stack),
        recipe: () => recipe(`https://${silent.host}/`, stack),
        // That of TCP is there; TLS waits for the server.
        begun: () => silent.connected(),
        freed: () => silent.closed(),
      };
    },
    "waiting for the answer"(stack) {
      const site = stack.use(new Site());
      const next = site.next();
      return {
        call: () => get(site.url, stack),
        recipe: () => recipe(site.url, stack),
        begun: () => next,
        freed: async () => (await next).gone(),
      };
    },
    "within the body"(stack) {
      const site = stack.use(new Site());
      const next = site.next();
      return {
        call: () => get(site.url, stack),
        recipe: () => recipe(site.url, stack),
        async begun() {
          await (await next).send(head(100) + "half");
          await arrive();
        },
        freed: async () => (await next).gone(),
      };
    },
  };
}

testPackage("fetch", scenes(async (url) => await (await fetch(url)).text()));
testPackage("axios", scenes((url) => axios.get(url)));
testPackage("got", scenes((url) => got(url).text()));
testPackage("ky", scenes((url) => ky(url).text()));
testPackage(
  "node-fetch",
  scenes(
    async (url) => await (await nodeFetch(url)).text(),
    (url) =>
      withSignal(async (signal) =>
        await (await nodeFetch(url, { signal })).text()
      ),
  ),
);
testPackage("superagent", scenes((url) => superagent.get(url)));

/** Without time limits, whose timers undici leaves running. */
const LIMITS = { headersTimeout: 0, bodyTimeout: 0, connect: { timeout: 0 } };

const readByUndici = scenes(async (url, stack) => {
  const dispatcher = new Agent(LIMITS);
  stack.defer(() => dispatcher.destroy());
  return await (await request(url, { dispatcher })).body.text();
});
testPackage("undici", {
  ...readByUndici,
  "before the connection": async (stack) => ({
    ...await readByUndici["before the connection"](stack),
    // The connection is the agent's.
    freed: () => Promise.resolve(),
  }),
  async "waiting in its pool"(stack) {
    const site = stack.use(new Site());
    // With one connection, an agent has no pool.
    const dispatcher = new Agent({ ...LIMITS, connections: 2 });
    stack.defer(() => dispatcher.destroy());
    const read = async (path: string, signal: AbortSignal | null = null) =>
      await (await request(site.url + path, { dispatcher, signal })).body
        .text();
    const first = [read("first"), read("first")];
    const calls = [await site.next(), await site.next()];
    const answer = async () => {
      for (const call of calls) await call.answer("answer");
      await Promise.all(first);
    };
    return {
      call: () => read("lost"),
      recipe: () => withSignal((signal) => read("lost", signal)),
      begun: () => Promise.resolve(),
      freed: answer,
      answer,
      async after() {
        const last = read("last");
        const call = await site.next();
        assertStringIncludes(call.received, "/last");
        await call.answer("answer");
        await last;
      },
    };
  },
});
