/** `puppeteer-core`, with a Chromium of this machine. */

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { until } from "../../mod.ts";
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

testPackage("puppeteer-core", {
  async "waiting for a page"(stack) {
    const server = createServer((_request, response) => {
      response.end("text");
    });
    await new Promise<void>((resolve) =>
      server.listen(0, "127.0.0.1", resolve)
    );
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
    const go = () => page.goto(`http://${relay.host}/`, { timeout: 0 });
    relay.hold();
    return {
      call: go,
      recipe: () => until(go(), () => void page.close()),
      begun: () => relay.heard("GET /"),
      async freed() {
        while (!page.isClosed()) await turns(5);
      },
      answer: () => relay.release(),
    };
  },
}, reason);
