/**
 * UPSTREAM.md names the tests that show what greenlet's and gevent's own suites
 * ask for. Here each of those names is looked up among the tests there are.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { pathToFileURL } from "node:url";
import { testFiles } from "../tools/_suite.ts";

/** A test that UPSTREAM.md names, and the line where it does. */
interface Citation {
  name: string;
  line: number;
}

/**
 * Finds the tests that a text names: each code span with a space in it, in the
 * second column of a table.
 */
function* citations(text: string): Generator<Citation> {
  for (const [index, line] of text.split("\n").entries()) {
    if (!line.startsWith("|")) continue;
    const cells = line.split(/(?<!\\)\|/);
    // An empty string before the first bar and another after the last.
    if (cells.length !== 4) {
      throw new SyntaxError(
        `Cannot read line ${index + 1} as a row of two cells: ${line.trim()}`,
      );
    }
    for (const [, name] of cells[2]!.matchAll(/`([^`]+)`/g)) {
      if (name!.includes(" ")) yield { name: name!, line: index + 1 };
    }
  }
}

/** Tells whether there is a test of a name, or a pair with the two kinds of body. */
function exists(name: string, names: Set<string>): boolean {
  return names.has(name) ||
    names.has(`${name}, async body`) && names.has(`${name}, generator body`);
}

/** Puts back, at the end of a block, what is replaced in these objects in it. */
function preserve(...objects: object[]): Disposable {
  const before = objects.map(Object.getOwnPropertyDescriptors);
  return {
    [Symbol.dispose](): void {
      for (const [index, object] of objects.entries()) {
        const properties = before[index]!;
        for (const key of Reflect.ownKeys(object)) {
          if (!Object.hasOwn(properties, key)) {
            Reflect.deleteProperty(object, key);
          }
        }
        for (const key of Reflect.ownKeys(properties)) {
          const property = properties[key as keyof typeof properties]!;
          if (property.configurable) {
            Reflect.defineProperty(object, key, property);
          }
        }
      }
    },
  };
}

/**
 * Collects the names of all tests: loads each test file while `Deno.test` notes
 * names instead of registering tests.
 */
async function testNames(): Promise<Set<string>> {
  const names = new Set<string>();
  const note = (first: string | { name: string }): void => {
    names.add(typeof first === "string" ? first : first.name);
  };
  const nothing = (): void => {};
  const hooks = {
    beforeAll: nothing,
    beforeEach: nothing,
    afterEach: nothing,
    afterAll: nothing,
  };
  // Typed as read-only, though it is a property like any other.
  const runtime: { test: unknown } = Deno;
  using restored = new DisposableStack();
  restored.adopt(runtime.test, (test) => runtime.test = test);
  runtime.test = Object.assign(note, hooks);
  for (const file of testFiles(import.meta.dirname!)) {
    // Some replace the clock, and others need the runtime's.
    using _ = preserve(globalThis, performance);
    await import(pathToFileURL(file).href);
  }
  return names;
}

Deno.test("UPSTREAM.md names only tests that exist", async () => {
  const text = await Deno.readTextFile(
    new URL("UPSTREAM.md", import.meta.url),
  );
  const names = await testNames();
  const cited = [...citations(text)];
  assert(cited.length > 500, `Found only ${cited.length} names`);
  const missing = cited
    .filter(({ name }) => !exists(name, names))
    .map(({ name, line }) => `UPSTREAM.md:${line}: ${name}`);
  assertEquals(missing, []);
});

Deno.test("UPSTREAM.md holds no marker of a merge conflict", async () => {
  const text = await Deno.readTextFile(
    new URL("UPSTREAM.md", import.meta.url),
  );
  assertEquals(text.match(/<{7}|={7}|>{7}/g) ?? [], []);
});

Deno.test("citations() reads the code spans with a space in the second column", () => {
  const table = [
    "`Not.in() a table`",
    "| upstream | here |",
    "| --- | --- |",
    "| `a b` | `A.b() does c`; `A.b() does d`. As `A.c()` |",
    "| `e` | Does not apply |",
  ].join("\n");
  assertEquals([...citations(table)], [
    { name: "A.b() does c", line: 4 },
    { name: "A.b() does d", line: 4 },
  ]);
  assertThrows(
    () => [...citations("| `a` | `A.b() does c` | `A.b() does d` |")],
    SyntaxError,
    "line 1",
  );
});

Deno.test("exists() takes a test, or its two kinds of body, for the name", () => {
  const names = new Set(["a", "b, async body", "c, async body"]);
  names.add("c, generator body");
  assert(exists("a", names));
  assert(!exists("b", names), "one kind is not enough");
  assert(exists("c", names));
  assert(!exists("d", names));
});
