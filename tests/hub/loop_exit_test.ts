/**
 * `LoopExit`: programs that nothing can end any more end with it, and programs that only look
 * stuck go on.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { runScript } from "../_bodies.ts";
import { inParallel } from "../_processes.ts";
import { outcomesOf } from "./_outcomes.ts";

const FLAGS = ["--no-check"];

/**
 * Programs that nothing can end, and what the message says of each. They are in one process: the
 * next begins when the one before has ended.
 */
const STUCK: Record<string, { async: string; says: RegExp }> = {
  "of two Locks": {
    async: `
      const [one, two] = [new Lock(), new Lock()];
      const take = async function take(first, second) {
        await first.acquire();
        await sleep(1);
        await second.acquire();
      };
      const rose = spawn(take, one, two);
      const jack = spawn(take, two, one);
      rose.name = "rose";
      jack.name = "jack";
      await rose.join();`,
    says:
      /"rose": take> waits in Lock\.acquire\(\), held by <Greenlet "jack": take> \(deadlock\)\n.*"jack": take> waits in Lock\.acquire\(\), held by <Greenlet "rose": take> \(deadlock\)/,
  },
  "of two RLocks": {
    async: `
      const [one, two] = [new RLock(), new RLock()];
      const take = async function take(first, second) {
        await first.acquire();
        await sleep(1);
        await second.acquire();
      };
      await joinAll([spawn(take, one, two), spawn(take, two, one)]);`,
    says: /RLock\.acquire\(\), held by <Greenlet "Greenlet-\d+": take> \(dead/,
  },
  "in get() of an empty Queue": {
    async: `await new Queue().get();`,
    says: /"Greenlet-\d+": main> waits in Queue\.get\(\)/,
  },
  "in put() into a full Queue": {
    async: `
      const queue = new Queue(1);
      await queue.put(1);
      await queue.put(2);`,
    says: /main> waits in Queue\.put\(\)/,
  },
  "of a circle of joins": {
    async: `
      const all = [];
      for (let i = 0; i < 3; i++) {
        const next = (i + 1) % 3;
        const one = spawn(async function turn() {
          await sleep(1);
          await all[next].join();
        });
        one.name = "g" + i;
        all.push(one);
      }
      await all[0].get();`,
    says: /"g0": turn> waits in join of <Greenlet "g1": turn> \(deadlock\)/,
  },
  "in an Event that nothing sets": {
    async: `await new Event().wait();`,
    says: /main> waits in Event\.wait\(\)/,
  },
  "in a Channel": {
    async: `await new Channel().get();`,
    says: /main> waits in Channel\.get\(\)/,
  },
  "in a select()": {
    async: `
      const queue = new Queue();
      const event = new Event();
      await select({ a: () => queue.get(), b: () => event.wait() });`,
    says: /main> waits in select/,
  },
  "in a nursery": {
    async: `
      await nursery(async (all) => {
        all.spawn(() => new Event().wait());
      });`,
    says: /waits in Event\.wait\(\)/,
  },
  "in withTimeout(Infinity)": {
    async: `await withTimeout(Infinity, () => new Event().wait());`,
    says: /waits in Event\.wait\(\)/,
  },
  "after a timeout that was cleared": {
    async: `
      await withTimeout(60_000, () => sleep(1));
      await new Event().wait();`,
    says: /waits in Event\.wait\(\)/,
  },
  "in a foreign promise": {
    async: `await new Promise(() => {});`,
    says: /waits in a foreign promise/,
  },
};

const AWAIT = /\bawait /g;

/** The same programs in a generator, but for the foreign promise, for which it has no call. */
function inGenerator(program: string): string {
  return program.replaceAll(/async (function \w+)/g, "$1")
    .replaceAll(/(?<!async )\bfunction (\w+)/g, "function* $1")
    .replaceAll("async (all) => {", "function* (all) {")
    .replaceAll(AWAIT, "yield* ");
}

async function outcomes(
  script: string,
): Promise<Map<string, [boolean, string]>> {
  const all = await outcomesOf(script);
  return new Map(all.map(([name, isExit, error]) => [name, [isExit, error]]));
}

Deno.test("LoopExit ends programs that nothing can end", async () => {
  const kinds = ["async", "generator", "top"] as const;
  const scripts = kinds.map((kind) =>
    Object.entries(STUCK).map(([name, { async: program }]) => {
      if (kind === "generator") {
        if (name === "in a foreign promise") return "";
        const body = inGenerator(program);
        return `await tell(${
          JSON.stringify(name)
        }, () => run(function* main() { ${body} }));`;
      }
      if (kind === "async") {
        return `await tell(${
          JSON.stringify(name)
        }, () => run(async function main() { ${program} }));`;
      }
      return name === "in a foreign promise"
        ? ""
        : `await tell(${JSON.stringify(name)}, async () => { ${program} });`;
      // With GreenletTree loaded, the message is the tree.
    }).join("\n") + "\nvoid GreenletTree;"
  );
  const results = await inParallel(scripts, outcomes);
  for (const [i, kind] of kinds.entries()) {
    for (const [name, { says }] of Object.entries(STUCK)) {
      if (kind !== "async" && name === "in a foreign promise") continue;
      const [isExit, text] = results[i]!.get(name) ?? [false, "no outcome"];
      assert(isExit, `${name}, ${kind}: ${text}`);
      // On a slow machine the lines tell how long the greenlets have waited.
      const message = text.replace(/ for up to \d+ s/g, "");
      // At the top level, main itself waits.
      const said = kind === "top"
        ? new RegExp(says.source.replace('"Greenlet-\\d+": main>', "main"))
        : says;
      if (!String(said).includes("main>") || kind !== "top") {
        assertMatch(message, said, `${name}, ${kind}`);
      }
    }
  }
});

Deno.test("LoopExit is printed, and ends the process with the exit code 1", async () => {
  const ends = [
    `await run(() => new Event().wait());`,
    `await new Event().wait();`,
    `run(() => new Event().wait());`,
    `(async () => { await run(() => new Promise(() => {})); })();`,
    // Main awaits a promise that it can't be thrown into, beside a wait.
    `new Event().wait(); await new Promise(() => {});`,
  ];
  const outputs = await inParallel(
    ends,
    (script) => runScript(script, undefined, FLAGS),
  );
  for (const [i, { err, code }] of outputs.entries()) {
    assertEquals(code, 1, ends[i]);
    assertMatch(err, /LoopExit: .*:\nmain waits in /, ends[i]);
  }
});

Deno.test("LoopExit does not come to a program that waits in the background as it ends", async () => {
  const { out, err, code } = await runScript(
    `new Event().wait(); console.log("end");`,
    undefined,
    FLAGS,
  );
  assertEquals([out, err, code], [["end"], "", 0]);
});

Deno.test("LoopExit runs what has to be cleaned up, and may be caught", async () => {
  const { out, err, code } = await runScript(
    `
    console.log(await run(async () => {
      spawn(async () => {
        try {
          await new Event().wait();
        } finally {
          await sleep(1);
          console.log("other");
        }
      });
      try {
        await new Event().wait();
      } catch (error) {
        await sleep(1);
        console.log(error.name);
      }
      try {
        await new Event().wait();
      } catch (error) {
        console.log(error.name);
      }
      return "result";
    }));
    `,
    undefined,
    FLAGS,
  );
  assertEquals(
    [out, err, code],
    [["LoopExit", "LoopExit", "other", "result"], "", 0],
  );
});

/**
 * Programs that look stuck until something comes from outside or from elsewhere. \`later(command)\`
 * has a process run a command of the shell after a while, which is no child of this process;
 * `slow` is the address of a server that answers after a while, in another process.
 */
const GO_ON: Record<string, string> = {
  "setTimeout()": `setTimeout(() => event.set(), 600); await event.wait();`,
  "setInterval()": `
    let n = 0;
    const id = setInterval(() => ++n === 4 && event.set(), 150);
    await event.wait();
    clearInterval(id);`,
  "a timer that keeps no process alive": `
    Deno.unrefTimer(setTimeout(() => event.set(), 600)); await event.wait();`,
  "a timer of Node": `
    (await import("node:timers")).setTimeout(() => event.set(), 600).unref();
    await event.wait();`,
  "setImmediate() again and again": `
    const { setImmediate } = await import("node:timers");
    const end = Date.now() + 400;
    const look = () => Date.now() < end ? setImmediate(look) : event.set();
    look();
    await event.wait();`,
  "sleep() of another greenlet": `
    spawn(async () => { await sleep(600); event.set(); }); await event.wait();`,
  "spawnLater()": `spawnLater(600, () => event.set()); await event.wait();`,
  "a timeout of the wait": `await event.wait({ timeout: 600 });`,
  "a Timeout": `
    try { await withTimeout(600, () => new Queue().get()); } catch {}`,
  "AbortSignal.timeout()": `
    AbortSignal.timeout(600).addEventListener("abort", () => event.set());
    await event.wait();`,
  "a greenlet that a signal aborts": `
    await abortedBy(AbortSignal.timeout(600), spawn(() => event.wait())).join();`,
  "accept()": `
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    later("exec 3<>/dev/tcp/127.0.0.1/" + listener.addr.port);
    (await listener.accept()).close();
    listener.close();`,
  "accept() in another greenlet": `
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    later("exec 3<>/dev/tcp/127.0.0.1/" + listener.addr.port);
    spawn(async () => { (await listener.accept()).close(); event.set(); });
    await event.wait();
    listener.close();`,
  "a read of a connection": `
    using conn = await Deno.connect({ hostname: "127.0.0.1", port: slow.port });
    await conn.write(new TextEncoder().encode("GET / HTTP/1.0\\r\\n\\r\\n"));
    await conn.read(new Uint8Array(10));`,
  "recv() of a Socket": `
    using socket = await connect({ hostname: "127.0.0.1", port: slow.port });
    await socket.sendAll("GET / HTTP/1.0\\r\\n\\r\\n");
    await socket.recv();`,
  "fetch()": `await (await fetch(slow)).text();`,
  "fetch() whose end sets an Event": `
    fetch(slow).then((response) => response.text()).then(() => event.set());
    await event.wait();`,
  "a WebSocket": `
    const ws = new WebSocket("ws://127.0.0.1:" + slow.port);
    ws.onmessage = () => event.set();
    await event.wait();
    ws.close();`,
  "a StreamServer": `
    await using server = new StreamServer({ hostname: "127.0.0.1", port: 0 }, () => {
      event.set();
    });
    server.start();
    later("exec 3<>/dev/tcp/127.0.0.1/" + server.address.port);
    await event.wait();`,
  "Deno.serve()": `
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, () => {
      event.set();
      return new Response();
    });
    later("exec 3<>/dev/tcp/127.0.0.1/" + server.addr.port +
      "; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 > /dev/null");
    await event.wait();
    await server.shutdown();`,
  "a server of node:net": `
    const server = (await import("node:net")).createServer((socket) => {
      socket.destroy();
      event.set();
    });
    server.listen(0, "127.0.0.1", () =>
      later("exec 3<>/dev/tcp/127.0.0.1/" + server.address().port));
    await event.wait();
    server.close();`,
  "a socket of node:net": `
    const socket = (await import("node:net")).connect(Number(slow.port), "127.0.0.1");
    socket.write("GET / HTTP/1.0\\r\\n\\r\\n");
    socket.on("data", () => event.set());
    await event.wait();
    socket.destroy();`,
  "a request of node:http": `
    (await import("node:http")).get(slow, (response) =>
      response.resume().on("end", () => event.set()));
    await event.wait();`,
  "a child process": `
    await new Deno.Command("sleep", { args: ["0.6"] }).spawn().status;`,
  "a child that keeps no process alive": `
    const child = new Deno.Command("sleep", { args: ["0.6"] }).spawn();
    child.unref();
    child.status.then(() => event.set());
    await event.wait();`,
  "subprocess.run()": `
    spawn(async () => { await subprocess.run("sleep", ["0.6"]); event.set(); });
    await event.wait();`,
  "a child of node:child_process": `
    (await import("node:child_process")).exec("sleep 0.6", () => event.set());
    await event.wait();`,
  "onSignal()": `
    using _ = onSignal("SIGUSR1", () => event.set());
    later("kill -USR1 " + Deno.pid);
    await event.wait();`,
  "a signal listener of the runtime": `
    const listener = () => event.set();
    Deno.addSignalListener("SIGUSR2", listener);
    later("kill -USR2 " + Deno.pid);
    await event.wait();
    Deno.removeSignalListener("SIGUSR2", listener);`,
  "a Worker": `
    const worker = new Worker("data:text/javascript," +
      encodeURIComponent("setTimeout(() => postMessage(1), 600)"), { type: "module" });
    worker.onmessage = () => event.set();
    await event.wait();
    worker.terminate();`,
  "a BroadcastChannel": `
    const channel = new BroadcastChannel("c");
    channel.onmessage = () => event.set();
    const worker = new Worker("data:text/javascript," + encodeURIComponent(
      "setTimeout(() => new BroadcastChannel('c').postMessage(1), 600)"), { type: "module" });
    await event.wait();
    channel.close();
    worker.terminate();`,
  "a read of a FIFO": `
    const fifo = folder + "/fifo";
    new Deno.Command("mkfifo", { args: [fifo] }).outputSync();
    later("echo x > " + fifo);
    Deno.readTextFile(fifo).then(() => event.set());
    await event.wait();`,
  "Deno.watchFs()": `
    const watcher = Deno.watchFs(folder);
    later("touch " + folder + "/new");
    for await (const _ of watcher) break;`,
  "a module that is being loaded": `
    import(slow + "a.js").then(() => event.set());
    await event.wait();`,
  "a module that awaits at its top level": `
    import("data:text/javascript," +
      encodeURIComponent("await new Promise((r) => setTimeout(r, 600))"))
      .then(() => event.set());
    await event.wait();`,
  "a lock of navigator.locks": `
    const worker = new Worker("data:text/javascript," + encodeURIComponent(
      "navigator.locks.request('l', () => new Promise((r) => { postMessage(1);" +
      "setTimeout(r, 600); }))"), { type: "module" });
    await new Promise((resolve) => worker.onmessage = resolve);
    await navigator.locks.request("l", () => {});
    worker.terminate();`,
};

/** What the programs need, of which this process has the server. */
const outside = (port: number) => `
  const folder = Deno.makeTempDirSync();
  const later = (command) => new Deno.Command("bash", {
    args: ["-c", "(sleep 0.6; " + command + ") &"],
    stdout: "null", stderr: "null", stdin: "null",
  }).outputSync();
  const slow = new URL("http://127.0.0.1:${port}/");
  const end = () => Deno.removeSync(folder, { recursive: true });
`;

/**
 * Answers after a while: with a module, or with a message of a WebSocket.
 *
 * @param closings Gets a promise that settles when the WebSocket is closed.
 */
async function answer(
  request: Request,
  closings: Promise<unknown>[],
): Promise<Response> {
  const pause = () => new Promise((resolve) => setTimeout(resolve, 600));
  if (request.headers.get("upgrade") === "websocket") {
    const { socket, response } = Deno.upgradeWebSocket(request);
    closings.push(new Promise((resolve) => socket.onclose = resolve));
    socket.onopen = async () => {
      await pause();
      socket.send("x");
    };
    return response;
  }
  await pause();
  const headers = { "content-type": "text/javascript" };
  return new Response("export {};", { headers });
}

for (const head of ["", "patch();"]) {
  const where = head === "" ? "" : ", with patch()";
  Deno.test(`LoopExit never comes to a program that only looks stuck${where}`, () =>
    goOn(head));
}

async function goOn(begin: string): Promise<void> {
  const names = Object.keys(GO_ON);
  const parts = [0, 1, 2].map((i) => names.filter((_, j) => j % 3 === i));
  const closings: Promise<unknown>[] = [];
  await using server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (request) => answer(request, closings),
  );
  const head = begin + outside(server.addr.port);
  const results = await inParallel(parts, async (part) => {
    const programs = part.map((name, i) => {
      const program = `const event = new Event(); ${GO_ON[name]}`;
      return `await tell(${JSON.stringify(name)}, ${
        // At the top level of the program, or in run().
        i % 2 === 0
          ? `() => run(async () => { ${program} })`
          : `async () => { ${program} }`});`;
    });
    const { out, err, code } = await runScript(
      `${head}
      const tell = async (name, program) => {
        try {
          await program();
          console.log(name);
        } catch (error) {
          console.log(name + ": " + error);
        }
      };
      ${programs.join("\n")}
      end();
      Deno.exit();`,
      undefined,
      FLAGS,
    );
    assertEquals(code, 0, err);
    return out;
  });
  for (const [i, part] of parts.entries()) assertEquals(results[i], part);
  await Promise.all(closings);
}
