/** Errors that come together with a kill or a `Timeout`: they are reported. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import {
  Event,
  GreenletExit,
  sleep,
  spawn,
  Timeout,
  withTimeout,
} from "../../mod.ts";
import { Failures, settle, testBoth } from "../_bodies.ts";

const FOREVER = 1e9;

function messagesOf(failures: Failures): string[] {
  return failures.errors.map((error) => (error as Error).message);
}

const failing = (name: string) => Promise.reject(new Error(name));

testBoth(
  "Greenlet.kill() reports the other errors of an AggregateError that has the kill",
  {
    async async() {
      await Promise.any([failing("first"), sleep(FOREVER), failing("third")]);
    },
    *generator() {
      try {
        yield* sleep(FOREVER);
      } catch (kill) {
        const [first, third] = [new Error("first"), new Error("third")];
        throw new AggregateError([first, kill, third]);
      }
    },
  },
  async (body) => {
    using failures = new Failures();
    const greenlet = spawn(body);
    await settle();
    await greenlet.kill();
    assertInstanceOf(greenlet.value, GreenletExit);
    await settle();
    assertEquals(messagesOf(failures), ["first", "third"]);
  },
);

Deno.test("Greenlet.kill() reports the errors beside the kill once, however they are wrapped", async () => {
  const make: Record<string, (kill: unknown) => unknown> = {
    "a": (kill) => new AggregateError([new Error("a"), kill]),
    "b,c": (kill) =>
      new AggregateError([
        new Error("b"),
        new Error("wraps", {
          cause: new AggregateError([kill, new Error("c")]),
        }),
      ]),
    "d": (kill) => new AggregateError([kill], "", { cause: new Error("d") }),
    "outer": (kill) =>
      new AggregateError([
        kill,
        new AggregateError([new Error("e"), new Error("f")], "outer"),
      ]),
    "g,h": (kill) =>
      new SuppressedError(
        new Error("g"),
        new AggregateError([kill, new Error("h")]),
      ),
    "": (kill) =>
      new AggregateError([kill, new Error("wraps", { cause: kill })]),
    "top": (kill) =>
      new AggregateError([
        kill,
        new Error("top", { cause: new Error("bottom") }),
      ]),
  };
  for (const [expected, wrap] of Object.entries(make)) {
    using failures = new Failures();
    const greenlet = spawn(async () => {
      try {
        await sleep(FOREVER);
      } catch (error) {
        throw wrap(error);
      }
    });
    await settle();
    await greenlet.kill();
    await settle();
    assertEquals(messagesOf(failures).join(), expected);
    assertEquals(greenlet.successful(), true);
  }
});

Deno.test("withTimeout() reports the other errors of an AggregateError that has its Timeout", async () => {
  using failures = new Failures();
  await assertRejects(
    () =>
      withTimeout(1, () => Promise.any([failing("one"), new Event().wait()])),
    Timeout,
  );
  await settle();
  assertEquals(messagesOf(failures), ["one"]);
});
