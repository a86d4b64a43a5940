/** How generator bodies are resumed by their waits, and by other things. */

import { assertEquals } from "@std/assert";
import {
  AsyncResult,
  Event,
  getCurrent,
  Queue,
  select,
  sleep,
  spawn,
  type Wait,
  withTimeout,
} from "../../mod.ts";

Deno.test("Wait.[Symbol.iterator]() of an alternative that select() has ended gives its value", async () => {
  const queue = new Queue<number>(1);
  const other = new Queue<number>(1);
  const body = spawn(function* () {
    let wait: Wait<number>;
    const { value } = yield* select([
      () => wait = queue.get(),
      () => other.get(),
    ]);
    return [value, yield* wait!, yield* wait!];
  });
  await sleep(0);
  await queue.put(4);
  assertEquals(await body.get(), [4, 4, 4]);
});

Deno.test("Wait.[Symbol.iterator]() resumes a body once that was resumed by hand before", async () => {
  const seen: unknown[] = [];
  const first = new Event();
  const second = new AsyncResult<string>();
  const body = spawn(function* () {
    for (const wait of [() => first.wait(), () => second.get()]) {
      try {
        seen.push(yield* wait());
      } catch (error) {
        seen.push((error as Error).message.includes("as it waits"));
      }
    }
    yield* sleep(0);
    seen.push("at the end");
  });
  await sleep(0);
  body.switch("by hand");
  assertEquals(seen, [true]);
  first.set();
  await sleep(0);
  assertEquals(seen, [true]);
  second.set("the result");
  await body.join();
  assertEquals(seen, [true, "the result", "at the end"]);
});

Deno.test("Wait.[Symbol.iterator]() resumes bodies of both kinds in the order in which they were woken", async () => {
  const event = new Event();
  const seen: string[] = [];
  const bodies = ["a", "b", "c", "d"].map((name, i) =>
    i % 2 === 0
      ? spawn(async () => {
        await event.wait();
        for (let turn = 0; turn < 3; turn++) {
          seen.push(name + turn);
          await sleep(0);
        }
      })
      : spawn(function* () {
        yield* event.wait();
        for (let turn = 0; turn < 3; turn++) {
          seen.push(name + turn);
          yield* sleep(0);
        }
      })
  );
  await sleep(0);
  event.set();
  for (const body of bodies) await body.join();
  assertEquals(
    seen.join(" "),
    "a0 b0 c0 d0 a1 b1 c1 d1 a2 b2 c2 d2",
  );
});

Deno.test("Wait.[Symbol.iterator]() resumes the generator of withTimeout(), and then the body that has called it", async () => {
  const seen: unknown[] = [];
  const body = spawn(function* () {
    const inner = yield* withTimeout(60_000, function* () {
      yield* sleep(0);
      seen.push(getCurrent() === body);
      yield* sleep(1);
      return "inner";
    });
    seen.push(getCurrent() === body);
    yield* sleep(0);
    return inner;
  });
  assertEquals(await body.get(), "inner");
  assertEquals(seen, [true, true]);
});
