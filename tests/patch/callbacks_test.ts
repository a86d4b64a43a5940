/**
 * Callbacks that a greenlet registers, and that the runtime calls later: they belong to no
 * greenlet, or have one of their own, whatever becomes of the greenlet that has registered
 * them.
 *
 * A callback that is called once with the outcome of the call that it was given to, as in
 * `fs.readFile(path, callback)`, or by `queueMicrotask()`, is none of these: it goes on
 * with that call, as the code after an `await` does.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { AsyncResource } from "node:async_hooks";
import childProcess from "node:child_process";
import crypto from "node:crypto";
import dgram from "node:dgram";
import diagnostics from "node:diagnostics_channel";
import dns from "node:dns";
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import net from "node:net";
import { PerformanceObserver as NodePerformanceObserver } from "node:perf_hooks";
import process from "node:process";
import readline from "node:readline";
import stream from "node:stream";
import {
  setImmediate as namedSetImmediate,
  setTimeout as namedSetTimeout,
} from "node:timers";
import tls from "node:tls";
import util from "node:util";
import {
  MessageChannel as NodeChannel,
  Worker as NodeWorker,
} from "node:worker_threads";
import zlib from "node:zlib";
import { WebSocket as WsClient, WebSocketServer } from "ws";
import {
  Event as Signal,
  getCurrent,
  type Greenlet,
  patch,
  sleep,
  spawn,
} from "../../mod.ts";
import { Failures, runScript } from "../_bodies.ts";
import { Uncaught } from "../_uncaught.ts";

// deno-lint-ignore no-explicit-any -- whatever it is called with, and gives
type Callback = (...args: any[]) => any;

/** The callbacks of one registration, and what became of their waits. */
class Calls {
  readonly #told = new Map<string, PromiseWithResolvers<string>>();
  /** When the first of them waits. */
  readonly begun = new Signal();
  /** The promise that they wait for. */
  readonly gate = new Signal();
  owner!: Greenlet<unknown>;
  /** The number of calls that wait: an interval and an observer make several. */
  #waiting = 0;

  /** Tells of some that will be made later, and have to be called. */
  expect(...names: string[]): void {
    for (const name of names) {
      if (!this.#told.has(name)) this.#told.set(name, Promise.withResolvers());
    }
  }

  /** Makes a callback that has to be called, and gives a result. */
  by(name: string, result?: (...args: never[]) => unknown): Callback {
    this.expect(name);
    const told = this.#told.get(name)!;
    return async (...args) => {
      const callers = [getCurrent()];
      this.begun.set();
      this.#waiting++;
      try {
        await this.gate.wait();
        await new Promise((resolve) => setTimeout(resolve, 1));
        callers.push(getCurrent());
        told.resolve(callers.includes(this.owner) ? "the owner's" : "apart");
      } catch (error) {
        told.resolve(String(error));
      } finally {
        this.#waiting--;
      }
      return result?.(...args as never[]);
    };
  }

  /** Fails unless all were called, outside the owner, and may wait. */
  async allApart(): Promise<void> {
    for (const [name, { promise }] of this.#told) {
      assertEquals(await promise, "apart", name);
    }
  }

  /** Waits until none of the calls waits. */
  async allEnded(): Promise<void> {
    while (this.#waiting > 0) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

/** Something that takes callbacks. */
interface Registration {
  /** Registers them, in a greenlet. */
  register(calls: Calls): unknown;
  /** Has them called, outside greenlets. */
  // deno-lint-ignore no-explicit-any -- what `register` gives
  cause?(source: any): unknown;
  /** Lets go of it. */
  // deno-lint-ignore no-explicit-any -- what `register` gives
  end?(source: any): unknown;
  /** True if errors and rejections are reported on purpose. */
  isTold?: boolean;
}

/** The locks of the web platform, which the types don't know. */
const { locks } = navigator as unknown as {
  locks: { request(name: string, callback: Callback): Promise<unknown> };
};
const local = { hostname: "127.0.0.1", port: 0 };
const directory = Deno.makeTempDirSync();
const file = `${directory}/file`;
Deno.writeTextFileSync(file, "text");
addEventListener(
  "unload",
  () => Deno.removeSync(directory, { recursive: true }),
);

const read = (name: string) =>
  Deno.readTextFileSync(new URL(`../tls/${name}`, import.meta.url));
const certificate = { key: read("localhost.key"), cert: read("localhost.pem") };
const ca = read("ca.pem");

function script(code: string): string {
  return URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
}

/** Waits for an event of `node:events`. */
function once(emitter: Pick<net.Server, "once">, event: string): Promise<void> {
  return new Promise((resolve) => emitter.once(event, () => resolve()));
}

/** The port of a server that listens, or is about to. */
async function portOf(
  server: { address(): unknown; once: Callback },
): Promise<number> {
  if (server.address() === null) await once(server as net.Server, "listening");
  return (server.address() as net.AddressInfo).port;
}

const registrations: Record<string, Registration> = {
  "addEventListener() of the global object, for errors": {
    isTold: true,
    register(calls) {
      const listener = calls.by("error");
      addEventListener("error", (event) => {
        event.preventDefault();
        listener();
      }, { once: true });
      return AsyncResource.bind(() => reportError(new Error("told")));
    },
    cause: (tell) => tell(),
  },
  "addEventListener() of the global object, for unhandled rejections": {
    isTold: true,
    register(calls) {
      const options = { once: true };
      const listener = calls.by("unhandled");
      addEventListener("unhandledrejection", (event) => {
        event.preventDefault();
        listener();
      }, options);
      addEventListener("rejectionhandled", calls.by("handled"), options);
      return AsyncResource.bind(() => Promise.reject(new Error("told")));
    },
    async cause(reject) {
      const promise = reject();
      await new Promise((resolve) => setTimeout(resolve, 1));
      promise.catch(() => {});
    },
  },
  "process.on() for unhandled rejections": {
    isTold: true,
    register(calls) {
      process.once("unhandledRejection", calls.by("unhandledRejection"));
      process.once("rejectionHandled", calls.by("rejectionHandled"));
      return AsyncResource.bind(() => Promise.reject(new Error("told")));
    },
    async cause(reject) {
      const promise = reject();
      await new Promise((resolve) => setTimeout(resolve, 1));
      promise.catch(() => {});
    },
  },
  "process.on() for uncaught exceptions": {
    isTold: true,
    register(calls) {
      process.once("uncaughtException", calls.by("uncaughtException"));
      return AsyncResource.bind(() =>
        setTimeout(() => {
          throw new Error("told");
        }, 1)
      );
    },
    cause: (tell) => tell(),
  },
  "process.on() for signals": {
    register(calls) {
      process.once("SIGUSR2", calls.by("once"));
      const listener = calls.by("on");
      process.on("SIGUSR2", listener);
      return listener;
    },
    cause: () => Deno.kill(Deno.pid, "SIGUSR2"),
    end: (listener) => process.off("SIGUSR2", listener),
  },
  "Deno.addSignalListener()": {
    register(calls) {
      const listener = calls.by("SIGUSR2");
      Deno.addSignalListener("SIGUSR2", listener);
      return listener;
    },
    cause: () => Deno.kill(Deno.pid, "SIGUSR2"),
    end: (listener) => Deno.removeSignalListener("SIGUSR2", listener),
  },
  "AbortSignal.timeout()": {
    register(calls) {
      const signal = AbortSignal.timeout(5);
      signal.onabort = calls.by("onabort");
      signal.addEventListener("abort", calls.by("abort"));
      return signal;
    },
  },
  "AbortSignal.any()": {
    register(calls) {
      const signal = AbortSignal.any([AbortSignal.timeout(5)]);
      signal.addEventListener("abort", calls.by("abort"));
      return signal;
    },
  },
  "AbortController.signal": {
    register(calls) {
      const controller = new AbortController();
      controller.signal.addEventListener("abort", calls.by("abort"));
      return controller;
    },
    cause: (controller) => controller.abort(),
  },
  "setTimeout()": {
    register: (calls) => setTimeout(calls.by("callback"), 5),
  },
  "setInterval()": {
    register: (calls) => setInterval(calls.by("callback"), 5),
    end: clearInterval,
  },
  "setImmediate()": {
    register: (calls) => setImmediate(calls.by("callback")),
  },
  FileReader: {
    register(calls) {
      const reader = new FileReader();
      for (const name of ["loadstart", "load", "loadend"]) {
        reader.addEventListener(name, calls.by(name));
      }
      reader.readAsText(new Blob(["text"]));
    },
  },
  PerformanceObserver: {
    register(calls) {
      const observer = new PerformanceObserver(calls.by("observer"));
      observer.observe({ entryTypes: ["mark"] });
      performance.mark("told");
      return observer;
    },
    cause: () => performance.mark("told"),
    end: (observer) => observer.disconnect(),
  },
  "PerformanceObserver of node:perf_hooks": {
    register(calls) {
      const observer = new NodePerformanceObserver(calls.by("observer"));
      observer.observe({ entryTypes: ["mark"] });
      return observer;
    },
    cause: () => performance.mark("told"),
    end: (observer) => observer.disconnect(),
  },
  Worker: {
    register(calls) {
      const url = script(`onmessage = () => postMessage("answer");`);
      const worker = new Worker(url, { type: "module" });
      worker.onmessage = calls.by("onmessage");
      worker.addEventListener("message", calls.by("message"));
      return worker;
    },
    cause: (worker) => worker.postMessage("question"),
    end: (worker) => worker.terminate(),
  },
  MessagePort: {
    register(calls) {
      const channel = new MessageChannel();
      channel.port1.onmessage = calls.by("onmessage");
      channel.port2.addEventListener("message", calls.by("message"));
      channel.port2.start();
      return channel;
    },
    cause({ port1, port2 }) {
      port1.postMessage("one");
      port2.postMessage("two");
    },
    end({ port1, port2 }) {
      port1.close();
      port2.close();
    },
  },
  "MessagePort of node:worker_threads": {
    register(calls) {
      const channel = new NodeChannel();
      channel.port1.on("message", calls.by("on"));
      channel.port2.once("message", calls.by("once"));
      return channel;
    },
    cause({ port1, port2 }) {
      port1.postMessage("one");
      port2.postMessage("two");
    },
    end({ port1, port2 }) {
      port1.close();
      port2.close();
    },
  },
  "Worker of node:worker_threads": {
    register(calls) {
      const worker = new NodeWorker(
        `require("node:worker_threads").parentPort.once("message", function () {
          this.postMessage("answer");
          // Under --coverage no worker ends by itself.
          process.exit();
        });`,
        { eval: true },
      );
      for (const name of ["online", "message", "exit"]) {
        worker.on(name, calls.by(name));
      }
      return worker;
    },
    cause: (worker) => worker.postMessage("question"),
    end: (worker) => worker.terminate(),
  },
  BroadcastChannel: {
    register(calls) {
      const channels = [1, 2].map(() => new BroadcastChannel("callbacks"));
      channels[0]!.onmessage = calls.by("onmessage");
      return channels;
    },
    cause: ([, channel]) => channel.postMessage("hello"),
    end: (channels) => channels.forEach((it: BroadcastChannel) => it.close()),
  },
  WebSocket: {
    register(calls) {
      const server = Deno.serve(
        { ...local, onListen: () => {} },
        (request) => {
          const { socket, response } = Deno.upgradeWebSocket(request);
          socket.onopen = calls.by("server's open", () => socket.send("hello"));
          socket.onmessage = calls.by("server's message", () => socket.close());
          socket.onclose = calls.by("server's close");
          return response;
        },
      );
      const socket = new WebSocket(`ws://127.0.0.1:${server.addr.port}`);
      socket.onopen = calls.by("open", () => socket.send("hello"));
      socket.onmessage = calls.by("message");
      socket.addEventListener("close", calls.by("close"));
      return server;
    },
    end: (server) => server.shutdown(),
  },
  EventSource: {
    register(calls) {
      const server = Deno.serve(
        { ...local, onListen: () => {} },
        () =>
          new Response("data: one\n\n", {
            headers: { "content-type": "text/event-stream" },
          }),
      );
      const source = new EventSource(`http://127.0.0.1:${server.addr.port}`);
      source.onopen = calls.by("open");
      source.addEventListener("message", calls.by("message"));
      return { server, source };
    },
    async end({ server, source }) {
      source.close();
      await server.shutdown();
    },
  },
  "Deno.serve()": {
    register(calls) {
      return Deno.serve({
        ...local,
        onListen() {},
        handler: calls.by("handler", () => new Response("answer")),
      });
    },
    async cause(server) {
      const { port } = server.addr;
      const response = fetch(`http://127.0.0.1:${port}`);
      response.then((response) => response.text());
      await new Promise((resolve) => setTimeout(resolve, 5));
    },
    end: (server) => server.shutdown(),
  },
  "Deno.serve() whose handler fails": {
    register(calls) {
      return Deno.serve({
        ...local,
        onListen() {},
        onError: calls.by("onError", () => new Response("answer")),
        handler() {
          throw new Error("no");
        },
      });
    },
    cause(server) {
      const { port } = server.addr;
      fetch(`http://127.0.0.1:${port}`).then((it) => it.text());
    },
    end: (server) => server.shutdown(),
  },
  "Request.signal of Deno.serve()": {
    register(calls) {
      const arrived = Promise.withResolvers<void>();
      const server = Deno.serve(
        { ...local, onListen() {} },
        async (request) => {
          request.signal.addEventListener("abort", calls.by("abort"));
          arrived.resolve();
          await calls.gate.wait();
          return new Response("answer");
        },
      );
      return { server, arrived: arrived.promise };
    },
    async cause({ server, arrived }) {
      const abort = new AbortController();
      const { signal } = abort;
      const { port } = server.addr;
      const response = fetch(`http://127.0.0.1:${port}`, { signal });
      await arrived;
      abort.abort();
      await response.catch(() => {});
    },
    end: ({ server }) => server.shutdown(),
  },
  "ReadableStream and WritableStream": {
    register(calls) {
      const source = new ReadableStream({
        pull: calls.by("pull", (it: ReadableStreamDefaultController) => {
          it.enqueue(1);
          it.close();
        }),
      }, { highWaterMark: 0 });
      const sink = new WritableStream({
        write: calls.by("write"),
        close: calls.by("close"),
      });
      const transform = new TransformStream({
        transform: calls.by(
          "transform",
          (chunk: unknown, it: TransformStreamDefaultController) =>
            it.enqueue(chunk),
        ),
      });
      return { source: source.pipeThrough(transform), sink };
    },
    cause({ source, sink }) {
      source.pipeTo(sink).catch(() => {});
    },
  },
  "net.Server and net.Socket": {
    register(calls) {
      calls.expect(
        "connection",
        "server's data",
        "server's end",
        "server's close",
        "listening",
        "close of the server",
        "connect",
        "written",
        "data",
        "end",
        "close",
        "finish",
      );
      const server = net.createServer(calls.by("connection"));
      server.on("connection", (socket) => {
        socket.on("data", calls.by("server's data"));
        socket.on("end", calls.by("server's end"));
        socket.on("close", calls.by("server's close"));
        socket.write("hello");
      });
      server.listen(0, "127.0.0.1", calls.by("listening"));
      server.on("close", calls.by("close of the server"));
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        const socket = net.connect(port, "127.0.0.1", calls.by("connect"));
        for (const name of ["data", "end", "close", "finish"]) {
          socket.on(name, calls.by(name));
        }
        socket.write("hello", calls.by("written"));
        socket.on("data", () => socket.end());
        socket.on("close", () => server.close());
      });
      return server;
    },
  },
  "net.Socket that is idle": {
    register(calls) {
      calls.expect("server's timeout", "timeout");
      const server = net.createServer((socket) => {
        socket.setTimeout(5, calls.by("server's timeout"));
      });
      const socket = new net.Socket();
      socket.setTimeout(5);
      socket.on("timeout", calls.by("timeout"));
      socket.on("close", () => server.close());
      server.listen(0, "127.0.0.1");
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        socket.connect(port, "127.0.0.1");
      });
      return { server, socket };
    },
    async end({ server, socket }) {
      const closed = once(server, "close");
      socket.destroy();
      await closed;
    },
  },
  "tls.Server and tls.TLSSocket": {
    register(calls) {
      calls.expect(
        "secureConnection",
        "server's data",
        "server's close",
        "listening",
        "secureConnect",
        "data",
        "end",
        "close",
      );
      const server = tls.createServer(certificate);
      server.on("secureConnection", calls.by("secureConnection"));
      server.on("secureConnection", (socket) => {
        socket.on("data", calls.by("server's data"));
        socket.on("close", calls.by("server's close"));
        socket.write("hello");
      });
      server.listen(0, "127.0.0.1", calls.by("listening"));
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        const socket = tls.connect({ port, ca, host: "localhost" });
        for (const name of ["secureConnect", "data", "end", "close"]) {
          socket.on(name, calls.by(name));
        }
        socket.write("hello");
        socket.on("data", () => socket.end());
        socket.on("close", () => server.close());
      });
      return server;
    },
  },
  "http.Server and http.ClientRequest": {
    register(calls) {
      calls.expect(
        "connection",
        "request",
        "server's data",
        "server's end",
        "server's finish",
        "server's close",
        "listening",
        "socket",
        "finish",
        "response",
        "close",
        "response's data",
        "response's end",
        "response's close",
      );
      const server = http.createServer();
      server.on("connection", calls.by("connection"));
      server.on("request", calls.by("request"));
      server.on("request", (request, response) => {
        request.on("data", calls.by("server's data"));
        request.on("end", calls.by("server's end"));
        request.on("end", () => response.end("answer"));
        response.on("finish", calls.by("server's finish"));
        response.on("close", calls.by("server's close"));
      });
      server.listen(0, "127.0.0.1", calls.by("listening"));
      return { server, calls };
    },
    async cause({ server, calls }) {
      await spawn(async () => {
        const port = await portOf(server);
        const request = http.request({
          port,
          host: "127.0.0.1",
          method: "POST",
        });
        for (const name of ["socket", "finish", "response", "close"]) {
          request.on(name, calls.by(name));
        }
        request.on("response", (response) => {
          for (const name of ["data", "end", "close"]) {
            response.on(name, calls.by(`response's ${name}`));
          }
        });
        request.end("question");
      }).join();
    },
    end({ server }) {
      server.closeAllConnections();
      server.close();
      return once(server, "close");
    },
  },
  "http.ClientRequest": {
    register(calls) {
      calls.expect("callback", "data", "end", "close");
      const server = http.createServer((_, response) => response.end("answer"));
      server.listen(0, "127.0.0.1");
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        const callback = calls.by("callback");
        const request = http.get({ port, host: "127.0.0.1" }, (response) => {
          callback();
          response.on("data", calls.by("data"));
          response.on("end", calls.by("end"));
        });
        request.on("close", calls.by("close"));
      });
      return server;
    },
    end(server) {
      server.closeAllConnections();
      server.close();
      return once(server, "close");
    },
  },
  "http.Server that upgrades": {
    register(calls) {
      calls.expect("upgrade", "data");
      const server = http.createServer();
      server.on("upgrade", calls.by("upgrade"));
      server.on("upgrade", (_, socket) => {
        socket.on("data", calls.by("data"));
        socket.write(
          "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        );
      });
      server.listen(0, "127.0.0.1");
      return server;
    },
    async cause(server) {
      const socket = net.connect(await portOf(server), "127.0.0.1");
      socket.write(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
      );
      await once(socket as unknown as net.Server, "data");
      socket.write("hello");
      server.on("close", () => socket.destroy());
    },
    end: (server) => server.close(),
  },
  "http.Server that gets no HTTP": {
    register(calls) {
      const server = http.createServer();
      server.on("clientError", calls.by("clientError"));
      server.on("clientError", (_, socket) => socket.destroy());
      server.listen(0, "127.0.0.1");
      return server;
    },
    async cause(server) {
      const socket = net.connect(await portOf(server), "127.0.0.1");
      socket.on("error", () => {});
      socket.write("no HTTP\r\n\r\n");
    },
    end: (server) => server.close(),
  },
  "https.Server and https.ClientRequest": {
    register(calls) {
      calls.expect("request", "response", "data", "end");
      const server = https.createServer(certificate);
      server.on("request", calls.by("request"));
      server.on("request", (_, response) => response.end("answer"));
      server.listen(0, "127.0.0.1");
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        const request = https.get({
          port,
          host: "localhost",
          ca,
          agent: false,
        });
        request.on("response", calls.by("response"));
        request.on("response", (response) => {
          response.on("data", calls.by("data"));
          response.on("end", calls.by("end"));
        });
      });
      return server;
    },
    end(server) {
      server.closeAllConnections();
      server.close();
      return once(server, "close");
    },
  },
  "http2.Http2Server and http2.ClientHttp2Session": {
    register(calls) {
      calls.expect(
        "session",
        "stream",
        "connect",
        "close",
        "response",
        "data",
        "end",
      );
      const server = http2.createServer();
      server.on("session", calls.by("session"));
      server.on("stream", calls.by("stream"));
      server.on("stream", (stream) => {
        stream.respond({ ":status": 200 });
        stream.end("answer");
      });
      server.listen(0, "127.0.0.1");
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        const session = http2.connect(`http://127.0.0.1:${port}`);
        session.on("connect", calls.by("connect"));
        session.on("close", calls.by("close"));
        const request = session.request({ ":path": "/" });
        for (const name of ["response", "data", "end"]) {
          request.on(name, calls.by(name));
        }
        request.on("end", () => session.close());
      });
      return server;
    },
    end(server) {
      server.close();
      return once(server, "close");
    },
  },
  "dgram.Socket": {
    register(calls) {
      const socket = dgram.createSocket("udp4");
      socket.on("listening", () => {
        const { port } = socket.address();
        const sender = dgram.createSocket("udp4");
        sender.send("hello", port, "127.0.0.1", () => sender.close());
      });
      socket.on("message", calls.by("message"));
      socket.on("close", calls.by("close"));
      socket.on("message", () => socket.close());
      socket.bind(0, "127.0.0.1", calls.by("listening"));
      return socket;
    },
  },
  "WebSocketServer and WebSocket of ws": {
    register(calls) {
      calls.expect(
        "connection",
        "server's message",
        "server's close",
        "open",
        "message",
        "close",
      );
      const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
      server.on("connection", calls.by("connection"));
      server.on("connection", (socket: WsClient) => {
        socket.on("message", calls.by("server's message"));
        socket.on("close", calls.by("server's close"));
        socket.send("hello");
      });
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo;
        const socket = new WsClient(`ws://127.0.0.1:${port}`);
        socket.on("open", calls.by("open"));
        socket.on("open", () => socket.send("hello"));
        socket.on("message", calls.by("message"));
        socket.on("message", () => socket.close());
        socket.on("close", calls.by("close"));
      });
      return server;
    },
    end(server) {
      const closed = once(server, "close");
      server.close();
      return closed;
    },
  },
  "child_process.spawn()": {
    register(calls) {
      const child = childProcess.spawn("sh", ["-c", "read x; echo $x"]);
      for (const name of ["spawn", "exit", "close"]) {
        child.on(name, calls.by(name));
      }
      for (const name of ["data", "end", "close"]) {
        child.stdout.on(name, calls.by(`stdout ${name}`));
      }
      child.stdin.on("finish", calls.by("stdin finish"));
      return child;
    },
    cause: (child) => child.stdin.end("x\n"),
  },
  "child_process.exec() and execFile()": {
    register(calls) {
      return [
        childProcess.exec("read x", calls.by("exec")),
        childProcess.execFile("cat", calls.by("execFile")),
      ];
    },
    cause: (children) =>
      children.forEach((it: childProcess.ChildProcess) => it.stdin!.end("x\n")),
  },
  "fs.createReadStream() and fs.createWriteStream()": {
    register(calls) {
      const source = fs.createReadStream(file);
      const sink = fs.createWriteStream(`${directory}/copy`);
      for (const name of ["open", "ready", "data", "end", "close"]) {
        source.on(name, calls.by(name));
      }
      for (const name of ["open", "finish", "close"]) {
        sink.on(name, calls.by(`sink's ${name}`));
      }
      source.pipe(sink);
    },
  },
  "stream.Readable and stream.Writable": {
    register(calls) {
      const source = new stream.Readable({ read() {} });
      const sink = new stream.Writable({
        write: (_chunk, _encoding, done) => done(),
      });
      for (const name of ["data", "end", "close"]) {
        source.on(name, calls.by(name));
      }
      for (const name of ["finish", "close"]) {
        sink.on(name, calls.by(`sink's ${name}`));
      }
      source.pipe(sink);
      return source;
    },
    cause(source) {
      source.push("chunk");
      source.push(null);
    },
  },
  "readline.createInterface()": {
    register(calls) {
      const input = new stream.PassThrough();
      const lines = readline.createInterface({ input });
      lines.on("line", calls.by("line"));
      lines.on("close", calls.by("close"));
      return input;
    },
    cause: (input) => input.end("line\n"),
  },
  "readline.createInterface() of a file": {
    register(calls) {
      const lines = readline.createInterface({
        input: fs.createReadStream(file),
      });
      lines.on("line", calls.by("line"));
      lines.on("close", calls.by("close"));
    },
  },
  "zlib.createGzip()": {
    register(calls) {
      const gzip = zlib.createGzip();
      for (const name of ["data", "end", "finish"]) {
        gzip.on(name, calls.by(name));
      }
      return gzip;
    },
    cause: (gzip) => gzip.end("text"),
  },
  "diagnostics_channel.subscribe()": {
    register: (calls) =>
      diagnostics.subscribe("gevent", calls.by("subscriber")),
    cause: () => diagnostics.channel("gevent").publish("told"),
  },
};

for (const [name, it] of Object.entries(registrations)) {
  for (const when of ["was killed", "is killed then"]) {
    Deno.test(`${name} calls its callback outside the greenlet that has registered it, when that ${when}`, async () => {
      using _ = patch({ process: { killChildren: false } });
      using failures = new Failures();
      using told = it.isTold ? null : new Uncaught();
      // Not all that is registered keeps the process alive.
      const awake = setInterval(() => {}, 1000);
      const calls = new Calls();
      let source: unknown;
      calls.owner = spawn(async () => {
        source = it.register(calls);
        await sleep(1e9);
      });
      await sleep(0);
      if (when === "was killed") {
        await calls.owner.kill();
        calls.gate.set();
      }
      await it.cause?.(source);
      await calls.begun.wait();
      await calls.owner.kill();
      calls.gate.set();
      await calls.allApart();
      await it.end?.(source);
      await calls.allEnded();
      clearInterval(awake);
      assertEquals(failures.errors, []);
      if (told) assertEquals([told.errors, told.rejections], [[], []]);
    });
  }
}

/** Callbacks that go on with the call that they were given to. */
const continuations: Record<string, (callback: Callback) => unknown> = {
  "Promise.then()": (callback) => Promise.resolve().then(callback),
  "queueMicrotask()": (callback) =>
    namedSetTimeout(() => queueMicrotask(callback), 1),
  "process.nextTick()": (callback) =>
    namedSetTimeout(() => process.nextTick(callback), 1),
  "setImmediate() that was imported by name": (callback) =>
    namedSetTimeout(() => namedSetImmediate(callback), 1),
  "fs.readFile()": (callback) => fs.readFile(file, callback),
  "fs.stat()": (callback) => fs.stat(file, callback),
  "dns.lookup()": (callback) => dns.lookup("localhost", callback),
  "zlib.gzip()": (callback) => zlib.gzip("text", callback),
  "crypto.randomBytes()": (callback) => crypto.randomBytes(8, callback),
  "crypto.pbkdf2()": (callback) =>
    crypto.pbkdf2("a", "b", 10_000, 8, "sha512", callback),
  "crypto.scrypt()": (callback) => crypto.scrypt("a", "b", 8, callback),
  "crypto.generateKeyPair()": (callback) =>
    crypto.generateKeyPair("ed25519", undefined, callback),
  "util.callbackify()": (callback) =>
    util.callbackify(() => Promise.resolve())(callback),
  "stream.finished()": (callback) => {
    const source = new stream.PassThrough();
    stream.finished(source.resume(), callback);
    source.end("text");
  },
  "stream.pipeline()": (callback) =>
    stream.pipeline(
      fs.createReadStream(file),
      zlib.createGzip(),
      fs.createWriteStream(`${directory}/zipped`),
      callback,
    ),
  "readline.Interface.question()": (callback) => {
    const input = new stream.PassThrough();
    const lines = readline.createInterface({ input });
    lines.question("?", callback);
    input.end("answer\n");
  },
  "navigator.locks.request()": (callback) => locks.request("lock", callback),
};

for (const [name, begin] of Object.entries(continuations)) {
  Deno.test(`${name} calls a callback that may wait although the greenlet that has given it was killed`, async () => {
    using _ = patch();
    using failures = new Failures();
    using told = new Uncaught();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const owner = spawn(async () => {
      begin(async () => {
        try {
          await killed.promise;
          await sleep(1);
          await new Promise((resolve) => setTimeout(resolve, 1));
          resolve();
        } catch (error) {
          reject(error);
        }
      });
      await sleep(1e9);
    });
    const killed = Promise.withResolvers<void>();
    await sleep(0);
    await owner.kill();
    killed.resolve();
    await promise;
    // A callback may be called before the call that it belongs to has ended.
    await new Promise((resolve) => setTimeout(resolve, 1));
    assertEquals([failures.errors, told.errors, told.rejections], [[], [], []]);
  });
}

/** Has a script register with `calls`, which says what became of each of its callbacks. */
const CALLS = `
  const owner = { greenlet: null };
  const gate = new gevent.Event();
  const begun = new gevent.Event();
  const by = (name, result) => async () => {
    const callers = [getCurrent()];
    begun.set();
    try {
      await gate.wait();
      await new Promise((resolve) => setTimeout(resolve, 1));
      callers.push(getCurrent());
      console.log(name, callers.includes(owner.greenlet) ? "the owner's" : "apart");
    } catch (error) {
      console.log(name, String(error));
    }
    return result;
  };
  const register = (run) =>
    owner.greenlet = spawn(async () => {
      await run();
      await sleep(1e9);
    });
  patch();
`;

/** Scripts that share a process. */
const shared: Record<string, { code: string; says: string[] }> = {
  "Deno.Kv.listenQueue()": {
    code: `
      const kv = await Deno.openKv(":memory:");
      register(() => { kv.listenQueue(by("queue")); });
      await sleep(0);
      if (isKilled) await owner.greenlet.kill();
      await kv.enqueue("message");
      await begun.wait();
      await owner.greenlet.kill();
      gate.set();
      await kv.enqueue("message");
      while (said < 2) await sleep(1);
      kv.close();`,
    says: ["queue apart", "queue apart"],
  },
  FinalizationRegistry: {
    code: `
      let registry;
      register(() => {
        registry = new FinalizationRegistry(by("finalized"));
        registry.register({});
      });
      await sleep(0);
      if (isKilled) await owner.greenlet.kill();
      while (!begun.isSet()) { gc(); await sleep(1); }
      await owner.greenlet.kill();
      gate.set();
      while (said < 1) await sleep(1);`,
    says: ["finalized apart"],
  },
  // What these have under way when they are closed, the runtime does not tell.
  "fs.watch()": {
    code: `
      const fs = await import("node:fs");
      const directory = Deno.makeTempDirSync();
      let watcher;
      register(() => {
        const listener = by("listener");
        watcher = fs.watch(directory).once("change", listener);
      });
      await sleep(0);
      if (isKilled) await owner.greenlet.kill();
      Deno.writeTextFileSync(directory + "/file", "text");
      await begun.wait();
      await owner.greenlet.kill();
      gate.set();
      while (said < 1) await sleep(1);
      watcher.close();
      Deno.removeSync(directory, { recursive: true });`,
    says: ["listener apart"],
  },
  "fs.watchFile()": {
    code: `
      const fs = await import("node:fs");
      const directory = Deno.makeTempDirSync();
      const file = directory + "/file";
      register(() => {
        const listener = by("listener");
        // A file that is missing is told of at once.
        fs.watchFile(file, { interval: 5 }, (...stats) => {
          fs.unwatchFile(file);
          return listener(...stats);
        });
      });
      await sleep(0);
      if (isKilled) await owner.greenlet.kill();
      await begun.wait();
      await owner.greenlet.kill();
      gate.set();
      while (said < 1) await sleep(1);
      Deno.removeSync(directory, { recursive: true });`,
    says: ["listener apart"],
  },
  "onmessage of a Worker's global object": {
    code: `
      const worker = new Worker("data:text/javascript," + encodeURIComponent(\`
        import * as gevent from "\${library}";
        const { getCurrent, patch, sleep, spawn } = gevent;
        const console = { log: (...said) => postMessage(said.join(" ")) };
        \${CALLS}
        register(() => { self.onmessage = by("onmessage"); });
        await sleep(0);
        if (\${isKilled}) await owner.greenlet.kill();
        postMessage("ready");
        await begun.wait();
        await owner.greenlet.kill();
        gate.set();
      \`), { type: "module" });
      worker.onmessage = ({ data }) => {
        if (data === "ready") return worker.postMessage("question");
        console.log(data);
        worker.terminate();
      };
      while (said < 1) await sleep(1);`,
    says: ["onmessage apart"],
  },
};

/** Scripts that have a process each, as they come to its end. */
const scripts: Record<
  string,
  { code: string; flags?: string[]; says: string[] }
> = {
  "Deno.cron()": {
    flags: ["--unstable-cron"],
    code: `
      // Every so many ms, and not when the minute is over
      Deno.env.set("DENO_CRON_TEST_SCHEDULE_OFFSET", "100");
      register(() => { Deno.cron("job", "* * * * *", by("cron")); });
      await sleep(0);
      if (isKilled) await owner.greenlet.kill();
      await begun.wait();
      await owner.greenlet.kill();
      gate.set();
      while (said < 1) await sleep(1);
      Deno.exit(0);`,
    says: ["cron apart"],
  },
  'process.on("beforeExit")': {
    code: `
      const process = (await import("node:process")).default;
      gate.set();
      register(() => { process.once("beforeExit", by("beforeExit")); });
      await sleep(0);
      await owner.greenlet.kill();`,
    says: ["beforeExit apart"],
  },
  'process.stdin.on("end")': {
    code: `
      const process = (await import("node:process")).default;
      register(() => { process.stdin.on("end", by("end")).resume(); });
      await sleep(0);
      if (isKilled) await owner.greenlet.kill();
      await begun.wait();
      await owner.greenlet.kill();
      gate.set();`,
    says: ["end apart"],
  },
};

/** The beginning of a script. */
const headOf = (isKilled: boolean): string => `
  const library = ${
  JSON.stringify(new URL("../../mod.ts", import.meta.url).href)
};
  const isKilled = ${isKilled};
  let said = 0;
  const console = {
    log: (...all) => { said++; globalThis.console.log(...all); },
  };
  const CALLS = ${JSON.stringify(CALLS)};
  ${CALLS}
`;

/** Runs those that share a process, one after the other, and gives the lines of each. */
async function runShared(isKilled: boolean): Promise<Map<string, string[]>> {
  const parts = Object.values(shared).map(({ code }) =>
    `await (async () => { ${headOf(isKilled)} ${code} })();
    console.log("next");`
  );
  const flags = ["--unstable-kv", "--v8-flags=--expose-gc"];
  const { out, err, code } = await runScript(
    parts.join("\n"),
    undefined,
    flags,
  );
  assertEquals([err, code], ["", 0]);
  const lines = out.join("\n").split("\nnext").map((part) =>
    part.trim().split("\n")
  );
  return new Map(Object.keys(shared).map((name, i) => [name, lines[i]!]));
}

for (const isKilled of [true, false]) {
  const when = isKilled ? "was killed" : "is killed then";
  const nameOf = (name: string): string =>
    `${name} calls its callback outside the greenlet that has registered it, when that ${when}`;
  let all: ReturnType<typeof runShared> | undefined;
  for (const [name, { says }] of Object.entries(shared)) {
    Deno.test(nameOf(name), async () => {
      assertEquals((await (all ??= runShared(isKilled))).get(name), says);
    });
  }
  for (const [name, { code, flags = [], says }] of Object.entries(scripts)) {
    Deno.test(nameOf(name), async () => {
      const { out, err } = await runScript(
        `${headOf(isKilled)} ${code}`,
        undefined,
        flags,
      );
      assertEquals([out, err], [says, ""]);
    });
  }
}

Deno.test("Deno.Kv.listenQueue() is a wait that ends with its greenlet, and goes on listening", async () => {
  const { out, err } = await runScript(
    `patch();
    const kv = await Deno.openKv(":memory:");
    const heard = new gevent.Event();
    const listener = spawn(async () => {
      try {
        await kv.listenQueue((message) => {
          console.log(message);
          heard.set();
        });
      } finally {
        console.log("ends");
      }
    });
    await sleep(0);
    await listener.kill();
    await kv.enqueue("message");
    await heard.wait();
    await sleep(0);
    kv.close();`,
    undefined,
    ["--unstable-kv"],
  );
  assertEquals([out, err], [["ends", "message"], ""]);
});

for (const isKilled of [true, false]) {
  const when = isKilled ? "was killed" : "is killed then";
  Deno.test(`test() of node:test and Deno.test() call their tests outside the greenlet that has registered them, when that ${when}`, async () => {
    const library = new URL("../../mod.ts", import.meta.url).href;
    const module = `${directory}/registering_test.mjs`;
    await Deno.writeTextFile(
      module,
      `import { describe, it, test } from "node:test";
      import { patch, sleep, spawn } from ${JSON.stringify(library)};
      patch();
      const called = async () => {
        const waits = sleep(1);
        if (${!isKilled}) await owner.kill();
        await waits;
        await new Promise((resolve) => setTimeout(resolve, 1));
      };
      const owner = spawn(async () => {
        test("of node:test", called);
        describe("a suite", () => { it("of a suite", called); });
        Deno.test.beforeAll(called);
        Deno.test.afterAll(called);
        Deno.test({ name: "of Deno", fn: called, sanitizeOps: false, sanitizeResources: false });
        await sleep(1e9);
      });
      await sleep(0);
      if (${isKilled}) await owner.kill();`,
    );
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "-q", "--no-check", module],
      env: { NO_COLOR: "1" },
    }).output();
    const said = new TextDecoder().decode(stdout) +
      new TextDecoder().decode(stderr);
    assertEquals([code, said.includes("GreenletExit")], [0, false], said);
    for (const name of ["of node:test", "of Deno"]) {
      assertEquals(said.includes(`${name} ... ok`), true, said);
    }
  });
}
