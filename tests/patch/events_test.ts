import { assert, assertEquals } from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import childProcess from "node:child_process";
import { EventEmitter } from "node:events";
import process from "node:process";
import {
  MessageChannel as NodeMessageChannel,
  Worker as NodeWorker,
} from "node:worker_threads";
import { getCurrent, getHub, patch, sleep, spawn } from "../../mod.ts";
import { settle } from "../_bodies.ts";
import { when } from "../_waits.ts";

/** Each object with messages of a server, and the call that closes it. */
interface Source extends EventTarget {
  close(): void;
}

/** Sends two messages, some time apart. */
function serve(): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request) => {
      if (request.headers.get("upgrade") !== "websocket") {
        let timer: ReturnType<typeof setTimeout> | undefined;
        const events = new ReadableStream({
          start(controller) {
            controller.enqueue("data: one\n\n");
            timer = setTimeout(() => controller.enqueue("data: two\n\n"), 5);
          },
          cancel: () => clearTimeout(timer),
        });
        return new Response(events.pipeThrough(new TextEncoderStream()), {
          headers: { "content-type": "text/event-stream" },
        });
      }
      const { socket, response } = Deno.upgradeWebSocket(request);
      socket.onopen = () => {
        socket.send("one");
        setTimeout(() => socket.readyState === 1 && socket.send("two"), 5);
      };
      return response;
    },
  );
}

function closed(source: Source): Promise<unknown> {
  if (source instanceof WebSocket) {
    return new Promise((resolve) => source.addEventListener("close", resolve));
  }
  return Promise.resolve();
}

const sources: Record<string, (address: string) => Source> = {
  WebSocket: (address) => new WebSocket(`ws://${address}`),
  EventSource: (address) => new EventSource(`http://${address}`),
};

for (const [name, open] of Object.entries(sources)) {
  Deno.test(`${name} that a killed greenlet has opened calls the listeners of its messages, which may wait`, async () => {
    using _ = patch();
    await using server = serve();
    const { hostname, port } = server.addr;
    const messages: string[] = [];
    const current: unknown[] = [];
    const both = Promise.withResolvers<void>();
    let source!: Source;
    const opener = spawn(async () => {
      source = open(`${hostname}:${port}`);
      source.addEventListener("message", async (event) => {
        current.push(getCurrent());
        await sleep(1);
        current.push(getCurrent());
        messages.push((event as MessageEvent<string>).data);
        if (messages.length === 2) both.resolve();
      });
      await sleep(1e9);
    });
    await sleep(0);
    await opener.kill();
    await both.promise;
    const end = closed(source);
    source.close();
    await end;
    assertEquals(messages, ["one", "two"]);
    assertEquals(current, Array(4).fill(getHub()));
  });

  Deno.test(`${name} looks the same under patch() to a program that inspects it`, () => {
    const original = Reflect.get(globalThis, name);
    {
      using _ = patch();
      const patched = Reflect.get(globalThis, name);
      assertEquals(patched.name, name);
      assertEquals(patched.length, original.length);
      assertEquals(patched.CLOSED, original.CLOSED);
      assert(patched.prototype === original.prototype);
      assert(patched.prototype.constructor === patched);
      assert(Object.create(patched.prototype) instanceof original);
    }
    assert(Reflect.get(globalThis, name) === original);
    assert(original.prototype.constructor === original);
  });
}

/** The listeners that a source was given, and what became of their waits. */
class Heard {
  readonly #told = new Map<string, PromiseWithResolvers<string>>();
  /** When the first of them is called. */
  readonly first: PromiseWithResolvers<void> = Promise.withResolvers();

  /** Makes a listener that waits as code does that knows nothing of greenlets. */
  by(name: string): () => Promise<void> {
    const told = Promise.withResolvers<string>();
    this.#told.set(name, told);
    return async () => {
      const current = getCurrent();
      this.first.resolve();
      try {
        await new Promise((resolve) => setTimeout(resolve, 2));
        const isOutside = current === getHub() && getCurrent() === getHub();
        told.resolve(isOutside ? "outside" : `in ${current}`);
      } catch (error) {
        told.resolve(`${error}`);
      }
    };
  }

  /** Fails unless all listeners are called, outside greenlets. */
  async allOutside(): Promise<void> {
    for (const [name, { promise }] of this.#told) {
      assertEquals(await promise, "outside", name);
    }
  }
}

/** An object with events. */
interface Told {
  /** Sets it up, with its listeners. */
  setUp(heard: Heard): unknown;
  /** Has it tell them. */
  // deno-lint-ignore no-explicit-any -- what `setUp` gives
  cause?(source: any): unknown;
  /** Lets go of it. */
  // deno-lint-ignore no-explicit-any -- what `setUp` gives
  end?(source: any): unknown;
}

function script(code: string): string {
  return URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
}

function closeBoth({ port1, port2 }: MessageChannel): void {
  port1.close();
  port2.close();
}

function postBoth({ port1, port2 }: MessageChannel): void {
  port1.postMessage("one");
  port2.postMessage("two");
}

const directory = Deno.makeTempDirSync();
const forked = `${directory}/forked.mjs`;
Deno.writeTextFileSync(
  forked,
  `process.on("message", (it) => process.send(it, () => process.disconnect()));`,
);
addEventListener(
  "unload",
  () => Deno.removeSync(directory, { recursive: true }),
);

const told: Record<string, Told> = {
  Worker: {
    setUp(heard) {
      const url = script(`onmessage = () => postMessage("answer");`);
      const worker = new Worker(url, { type: "module" });
      worker.onmessage = heard.by("onmessage");
      worker.addEventListener("message", heard.by("message"));
      return worker;
    },
    cause: (worker) => worker.postMessage("question"),
    end: (worker) => worker.terminate(),
  },
  "Worker of node:worker_threads": {
    setUp(heard) {
      const worker = new NodeWorker(
        `require("node:worker_threads").parentPort.once("message", function () {
          this.postMessage("answer");
          // Under --coverage no worker ends by itself.
          process.exit();
        });`,
        { eval: true },
      );
      for (const name of ["online", "message", "exit"]) {
        worker.on(name, heard.by(name));
      }
      return worker;
    },
    cause: (worker) => worker.postMessage("question"),
    end: (worker) => worker.terminate(),
  },
  MessagePort: {
    setUp(heard) {
      const channel = new MessageChannel();
      channel.port1.onmessage = heard.by("onmessage");
      channel.port2.addEventListener("message", heard.by("message"));
      channel.port2.start();
      return channel;
    },
    cause: postBoth,
    end: closeBoth,
  },
  "MessagePort of node:worker_threads": {
    setUp(heard) {
      const channel = new NodeMessageChannel();
      channel.port1.on("message", heard.by("message"));
      channel.port2.once("message", heard.by("message, once"));
      return channel;
    },
    cause: postBoth as unknown as () => void,
    end: closeBoth as unknown as () => void,
  },
  "BroadcastChannel to which it posts": {
    setUp(heard) {
      const channels = [1, 2].map(() => new BroadcastChannel("events"));
      channels[0]!.onmessage = heard.by("onmessage");
      channels[1]!.postMessage("hello");
      return channels;
    },
    end: (channels) => channels.forEach((it: BroadcastChannel) => it.close()),
  },
  "Deno.addSignalListener()": {
    setUp(heard) {
      const listener = heard.by("SIGUSR2");
      Deno.addSignalListener("SIGUSR2", listener);
      return listener;
    },
    cause: () => Deno.kill(Deno.pid, "SIGUSR2"),
    end: (listener) => Deno.removeSignalListener("SIGUSR2", listener),
  },
  'process.on("SIGUSR2")': {
    setUp(heard) {
      const listener = heard.by("on");
      process.on("SIGUSR2", listener);
      process.once("SIGUSR2", heard.by("once"));
      return listener;
    },
    cause: () => Deno.kill(Deno.pid, "SIGUSR2"),
    end: (listener) => process.off("SIGUSR2", listener),
  },
  "spawn() of node:child_process": {
    setUp(heard) {
      const child = childProcess.spawn("sh", [
        "-c",
        "read x; echo $x; echo $x >&2",
      ]);
      for (const name of ["spawn", "exit", "close"]) {
        child.on(name, heard.by(name));
      }
      for (const name of ["stdout", "stderr"] as const) {
        for (const event of ["data", "end", "close"]) {
          child[name].on(event, heard.by(`${name} ${event}`));
        }
      }
      for (const event of ["finish", "close"]) {
        child.stdin.on(event, heard.by(`stdin ${event}`));
      }
      return child;
    },
    cause: (child) => child.stdin.end("x\n"),
  },
  "spawn() of node:child_process that it ends": {
    setUp(heard) {
      const child = childProcess.spawn("sleep", ["60"]);
      child.on("exit", heard.by("exit"));
      child.on("close", heard.by("close"));
      for (const name of ["stdin", "stdout", "stderr"] as const) {
        child[name].on("close", heard.by(`${name} close`));
      }
      child.kill();
    },
  },
  "spawn() of node:child_process that fails": {
    setUp(heard) {
      const child = childProcess.spawn(`${directory}/none`);
      child.on("error", heard.by("error"));
      child.on("close", heard.by("close"));
      child.stdout.on("close", heard.by("stdout close"));
    },
  },
  "spawn() of node:child_process that it aborts": {
    setUp(heard) {
      const abort = new AbortController();
      const { signal } = abort;
      const child = childProcess.spawn("sleep", ["60"], { signal });
      child.on("error", heard.by("error"));
      child.on("exit", heard.by("exit"));
      abort.abort();
    },
  },
  "exec() of node:child_process": {
    setUp(heard) {
      return childProcess.exec("read x", heard.by("callback"));
    },
    cause: (child) => child.stdin.end("x\n"),
  },
  "execFile() of node:child_process": {
    setUp(heard) {
      return childProcess.execFile("cat", heard.by("callback"));
    },
    cause: (child) => child.stdin.end("x\n"),
  },
  "fork() of node:child_process": {
    setUp(heard) {
      const child = childProcess.fork(forked, { execArgv: [] });
      for (const name of ["spawn", "message", "disconnect", "exit", "close"]) {
        child.on(name, heard.by(name));
      }
      return child;
    },
    cause: (child) => child.send("question"),
  },
};

for (const [name, { setUp, cause, end: letGo }] of Object.entries(told)) {
  for (const end of ["was killed", "is killed then"]) {
    Deno.test(`${name} tells of events outside greenlets, when the greenlet that has set it up ${end}`, async () => {
      // The children are to outlive their greenlet.
      using _ = patch({ process: { killChildren: false } });
      // A listener of signals does not keep the process alive.
      const awake = setInterval(() => {}, 1000);
      const heard = new Heard();
      let source: unknown;
      const owner = spawn(async () => {
        source = setUp(heard);
        await sleep(1e9);
      });
      await sleep(0);
      if (end === "was killed") await owner.kill();
      await cause?.(source);
      await heard.first.promise;
      await owner.kill();
      await heard.allOutside();
      await letGo?.(source);
      clearInterval(awake);
    });
  }
}

Deno.test("Deno.addSignalListener() takes a listener for several signals, and Deno.removeSignalListener() knows it", async () => {
  using _ = patch();
  const awake = setInterval(() => {}, 1000);
  let calls = 0;
  let called = Promise.withResolvers<void>();
  const listener = () => {
    calls++;
    called.resolve();
  };
  let others = 0;
  const other = () => void others++;
  Deno.addSignalListener("SIGUSR2", other); // The process would end of it
  for (const signal of ["SIGUSR2", "SIGWINCH"] as const) {
    await spawn(() => Deno.addSignalListener(signal, listener)).get();
  }
  for (const signal of ["SIGUSR2", "SIGWINCH"] as const) {
    called = Promise.withResolvers();
    Deno.kill(Deno.pid, signal);
    await called.promise;
    Deno.removeSignalListener(signal, listener);
  }
  await when(() => others === 1);
  Deno.kill(Deno.pid, "SIGUSR2");
  await when(() => others === 2);
  await settle();
  Deno.removeSignalListener("SIGUSR2", other);
  clearInterval(awake);
  assertEquals(calls, 2);
});

Deno.test("EventTarget and EventEmitter of the program's own call listeners where an event is dispatched", async () => {
  using _ = patch();
  // Not the runtime's, for all that it is called
  class ChildProcess extends EventEmitter {
    spawn(): unknown {
      return getCurrent();
    }
  }
  class Channel extends EventTarget {}
  const current: unknown[] = [];
  const listener = () => current.push(getCurrent());
  const child = new ChildProcess();
  child.on("event", listener);
  const channel = new Channel();
  channel.addEventListener("event", listener);
  const greenlet = spawn(() => {
    child.emit("event");
    channel.dispatchEvent(new Event("event"));
    current.push(child.spawn());
  });
  await greenlet.join();
  assertEquals(current, [greenlet, greenlet, greenlet]);
});

Deno.test("Listeners are called in the context of other storages, as unpatched", async () => {
  const storage = new AsyncLocalStorage<string>();
  async function contexts(): Promise<(string | undefined)[]> {
    const { port1, port2 } = new MessageChannel();
    const message = new Promise<string | undefined>((resolve) => {
      storage.run("port", () => {
        port1.onmessage = () => resolve(storage.getStore());
      });
    });
    port2.postMessage("hello");
    const child = storage.run("child", () => childProcess.spawn("true"));
    const exit = new Promise<string | undefined>((resolve) => {
      child.on("close", () => resolve(storage.getStore()));
    });
    const told = [await message, await exit];
    port1.close();
    return told;
  }
  const unpatched = await contexts();
  assertEquals(unpatched, ["port", "child"]);
  using _ = patch();
  assertEquals(await contexts(), unpatched);
  assertEquals(await spawn(contexts).get(), unpatched);
});

Deno.test("Objects with events look as before under patch(), and are put back", async () => {
  const methods: [object, string][] = [
    [Worker.prototype, "dispatchEvent"],
    [MessagePort.prototype, "dispatchEvent"],
    [BroadcastChannel.prototype, "dispatchEvent"],
    [Deno, "addSignalListener"],
    [NodeWorker.prototype, "emit"],
    [childProcess.ChildProcess.prototype, "emit"],
    [childProcess.ChildProcess.prototype, "spawn"],
  ];
  const now = () =>
    methods.map(([object, name]) =>
      Object.getOwnPropertyDescriptor(object, name)
    );
  const look = () =>
    methods.map(([object, name]) => {
      const method = Reflect.get(object, name);
      return [method.name, method.length];
    });
  const makeAll = async () => {
    const child = childProcess.spawn("true");
    const worker = new NodeWorker("process.exit()", { eval: true });
    await Promise.all(
      [child, worker].map((it) =>
        new Promise((resolve) => it.once("exit", resolve))
      ),
    );
  };
  const before = now();
  const looks = look();
  {
    using _ = patch();
    await makeAll();
    assert(now().every((it, i) => it?.value !== before[i]?.value));
    assertEquals(look(), looks);
    const { port1 } = new MessageChannel();
    assert(port1.constructor === MessagePort);
    assert(port1.dispatchEvent(new Event("event")));
    port1.close();
  }
  assertEquals(now(), before);
  {
    using _ = patch({ websocket: false, process: false });
    await makeAll();
    assertEquals(now(), before);
  }
});
