/**
 * Where greenlets were spawned: with `trackSpawns()`, and what it costs without it.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  type CoreGreenlet,
  formatRunInfo,
  getHub,
  Greenlet,
  Group,
  nursery,
  Pool,
  sleep,
  spawn,
  spawnLater,
  spawnRaw,
  trackSpawns,
} from "../mod.ts";
import { observers } from "../_hub/observer.ts";
import { placesOf } from "../_hub/spawn_sites.ts";
import { Failures, runScript } from "./_bodies.ts";

const HERE = import.meta.url;
const SOURCE = (await Deno.readTextFile(new URL(HERE))).split("\n");

/** The source at the first place of a greenlet, which has to be in this file. */
function sourceAt(place: string | undefined): string {
  const [, file, line, column] = place!.match(/^(.*):(\d+):(\d+)$/)!;
  assertEquals(file, HERE);
  return SOURCE[+line! - 1]!.slice(+column! - 1);
}

function isAt(place: string | undefined, text: string): boolean {
  return place !== undefined && sourceAt(place).startsWith(text);
}

const never = () => sleep(Infinity);

/** Spawns a greenlet or more; the last one is looked at. */
type Spawn = () => unknown;

/** What is at the place, and the call. */
const CALLS: [string, Spawn][] = [
  ["spawn(never)", () => spawn(never)],
  ["spawn(never)", () => Greenlet.spawn(never)],
  ["spawn(never)", () => [1].map(() => spawn(never))],
  ["spawnLater(0, never)", () => spawnLater(0, never)],
  ["spawnRaw(never)", () => spawnRaw(never)],
  ["new Greenlet(never)", () => new Greenlet(never).start()],
  ["spawn(never)", () => new Pool(1).spawn(never)],
  ["spawn(never)", () => new Group().spawn(never)],
  ["apply(never)", () => void new Group().apply(never)],
  ["applyAsync(never)", () => new Pool(1).applyAsync(never)],
  ["map(never, [1])", () => void new Group().map(never, [1])],
  ["spawn(never)", () =>
    void nursery(async (all) => {
      all.spawn(never);
      await never();
    })],
  // For these there is no room at once.
  ["spawn(never)", async () => {
    const pool = new Pool(1);
    await pool.spawn(sleep, 1);
    await pool.spawn(never);
  }],
  ["map((ms)", () => void new Pool(1).map((ms) => sleep(ms), [0, Infinity])],
  ["imap((ms)", async () => {
    for await (const _ of new Pool(1).imap((ms) => sleep(ms), [0, Infinity]));
  }],
];

for (const isGenerator of [false, true]) {
  const kind = isGenerator ? "generator" : "async";
  Deno.test(`trackSpawns() records the call that has spawned, in ${kind} bodies`, async () => {
    using _failures = new Failures();
    for (const [text, call] of CALLS) {
      let last: CoreGreenlet | undefined;
      const note = (greenlet: CoreGreenlet) => last = greenlet;
      using _ = trackSpawns();
      const parent = isGenerator
        ? spawn(function* () {
          yield* sleep(0);
          call();
          yield* sleep(Infinity);
        })
        : spawn(async () => {
          await sleep(0);
          call();
          await sleep(Infinity);
        });
      Greenlet.addSpawnCallback(note);
      const found = () =>
        text.startsWith("spawnRaw")
          ? formatRunInfo().match(/RawGreenlet.* spawned at (.*)/)?.[1]
          : placesOf(last)[0];
      for (let i = 0; i < 500 && !isAt(found(), text); i++) await sleep(1);
      Greenlet.removeSpawnCallback(note);
      assert(isAt(found(), text), `${text}: ${found()}`);
      await parent.kill();
      await killAllAlive();
    }
  });
}

async function killAllAlive() {
  const { aliveGreenlets } = await import("../_hub/live.ts");
  const { kill } = await import("../mod.ts");
  for (const greenlet of aliveGreenlets()) kill(greenlet);
  await getHub().join();
}

Deno.test("trackSpawns() keeps the sites of the spawners, of up to 8 generations", async () => {
  using _ = trackSpawns();
  const found: string[][] = [];
  const next = (left: number): void => {
    spawn(() => {
      found.push(placesOf(leaf(left)));
      if (left > 0) next(left - 1);
    });
  };
  const leaf = (_left: number) => spawn(() => {});
  next(10);
  await getHub().join();
  assertEquals(found.map((places) => places.length), [
    ...[2, 3, 4, 5, 6, 7, 8],
    ...[8, 8, 8, 8],
  ]);
  assert(sourceAt(found[0]![0]).startsWith("spawn(() => {}"));
  assert(sourceAt(found[0]![1]).startsWith("spawn(() => {"));
});

Deno.test("trackSpawns() records nothing before and after, and is on until the last is disposed of", async () => {
  const spawnOne = () => placesOf(spawn(() => {})).length;
  assertEquals(spawnOne(), 0);
  const first = trackSpawns();
  const second = trackSpawns();
  assertEquals(spawnOne(), 1);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assertEquals(spawnOne(), 1);
  second[Symbol.dispose]();
  assertEquals(spawnOne(), 0);
  assertEquals(observers, null);
  await getHub().join();
});

Deno.test("formatRunInfo() ends lines with the place; that of a greenlet without a spawner has all", async () => {
  using _ = trackSpawns();
  const parent = spawn(async () => {
    spawn(never);
    spawn(never);
    for (let i = 0; i < 3; i++) spawn(never);
    await never();
  });
  while (!formatRunInfo().includes("× 3")) await sleep(1);
  const lines = () => formatRunInfo().replaceAll(HERE, "here").split("\n");
  assertEquals(lines().length, 5);
  const place = String.raw`here:\d+:\d+`;
  assertMatch(
    lines()[1]!,
    RegExp(`waits in sleep\\(Infinity\\), spawned at ${place}$`),
  );
  assertMatch(
    lines()[4]!,
    RegExp(`sleep\\(Infinity\\) × 3, spawned at ${place}$`),
  );
  await parent.kill();
  assertMatch(
    lines().at(-1)!,
    RegExp(`spawned at ${place}, from ${place}$`),
  );
  await killAllAlive();
});

Deno.test("hub.handleError() and LoopExit tell where greenlets were spawned", async () => {
  const { err, code } = await runScript(
    `
    trackSpawns();
    async function parent() {
      spawn(function child() { throw new RangeError("no") });
      await sleep(1);
    }
    await spawn(parent).join();
    await run(async function stuck() { await new Queue().get(); });
    `,
    () => {},
    ["--no-check"],
  );
  assertEquals(code, 1);
  assertMatch(
    err,
    /<Greenlet "Greenlet-\d+": child> failed with RangeError\n {4}spawned at \S+:\d+:\d+\n {4}by a greenlet spawned at \S+:\d+:\d+\n/,
  );
  // On a slow machine the line tells how long it has waited.
  assertMatch(
    err,
    /stuck> waits in Queue.get\(\)(?: for up to \d+ s)?, spawned at \S+:\d+:\d+\n/,
  );
});
