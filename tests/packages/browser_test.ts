/** `puppeteer-core`, with a Chromium of this machine. */

import { existsSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { until, withSignal } from "../../mod.ts";
import { turns } from "../_waits.ts";
import { find } from "./_programs.ts";
import { Relay } from "./_relay.ts";
import { testPackage } from "./_scenes.ts";

// Loaded without its types, which declare globals of Node and change those of other tests.
const { default: puppeteer } = await import("puppeteer-core" as string);

const executablePath = find("chromium");
const reason = executablePath === null ? "chromium is not installed" : null;

/** Options of the browser. */
const OPTIONS = {
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--no-zygote", "--single-process"],
  // Without time limits, whose timers it leaves running.
  timeout: 0,
  protocolTimeout: 0,
};

/** The part of the browser that is used. */
interface Browser {
  // deno-lint-ignore no-explicit-any -- its types declare globals of Node
  newPage(): Promise<any>;
  close(): Promise<void>;
}

let browser: Browser | undefined;
if (reason === null) {
  Deno.test.beforeAll(async () => {
    browser = await puppeteer.launch(OPTIONS);
  });
  Deno.test.afterAll(() => browser?.close());
}

/** Serves a page, and opens another one that is empty. */
async function openPage(stack: AsyncDisposableStack) {
  const server = createServer((_request, response) => {
    response.end("text");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  stack.defer(() => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  });
  const { port } = server.address() as AddressInfo;
  const relay = stack.use(new Relay(port));
  const page = await browser!.newPage();
  stack.defer(async () => {
    if (!page.isClosed()) await page.close();
  });
  return { relay, page };
}

/** Whether a process has ended. */
function hasEnded(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT");
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return true;
    throw error;
  }
}

testPackage("puppeteer-core", {
  async "starting its browser"(stack) {
    const directory = await Deno.makeTempDir({ prefix: "gevent-" });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    const executablePath = `${directory}/browser`;
    const found = `${directory}/pid`;
    // A browser that never listens.
    await Deno.writeTextFile(
      executablePath,
      `#!/bin/sh\necho $$ > ${found}.new\nmv ${found}.new ${found}\nexec sleep 1000\n`,
      { mode: 0o755 },
    );
    const options = { ...OPTIONS, executablePath, userDataDir: directory };
    let pid = 0;
    return {
      call: () => puppeteer.launch(options).catch(() => {}),
      recipe: () =>
        withSignal((signal) => puppeteer.launch({ ...options, signal })),
      async begun() {
        while (!existsSync(found)) await turns(5);
        pid = Number(await Deno.readTextFile(found));
      },
      async freed() {
        while (!hasEnded(pid)) await turns(5);
      },
      answer: () => Deno.kill(pid, "SIGKILL"),
    };
  },
  async "waiting for a page"(stack) {
    const { relay, page } = await openPage(stack);
    const url = `http://${relay.host}/`;
    relay.hold();
    return {
      call: () => page.goto(url, { timeout: 0 }),
      recipe: () =>
        withSignal((signal) => page.goto(url, { timeout: 0, signal })),
      begun: () => relay.heard("GET /"),
      // No answer comes: it would race with the next page.
      freed: () => Promise.resolve(),
      answer: () => relay.release(),
      after: () => page.goto("about:blank", { timeout: 0 }),
    };
  },
  async "waiting for an element"(stack) {
    const { page } = await openPage(stack);
    const add = "document.body.append(document.createElement('hr'))";
    const wait = (signal?: AbortSignal) =>
      page.waitForSelector("hr", { timeout: 0, signal });
    return {
      call: () => wait(),
      recipe: () => withSignal((signal) => wait(signal)),
      begun: () => page.evaluate("1"),
      freed: () => Promise.resolve(),
      answer: () => page.evaluate(add),
      after: () => page.evaluate("1"),
    };
  },
  async "waiting for code in a page"(stack) {
    const { page } = await openPage(stack);
    const wait = () =>
      page.evaluate("new Promise((end) => { self.end = end; })");
    return {
      call: wait,
      recipe: () => until(wait(), () => void page.close()),
      begun: () => page.evaluate("1"),
      async freed() {
        while (!page.isClosed()) await turns(5);
      },
      answer: () => page.evaluate("self.end()"),
    };
  },
}, reason);
