/** Kills of several greenlets, of which one is of a class that refuses. */

import { assert, assertEquals, assertFalse, assertRejects } from "@std/assert";
import { Greenlet, Group, killAll, Pool, sleep, type Wait } from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { test } from "../_random.ts";

const FOREVER = 1e9;

class Unkillable extends Greenlet {
  override kill(): Wait<void> {
    throw new Error("refused");
  }
}

for (const Class of [Group, Pool]) {
  test(`${Class.name}.kill() kills all, even if kill() of a subclass throws for one`, async () => {
    const group = new Class();
    const refusing = new Unkillable(sleep, FOREVER);
    refusing.start();
    await group.add(refusing);
    const other = await group.spawn(sleep, FOREVER);
    await settle();
    await assertRejects(async () => await group.kill(), Error, "refused");
    await other.join();
    assertFalse(refusing.dead);
    Greenlet.prototype.kill.call(refusing);
    await group.join();
    assertEquals(group.size, 0);
  });
}

test("killAll() kills all, even if kill() of a subclass throws for one", async () => {
  const refusing = new Unkillable(sleep, FOREVER);
  const other = new Greenlet(sleep, FOREVER);
  await assertRejects(
    async () => await killAll([refusing, other]),
    Error,
    "refused",
  );
  assert(other.dead);
});
