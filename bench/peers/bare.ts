/**
 * The works, done by the bare language: what no library on top of it can be faster than.
 *
 * @module
 */

import { serveRounds } from "./_rounds.ts";

/** A body that yields whom to resume next. */
type Body = Generator<Body, void>;

/** How many tasks take turns. */
const SLEEPERS = 10;

function* switchTo(find: () => Body, count: number): Body {
  const other = find();
  for (let i = 0; i < count; i++) yield other;
}

function switching(count: number): void {
  const one: Body = switchTo(() => two, count / 2);
  const two: Body = switchTo(() => one, count / 2);
  let result = one.next();
  while (!result.done) result = result.value.next();
}

function* nothing() {}

function createRunAndDie(count: number): void {
  for (let i = 0; i < count; i++) nothing().next();
}

async function asyncNothing() {}

async function spawnAndJoin(count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, () => asyncNothing()));
}

async function sleeper(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await undefined;
}

async function sleeping(count: number): Promise<void> {
  await Promise.all(
    Array.from({ length: SLEEPERS }, () => sleeper(count / SLEEPERS)),
  );
}

await serveRounds({
  switch: switching,
  create: createRunAndDie,
  spawn: spawnAndJoin,
  sleep: sleeping,
});
