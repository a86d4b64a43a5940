/**
 * The works, done by this library; see `bench/README.md`.
 *
 * @module
 */

import { getCurrent, Greenlet } from "@gevent/gevent/greenlet";
import {
  assertSwitches,
  Event,
  formatRunInfo,
  type Greenlet as SpawnedGreenlet,
  joinAll,
  killAll,
  monitor,
  Pool,
  Queue,
  select,
  Semaphore,
  sleep,
  spawn,
  startTrace,
  Timeout,
  withTimeout,
} from "@gevent/gevent";
import {
  CHAIN,
  check,
  type Clock,
  FEW,
  LONG,
  MANY,
  type Measured,
  PERMITS,
  Scales,
  serveRounds,
  sleepTimes,
  sumBelow,
  TIMEOUTS,
  WAITERS,
  WORKERS,
} from "./_rounds.ts";

/** The results of greenlets that have ended, added up. */
function sumOf(greenlets: SpawnedGreenlet<number>[]): number {
  return greenlets.reduce((sum, greenlet) => sum + (greenlet.value ?? NaN), 0);
}

/** Spawns greenlets that do the same, and waits for them. */
async function inGreenlets<A extends unknown[]>(
  number: number,
  body: (...args: A) => Promise<number> | Generator<unknown, number>,
  ...args: A
): Promise<number> {
  const greenlets = Array.from(
    { length: number },
    () =>
      spawn<A, unknown>(body, ...args) as SpawnedGreenlet<
        unknown
      > as SpawnedGreenlet<number>,
  );
  await joinAll(greenlets);
  return sumOf(greenlets);
}

function* switchTo(other: Greenlet, count: number) {
  let i = 0;
  for (; i < count; i++) yield* other.switch();
  return i;
}

function switching(count: number, clock: Clock): void {
  const one: Greenlet = new Greenlet(() => switchTo(two, count / 2));
  const two: Greenlet = new Greenlet(() => switchTo(one, count / 2));
  const ones = one.switch().value as number;
  clock.stop();
  check(ones + (two.switch().value as number), count, "switches");
}

function* link(next: Greenlet): Generator<unknown, void> {
  const value = (yield* getCurrent().parent!.switch()) as number;
  yield* next.switch(value + 1);
}

function chains(count: number): void {
  for (let i = 0; i < count; i += CHAIN) {
    let first = getCurrent();
    for (let j = 0; j < CHAIN; j++) {
      const greenlet = new Greenlet(link);
      greenlet.switch(first);
      first = greenlet;
    }
    check(first.switch(0).value, CHAIN, "the number at the end of the chain");
  }
}

let ran = 0;

/** Checks how many bodies have run since this was called last. */
function checkRan(count: number): void {
  const found = ran;
  ran = 0;
  check(found, count, "bodies that have run");
}

// A body that has nothing to wait for.
// deno-lint-ignore require-yield
function* generatorBody() {
  ran++;
}

// A body that has nothing to wait for.
// deno-lint-ignore require-await
async function asyncBody(): Promise<void> {
  ran++;
}

function createRunAndDie(count: number): void {
  for (let i = 0; i < count; i++) new Greenlet(generatorBody).switch();
  checkRan(count);
}

async function spawnAndJoin(count: number): Promise<void> {
  await joinAll(Array.from({ length: count }, () => spawn(asyncBody)));
  checkRan(count);
}

async function spawnAndJoinGenerators(count: number): Promise<void> {
  await joinAll(Array.from({ length: count }, () => spawn(generatorBody)));
  checkRan(count);
}

async function sleeper(count: number): Promise<number> {
  let i = 0;
  for (; i < count; i++) await sleep(0);
  return i;
}

function* sleepingGenerator(count: number) {
  let i = 0;
  for (; i < count; i++) yield* sleep(0);
  return i;
}

async function sleeping(
  body: typeof sleeper | typeof sleepingGenerator,
  number: number,
  count: number,
): Promise<void> {
  const turns = await inGreenlets(number, body, count / number);
  check(turns, count, "turns");
}

async function putAll(queue: Queue<number>, count: number): Promise<void> {
  for (let i = 0; i < count; i++) await queue.put(i);
}

async function getAll(queue: Queue<number>, count: number): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += await queue.get();
  return sum;
}

function* putAllGenerator(queue: Queue<number>, count: number) {
  for (let i = 0; i < count; i++) yield* queue.put(i);
}

function* getAllGenerator(queue: Queue<number>, count: number) {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += yield* queue.get();
  return sum;
}

async function handOff(count: number): Promise<void> {
  const queue = new Queue<number>(1);
  const getter = spawn(getAll, queue, count);
  await joinAll([spawn(putAll, queue, count), getter]);
  check(getter.value, sumBelow(count), "the sum of the items");
}

async function handOffByGenerators(count: number): Promise<void> {
  const queue = new Queue<number>(1);
  const getter = spawn(getAllGenerator, queue, count);
  await joinAll([spawn(putAllGenerator, queue, count), getter]);
  check(getter.value, sumBelow(count), "the sum of the items");
}

async function putInTurn(
  queues: readonly Queue<number>[],
  count: number,
): Promise<void> {
  for (let i = 0; i < count; i++) await queues[i % queues.length]!.put(i);
}

async function selectAll(
  [one, other]: readonly [Queue<number>, Queue<number>],
  count: number,
): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += (await select([() => one.get(), () => other.get()])).value;
  }
  return sum;
}

function* selectAllGenerator(
  [one, other]: readonly [Queue<number>, Queue<number>],
  count: number,
) {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const first: { value: number } = yield* select([
      () => one.get(),
      () => other.get(),
    ]);
    sum += first.value;
  }
  return sum;
}

async function selectOfTwo(
  count: number,
  body: typeof selectAll | typeof selectAllGenerator,
): Promise<void> {
  const queues = [new Queue<number>(1), new Queue<number>(1)] as const;
  const getter = spawn(body as typeof selectAll, queues, count);
  await joinAll([spawn(putInTurn, queues, count), getter]);
  check(getter.value, sumBelow(count), "the sum of the items");
}

/** Waits for one event after the other, and tells when it has come to the next. */
async function waiter(events: Event[], arrived: () => void): Promise<void> {
  for (const event of events) {
    arrived();
    await event.wait();
  }
  arrived();
}

async function broadcast(count: number, clock: Clock): Promise<void> {
  const events = Array.from({ length: count / WAITERS }, () => new Event());
  let woken = 0;
  let all = new Event();
  const arrived = () => {
    if (++woken % WAITERS === 0) all.set();
  };
  const waiters = Array.from(
    { length: WAITERS },
    () => spawn(waiter, events, arrived),
  );
  await all.wait();
  clock.start();
  for (const event of events) {
    all = new Event();
    event.set();
    await all.wait();
  }
  clock.stop();
  await joinAll(waiters);
  check(woken, count + WAITERS, "how often a waiter was woken");
}

/** How many tasks hold the semaphore, and the most that ever have. */
class Holders {
  now = 0;
  most = 0;

  enter(): void {
    if (++this.now > this.most) this.most = this.now;
  }
}

async function holder(
  semaphore: Semaphore,
  holders: Holders,
  count: number,
): Promise<number> {
  let i = 0;
  for (; i < count; i++) {
    using _ = await semaphore.acquire();
    holders.enter();
    await sleep(0);
    holders.now--;
  }
  return i;
}

async function contention(count: number): Promise<void> {
  const semaphore = new Semaphore(PERMITS);
  const holders = new Holders();
  await inGreenlets(WORKERS, holder, semaphore, holders, count / WORKERS);
  check(holders.most, PERMITS, "the most that have held the semaphore");
}

// Like most functions that are mapped: async, whether it waits or not.
// deno-lint-ignore require-await
async function same(item: number): Promise<number> {
  return item;
}

async function sameLater(item: number): Promise<number> {
  await sleep(0);
  return item;
}

async function mapByPool(
  mapped: (item: number) => Promise<number>,
  count: number,
  clock: Clock,
): Promise<void> {
  const results = await new Pool(WORKERS).map(mapped, Array(count).keys());
  clock.stop();
  check(results.reduce((a, b) => a + b), sumBelow(count), "the sum of results");
}

async function sleepFor(ms: number): Promise<number> {
  const start = performance.now();
  await sleep(ms);
  return performance.now() - start;
}

async function sleeps(count: number, clock: Clock): Promise<void> {
  const times = sleepTimes(count);
  clock.start();
  const greenlets = times.map((ms) => spawn(sleepFor, ms));
  await joinAll(greenlets);
  clock.stop();
  const early = greenlets.filter(({ value }, i) => !(value! >= times[i]! - 1));
  check(early.length, 0, "early ones");
}

function timeouts(count: number, clock: Clock): void {
  const running: Timeout[] = [];
  for (let i = 0; i < count; i++) {
    running[i % TIMEOUTS]?.close();
    running[i % TIMEOUTS] = Timeout.start(30_000 + i % 1_000);
  }
  for (const timeout of running) timeout.close();
  clock.stop();
  check(running.some(({ pending }) => pending), false, "whether one runs");
}

async function limited(): Promise<number> {
  await sleep(0);
  return 1;
}

async function caller(count: number): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += await withTimeout(30_000, limited);
  return sum;
}

async function limits(count: number): Promise<void> {
  check(await inGreenlets(WORKERS, caller, count / WORKERS), count, "calls");
}

/** How many tasks sleep. */
let asleep = 0;

async function sleepLong(): Promise<void> {
  asleep++;
  try {
    await sleep(LONG);
  } finally {
    asleep--;
  }
}

function* sleepLongGenerator() {
  asleep++;
  try {
    yield* sleep(LONG);
  } finally {
    asleep--;
  }
}

type Body = typeof sleepLong | typeof sleepLongGenerator;

/** Gives greenlets that are all asleep. */
async function sleepers(
  body: Body,
  count: number,
): Promise<SpawnedGreenlet<unknown>[]> {
  const greenlets = Array.from(
    { length: count },
    () => spawn<[], unknown>(body) as SpawnedGreenlet<unknown>,
  );
  await sleep(0);
  check(asleep, count, "how many sleep");
  return greenlets;
}

async function killSleepers(
  body: Body,
  count: number,
  clock: Clock,
): Promise<void> {
  const greenlets = await sleepers(body, count);
  clock.start();
  await killAll(greenlets);
  clock.stop();
  check(asleep, 0, "how many still sleep");
}

async function sleepersLives(
  body: Body,
  count: number,
  size: number,
): Promise<void> {
  for (let i = 0; i < count; i += size) {
    await killAll(await sleepers(body, size));
  }
  check(asleep, 0, "how many still sleep");
}

/** Keeps them from being garbage. */
const kept: unknown[] = [];

async function sleepersMemory(body: Body, count: number): Promise<Measured> {
  await sleepersLives(body, 100, 100); // Loads what is loaded at first use
  const scales = new Scales();
  kept.push(await sleepers(body, count));
  return scales.measured;
}

let watching: Disposable | null = null;

/** The same work, watched by a monitor. */
function watched<A extends unknown[], R>(
  work: (...args: A) => R,
): (...args: A) => R {
  return (...args) => {
    watching ??= monitor({ maxBlocking: 1e9 });
    return work(...args);
  };
}

let isOff = false;

/** The same work, after everything that shows what is going on was on, and off again. */
function afterwards<A extends unknown[], R>(
  work: (...args: A) => R,
): (...args: A) => R {
  return (...args) => {
    if (!isOff) {
      isOff = true;
      const trace = startTrace();
      using _ = assertSwitches({ maxBlocking: 1e9 });
      using _monitor = monitor();
      spawn(same, 0);
      formatRunInfo();
      trace.stop();
    }
    return work(...args);
  };
}

await serveRounds({
  switch: switching,
  chain: chains,
  create: createRunAndDie,
  spawn: spawnAndJoin,
  "spawn-generator": spawnAndJoinGenerators,
  sleep: (count) => sleeping(sleeper, FEW, count),
  "sleep-generator": (count) => sleeping(sleepingGenerator, FEW, count),
  "sleep-many": (count) => sleeping(sleeper, MANY, count),
  "sleep-many-generator": (count) => sleeping(sleepingGenerator, MANY, count),
  queue: handOff,
  "monitor-queue": watched(handOff),
  "monitor-queue-unwatched": handOff,
  "monitor-spawn": watched(spawnAndJoin),
  "monitor-spawn-unwatched": spawnAndJoin,
  "off-queue": afterwards(handOff),
  "off-queue-unwatched": handOff,
  "off-spawn": afterwards(spawnAndJoin),
  "off-spawn-unwatched": spawnAndJoin,
  "queue-generator": handOffByGenerators,
  select: (count) => selectOfTwo(count, selectAll),
  "select-generator": (count) => selectOfTwo(count, selectAllGenerator),
  "select-queue": handOff,
  event: broadcast,
  semaphore: contention,
  map: (count, clock) => mapByPool(same, count, clock),
  "map-waiting": (count, clock) => mapByPool(sameLater, count, clock),
  sleeps,
  timeouts,
  limit: limits,
  kill: (count, clock) => killSleepers(sleepLong, count, clock),
  "kill-generator": (count, clock) =>
    killSleepers(sleepLongGenerator, count, clock),
  lives: (count, _, size) => sleepersLives(sleepLong, count, size),
  "lives-generator": (count, _, size) =>
    sleepersLives(sleepLongGenerator, count, size),
  memory: (count) => sleepersMemory(sleepLong, count),
  "memory-generator": (count) => sleepersMemory(sleepLongGenerator, count),
});
