import { assertEquals, assertThrows } from "@std/assert";
import { local, spawn } from "../mod.ts";

Deno.test("local() refuses a promise as the object of a greenlet", async () => {
  const mine = local((() => Promise.resolve({})) as () => { id?: number });
  const use = () => {
    mine.id = 1;
  };
  for (const tryIt of [use, () => mine.id, () => "id" in mine]) {
    assertThrows(
      tryIt,
      TypeError,
      "Cannot make local object as init() must return an object: received [object Promise]",
    );
  }
  const error = await spawn(async () => await use()).get()
    .catch((error: unknown) => error);
  assertEquals(error instanceof TypeError, true);
});

Deno.test("local() says why it can't be frozen, or have a property that stays", () => {
  const mine = local<{ id?: number; other?: number }>();
  for (
    const change of [Object.freeze, Object.seal, Object.preventExtensions]
  ) {
    assertThrows(
      () => change(mine),
      TypeError,
      "Cannot freeze or seal a local object, or prevent its extension, as that would apply to all greenlets",
    );
  }
  assertThrows(
    () => Object.defineProperty(mine, "id", { value: 1, configurable: false }),
    TypeError,
    "Cannot define \"id\" of a local object as 'configurable' must not be false",
  );
  assertEquals(mine.id, undefined);
  Object.defineProperty(mine, "other", { value: 2 });
  assertEquals(mine.other, 2);
});
