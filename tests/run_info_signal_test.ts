import { assertEquals, assertThrows } from "@std/assert";
import { printRunInfoOn } from "../mod.ts";
import { runScript } from "./_bodies.ts";

const isWindows = Deno.build.os === "windows";

Deno.test("printRunInfoOn() refuses what it can't listen to, at the call", () => {
  for (const name of ["SIGNOTHING", "SIGKILL", "", 1, null, undefined]) {
    assertThrows(
      () => printRunInfoOn(name as Deno.Signal),
      TypeError,
      "Cannot listen for a signal as its name must be one that this system can listen to",
    );
  }
});

Deno.test("printRunInfoOn() leaves nothing to be told of", () => {
  if (isWindows) return;
  const listening = printRunInfoOn("SIGUSR1");
  listening[Symbol.dispose]();
  listening[Symbol.dispose]();
});

Deno.test("printRunInfoOn() prints to stderr at each signal, each for itself, and keeps no process alive", async () => {
  if (isWindows) return;
  const { out, err, code } = await runScript(
    `
    const handled = new Queue();
    const send = async (name) => {
      Deno.kill(Deno.pid, name);
      await handled.get();
      console.error("--");
    };
    const job = spawn(sleep, 1e9); // Which alone keeps the process alive
    job.name = "job";
    // Made in a greenlet that ends: it goes on, and prints what is there without that.
    const maker = spawn(() => {
      printRunInfoOn("SIGUSR1");
      printRunInfoOn("SIGUSR2");
      return printRunInfoOn("SIGUSR1");
    });
    const second = await maker.get();
    onSignal("SIGUSR1", () => handled.putNowait(1));
    onSignal("SIGUSR2", () => handled.putNowait(1));
    spawn(async () => {
      await send("SIGUSR1");
      second[Symbol.dispose]();
      await send("SIGUSR1");
      await send("SIGUSR2");
      await job.kill();
      console.log("end");
    }).name = "sender";
    `,
    () => {},
    ["--no-check"],
  );
  const info = [
    "main runs",
    '├─ <Greenlet "job": sleep> waits in sleep(1000000000)',
    '└─ <Greenlet "sender"> waits in Queue.get()',
  ];
  assertEquals(err.trimEnd().split("\n"), [
    ...[...info, ...info, "--"],
    ...[...info, "--"],
    ...[...info, "--"],
  ]);
  assertEquals([out, code], [["end"], 0]);
});
