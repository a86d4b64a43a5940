/** Greenlets that start, and links that are called, in queues of more than one array. */

import { assertEquals } from "@std/assert";
import { Event, Greenlet, joinAll, sleep, spawn } from "../../mod.ts";
import { aliveGreenlets } from "../../_hub/live.ts";
import { FULL } from "../../_hub/run_queue.ts";

const LENGTHS = [FULL - 1, FULL, FULL + 1, 2 * FULL, 2 * FULL + 1];

/** The numbers from 0 on. */
function upTo(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

Deno.test("spawn() starts very many bodies in order, and those spawned meanwhile after them", async () => {
  for (const length of LENGTHS) {
    const begun: number[] = [];
    const later: Greenlet[] = [];
    const first = upTo(length).map((i) =>
      spawn(() => {
        begun.push(i);
        if (i % 1000 === 1) {
          later.push(spawn(() => void begun.push(length + later.length)));
        }
      })
    );
    await joinAll(first);
    await joinAll(later);
    assertEquals(begun.slice(0, length), upTo(length));
    assertEquals(begun.length, length + later.length);
  }
});

Deno.test("spawn() lists very many greenlets that have not begun, until each begins", async () => {
  for (const length of LENGTHS) {
    const before = aliveGreenlets().length;
    const lefts: number[] = [];
    const greenlets = upTo(length).map((i) =>
      spawn(() => {
        if (i % 500 === 0) lefts.push(aliveGreenlets().length - before + i);
      })
    );
    assertEquals(aliveGreenlets().length, before + length);
    assertEquals(aliveGreenlets()[0], greenlets.at(-1));
    await joinAll(greenlets);
    assertEquals(lefts, lefts.map(() => length));
    assertEquals(aliveGreenlets().length, before);
  }
});

Deno.test("Greenlet.rawlink() calls very many links in order, and a body that is woken goes on before the next", async () => {
  for (const length of LENGTHS) {
    const called: unknown[] = [];
    const event = new Event();
    const woken = spawn(async () => {
      await event.wait();
      called.push("woken");
    });
    const greenlets = upTo(length).map((i) => {
      const greenlet = new Greenlet(() => i);
      greenlet.rawlink(({ value }) => called.push(value));
      return greenlet;
    });
    // Its end wakes a body between two links.
    const waker = new Greenlet(() => {});
    const joiner = spawn(async () => {
      await waker.join();
      called.push("joined");
      event.set();
    });
    await sleep(0);
    const half = greenlets.length >> 1;
    for (const one of greenlets.slice(0, half)) one.start();
    waker.start();
    for (const one of greenlets.slice(half)) one.start();
    await joinAll([...greenlets, joiner, woken]);
    const numbers = called.filter((one) => typeof one === "number");
    assertEquals(numbers, upTo(length));
    assertEquals(called.indexOf("joined"), half);
  }
});

Deno.test("Greenlet.rawlink() calls links that are added meanwhile after very many others", async () => {
  for (const length of LENGTHS) {
    const dead = upTo(length).map((i) => spawn(() => i));
    await joinAll(dead);
    const called: number[] = [];
    for (const one of dead) {
      one.rawlink(({ value }) => {
        called.push(value!);
        one.rawlink(() => called.push(length + value!));
      });
    }
    const all = new Event();
    dead.at(-1)!.rawlink(() => dead.at(-1)!.rawlink(() => all.set()));
    await all.wait();
    assertEquals(called, upTo(2 * length));
  }
});
