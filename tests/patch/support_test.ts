/**
 * The runtime's insides are taken away, one after the other: `patch()` does not fail, and
 * `monkey.support()` tells.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { monkey } from "../../mod.ts";
import { runScript } from "../_bodies.ts";

const PARTS = Object.keys(monkey.support()) as monkey.Part[];

Deno.test("monkey.support() tells of each part that it is full in this runtime", () => {
  for (const part of PARTS) assertEquals(monkey.support()[part], "full", part);
});

/** Every slot of the runtime's streams that is looked for. */
const SLOTS = [
  "abortAlgorithm",
  "byobRequest",
  "cancelAlgorithm",
  "closeAlgorithm",
  "controller",
  "flushAlgorithm",
  "iteratorNext",
  "pendingPullIntos",
  "preventCancel",
  "pullAlgorithm",
  "pulling",
  "queue",
  "queueTotalSize",
  "readIntoRequests",
  "readRequests",
  "reader",
  "state",
  "stream",
  "transformAlgorithm",
  "writeAlgorithm",
];

/** A program that uses what is patched, where `hidden` can't be found. */
const useStreams = (hidden: string) => `
  const { getOwnPropertySymbols } = Object;
  Object.getOwnPropertySymbols = (object) =>
    getOwnPropertySymbols(object).filter(({ description }) =>
      description !== ${JSON.stringify(hidden)}
    );
  using _ = patch();
  const stream = new ReadableStream({
    start(controller) {
      controller.enqueue("chunk");
      controller.close();
    },
  });
  const reader = spawn(async () => {
    for await (const chunk of stream) console.log(chunk);
    return await new Response("body").text();
  });
  console.log(await reader.get());
  const sleeper = spawn(() => new Promise((resolve) => setTimeout(resolve, 1e6)));
  await sleep(0);
  await sleeper.kill();
  console.log(monkey.support().streams, monkey.support().dns);
`;

Deno.test("patch() leaves streams as they are where a slot of them is missing", async () => {
  const { code, out, err } = await runScript(useStreams("[[queueTotalSize]]"));
  assertEquals({ code, out, err }, {
    code: 0,
    out: ["chunk", "body", "reduced full"],
    err: "",
  });
});

Deno.test("monkey.support() notices each slot of streams that is missing", async () => {
  const { getOwnPropertySymbols } = Object;
  for (const slot of ["none", ...SLOTS]) {
    Object.getOwnPropertySymbols = (object) =>
      getOwnPropertySymbols(object).filter(({ description }) =>
        description !== `[[${slot}]]`
      );
    try {
      // A copy of the module for each, as it looks once.
      const copy = await import(
        `../../_patch/streams_slots.ts?without=${slot}`
      );
      assertEquals(copy.knowStreams(), slot === "none", slot);
    } finally {
      Object.getOwnPropertySymbols = getOwnPropertySymbols;
    }
  }
});
