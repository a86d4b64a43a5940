/** Packages that queue, repeat, delay, or run other programs. */

import delay, { clearDelay } from "delay";
import { execa } from "execa";
import PQueue from "p-queue";
import pRetry from "p-retry";
import { assert, assertEquals } from "@std/assert";
import { withSignal } from "../../mod.ts";
import { testPackage } from "./_scenes.ts";

/** Longer than any test. */
const LONG = 100_000_000;

/** How long p-retry waits between two attempts. */
const BETWEEN = 10_000;

/** A patched wait. */
const pause = () => new Promise((resolve) => setTimeout(resolve, LONG));

testPackage("p-queue", {
  "waiting for its turn"() {
    const queue = new PQueue({ concurrency: 1 });
    const { promise: first, resolve: endFirst } = Promise.withResolvers<void>();
    queue.add(() => first);
    let ran = 0;
    const task = () => ran++;
    return {
      call: () => queue.add(task),
      recipe: () => withSignal((signal) => queue.add(task, { signal })),
      begun: () => Promise.resolve(),
      async freed() {
        endFirst();
        await queue.onIdle();
        assertEquals(ran, 0);
      },
      answer: () => endFirst(),
      after: async () => assertEquals(await queue.add(() => "next"), "next"),
    };
  },
  "in its task"() {
    const queue = new PQueue({ concurrency: 1 });
    return {
      call: () => queue.add(pause),
      begun: () => Promise.resolve(),
      freed: () => queue.onIdle(),
      after: async () => assertEquals(await queue.add(() => "next"), "next"),
    };
  },
});

testPackage("p-retry", {
  "in an attempt"() {
    let attempts = 0;
    const attempt = async () => {
      if (++attempts === 1) await pause();
    };
    const options = { minTimeout: BETWEEN, randomize: false };
    return {
      call: () => pRetry(attempt, options),
      recipe: () =>
        withSignal((signal) => pRetry(attempt, { ...options, signal })),
      begun: () => Promise.resolve(),
      freed: () => Promise.resolve(assertEquals(attempts, 1)),
      async answer(clock) {
        await clock.advance(BETWEEN);
        assertEquals(attempts, 2);
      },
    };
  },
  "between two attempts"() {
    let attempts = 0;
    const attempt = async () => {
      if (++attempts === 1) throw new Error("The first attempt fails");
      await pause();
    };
    const options = { minTimeout: BETWEEN, randomize: false };
    return {
      call: () => pRetry(attempt, { ...options, retries: 1 }),
      recipe: () =>
        withSignal((signal) => pRetry(attempt, { ...options, signal })),
      begun: () => Promise.resolve(),
      freed: () => Promise.resolve(assertEquals(attempts, 1)),
      async answer(clock) {
        await clock.advance(BETWEEN);
        assertEquals(attempts, 2);
      },
    };
  },
});

testPackage("delay", {
  "in the delay"() {
    let waiting: Promise<void>;
    return {
      call: () => waiting = delay(LONG),
      recipe: () => withSignal((signal) => delay(LONG, { signal })),
      begun: () => Promise.resolve(),
      // The sanitizers see a timer that is left.
      freed: () => Promise.resolve(),
      answer: () => clearDelay(waiting),
    };
  },
});

testPackage("execa", {
  "waiting for its child"() {
    let child: ReturnType<typeof execa> | undefined;
    return {
      call: () => child = execa("sleep", ["1000"]),
      begun: () => Promise.resolve(),
      async freed() {
        const { exitCode, signalCode } = child!;
        assert(exitCode !== undefined || signalCode !== undefined);
        if (child!.exitCode === null && child!.signalCode === null) {
          await new Promise((resolve) => child!.once("exit", resolve));
        }
        assertEquals(child!.signalCode, "SIGTERM");
      },
    };
  },
});
