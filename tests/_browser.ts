/**
 * A browser for tests, by the DevTools protocol.
 *
 * @module
 */

/** Finds a Chromium; `null` where there is none. */
export function findBrowser(): string | null {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    for (const folder of ["/usr/bin", "/usr/local/bin", "/snap/bin"]) {
      try {
        if (Deno.statSync(`${folder}/${name}`).isFile) {
          return `${folder}/${name}`;
        }
      } catch {
        // Not there.
      }
    }
  }
  return null;
}

/** A message of the DevTools protocol, as far as tests use it. */
export interface Message {
  id?: number;
  method?: string;
  // deno-lint-ignore no-explicit-any
  result?: any;
  error?: unknown;
  params?: unknown;
}

/**
 * Opens a page in a browser without a window, and calls `use` with a function that sends commands.
 * Returns the messages about errors and output.
 */
export async function inBrowser(
  browser: string,
  url: string,
  use: (
    send: (method: string, params?: object) => Promise<Message["result"]>,
  ) => Promise<void>,
): Promise<Message[]> {
  const profile = await Deno.makeTempDir();
  const child = new Deno.Command(browser, {
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--window-size=1200,800",
      "--remote-debugging-port=0",
      `--user-data-dir=${profile}`,
      "about:blank",
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const complaints: Message[] = [];
  try {
    const address = Promise.withResolvers<string>();
    let output = "";
    const read = (async () => {
      const decoder = new TextDecoder();
      for await (const bytes of child.stderr) {
        output += decoder.decode(bytes, { stream: true });
        const found = /listening on (ws:\S+)/.exec(output);
        if (found !== null) address.resolve(found[1]!);
      }
      address.reject(new Error(`The browser has ended: ${output}`));
    })();
    address.promise.catch(() => {});
    const socket = new WebSocket(await address.promise);
    const replies = new Map<number, (message: Message) => void>();
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data) as Message;
      if (message.id !== undefined) replies.get(message.id)!(message);
      else if (
        message.method === "Runtime.exceptionThrown" ||
        message.method === "Runtime.consoleAPICalled" ||
        message.method === "Log.entryAdded"
      ) complaints.push(message);
    };
    await new Promise((resolve) => socket.onopen = resolve);
    let count = 0;
    let sessionId: string | undefined;
    const send = async (method: string, params: object = {}) => {
      const id = ++count;
      const reply = new Promise<Message>((resolve) => replies.set(id, resolve));
      socket.send(JSON.stringify({ id, method, params, sessionId }));
      const { result, error } = await reply;
      if (error !== undefined) throw new Error(JSON.stringify(error));
      return result;
    };
    const { targetId } = await send("Target.createTarget", {
      url: "about:blank",
    });
    const attached = await send("Target.attachToTarget", {
      targetId,
      flatten: true,
    });
    sessionId = attached.sessionId;
    for (const domain of ["Runtime", "Log", "Page"]) {
      await send(`${domain}.enable`);
    }
    await send("Page.navigate", { url });
    await send("Runtime.evaluate", {
      expression:
        `new Promise((done) => document.readyState === "complete" ? done() : addEventListener("load", done))`,
      awaitPromise: true,
    });
    await use(send);
    const closed = new Promise((resolve) => socket.onclose = resolve);
    sessionId = undefined;
    await send("Browser.close").catch(() => {});
    await closed;
    await child.status;
    await read;
  } finally {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await child.status;
    await Deno.remove(profile, { recursive: true }).catch(() => {});
  }
  return complaints;
}
