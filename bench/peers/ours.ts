/**
 * The works, done by this library; see `bench/README.md`.
 *
 * @module
 */

import { Greenlet } from "@gevent/gevent/greenlet";
import { joinAll, sleep, spawn } from "@gevent/gevent";
import { serveRounds } from "./_rounds.ts";

/** How many greenlets take turns in `sleep(0)`. */
const SLEEPERS = 10;

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

await serveRounds({
  switch: switching,
  create: createRunAndDie,
  spawn: spawnAndJoin,
  "spawn-generator": spawnAndJoinGenerators,
  sleep: sleeping,
  "sleep-generator": sleepingGenerators,
});
