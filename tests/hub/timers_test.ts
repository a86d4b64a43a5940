import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import type * as timers from "../../_hub/timers.ts";

/** The longest delay that the runtime's `setTimeout` takes for what it is. */
const LONGEST = 2 ** 31 - 1;

/** A runtime with a clock that a test moves. */
class FakeRuntime {
  time = 1000.25;
  /** The one timer that may be armed. */
  armed: { id: number; callback: () => void; due: number } | null = null;
  arms = 0;

  readonly now = (): number => this.time;

  readonly setTimeout = (callback: () => void, ms: number): number => {
    assert(this.armed === null, "One runtime timer is enough");
    assert(ms >= 0 && ms <= LONGEST, `setTimeout can't take ${ms}`);
    const id = ++this.arms;
    this.armed = { id, callback, due: this.time + ms };
    return id;
  };

  readonly clearTimeout = (id: number): void => {
    if (this.armed?.id === id) this.armed = null;
  };

  /** Lets time go by, and the runtime's timer fire whenever it is due. */
  advance(ms: number): void {
    const end = this.time + ms;
    while (this.armed !== null && this.armed.due <= end) {
      const { callback, due } = this.armed;
      this.armed = null;
      this.time = Math.max(this.time, due);
      callback();
    }
    this.time = end;
  }
}

const runtime = new FakeRuntime();
const { startTimer, stopTimer, checkDuration } = await load();

/** A copy of the module of its own, which finds the fake runtime when it begins. */
async function load(): Promise<typeof timers> {
  const { setTimeout, clearTimeout } = globalThis;
  // Not a method of its own, but of its prototype.
  assert(!Object.hasOwn(performance, "now"));
  Object.assign(globalThis, {
    setTimeout: runtime.setTimeout,
    clearTimeout: runtime.clearTimeout,
  });
  Object.defineProperty(performance, "now", {
    value: runtime.now,
    configurable: true,
  });
  try {
    return await import("../../_hub/timers.ts?fake-runtime");
  } finally {
    Object.assign(globalThis, { setTimeout, clearTimeout });
    Reflect.deleteProperty(performance, "now");
  }
}

/** Starts a timer that runs a function. */
function start(ms: number, expired: () => void = () => {}) {
  return startTimer(ms, { expired });
}

function test(name: string, body: () => void): void {
  Deno.test(name, () => {
    assertEquals(runtime.armed, null, "something was left before");
    body();
    assertEquals(runtime.armed, null, "something is left");
  });
}

test("startTimer() calls its target once, and not too early", () => {
  const told: number[] = [];
  const began = runtime.time;
  start(10, () => told.push(runtime.time));
  runtime.advance(9.9);
  assertEquals(told, []);
  runtime.advance(1.1);
  assertEquals(told.length, 1);
  assert(told[0]! >= began + 10, `${told[0]} is too early`);
  runtime.advance(100);
  assertEquals(told.length, 1);
});

test("startTimer() orders by deadline, whatever the order of the starts", () => {
  const told: number[] = [];
  for (const ms of [30, 10, 50, 20, 40, 5]) start(ms, () => told.push(ms));
  runtime.advance(100);
  assertEquals(told, [5, 10, 20, 30, 40, 50]);
});

test("startTimer() is first in, first out for one deadline", () => {
  const told: number[] = [];
  for (let i = 0; i < 100; i++) start(10, () => told.push(i));
  runtime.advance(20);
  assertEquals(told, Array.from({ length: 100 }, (_, i) => i));
});

test("startTimer() keeps the order when many are overdue", () => {
  const told: number[] = [];
  for (const ms of [30, 10, 20]) start(ms, () => told.push(ms));
  // The event loop was busy all the while.
  runtime.time += 1000;
  runtime.advance(0);
  assertEquals(told, [10, 20, 30]);
});

test("startTimer() sets the runtime's timer anew for an earlier deadline", () => {
  const told: number[] = [];
  start(1000, () => told.push(1000));
  runtime.advance(10);
  start(5, () => told.push(5));
  runtime.advance(10);
  assertEquals(told, [5]);
  runtime.advance(1000);
  assertEquals(told, [5, 1000]);
});

test("startTimer() calls its target in time when the runtime calls too early", () => {
  const told: number[] = [];
  start(10, () => told.push(10));
  runtime.advance(5);
  const { callback } = runtime.armed!;
  runtime.armed = null;
  callback();
  assertEquals(told, []);
  runtime.advance(10);
  assertEquals(told, [10]);
});

test("startTimer() with 0 or less calls its target in the next turn", () => {
  const told: number[] = [];
  for (const ms of [0, -1, -Infinity, -0]) start(ms, () => told.push(ms));
  assertEquals(told, []);
  runtime.advance(1);
  assertEquals(told, [0, -1, -Infinity, -0]);
});

test("startTimer() with Infinity arms nothing", () => {
  assertEquals(start(Infinity), null);
  assertEquals(runtime.armed, null);
  stopTimer(null);
});

test("startTimer() takes delays that setTimeout can't", () => {
  const told: number[] = [];
  for (const ms of [2 ** 31, 2 ** 32 + 5, 3 * 2 ** 31]) {
    start(ms, () => told.push(ms));
  }
  runtime.advance(2 ** 31 - 1);
  assertEquals(told, []);
  runtime.advance(2);
  assertEquals(told, [2 ** 31]);
  runtime.advance(2 ** 31 + 10);
  assertEquals(told, [2 ** 31, 2 ** 32 + 5]);
  runtime.advance(2 ** 31);
  assertEquals(told.length, 3);
});

test("startTimer() takes delays that are too long for any clock", () => {
  const timers = [1e300, Number.MAX_VALUE, Number.MAX_SAFE_INTEGER].map((ms) =>
    start(ms, () => assert(false))
  );
  runtime.advance(10 * LONGEST);
  timers.forEach(stopTimer);
});

test("stopTimer() stops a timer, and stopping it again does nothing", () => {
  const told: string[] = [];
  const stopped = start(10, () => told.push("stopped"));
  start(10, () => told.push("other"));
  stopTimer(stopped);
  stopTimer(stopped);
  runtime.advance(20);
  assertEquals(told, ["other"]);
  stopTimer(stopped);
});

test("stopTimer() after the timer has fired does nothing to others", () => {
  const told: string[] = [];
  const fired = start(1);
  runtime.advance(5);
  start(10, () => told.push("other"));
  stopTimer(fired);
  runtime.advance(20);
  assertEquals(told, ["other"]);
});

test("stopTimer() disarms when no timer is left", () => {
  const timers = [start(10), start(10), start(2 ** 40), start(3)];
  for (const timer of timers) {
    assert(runtime.armed !== null);
    stopTimer(timer);
  }
  assertEquals(runtime.armed, null);
});

test("stopTimer() within a callback stops timers that are due with it", () => {
  const told: string[] = [];
  const others: timers.Timer[] = [];
  start(10, () => {
    told.push("first");
    others.forEach(stopTimer);
  });
  others.push(start(10, () => told.push("same deadline"))!);
  others.push(start(12, () => told.push("overdue as well"))!);
  others.push(start(500, () => told.push("later"))!);
  runtime.time += 50;
  runtime.advance(1000);
  assertEquals(told, ["first"]);
});

test("stopTimer() of a timer within its own callback does nothing", () => {
  const told: string[] = [];
  const timer = start(10, () => {
    stopTimer(timer);
    told.push("told");
  });
  start(10, () => told.push("other"));
  runtime.advance(20);
  assertEquals(told, ["told", "other"]);
});

test("startTimer() within a callback calls its target in a later turn", () => {
  const told: string[] = [];
  start(10, () => {
    told.push("first");
    start(0, () => told.push("at once"));
    start(5, () => told.push("later"));
    told.push("back");
  });
  start(10, () => told.push("second"));
  runtime.advance(12);
  assertEquals(told, ["first", "back", "second", "at once"]);
  runtime.advance(10);
  assertEquals(told.at(-1), "later");
});

test("startTimer() within callbacks for ever leaves the event loop its turns", () => {
  let told = 0;
  const again = () => {
    told++;
    if (told < 100) start(0, again);
  };
  // A clock that has no fractions must not make the next turn this one.
  runtime.time = Math.ceil(runtime.time);
  start(0, again);
  const { arms } = runtime;
  runtime.advance(1000);
  assertEquals(told, 100);
  assert(runtime.arms - arms >= 99, "each of them has waited for a turn");
});

test("startTimer() after all were stopped, within a callback", () => {
  const told: string[] = [];
  // The clock stands still, at the very deadline.
  runtime.time = Math.ceil(runtime.time);
  start(10, () => {
    told.push("first");
    stopTimer(start(0));
    start(0, () => told.push("second"));
    start(3, () => told.push("third"));
  });
  runtime.advance(20);
  assertEquals(told, ["first", "second", "third"]);
});

test("startTimer() keeps nothing of timers that were stopped", () => {
  // One that lives on, so that there is always a reason to go on counting.
  const keeper = start(2 ** 40);
  const before = heapUsed();
  for (let i = 0; i < 300_000; i++) {
    stopTimer(start(3_600_000 + i));
  }
  const grown = heapUsed() - before;
  stopTimer(keeper);
  assertLessOrEqual(grown, 20e6, `${grown} bytes are kept`);
});

function heapUsed(): number {
  return Deno.memoryUsage().heapUsed;
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

test("Timers do what a sorted list would do", () => {
  for (let seed = 1; seed <= 100; seed++) {
    const next = random(seed);
    /** The pending timers, in the order of the starts. */
    let pending: { n: number; deadline: number }[] = [];
    const handles = new Map<number, timers.Timer | null>();
    const told: number[] = [];
    let n = 0;

    const startOne = () => {
      const me = n++;
      const ms = next() < 0.1 ? -next() : Math.floor(next() * 60) / 2;
      const deadline = Math.floor(runtime.time + Math.max(ms, 0)) + 1;
      pending.push({ n: me, deadline });
      handles.set(
        me,
        start(ms, () => {
          told.push(me);
          expectToldNow(me);
          if (next() < 0.3) stopOne();
          if (next() < 0.3) startOne();
        }),
      );
    };
    const stopOne = () => {
      const any = Math.floor(next() * n);
      stopTimer(handles.get(any) ?? null);
      pending = pending.filter((timer) => timer.n !== any);
    };
    /** It has to be the first timer of the earliest deadline. */
    const expectToldNow = (me: number) => {
      const due = Math.min(...pending.map(({ deadline }) => deadline));
      const first = pending.find(({ deadline }) => deadline === due);
      assertEquals(me, first?.n, `seed ${seed}: not the one that is due`);
      assert(due <= runtime.time, `seed ${seed}: ${me} is told too early`);
      pending = pending.filter((timer) => timer.n !== me);
    };

    for (let step = 0; step < 300; step++) {
      const dice = next();
      if (dice < 0.5) startOne();
      else if (dice < 0.7) stopOne();
      else if (dice < 0.9) runtime.advance(next() * 20);
      else {
        runtime.time += next() * 20;
        runtime.advance(0);
      }
      const overdue = pending.filter(({ deadline }) =>
        deadline <= runtime.time - 1
      );
      if (dice >= 0.7) assertEquals(overdue, [], `seed ${seed}: not told`);
      assertEquals(
        runtime.armed === null,
        pending.length === 0,
        `seed ${seed}: armed with ${pending.length} pending`,
      );
    }
    for (const handle of handles.values()) stopTimer(handle);
    assertEquals(runtime.armed, null, `seed ${seed}`);
  }
});

Deno.test("checkDuration() takes numbers, and nothing else", () => {
  for (const ms of [0, -1, 1.5, Infinity, -Infinity, 2 ** 40]) {
    checkDurationOf(ms);
  }
  const wrong: [unknown, string][] = [
    [
      "10",
      'Cannot wait as the time must be a number of milliseconds: received "10"',
    ],
    [
      null,
      "Cannot wait as the time must be a number of milliseconds: received null",
    ],
    [
      10n,
      "Cannot wait as the time must be a number of milliseconds: received 10n",
    ],
    [
      NaN,
      "Cannot wait as the time must be a number of milliseconds: received NaN",
    ],
  ];
  for (const [ms, message] of wrong) {
    let thrown: unknown;
    try {
      checkDurationOf(ms);
    } catch (error) {
      thrown = error;
    }
    assert(
      Number.isNaN(ms)
        ? thrown instanceof RangeError
        : thrown instanceof TypeError,
    );
    assertEquals((thrown as Error).message, message);
  }
});

function checkDurationOf(ms: unknown): void {
  (checkDuration as (ms: unknown, what: string) => void)(ms, "wait");
}
