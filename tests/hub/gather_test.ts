import { assertEquals } from "@std/assert";
import {
  type Greenlet,
  iwait,
  joinAll,
  sleep,
  spawn,
  wait,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";
import { clock } from "../_clock.ts";

clock.inEachTest();

testBoth("joinAll() and wait() of a greenlet that is given twice end", {
  async async(a: Greenlet, b: Greenlet) {
    return [await joinAll([a, b, a]), await wait([b, a, b])];
  },
  *generator(a: Greenlet, b: Greenlet) {
    return [yield* joinAll([a, b, a]), yield* wait([b, a, b])];
  },
}, async (body) => {
  const [a, b] = [spawn(sleep, 1), spawn(sleep, 2)];
  const [joined, waited] = await spawn(body, a, b).get();
  assertEquals(new Set(joined), new Set([a, b]));
  assertEquals(new Set(waited), new Set([a, b]));
});

Deno.test("iwait() gives greenlets that have ended or failed before, and that do so between its items", async () => {
  using failures = new Failures();
  const fail = () => {
    throw new RangeError("failed");
  };
  const early = spawn(() => "early");
  await early.join();
  const greenlets = [spawn(() => 0), spawn(fail), spawn(() => 2), early];
  const got: Greenlet<unknown>[] = [];
  await spawn(async () => {
    for await (const greenlet of iwait(greenlets)) {
      got.push(greenlet);
      await sleep(10);
    }
  }).get();
  assertEquals(new Set(got), new Set(greenlets));
  assertEquals(got.length, 4);
  await settle();
  assertEquals(failures.contexts, [greenlets[1]]);
});
