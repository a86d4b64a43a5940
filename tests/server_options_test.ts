// Bad input of servers that is refused at the constructor, though nothing would use it.

import { assertThrows } from "@std/assert";
import { HttpServer, StreamServer } from "../mod.ts";
import { HERE } from "./_servers.ts";

const SERVERS = {
  StreamServer: (address: unknown, options: unknown) =>
    new StreamServer(address as never, () => {}, options as never),
  HttpServer: (address: unknown, options: unknown) =>
    new HttpServer(address as never, () => new Response(), options as never),
};

for (const [name, make] of Object.entries(SERVERS)) {
  Deno.test(`${name} refuses a path that is no string with a TypeError`, () => {
    for (const path of [5, undefined, null, ""]) {
      const address = { transport: "unix", path };
      assertThrows(() => make(address, {}), TypeError, "'path' must be a path");
    }
  });

  Deno.test(`${name} refuses wrong permissions also where no process is started`, () => {
    for (const permissions of ["all", 5, null, { walk: true }]) {
      assertThrows(
        () => make(HERE, { permissions }),
        TypeError,
        "'permissions' must be",
      );
    }
  });
}
