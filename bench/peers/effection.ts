/**
 * The works, done by [Effection](https://frontside.com/effection), as far as it has what
 * they need.
 *
 * @module
 */

import {
  createQueue,
  type Operation,
  run,
  sleep,
  spawn,
  suspend,
  type Task,
  withResolvers,
} from "npm:effection@^4";
import {
  check,
  type Clock,
  LONG,
  type Measured,
  Scales,
  serveRounds,
  sleepTimes,
  sumBelow,
  WAITERS,
} from "./_rounds.ts";

/** Spawns so many of the same, each into a task of its own. */
function* spawnAll<T>(
  number: number,
  body: () => Operation<T>,
): Operation<Task<T>[]> {
  const tasks: Task<T>[] = [];
  for (let i = 0; i < number; i++) tasks.push(yield* spawn(body));
  return tasks;
}

function* joinAll<T>(tasks: Task<T>[]): Operation<T[]> {
  const results: T[] = [];
  for (const task of tasks) results.push(yield* task);
  return results;
}

let ran = 0;

// An operation that has nothing to wait for.
// deno-lint-ignore require-yield
function* body(): Operation<void> {
  ran++;
}

async function spawnAndJoin(count: number): Promise<void> {
  await run(function* () {
    yield* joinAll(yield* spawnAll(count, body));
  });
  const found = ran;
  ran = 0;
  check(found, count, "tasks that have run");
}

/** Its queues have no bounds: a second one says that there is room for an item. */
async function handOff(count: number): Promise<void> {
  const sum = await run(function* () {
    const queue = createQueue<number, never>();
    const room = createQueue<true, never>();
    room.add(true);
    const putter = yield* spawn(function* () {
      for (let i = 0; i < count; i++) {
        yield* room.next();
        queue.add(i);
      }
    });
    const getter = yield* spawn(function* () {
      let sum = 0;
      for (let i = 0; i < count; i++) {
        sum += (yield* queue.next()).value;
        room.add(true);
      }
      return sum;
    });
    yield* putter;
    return yield* getter;
  });
  check(sum, sumBelow(count), "the sum of the items");
}

async function broadcast(count: number, clock: Clock): Promise<void> {
  const events = Array.from(
    { length: count / WAITERS },
    () => withResolvers<void>(),
  );
  let woken = 0;
  let all = withResolvers<void>();
  const arrived = () => {
    if (++woken % WAITERS === 0) all.resolve();
  };
  await run(function* () {
    const waiters = yield* spawnAll(WAITERS, function* () {
      for (const event of events) {
        arrived();
        yield* event.operation;
      }
      arrived();
    });
    yield* all.operation;
    clock.start();
    for (const event of events) {
      all = withResolvers();
      event.resolve();
      yield* all.operation;
    }
    clock.stop();
    yield* joinAll(waiters);
  });
  check(woken, count + WAITERS, "how often a waiter was woken");
}

async function sleeps(count: number, clock: Clock): Promise<void> {
  const times = sleepTimes(count);
  clock.start();
  const slept = await run(function* () {
    const tasks: Task<number>[] = [];
    for (const ms of times) {
      tasks.push(
        yield* spawn(function* () {
          const start = performance.now();
          yield* sleep(ms);
          return performance.now() - start;
        }),
      );
    }
    return yield* joinAll(tasks);
  });
  clock.stop();
  check(slept.filter((ms, i) => ms < times[i]! - 1).length, 0, "early ones");
}

/** How many tasks sleep. */
let asleep = 0;

function* sleepLong(begun: () => void): Operation<void> {
  asleep++;
  try {
    begun();
    yield* sleep(LONG);
  } finally {
    asleep--;
  }
}

/** A task whose children sleep: to halt it is to halt them all. */
function* sleepers(count: number): Operation<Task<void>> {
  const all = withResolvers<void>();
  const begun = () => {
    if (asleep === count) all.resolve();
  };
  const parent = yield* spawn(function* () {
    yield* spawnAll(count, () => sleepLong(begun));
    yield* suspend();
  });
  yield* all.operation;
  return parent;
}

async function haltSleepers(count: number, clock: Clock): Promise<void> {
  await run(function* () {
    const parent = yield* sleepers(count);
    clock.start();
    yield* parent.halt();
    clock.stop();
  });
  check(asleep, 0, "how many still sleep");
}

async function sleepersLives(
  count: number,
  _clock: Clock,
  size: number,
): Promise<void> {
  await run(function* () {
    for (let i = 0; i < count; i += size) {
      yield* (yield* sleepers(size)).halt();
    }
  });
  check(asleep, 0, "how many still sleep");
}

async function sleepersMemory(count: number, clock: Clock): Promise<Measured> {
  await sleepersLives(100, clock, 100); // Loads what is loaded at first use
  const scales = new Scales();
  return await new Promise((resolve) => {
    // As a task that ends halts its children, this one never does.
    run(function* () {
      yield* sleepers(count);
      resolve(scales.measured);
      yield* suspend();
    });
  });
}

await serveRounds({
  spawn: spawnAndJoin,
  queue: handOff,
  event: broadcast,
  sleeps,
  kill: haltSleepers,
  lives: sleepersLives,
  memory: sleepersMemory,
});
