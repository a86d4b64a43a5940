import { assert, assertEquals, assertMatch } from "@std/assert";
import { AsyncLocalStorage } from "node:async_hooks";
import { KEY, makeContext, type Mapped } from "../../_hub/async_context.ts";
import { main } from "../../_hub/main.ts";
import { Scope } from "../../_hub/scope.ts";

class Named implements Mapped {
  readonly [KEY] = this;
  readonly #name: string;

  constructor(name: string) {
    this.#name = name;
  }

  get name(): string {
    return this.#name;
  }
}

const context = makeContext<Named>();

/** A foreign promise. */
function foreign(): Promise<void> {
  return new Promise((resolve) => queueMicrotask(resolve));
}

Deno.test("Context.get() gives the value in force, through every await, and nothing outside", async () => {
  const one = new Named("one");
  const two = new Named("two");
  const seen = await context.run(one, async () => {
    const before = context.get();
    await foreign();
    const inner = context.run(two, async () => {
      await foreign();
      return context.get();
    });
    return [before, context.get(), await inner, context.get()];
  });
  assertEquals(seen, [one, one, two, one]);
  assertEquals(context.get(), undefined);
});

Deno.test("Context.run() passes arguments, the result and the error on, and restores the value that was in force", () => {
  assertEquals(context.run(new Named("a"), (...args) => args, 1, 2), [1, 2]);
  const error = new Error("no");
  let thrown;
  try {
    context.run(new Named("a"), () => {
      throw error;
    });
  } catch (e) {
    thrown = e;
  }
  assert(thrown === error);
  assertEquals(context.get(), undefined);
});

Deno.test("Context.run() with undefined puts no value in force, to the end of the calls that it begins", async () => {
  await context.run(new Named("a"), async () => {
    const inner = context.run(undefined, async () => {
      await foreign();
      return context.get();
    });
    assertEquals(await inner, undefined);
    assertEquals(context.get()?.name, "a");
  });
});

Deno.test("Context and AsyncLocalStorage leave each other alone, whichever is entered first", async () => {
  const storage = new AsyncLocalStorage<string>();
  const look = async () => {
    await foreign();
    return [context.get()?.name, storage.getStore()];
  };
  const a = new Named("a");
  const b = new Named("b");
  assertEquals(
    await context.run(a, () => storage.run("s", look)),
    ["a", "s"],
  );
  assertEquals(
    await storage.run("s", () => context.run(a, look)),
    ["a", "s"],
  );
  assertEquals(
    await storage.run(
      "s",
      () => context.run(a, () => storage.run("t", () => context.run(b, look))),
    ),
    ["b", "t"],
  );
  assertEquals(
    await storage.run(
      "s",
      () => context.run(a, () => context.run(undefined, look)),
    ),
    [undefined, "s"],
  );
  assertEquals(
    await context.run(a, () => storage.exit(look)),
    ["a", undefined],
  );
  assertEquals(await look(), [undefined, undefined]);
});

Deno.test("Context takes scopes, which add one entry only to the mappings of other storages", () => {
  assertEquals(Reflect.ownKeys(new Scope(main)), [KEY]);
});

Deno.test("getCurrent() is right as well where there is AsyncLocalStorage only", async () => {
  // One module: each takes `deno test` 0.4 s of processor time.
  const files = ["gevent_test.ts", "hub_test.ts", "timeout_test.ts"];
  const module = await Deno.makeTempFile({ suffix: "_test.ts" });
  using stack = new DisposableStack();
  stack.defer(() => Deno.removeSync(module));
  await Deno.writeTextFile(
    module,
    files.map((file) => `import "${import.meta.resolve(`../${file}`)}";\n`)
      .join(""),
  );
  const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
    args: [
      "test",
      "--no-check",
      "--allow-all",
      "--preload=tests/hub/_without_carrier.ts",
      "--import-map=tests/offline/import_map.json",
      "--filter=/getCurrent|AsyncLocalStorage/",
      "--config=deno.json",
      module,
    ],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).output();
  const output = new TextDecoder().decode(stdout);
  assert(success, output + new TextDecoder().decode(stderr));
  assertMatch(output, /hidden true/);
  assertMatch(output, /ok \| \d\d+ passed/);
});

/** The output of a program of `tests/runtimes/`, with a module that is loaded before it. */
async function outputOf(program: string, preload?: string): Promise<string> {
  const path = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
  const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-q",
      "--no-check",
      "--allow-all",
      ...preload === undefined
        ? []
        : [`--preload=${path}/tests/hub/${preload}`],
      `${path}/tests/runtimes/${program}`,
      path,
      ".ts",
    ],
    env: { NO_COLOR: "1" },
    // Long enough for a busy machine.
    signal: AbortSignal.timeout(60_000),
  }).output();
  const text = new TextDecoder();
  assertEquals(text.decode(stderr), "");
  assert(success);
  return text.decode(stdout);
}

Deno.test("getCurrent() is right as well where the language has AsyncContext", async () => {
  const program = "context.js";
  assertEquals(
    await outputOf(program, "_with_async_context.ts"),
    await outputOf(program),
  );
});

Deno.test("getCurrent() is right after each wait where nothing carries a context", async () => {
  const program = "awaits.js";
  assertEquals(
    await outputOf(program, "_without_context.ts"),
    await outputOf(program),
  );
});
