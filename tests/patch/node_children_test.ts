/**
 * Children of `node:child_process` in greenlets, and those of execa.
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import {
  type ChildProcess,
  exec,
  execFile,
  spawn as spawnChild,
} from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import { execa } from "execa";
import {
  type Greenlet,
  GreenletExit,
  patch,
  sleep,
  spawn,
  Timeout,
  until,
} from "../../mod.ts";
import { TestClock } from "../../testing.ts";
import { Failures } from "../_bodies.ts";
import { test } from "../_random.ts";
import { arrive } from "./_stops.ts";

/** Calls that start a child and wait until it has ended. */
const calls: Record<
  string,
  (made: (child: ChildProcess) => void) => PromiseLike<unknown>
> = {
  "exec()": (made) =>
    new Promise((resolve, reject) => {
      made(
        exec("exec sleep 1000", (error) => error ? reject(error) : resolve(0)),
      );
    }),
  "promisify(exec)()"(made) {
    const promise = promisify(exec)("exec sleep 1000");
    made(promise.child);
    return promise;
  },
  "promisify(execFile)()"(made) {
    const promise = promisify(execFile)("sleep", ["1000"]);
    made(promise.child);
    return promise;
  },
  async "spawn()"(made) {
    const child = spawnChild("sleep", ["1000"]);
    made(child);
    await once(child, "close");
  },
  "execa()"(made) {
    const subprocess = execa("sleep", ["1000"]);
    made(subprocess as unknown as ChildProcess);
    return subprocess;
  },
};

/** The ends of children. */
const exits = new WeakMap<ChildProcess, Promise<unknown>>();

/** Notes the end of a child. */
function note(child: ChildProcess): ChildProcess {
  exits.set(child, new Promise((resolve) => child.once("exit", resolve)));
  return child;
}

/** Waits until a child has ended. */
async function ended(child: ChildProcess): Promise<void> {
  await exits.get(child);
  assertEquals(child.signalCode, "SIGTERM");
  await arrive();
}

for (const [name, call] of Object.entries(calls)) {
  for (const kind of ["async body", "generator body"]) {
    const begin = (timeout: Timeout): Begun => {
      let child!: ChildProcess;
      let cleanedUp = false;
      const run = () => call((made) => child = note(made));
      const greenlet: Greenlet = kind === "async body"
        ? spawn(async () => {
          timeout.start();
          try {
            await run();
          } finally {
            timeout.close();
            cleanedUp = true;
          }
        })
        : spawn(function* () {
          timeout.start();
          try {
            yield* until(run());
          } finally {
            timeout.close();
            cleanedUp = true;
          }
        });
      return {
        greenlet,
        child: () => child,
        cleanedUp: () => cleanedUp,
      };
    };

    test(`${name} is ended at once when its greenlet is killed, ${kind}`, async () => {
      using failures = new Failures();
      using _ = patch();
      const { greenlet, child, cleanedUp } = begin(new Timeout());
      await arrive();
      assertFalse(greenlet.dead);
      await greenlet.kill();
      assert(cleanedUp());
      assertInstanceOf(greenlet.value, GreenletExit);
      await ended(child());
      assertEquals(failures.errors, []);
    });

    // A generator body waits in a call of the library, and spawn() leaves its child alone then.
    if (kind === "generator body" && /^(spawn|execa)/.test(name)) continue;
    test(`${name} is ended at once when its greenlet is timed out, ${kind}`, async () => {
      using failures = new Failures();
      using _ = patch();
      using clock = new TestClock();
      const timeout = new Timeout(50);
      const { greenlet, child, cleanedUp } = begin(timeout);
      greenlet.linkException(() => {});
      await arrive();
      assertFalse(greenlet.dead);
      await clock.advance(50);
      await greenlet.join();
      assert(cleanedUp());
      assertStrictEquals(greenlet.exception, timeout);
      await ended(child());
      assertEquals(failures.errors, []);
    });
  }
}

interface Begun {
  greenlet: Greenlet;
  child(): ChildProcess;
  cleanedUp(): boolean;
}

test("a child of exec() that ignores SIGTERM gets SIGKILL after the grace", async () => {
  using _ = patch();
  const ready = Promise.withResolvers<void>();
  let child!: ChildProcess;
  const greenlet = spawn(async () => {
    await new Promise((resolve, reject) => {
      child = exec(
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        (error) => error ? reject(error) : resolve(0),
      );
      note(child).stdout!.once("data", () => ready.resolve());
    });
  });
  await ready.promise;
  await greenlet.kill();
  assertInstanceOf(greenlet.value, GreenletExit);
  await exits.get(child);
  assertEquals(child.signalCode, "SIGKILL");
  await arrive();
});

test("execa whose child is killed and leaves a child of its own ends, as its pipes are closed", async () => {
  using failures = new Failures();
  using _ = patch();
  for (const ignoring of ["", "trap '' TERM; "]) {
    const pid = Promise.withResolvers<number>();
    const greenlet = spawn(async () => {
      // The other child keeps the pipes open.
      const code = `${ignoring}sleep 1000 & echo $!; wait`;
      const child = execa("sh", ["-c", code]);
      note(child as unknown as ChildProcess);
      child.stdout.once("data", (text) => pid.resolve(Number(text)));
      await child;
    });
    const other = await pid.promise;
    // The pipes are closed a little before the default grace is over.
    await greenlet.kill(undefined, { grace: Infinity });
    Deno.kill(other, "SIGKILL");
    assertInstanceOf(greenlet.value, GreenletExit);
  }
  await arrive();
  assertEquals(failures.errors, []);
});

test("a child of spawn() is left alone by a Timeout in a call of the library, and ended by a kill", async () => {
  using _ = patch();
  using clock = new TestClock();
  let child!: ChildProcess;
  const greenlet = spawn(async () => {
    child = note(spawnChild("sleep", ["1000"]));
    {
      using _timeout = Timeout.start(10);
      await sleep(1000).catch(() => {});
    }
    await sleep(1000);
  });
  await arrive();
  await clock.advance(10);
  await arrive();
  assertFalse(child.killed);
  await greenlet.kill();
  await ended(child);
});

test("a detached child of spawn() outlives its greenlet", async () => {
  using _ = patch();
  let child!: ChildProcess;
  const greenlet = spawn(async () => {
    child = note(spawnChild("sleep", ["1000"], { detached: true }));
    await sleep(1_000_000);
  });
  await arrive();
  await greenlet.kill();
  await arrive();
  assertFalse(child.killed);
  child.kill();
  await ended(child);
});

test("patch({ process: { killChildren: false } }) leaves children of node:child_process alone", async () => {
  using _ = patch({ process: { killChildren: false } });
  let child!: ChildProcess;
  const greenlet = spawn(async () => {
    child = note(spawnChild("sleep", ["1000"]));
    await sleep(1_000_000);
  });
  await arrive();
  await greenlet.kill();
  await arrive();
  assertFalse(child.killed);
  child.kill();
  await ended(child);
});
