/** A task that a queue begins in the step in which an abandoned call ends. */

import { assertEquals, assertRejects } from "@std/assert";
import { sleep, spawn, Timeout, withTimeout } from "../../mod.ts";
import { settle } from "../_bodies.ts";

/** Runs one task at a time. The end of a task begins the next one in the same step. */
class OneByOne {
  readonly #tasks: (() => void)[] = [];
  #isBusy = false;

  add<T>(task: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#tasks.push(async () => {
        try {
          resolve(await task());
        } catch (error) {
          reject(error);
        } finally {
          this.#isBusy = false;
          this.#begin();
        }
      });
      this.#begin();
    });
  }

  #begin(): void {
    if (this.#isBusy) return;
    const task = this.#tasks.shift();
    this.#isBusy = task !== undefined;
    task?.();
  }
}

Deno.test("withTimeout() whose function a queue ends does not end the task that the queue begins then", async () => {
  const queue = new OneByOne();
  const slow = Promise.withResolvers<void>();
  const late = spawn(() => withTimeout(1, () => queue.add(() => slow.promise)));
  const next = spawn(() =>
    queue.add(async () => {
      for (let i = 0; i < 3; i++) await sleep(0);
      return "done";
    })
  );
  await assertRejects(() => late.get(), Timeout);
  await settle();
  slow.resolve();
  assertEquals(await next.get(), "done");
});
