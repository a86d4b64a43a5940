/**
 * `LoopExit` where operations of the runtime are left that end no wait: those of calls that were
 * interrupted, and the library's own. And where something waits for them again.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { outcomesOf } from "./_outcomes.ts";

const LISTEN = `Deno.listen({ hostname: "127.0.0.1", port: 0 })`;
const PAIR = `
  const listener = ${LISTEN};
  const [conn, peer] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }),
    listener.accept(),
  ]);`;

/** What an interrupt leaves behind, and the call that waits for it again. */
const LEFT: Record<string, { make: string; call: string }> = {
  "a read of a connection": {
    make: PAIR,
    call: `conn.read(new Uint8Array(10))`,
  },
  "a read of a readable": {
    make: `${PAIR} const reader = conn.readable.getReader();`,
    call: `reader.read()`,
  },
  "an accept()": {
    make: `const listener = ${LISTEN};`,
    call: `listener.accept()`,
  },
  "a recv() of a Socket": {
    make: `
      const listener = listen({ hostname: "127.0.0.1", port: 0 });
      const conn = await connect({ hostname: "127.0.0.1", port: listener.addr.port });`,
    call: `conn.recv()`,
  },
  "an accept() of a Listener": {
    make: `const listener = listen({ hostname: "127.0.0.1", port: 0 });`,
    call: `listener.accept()`,
  },
  "a read of a FIFO": {
    make: `
      const path = Deno.makeTempDirSync() + "/fifo";
      new Deno.Command("mkfifo", { args: [path] }).outputSync();
      const fifo = Deno.openSync(path, { read: true, write: true });
      Deno.removeSync(path);`,
    call: `fifo.read(new Uint8Array(10))`,
  },
  "a write that the peer does not read": {
    make: PAIR,
    call:
      `(async () => { for (;;) await conn.write(new Uint8Array(2 ** 20)); })()`,
  },
};

Deno.test("LoopExit comes to a program in which interrupted calls have left operations behind", async () => {
  const programs = Object.entries(LEFT).map(([name, { make, call }]) =>
    `await tell(${JSON.stringify(name)}, () => run(async function main() {
      ${make}
      try {
        await withTimeout(20, () => ${call});
      } catch {}
      await new Event().wait();
    }));`
  );
  const outcomes = await outcomesOf(`void GreenletTree;
patch();\n${programs.join("\n")}\nDeno.exit();`);
  assertEquals(outcomes.map(([name]) => name), Object.keys(LEFT));
  for (const [name, isExit, message] of outcomes) {
    assert(isExit, `${name}: ${message}`);
    assertMatch(message, /main> waits in Event\.wait\(\)/, name);
  }
});

/** What of the library's own looks to the runtime as if it might still end a wait. */
const OWN: Record<string, string> = {
  "patch()": "",
  "monitor()": "using _ = monitor();",
  "monitor() and printRunInfoOn()":
    `using one = monitor(); using other = printRunInfoOn("SIGUSR1");`,
  "startTrace()": "startTrace();",
  "trackSpawns()": "using _ = trackSpawns();",
  "assertSwitches()": "using _ = assertSwitches({ maxBlocking: 60_000 });",
};

Deno.test("LoopExit comes to a program that looks on at itself, in run() and at its top level", async () => {
  const programs = Object.entries(OWN).flatMap(([name, begin]) => [
    `await tell(${JSON.stringify(`${name} in run()`)}, async () => {
      ${begin}
      await run(async () => { await new Event().wait(); });
    });`,
    `await tell(${JSON.stringify(name)}, async () => {
      ${begin.replace("startTrace();", "")}
      await new Event().wait();
    });`,
  ]);
  const outcomes = await outcomesOf(`void GreenletTree;
patch();\n${programs.join("\n")}\nDeno.exit();`);
  assertEquals(outcomes.length, 2 * Object.keys(OWN).length);
  for (const [name, isExit, message] of outcomes) {
    assert(isExit, `${name}: ${message}`);
  }
});

Deno.test("LoopExit does not come while an operation is left and an accept() was interrupted", async () => {
  const outcomes = await outcomesOf(`
    void GreenletTree;
    const child = () => new Deno.Command("sleep", {
      args: ["0.6"], stdin: "null", stdout: "null", stderr: "null",
    }).spawn();
    const interrupted = async (listener) => {
      try {
        await withTimeout(20, () => listener.accept());
      } catch {}
    };
    await tell("of the runtime", () => run(async () => {
      await interrupted(listen({ hostname: "127.0.0.1", port: 0 }));
      await child().status;
    }));
    await tell("of the program", () => run(async () => {
      await interrupted(new SocketListener({
        addr: { transport: "tcp", hostname: "127.0.0.1", port: 1 },
        accept: () => new Promise(() => {}),
        close() {},
        ref() {},
        unref() {},
      }));
      await child().status;
    }));
    Deno.exit();`);
  assertEquals(outcomes, [
    ["of the runtime", false, "undefined"],
    ["of the program", false, "undefined"],
  ]);
});

Deno.test("LoopExit does not come where a greenlet waits again for what an interrupt has left", async () => {
  const outcomes = await outcomesOf(`
    void GreenletTree;
    patch();
    // No child of this process, which would be something that may end.
    const later = (command) => new Deno.Command("bash", {
      args: ["-c", "(sleep 0.6; " + command + ") &"],
      stdin: "null", stdout: "null", stderr: "null",
    }).outputSync();
    const interrupted = async (call) => {
      try {
        await withTimeout(20, call);
      } catch {}
    };
    const goesOn = (name, program) => tell(name, () => run(program));

    await goesOn("accept() and read()", async () => {
      const listener = ${LISTEN};
      const accept = () => listener.accept();
      await interrupted(accept);
      later("exec 3<>/dev/tcp/127.0.0.1/" + listener.addr.port + "; sleep 0.6; echo x >&3");
      const conn = await accept();
      const read = () => conn.read(new Uint8Array(10));
      await interrupted(read);
      await read();
    });
    await goesOn("read of a FIFO", async () => {
      ${LEFT["a read of a FIFO"]!.make.replace("Deno.removeSync(path);", "")}
      const read = () => fifo.read(new Uint8Array(10));
      await interrupted(read);
      later("echo x > " + path);
      await read();
      Deno.removeSync(path);
    });
    await goesOn("write", async () => {
      const listener = ${LISTEN};
      later("exec 3<>/dev/tcp/127.0.0.1/" + listener.addr.port + "; sleep 0.6; cat <&3");
      const conn = await listener.accept();
      await interrupted(async () => {
        for (;;) await conn.write(new Uint8Array(2 ** 20));
      });
      await conn.write(new Uint8Array(1));
    });
    await goesOn("accept() and recv() of this library", async () => {
      const listener = listen({ hostname: "127.0.0.1", port: 0 });
      const accept = () => listener.accept();
      await interrupted(accept);
      later("exec 3<>/dev/tcp/127.0.0.1/" + listener.addr.port + "; sleep 0.6; echo x >&3");
      const conn = await accept();
      const recv = () => conn.recv();
      await interrupted(recv);
      await recv();
    });
    Deno.exit();`);
  assertEquals(outcomes.length, 4);
  for (const [name, , error] of outcomes) {
    assertEquals(error, "undefined", name);
  }
});
