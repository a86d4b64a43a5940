/**
 * Requests of `node:https` in greenlets. They take the way of those of `node:http`.
 */

import { assertInstanceOf, assertStrictEquals } from "@std/assert";
import { once } from "node:events";
import https from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { GreenletExit, patch, spawn, until } from "../../mod.ts";
import { Failures, testBoth } from "../_bodies.ts";

const read = (name: string) =>
  Deno.readTextFileSync(new URL(`../tls/${name}`, import.meta.url));

/** A server whose answers never end, or never begin. */
class Silent implements AsyncDisposable {
  readonly #server = https.createServer(
    { key: read("localhost.key"), cert: read("localhost.pem") },
    (request, response) => {
      if (request.url === "/body") response.write("a part");
      this.arrived.resolve(request.socket);
    },
  );
  readonly arrived: PromiseWithResolvers<Socket> = Promise.withResolvers();

  async listen(path: string): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `https://localhost:${
      (this.#server.address() as AddressInfo).port
    }/${path}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    await closed;
  }
}

const ca = read("ca.pem");

function get(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    https.get(url, { ca, agent: false, family: 4 }, (response) => {
      let text = "";
      response.on("data", (chunk) => text += chunk);
      response.on("end", () => resolve(text));
      response.on("error", reject);
    }).on("error", reject);
  });
}

const gets = {
  async async(url: string) {
    return await get(url);
  },
  *generator(url: string): Generator<unknown, string> {
    return yield* until(get(url));
  },
};

for (const path of ["headers", "body"]) {
  for (const way of ["kill()", "throw()"]) {
    testBoth(
      `https.get() that waits for the ${path} ends by ${way}, and its connection closes`,
      gets,
      async (body) => {
        using _ = patch();
        using _failures = new Failures();
        await using server = new Silent();
        const greenlet = spawn(body, await server.listen(path));
        const socket = await server.arrived.promise;
        // `once()` would fail by the error of the request, which is aborted.
        const closed = new Promise((resolve) => socket.on("close", resolve));
        const error = new Error("out");
        if (way === "kill()") await greenlet.kill();
        else greenlet.throw(error);
        await greenlet.join();
        if (way === "kill()") assertInstanceOf(greenlet.value, GreenletExit);
        else assertStrictEquals(greenlet.exception, error);
        await closed;
      },
    );
  }
}
