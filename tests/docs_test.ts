/**
 * Runs the examples of the documentation: each block of TypeScript in a doc comment of the
 * library, and in a page of Markdown, is a test.
 *
 * `deno test --doc` does the same, in a new isolate for each example, which costs half a
 * second each. Here the examples share one isolate. `deno check --doc` checks their types.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { monkey } from "../mod.ts";
import { documented, ROOT } from "./_documented.ts";

/** A block of code in a text. */
interface Example {
  code: string;
  /** The number of the code's first line. */
  line: number;
}

/** Finds the examples in Markdown. A block marked `ignore` is none. */
function* examples(markdown: string): Generator<Example> {
  let attributes: string[] | null = null;
  let code: string[] = [];
  for (const [index, text] of markdown.split("\n").entries()) {
    const fence = /^\s*```(.*)$/.exec(text);
    if (fence === null) {
      code.push(text);
    } else if (attributes === null) {
      attributes = fence[1]!.trim().split(/[\s,]+/);
      code = [];
    } else {
      const isCode = /^(ts|typescript|js|javascript)$/.test(attributes[0]!);
      if (isCode && !attributes.includes("ignore")) {
        yield { code: code.join("\n"), line: index - code.length + 1 };
      }
      attributes = null;
    }
  }
  if (attributes !== null) {
    throw new SyntaxError("Cannot find the end of the last block of code");
  }
}

/**
 * Empties the lines of a module that are not in a doc comment, and strips the markers of
 * the others.
 */
function docComments(source: string): string {
  let inside = false;
  return source.split("\n").map((line) => {
    if (/^\s*\/\*\*/.test(line)) inside = true;
    if (!inside) return "";
    if (line.includes("*/")) inside = false;
    return line.replace(/^\s*(\/\*\*|\*\/|\*) ?/, "");
  }).join("\n");
}

/** Makes a module of an example. */
function moduleOf(code: string): string {
  return `data:application/typescript;charset=utf-8,${
    encodeURIComponent(code)
  }`;
}

/** Runs an example in an isolate of its own. */
async function runApart(code: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const worker = new Worker(moduleOf(`${code}\nself.postMessage("ended");`), {
    type: "module",
  });
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new Error(event.message));
  };
  try {
    assertEquals(await promise, "ended");
  } finally {
    worker.terminate();
  }
}

let count = 0;
for (const path of documented()) {
  const text = Deno.readTextFileSync(new URL(path, ROOT));
  const markdown = path.endsWith(".md") ? text : docComments(text);
  for (const { code, line } of examples(markdown)) {
    count++;
    if (code.includes("Deno.test(")) {
      await import(moduleOf(code));
      continue;
    }
    Deno.test(`Example at ${path}:${line} runs`, async () => {
      if (code.includes('gevent/auto"')) {
        // It patches the realm for good.
        await runApart(code);
      } else {
        await import(moduleOf(code));
      }
      assert(
        !monkey.isPatched("timers"),
        "The example leaves its patch behind",
      );
    });
  }
}

Deno.test("The documentation has examples", () => {
  assert(count > 50, `Found only ${count}`);
});

Deno.test("examples() finds the blocks of code in Markdown, and their lines", () => {
  const markdown = [
    "Text",
    "```ts",
    "const a = 1;",
    "```",
    "```sh",
    "deno test",
    "```",
    "```ts ignore",
    "syntax error",
    "```",
    "  ```js",
    "b();",
    "",
    "c();",
    "  ```",
  ].join("\n");
  assertEquals([...examples(markdown)], [
    { code: "const a = 1;", line: 3 },
    { code: "b();\n\nc();", line: 12 },
  ]);
  assertThrows(() => [...examples("```ts\nconst a = 1;")], SyntaxError);
});

Deno.test("docComments() keeps the lines of doc comments, at their places", () => {
  const source = [
    "const a = 1; /* No doc comment */",
    "/** One line */",
    "export class A {",
    "  /**",
    "   * ```ts",
    "   *   code();",
    "   * ```",
    "   */",
    "  method() {}",
    "}",
  ].join("\n");
  assertEquals(
    docComments(source),
    ["", "One line */", "", "", "```ts", "  code();", "```", "", "", ""]
      .join("\n"),
  );
});
