import { assertEquals, assertThrows } from "@std/assert";
import {
  BackdoorServer,
  formatRunInfo,
  GreenletTree,
  monitor,
  subprocess,
} from "../mod.ts";

/** Calls with an option that is on or off. */
const calls: [what: string, name: string, call: (flag: never) => unknown][] = [
  ["formatRunInfo()", "colors", (colors) => formatRunInfo({ colors })],
  [
    "GreenletTree.format()",
    "colors",
    (colors) => GreenletTree.forest()[0]!.format({ colors }),
  ],
  ["monitor()", "profile", (profile) => monitor({ profile })],
  [
    "subprocess.run()",
    "check",
    (check) => subprocess.run("true", [], { check }),
  ],
  [
    "subprocess.checkOutput()",
    "text",
    (text) => subprocess.checkOutput("true", [], { text }),
  ],
  [
    "new BackdoorServer()",
    "remote",
    (remote) =>
      new BackdoorServer({ hostname: "127.0.0.1", port: 0 }, { remote }),
  ],
];

for (const [what, name, call] of calls) {
  Deno.test(`${what} takes only true or false as '${name}'`, () => {
    for (const wrong of ["no", "", 0, 1, null, {}, []]) {
      const { message } = assertThrows(() => call(wrong as never), TypeError);
      assertEquals(
        message.replace(/^Cannot .* as '/, "'").replace(/: received .*$/, ""),
        `'${name}' must be true or false`,
      );
    }
  });
}
