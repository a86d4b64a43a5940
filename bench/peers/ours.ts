/**
 * The works, done by this library; see `bench/README.md`.
 *
 * @module
 */

import { Greenlet } from "@gevent/gevent/greenlet";
import {
  type Greenlet as SpawnedGreenlet,
  joinAll,
  killAll,
  Pool,
  Queue,
  sleep,
  spawn,
} from "@gevent/gevent";
import { residentBytes, serveRounds } from "./_rounds.ts";

/** How many greenlets take turns in `sleep(0)`. */
const SLEEPERS = 10;

/** How many greenlets a pool has room for. */
const WORKERS = 100;

/** Nobody wakes by himself: a day, in milliseconds. */
const LONG = 86_400_000;

function* switchTo(other: Greenlet, count: number) {
  for (let i = 0; i < count; i++) yield* other.switch();
}

function switching(count: number): void {
  const one: Greenlet = new Greenlet(() => switchTo(two, count / 2));
  const two: Greenlet = new Greenlet(() => switchTo(one, count / 2));
  one.switch();
}

function* nothing() {}

function createRunAndDie(count: number): void {
  for (let i = 0; i < count; i++) new Greenlet(nothing).switch();
}

async function asyncNothing() {}

async function spawnAndJoin(count: number): Promise<void> {
  await joinAll(Array.from({ length: count }, () => spawn(asyncNothing)));
}

async function spawnAndJoinGenerators(count: number): Promise<void> {
  await joinAll(Array.from({ length: count }, () => spawn(nothing)));
}

async function sleeper(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await sleep(0);
}

function* sleepingGenerator(count: number) {
  for (let i = 0; i < count; i++) yield* sleep(0);
}

async function sleeping(count: number): Promise<void> {
  await joinAll(
    Array.from({ length: SLEEPERS }, () => spawn(sleeper, count / SLEEPERS)),
  );
}

async function sleepingGenerators(count: number): Promise<void> {
  await joinAll(
    Array.from(
      { length: SLEEPERS },
      () => spawn(sleepingGenerator, count / SLEEPERS),
    ),
  );
}

async function putAll(queue: Queue<number>, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await queue.put(i);
}

async function getAll(queue: Queue<number>, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await queue.get();
}

function* putAllGenerator(queue: Queue<number>, count: number) {
  for (let i = 0; i < count; i++) yield* queue.put(i);
}

function* getAllGenerator(queue: Queue<number>, count: number) {
  for (let i = 0; i < count; i++) yield* queue.get();
}

async function handOff(count: number): Promise<void> {
  const queue = new Queue<number>(1);
  await joinAll([spawn(putAll, queue, count), spawn(getAll, queue, count)]);
}

async function handOffByGenerators(count: number): Promise<void> {
  const queue = new Queue<number>(1);
  await joinAll([
    spawn(putAllGenerator, queue, count),
    spawn(getAllGenerator, queue, count),
  ]);
}

// As most functions that are mapped: async, whether it waits or not.
// deno-lint-ignore require-await
async function same(item: number): Promise<number> {
  return item;
}

async function mapByPool(count: number): Promise<void> {
  await new Pool(WORKERS).map(same, Array(count).keys());
}

async function sleepLong(): Promise<void> {
  await sleep(LONG);
}

function* sleepLongGenerator() {
  yield* sleep(LONG);
}

type Body = typeof sleepLong | typeof sleepLongGenerator;

/** Gives greenlets that are all asleep. */
async function sleepers(
  body: Body,
  count: number,
): Promise<SpawnedGreenlet<void>[]> {
  const greenlets = Array.from(
    { length: count },
    () => spawn<[], unknown>(body) as SpawnedGreenlet<void>,
  );
  await sleep(0);
  return greenlets;
}

async function killSleepers(body: Body, count: number): Promise<number> {
  const greenlets = await sleepers(body, count);
  const start = performance.now();
  await killAll(greenlets);
  return performance.now() - start;
}

/** Those of earlier rounds sleep on: memory that was given back would be used again. */
const asleep: SpawnedGreenlet<void>[][] = [];

async function sleepersMemory(body: Body, count: number): Promise<number> {
  const before = residentBytes();
  asleep.push(await sleepers(body, count));
  return residentBytes() - before;
}

await serveRounds({
  switch: switching,
  create: createRunAndDie,
  spawn: spawnAndJoin,
  "spawn-generator": spawnAndJoinGenerators,
  sleep: sleeping,
  "sleep-generator": sleepingGenerators,
  queue: handOff,
  "queue-generator": handOffByGenerators,
  map: mapByPool,
  kill: (count) => killSleepers(sleepLong, count),
  "kill-generator": (count) => killSleepers(sleepLongGenerator, count),
  memory: (count) => sleepersMemory(sleepLong, count),
  "memory-generator": (count) => sleepersMemory(sleepLongGenerator, count),
});
