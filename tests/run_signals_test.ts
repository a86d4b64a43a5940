import { assertEquals } from "@std/assert";
import { type Bodies, runScript } from "./_bodies.ts";
import { inParallel } from "./_processes.ts";

/** The signals that end a program, with the exit codes that a shell expects. */
const SIGNALS = [["SIGINT", 130], ["SIGTERM", 143]] as const;

/** What greenlets leave behind that nothing can end, and that keeps the process alive. */
const operations: Record<string, string> = {
  "an accept()": `Deno.listen({ hostname: "127.0.0.1", port: 0 }).accept()`,
  "a timer": "new Promise((resolve) => setTimeout(resolve, 1e8))",
};

/** Bodies that wait for it, in a promise of somebody else's. */
const bodies: Record<keyof Bodies<[], unknown>, (operation: string) => string> =
  {
    async: (operation) => `async () => { tell(); await ${operation}; }`,
    generator: (operation) =>
      `function* () { tell(); yield* until(${operation}); }`,
  };

for (const [kind, body] of Object.entries(bodies)) {
  Deno.test(`run() that a signal has ended leaves a foreign operation behind, and a second signal ends the process at once, ${kind} body`, async () => {
    const mains = Object.values(operations).map(body);
    await inParallel(SIGNALS, async ([name, exitCode]) => {
      const { out, err, signal: ended } = await runScript(
        `
        const tell = () => console.log("ready");
        for (const main of [${mains.join(", ")}]) {
          Deno.exitCode = 0;
          const result = await run(main);
          console.log(result instanceof GreenletExit, Deno.exitCode);
        }
        console.log("ready");
      `,
        (line, process) => {
          if (line === "ready") process.kill(name);
        },
        ["--no-check"],
      );
      const lines = mains.flatMap(() => ["ready", `true ${exitCode}`]);
      assertEquals(out, [...lines, "ready"]);
      assertEquals([err, ended], ["", name]);
    });
  });
}
