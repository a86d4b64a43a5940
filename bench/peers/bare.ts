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

/** How many tasks share the items of a map. */
const WORKERS = 100;

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

/** Room for one item: a promise each for who waits for the room, and for the item. */
class Slot {
  #item: number | undefined;
  #filled: PromiseWithResolvers<void> | null = null;
  #emptied: PromiseWithResolvers<void> | null = null;

  async put(item: number): Promise<void> {
    while (this.#item !== undefined) {
      this.#emptied = Promise.withResolvers();
      await this.#emptied.promise;
    }
    this.#item = item;
    this.#filled?.resolve();
  }

  async get(): Promise<number> {
    while (this.#item === undefined) {
      this.#filled = Promise.withResolvers();
      await this.#filled.promise;
    }
    const item = this.#item;
    this.#item = undefined;
    this.#emptied?.resolve();
    return item;
  }
}

async function putAll(slot: Slot, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await slot.put(i);
}

async function getAll(slot: Slot, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await slot.get();
}

async function handOff(count: number): Promise<void> {
  const slot = new Slot();
  await Promise.all([putAll(slot, count), getAll(slot, count)]);
}

// As most functions that are mapped: async, whether it waits or not.
// deno-lint-ignore require-await
async function same(item: number): Promise<number> {
  return item;
}

async function mapByWorkers(count: number): Promise<void> {
  const items = Array(count).keys();
  const results: number[] = [];
  const worker = async () => {
    for (const item of items) results[item] = await same(item);
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
}

await serveRounds({
  switch: switching,
  create: createRunAndDie,
  spawn: spawnAndJoin,
  sleep: sleeping,
  queue: handOff,
  map: mapByWorkers,
});
