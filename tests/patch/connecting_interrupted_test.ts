/** Emitters that fail to begin, after the wait for them was interrupted. */

import { connect, createServer } from "node:net";
import type { AddressInfo } from "node:net";
import events, { type EventEmitter, once } from "node:events";
import { assertEquals, assertInstanceOf } from "@std/assert";
import { type Greenlet, GreenletExit, patch, spawn, until } from "../../mod.ts";
import { Failures } from "../_bodies.ts";
import { test } from "../_random.ts";
import { Gate } from "../_waits.ts";

type Once = (emitter: EventEmitter, event: string) => Promise<unknown[]>;

const functions: Record<string, Once> = {
  "once(), imported by name": once,
  "events.once()": events.once,
};

/** Makes an emitter that fails to begin, and names the event of its beginning. */
const emitters: Record<string, (used: number) => [EventEmitter, string]> = {
  "a socket of node:net": () => [connect(1, "127.0.0.1"), "connect"],
  "a server of node:net": (used) => [
    createServer().listen(used, "127.0.0.1"),
    "listening",
  ],
  "a socket of ws": () => [new WebSocket("ws://127.0.0.1:1"), "open"],
};
// Loaded without its types, which declare globals of Node and change those of other tests.
const { WebSocket } = await import("ws" as string);

const ways: Record<string, (greenlet: Greenlet) => unknown> = {
  killed: (greenlet) => greenlet.kill(undefined, { block: false }),
  "thrown an error": (greenlet) =>
    greenlet.throw(new GreenletExit("The test's own")),
};

const kinds: Record<string, (wait: () => Promise<unknown>) => Greenlet> = {
  "async body": (wait) =>
    spawn(async () => {
      await wait();
    }),
  "generator body": (wait) =>
    spawn(function* () {
      yield* until(wait());
    }),
};

/** Waits until an emitter has emitted an error, whether or not it has a listener for it. */
function failed(emitter: EventEmitter): Promise<void> {
  return new Promise((resolve) => {
    const emit = emitter.emit;
    emitter.emit = (event: string | symbol, ...args: unknown[]) => {
      if (event === "error") resolve();
      return Reflect.apply(emit, emitter, [event, ...args]);
    };
  });
}

for (const [name, make] of Object.entries(emitters)) {
  for (const [call, wait] of Object.entries(functions)) {
    test(`an error of ${name} does not end the process when ${call} was interrupted before`, async () => {
      using failures = new Failures();
      const server = createServer();
      await new Promise<void>((resolve) =>
        server.listen(0, "127.0.0.1", resolve)
      );
      const { port } = server.address() as AddressInfo;
      for (const interrupt of Object.values(ways)) {
        for (const start of Object.values(kinds)) {
          using _ = patch();
          const begun = new Gate();
          let error: Promise<void>;
          const greenlet = start(() => {
            const [emitter, event] = make(port);
            error = failed(emitter);
            begun.open();
            return wait(emitter, event);
          });
          await begun.opened;
          interrupt(greenlet);
          await greenlet.join();
          assertInstanceOf(greenlet.value, GreenletExit);
          await error!;
        }
      }
      await new Promise<void>((resolve) => server.close(() => resolve()));
      assertEquals(failures.errors, []);
    });
  }
}
