/**
 * The works, done by [Effect](https://effect.website).
 *
 * @module
 */

import { Deferred, Effect, Fiber, Queue, Semaphore } from "npm:effect@^4";
import {
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
  WAITERS,
  WORKERS,
} from "./_rounds.ts";

/** Forks so many of the same, each into a fiber of its own. */
const forkAll = Effect.fnUntraced(
  function* <A>(number: number, effect: Effect.Effect<A>) {
    const fibers: Fiber.Fiber<A>[] = [];
    for (let i = 0; i < number; i++) {
      fibers.push(yield* Effect.forkChild(effect));
    }
    return fibers;
  },
);

/** Forks so many of the same, and adds up what they give. */
const inFibers = Effect.fnUntraced(
  function* (number: number, effect: Effect.Effect<number>) {
    const results = yield* Fiber.joinAll(yield* forkAll(number, effect));
    return results.reduce((a, b) => a + b, 0);
  },
);

let ran = 0;

const body = Effect.sync(() => {
  ran++;
});

async function forkAndJoin(count: number): Promise<void> {
  await Effect.runPromise(Effect.gen(function* () {
    yield* Fiber.joinAll(yield* forkAll(count, body));
  }));
  const found = ran;
  ran = 0;
  check(found, count, "bodies that have run");
}

async function yielding(number: number, count: number): Promise<void> {
  const sleeper = Effect.gen(function* () {
    let i = 0;
    for (; i < count / number; i++) yield* Effect.yieldNow;
    return i;
  });
  const turns = await Effect.runPromise(inFibers(number, sleeper));
  check(turns, count, "turns");
}

async function handOff(count: number): Promise<void> {
  const sum = await Effect.runPromise(Effect.gen(function* () {
    const queue = yield* Queue.bounded<number>(1);
    const putter = yield* Effect.forkChild(Effect.gen(function* () {
      for (let i = 0; i < count; i++) yield* Queue.offer(queue, i);
    }));
    const getter = yield* Effect.forkChild(Effect.gen(function* () {
      let sum = 0;
      for (let i = 0; i < count; i++) sum += yield* Queue.take(queue);
      return sum;
    }));
    yield* Fiber.join(putter);
    return yield* Fiber.join(getter);
  }));
  check(sum, sumBelow(count), "the sum of the items");
}

async function broadcast(count: number, clock: Clock): Promise<void> {
  const events = Array.from(
    { length: count / WAITERS },
    () => Deferred.makeUnsafe<void>(),
  );
  let woken = 0;
  let all = Deferred.makeUnsafe<void>();
  const arrive = Effect.suspend(() =>
    ++woken % WAITERS === 0 ? Deferred.succeed(all, undefined) : Effect.void
  );
  const waiter = Effect.gen(function* () {
    for (const event of events) {
      yield* arrive;
      yield* Deferred.await(event);
    }
    yield* arrive;
  });
  await Effect.runPromise(Effect.gen(function* () {
    const waiters = yield* forkAll(WAITERS, waiter);
    yield* Deferred.await(all);
    clock.start();
    for (const event of events) {
      all = Deferred.makeUnsafe();
      yield* Deferred.succeed(event, undefined);
      yield* Deferred.await(all);
    }
    clock.stop();
    yield* Fiber.joinAll(waiters);
  }));
  check(woken, count + WAITERS, "how often a waiter was woken");
}

async function contention(count: number): Promise<void> {
  let now = 0;
  let most = 0;
  const hold = Effect.gen(function* () {
    if (++now > most) most = now;
    yield* Effect.yieldNow;
    now--;
  });
  await Effect.runPromise(Effect.gen(function* () {
    const semaphore = yield* Semaphore.make(PERMITS);
    const holding = semaphore.withPermit(hold);
    const holder = Effect.gen(function* () {
      for (let i = 0; i < count / WORKERS; i++) yield* holding;
    });
    yield* Fiber.joinAll(yield* forkAll(WORKERS, holder));
  }));
  check(most, PERMITS, "the most that have held the semaphore");
}

// deno-lint-ignore require-yield
const same = Effect.fnUntraced(function* (item: number) {
  return item;
});

const sameLater = Effect.fnUntraced(function* (item: number) {
  yield* Effect.yieldNow;
  return item;
});

async function mapInPool(
  mapped: (item: number) => Effect.Effect<number>,
  count: number,
  clock: Clock,
): Promise<void> {
  const results = await Effect.runPromise(
    Effect.forEach(Array(count).keys(), mapped, { concurrency: WORKERS }),
  );
  clock.stop();
  check(results.reduce((a, b) => a + b), sumBelow(count), "the sum of results");
}

async function sleeps(count: number, clock: Clock): Promise<void> {
  const times = sleepTimes(count);
  const sleepFor = Effect.fnUntraced(function* (ms: number) {
    const start = performance.now();
    yield* Effect.sleep(ms);
    return performance.now() - start;
  });
  clock.start();
  const slept = await Effect.runPromise(Effect.gen(function* () {
    const fibers: Fiber.Fiber<number>[] = [];
    for (const ms of times) fibers.push(yield* Effect.forkChild(sleepFor(ms)));
    return yield* Fiber.joinAll(fibers);
  }));
  clock.stop();
  check(slept.filter((ms, i) => ms < times[i]! - 1).length, 0, "early ones");
}

async function limits(count: number): Promise<void> {
  const limited = Effect.as(Effect.yieldNow, 1).pipe(
    Effect.timeout(30_000),
    Effect.orDie,
  );
  const caller = Effect.gen(function* () {
    let sum = 0;
    for (let i = 0; i < count / WORKERS; i++) sum += yield* limited;
    return sum;
  });
  const calls = await Effect.runPromise(inFibers(WORKERS, caller));
  check(calls, count, "calls");
}

/** How many tasks sleep. */
let asleep = 0;

const sleepLong = Effect.suspend(() => {
  asleep++;
  return Effect.sleep(LONG);
}).pipe(Effect.ensuring(Effect.sync(() => {
  asleep--;
})));

/** Forks sleepers, and waits until they are asleep. */
const sleepers = Effect.fnUntraced(function* (count: number) {
  const fibers = yield* forkAll(count, sleepLong);
  yield* Effect.yieldNow;
  check(asleep, count, "how many sleep");
  return fibers;
});

async function interruptSleepers(count: number, clock: Clock): Promise<void> {
  await Effect.runPromise(Effect.gen(function* () {
    const fibers = yield* sleepers(count);
    clock.start();
    yield* Fiber.interruptAll(fibers);
    clock.stop();
  }));
  check(asleep, 0, "how many still sleep");
}

async function sleepersLives(
  count: number,
  _clock: Clock,
  size: number,
): Promise<void> {
  await Effect.runPromise(Effect.gen(function* () {
    for (let i = 0; i < count; i += size) {
      yield* Fiber.interruptAll(yield* sleepers(size));
    }
  }));
  check(asleep, 0, "how many still sleep");
}

/** Keeps them from being garbage. */
const kept: unknown[] = [];

async function sleepersMemory(count: number, clock: Clock): Promise<Measured> {
  await sleepersLives(100, clock, 100); // Loads what is loaded at first use
  const scales = new Scales();
  return await new Promise((resolve) => {
    // As a fiber that ends interrupts its children, this one never does.
    Effect.runFork(Effect.gen(function* () {
      kept.push(yield* sleepers(count));
      resolve(scales.measured);
      yield* Effect.never;
    }));
  });
}

await serveRounds({
  spawn: forkAndJoin,
  sleep: (count) => yielding(FEW, count),
  "sleep-many": (count) => yielding(MANY, count),
  queue: handOff,
  event: broadcast,
  semaphore: contention,
  map: (count, clock) => mapInPool(same, count, clock),
  "map-waiting": (count, clock) => mapInPool(sameLater, count, clock),
  sleeps,
  limit: limits,
  kill: interruptSleepers,
  lives: sleepersLives,
  memory: sleepersMemory,
});
