/** Packages whose children have just ended when their greenlet is interrupted. */

import { execa } from "execa";
import childProcess, { type ChildProcess } from "node:child_process";
import events, { once } from "node:events";
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  until,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures } from "../_bodies.ts";
import { test } from "../_random.ts";
import { Gate, turns, when } from "../_waits.ts";

/** The grace of a kill, in milliseconds. */
const GRACE = 1000;

type Once = (child: ChildProcess, event: string) => Promise<unknown[]>;

/** Waits for a child as a package does that ignores the errors of its wait for the exit. */
async function exitOf(child: ChildProcess, once: Once): Promise<unknown[]> {
  try {
    return await once(child, "exit");
  } catch {
    return exitOf(child, once);
  }
}

/** Makes a call of a package that waits again, with a child that no interrupt ends. */
function waitAgain(once: Once): Call {
  const child = childProcess.spawn("true", { detached: true });
  const ended = exitOf(child, once);
  return { child, ended, all: [ended] };
}

/** A call that waits for children. */
interface Call {
  /** The child that ends first. */
  readonly child: ChildProcess;
  readonly ended: Promise<unknown>;
  /** What is there to wait for at last. */
  readonly all: PromiseLike<unknown>[];
}

const calls: Record<string, () => Call> = {
  "execa()"() {
    const child = execa("true");
    return { child, ended: Promise.resolve(child), all: [child] };
  },
  "execa().pipe()"() {
    const child = execa("true");
    const cat = execa("cat");
    const ended = child.pipe(cat);
    return { child, ended, all: [child, cat, ended] };
  },
  "a package that waits again for the exit of spawn()"() {
    const child = childProcess.spawn("true");
    child.on("error", () => {});
    const ended = exitOf(child, once);
    return { child, ended, all: [ended] };
  },
  "a package that waits again for a detached child": () => waitAgain(once),
  "a package that waits again for it by the default export": () =>
    waitAgain(events.once),
};

const ways: Record<string, (greenlet: Greenlet) => unknown> = {
  killed: (greenlet) => greenlet.kill(undefined, { block: false }),
  "thrown an error": (greenlet) =>
    greenlet.throw(new GreenletExit("The test's own")),
};

/** Calls a function when a child has ended, before its `exit` event. */
function beforeExit(child: ChildProcess, call: () => void): void {
  let exitCode: number | null = null;
  Object.defineProperty(child, "exitCode", {
    configurable: true,
    get: () => exitCode,
    set(code: number | null) {
      exitCode = code;
      call();
    },
  });
}

const kinds: Record<string, (make: () => Call) => Greenlet> = {
  "async body": (make) =>
    spawn(async () => {
      await make().ended;
      await sleep(0);
    }),
  "generator body": (make) =>
    spawn(function* () {
      yield* until(make().ended);
    }),
};

for (const [name, make] of Object.entries(calls)) {
  for (const [way, interrupt] of Object.entries(ways)) {
    for (const [kind, start] of Object.entries(kinds)) {
      test(`${name} ends when its greenlet is ${way} just before the exit of its child, ${kind}`, async () => {
        using failures = new Failures();
        using _ = patch();
        const emitted: string[] = [];
        let all: PromiseLike<unknown>[] = [];
        const greenlet: Greenlet = start(() => {
          const call = make();
          for (const event of ["exit", "close"]) {
            call.child.on(event, () => emitted.push(event));
          }
          beforeExit(call.child, () => interrupt(greenlet));
          all = call.all;
          return call;
        });
        await greenlet.join();
        // One of the packages ignores it
        const isIgnored = greenlet.value === undefined;
        assert(isIgnored || greenlet.value instanceof GreenletExit);
        assertEquals(
          isIgnored,
          name.startsWith("a package") && kind === "async body",
        );
        await Promise.allSettled(all);
        await when(() => emitted.length === 2);
        assertEquals(emitted, ["exit", "close"]);
        assertEquals(failures.errors, []);
      });
    }
  }
}

for (const [way, interrupt] of Object.entries(ways)) {
  test(`execa() whose greenlet is ${way} ends with its child, however late the machine tells of its exit`, async () => {
    using failures = new Failures();
    using _ = patch();
    using clock = new TestClock();
    const begun = new Gate();
    const greenlet: Greenlet = spawn(async () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const child = execa("sh", ["-c", "trap '' TERM; echo ready; read line"]);
      child.stdout.once("data", () => resolve());
      await promise;
      begun.open();
      await child;
    });
    await begun.opened;
    interrupt(greenlet);
    // SIGKILL, and then the end of the grace, before any exit can have come
    await clock.advance(GRACE);
    await greenlet.join();
    assertInstanceOf(greenlet.value, GreenletExit);
    assertEquals(failures.errors, []);
  });
}

/** Waits for a child that no interrupt ends. */
const patient: Record<
  string,
  (begun: (child: ChildProcess) => void) => Promise<unknown>
> = {
  async "execa()"(begun) {
    const child = execa("sleep", ["1000"], { detached: true });
    begun(child as unknown as ChildProcess);
    await child.catch(() => {});
  },
  async "a package that waits again"(begun) {
    const child = childProcess.spawn("sleep", ["1000"], { detached: true });
    begun(child);
    await exitOf(child, once);
  },
  async "a package that waits again by the default export"(begun) {
    const child = childProcess.spawn("sleep", ["1000"], { detached: true });
    begun(child);
    await exitOf(child, events.once);
  },
};

for (const [name, wait] of Object.entries(patient)) {
  test(`${name} goes on with a detached child when its greenlet is killed, which cleans up after it`, async () => {
    using failures = new Failures();
    using _ = patch();
    using clock = new TestClock();
    const begun = new Gate();
    let child: ChildProcess;
    let isCleanedUp = false;
    const greenlet = spawn(async () => {
      try {
        await wait((made) => {
          child = made;
          child.once("spawn", () => begun.open());
        });
        await sleep(0);
      } finally {
        isCleanedUp = true;
      }
    });
    await begun.opened;
    greenlet.kill(undefined, { block: false });
    await clock.advance(GRACE);
    await turns(50);
    assert(!greenlet.dead);
    child!.kill();
    await greenlet.join();
    assertInstanceOf(greenlet.value, GreenletExit);
    assert(isCleanedUp);
    assertEquals(failures.errors, []);
  });
}
