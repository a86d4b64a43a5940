/**
 * Arguments of the functions of `subprocess.ts` that no program can be started with.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { spawn, subprocess } from "../mod.ts";

/** Options and arguments, each with the name that the error gives. */
const wrong: [
  name: string,
  command: unknown,
  args?: unknown,
  options?: unknown,
][] = [
  ["command", "no\0name"],
  ["command", new URL("https://example.com/sh")],
  ["args[1]", "true", ["a", "b\0c"]],
  ["args[0]", "true", [new URL("file:///")]],
  ["args[1]", "true", ["a", , "b"]],
  ["cwd", "true", [], { cwd: "/tmp\0" }],
  ["cwd", "true", [], { cwd: new URL("https://example.com/") }],
  ["env", "true", [], { env: new Map([["A", "1"]]) }],
  ["env", "true", [], { env: ["A=1"] }],
  ["env", "true", [], { env: [["A", "1"]] }],
  ["env", "true", [], { env: new URLSearchParams("A=1") }],
  ["env", "true", [], { env: "A=1" }],
  ["env", "true", [], { env: { "": "1" } }],
  ["env", "true", [], { env: { "A=B": "1" } }],
  ["env", "true", [], { env: { "A\0": "1" } }],
  ["env.A", "true", [], { env: { A: "1\0" } }],
  ["env.A", "true", [], { env: { A: undefined } }],
  ["input", "true", [], { input: detached() }],
  ["input", "true", [], { input: new ReadableStream() }],
];

function detached(): Uint8Array {
  const bytes = new Uint8Array(3);
  structuredClone(bytes, { transfer: [bytes.buffer] });
  return bytes;
}

for (const call of ["run", "checkOutput"] as const) {
  Deno.test(`subprocess.${call}() names the argument that is wrong, at the call`, () => {
    for (const [name, command, args = [], options = {}] of wrong) {
      const { message } = assertThrows(
        () =>
          subprocess[call as "run"](
            command as string,
            args as string[],
            options as subprocess.RunOptions,
          ),
        TypeError,
        `Cannot run a command as '${name}' must be `,
      );
      // One line: a terminal prints it as it is.
      assert(!/[\0\n]/.test(message), JSON.stringify(message));
    }
  });
}

Deno.test("subprocess.run() takes a bare object of variables, and shared input", async () => {
  const env = Object.assign(Object.create(null), { A_b: "=1", D: "" });
  const shared = new Uint8Array(new SharedArrayBuffer(2)).fill(65);
  const { stdout } = await spawn(() =>
    subprocess.run("sh", ["-c", 'env | grep "^[AD][_=]"; cat'], {
      env,
      input: shared,
      text: true,
    })
  ).get();
  assertEquals(stdout.split("\n").sort(), ["AA", "A_b==1", "D="]);
});
