/**
 * The works, done by the bare language: what no library on top of it can be faster than.
 *
 * @module
 */

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

/** A body that yields the body to resume next, and is sent a number. */
type Body<T = void> = Generator<Body<T>, number, T>;

function* switchTo(find: () => Body, count: number): Body {
  const other = find();
  let i = 0;
  for (; i < count; i++) yield other;
  return i;
}

/** Resumes the body that each body yields, until one returns. */
function trampoline(body: Body): number {
  let result = body.next();
  while (!result.done) result = result.value.next();
  return result.value;
}

function switching(count: number, clock: Clock): void {
  const one: Body = switchTo(() => two, count / 2);
  const two: Body = switchTo(() => one, count / 2);
  const ones = trampoline(one);
  clock.stop();
  check(ones + trampoline(two), count, "switches");
}

/** A body that is sent a number, and yields the body to send the next one to. */
type Link = Generator<Link | null, number, number>;

let handed = 0;

function* link(next: Link | null): Link {
  handed = 1 + (yield null);
  if (next !== null) yield next;
  return handed;
}

function chains(count: number): void {
  for (let i = 0; i < count; i += CHAIN) {
    let first = link(null);
    first.next();
    for (let j = 1; j < CHAIN; j++) {
      first = link(first);
      first.next();
    }
    let result = first.next(0);
    while (!result.done) result = result.value!.next(handed);
    check(result.value, CHAIN, "the number at the end of the chain");
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

function createRunAndDie(count: number): void {
  for (let i = 0; i < count; i++) generatorBody().next();
  checkRan(count);
}

// A body that has nothing to wait for.
// deno-lint-ignore require-await
async function asyncBody(): Promise<void> {
  ran++;
}

async function spawnAndJoin(count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, () => asyncBody()));
  checkRan(count);
}

async function sleeper(count: number): Promise<number> {
  let i = 0;
  for (; i < count; i++) await undefined;
  return i;
}

async function sleeping(number: number, count: number): Promise<void> {
  const counts = await Promise.all(
    Array.from({ length: number }, () => sleeper(count / number)),
  );
  check(counts.reduce((a, b) => a + b), count, "turns");
}

/**
 * Room for one item: a promise for the task that waits for the room, and one for the item.
 */
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

async function getAll(slot: Slot, count: number): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += await slot.get();
  return sum;
}

async function handOff(count: number): Promise<void> {
  const slot = new Slot();
  const [, sum] = await Promise.all([putAll(slot, count), getAll(slot, count)]);
  check(sum, sumBelow(count), "the sum of the items");
}

/** Waits for one event after the other, and tells when it has come to the next. */
async function waiter(
  events: PromiseWithResolvers<void>[],
  arrived: () => void,
): Promise<void> {
  for (const event of events) {
    arrived();
    await event.promise;
  }
  arrived();
}

async function broadcast(count: number, clock: Clock): Promise<void> {
  const events = Array.from(
    { length: count / WAITERS },
    () => Promise.withResolvers<void>(),
  );
  let woken = 0;
  let all = Promise.withResolvers<void>();
  const arrived = () => {
    if (++woken % WAITERS === 0) all.resolve();
  };
  const waiters = Array.from(
    { length: WAITERS },
    () => waiter(events, arrived),
  );
  await all.promise;
  clock.start();
  for (const event of events) {
    all = Promise.withResolvers();
    event.resolve();
    await all.promise;
  }
  clock.stop();
  await Promise.all(waiters);
  check(woken, count + WAITERS, "how often a waiter was woken");
}

/** Permits, and the function that resolves the promise of each waiter. */
class Permits {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(free: number) {
    this.#free = free;
  }

  async acquire(): Promise<void> {
    if (this.#free === 0) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else {
      this.#free--;
    }
  }

  release(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free++;
    else next();
  }
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
  permits: Permits,
  holders: Holders,
  count: number,
): Promise<void> {
  for (let i = 0; i < count; i++) {
    await permits.acquire();
    try {
      holders.enter();
      await undefined;
      holders.now--;
    } finally {
      permits.release();
    }
  }
}

async function contention(count: number): Promise<void> {
  const permits = new Permits(PERMITS);
  const holders = new Holders();
  await Promise.all(
    Array.from(
      { length: WORKERS },
      () => holder(permits, holders, count / WORKERS),
    ),
  );
  check(holders.most, PERMITS, "the most that have held the semaphore");
}

// Like most functions that are mapped: async, whether it waits or not.
// deno-lint-ignore require-await
async function same(item: number): Promise<number> {
  return item;
}

async function sameLater(item: number): Promise<number> {
  await undefined;
  return item;
}

async function mapByWorkers(
  mapped: (item: number) => Promise<number>,
  count: number,
  clock: Clock,
): Promise<void> {
  const items = Array(count).keys();
  const results: number[] = [];
  const worker = async () => {
    for (const item of items) results[item] = await mapped(item);
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  clock.stop();
  check(results.reduce((a, b) => a + b), sumBelow(count), "the sum of results");
}

async function sleepFor(ms: number): Promise<number> {
  const start = performance.now();
  await new Promise((resolve) => setTimeout(resolve, ms));
  return performance.now() - start;
}

async function sleeps(count: number, clock: Clock): Promise<void> {
  const times = sleepTimes(count);
  clock.start();
  const slept = await Promise.all(times.map(sleepFor));
  clock.stop();
  check(slept.filter((ms, i) => ms < times[i]! - 1).length, 0, "early ones");
}

function timeouts(count: number, clock: Clock): void {
  const running: ReturnType<typeof setTimeout>[] = [];
  let fired = 0;
  const fire = () => fired++;
  for (let i = 0; i < count; i++) {
    clearTimeout(running[i % TIMEOUTS]);
    running[i % TIMEOUTS] = setTimeout(fire, 30_000 + i % 1_000);
  }
  for (const timeout of running) clearTimeout(timeout);
  clock.stop();
  check(fired, 0, "timeouts that have fired");
}

async function limited(): Promise<number> {
  await undefined;
  return 1;
}

/** Stops waiting when the time is over; what it has waited for goes on. */
async function withLimit<T>(ms: number, run: () => Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error("Timed out")), ms);
  try {
    return await Promise.race([run(), promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function caller(count: number): Promise<number> {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += await withLimit(30_000, limited);
  return sum;
}

async function limits(count: number): Promise<void> {
  const sums = await Promise.all(
    Array.from({ length: WORKERS }, () => caller(count / WORKERS)),
  );
  check(sums.reduce((a, b) => a + b), count, "calls");
}

/** Sleeps until the signal is aborted: what a library without greenlets asks for. */
function sleepUntilAborted(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
}

/** How many tasks sleep. */
let asleep = 0;

async function sleepLong(signal: AbortSignal): Promise<void> {
  asleep++;
  try {
    await sleepUntilAborted(LONG, signal);
  } finally {
    asleep--;
  }
}

/** Each can be stopped by itself, so each has a controller of its own. */
interface Sleeper {
  controller: AbortController;
  task: Promise<void>;
}

function sleepers(count: number): Sleeper[] {
  const all = Array.from({ length: count }, () => {
    const controller = new AbortController();
    return { controller, task: sleepLong(controller.signal) };
  });
  check(asleep, count, "how many sleep");
  return all;
}

async function abort(sleepers: Sleeper[]): Promise<void> {
  const reason = new Error("Aborted");
  for (const { controller } of sleepers) controller.abort(reason);
  await Promise.allSettled(sleepers.map(({ task }) => task));
}

async function killSleepers(count: number, clock: Clock): Promise<void> {
  const all = sleepers(count);
  await undefined;
  clock.start();
  await abort(all);
  clock.stop();
  check(asleep, 0, "how many still sleep");
}

async function sleepersLives(
  count: number,
  _clock: Clock,
  size: number,
): Promise<void> {
  for (let i = 0; i < count; i += size) await abort(sleepers(size));
  check(asleep, 0, "how many still sleep");
}

/** Keeps them from being garbage. */
const kept: unknown[] = [];

async function sleepersMemory(count: number, clock: Clock): Promise<Measured> {
  await sleepersLives(100, clock, 100); // Loads what is loaded at first use
  const scales = new Scales();
  kept.push(sleepers(count));
  await undefined;
  return scales.measured;
}

await serveRounds({
  switch: switching,
  chain: chains,
  create: createRunAndDie,
  spawn: spawnAndJoin,
  sleep: (count) => sleeping(FEW, count),
  "sleep-many": (count) => sleeping(MANY, count),
  queue: handOff,
  event: broadcast,
  semaphore: contention,
  map: (count, clock) => mapByWorkers(same, count, clock),
  "map-waiting": (count, clock) => mapByWorkers(sameLater, count, clock),
  sleeps,
  timeouts,
  limit: limits,
  kill: killSleepers,
  lives: sleepersLives,
  memory: sleepersMemory,
});
