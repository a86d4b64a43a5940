/**
 * greenlet's and gevent's own test suites are the checklist of behaviour. `upstream/` holds
 * their test files as data, and here the data is checked.
 *
 * `upstream/files.json` lists the files of each project. A file that does not apply has the
 * reason there; any other has `"cases"`, and a file of its own, as
 * `upstream/gevent/test__queue.json`. That lists each test method in upstream's order, with
 * what answers it here:
 *
 * - the exact name of a test
 * - a note: the reason why the case does not apply in JavaScript, or what differs
 * - several of these, in the order in which they are read
 *
 * A test that is run with an async body and with a generator body may be named without the
 * `, async body` and `, generator body` that end the names of the two.
 *
 * No test is copied: ours are written anew, from what upstream's assert.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { pathToFileURL } from "node:url";
import { testFiles } from "../tools/_suite.ts";

/** A remark beside the names of tests, or in their place. */
interface Note {
  note: string;
}

/** The name of a test, or a note. */
type Answer = string | Note;

/** A test file of upstream. */
interface UpstreamFile {
  /** Where it comes from, if its name does not tell. */
  about?: string;
  /** The answer to each of its test methods. */
  cases: Record<string, Answer | Answer[]>;
}

/** The test files of a project. */
interface Project {
  /** The address of the folder. */
  from: string;
  /** Why a file does not apply, or `"cases"`. */
  files: Record<string, string>;
}

const FOLDER = new URL("upstream/", import.meta.url);

function read(path: string): unknown {
  return JSON.parse(Deno.readTextFileSync(new URL(path, FOLDER)));
}

const projects = read("files.json") as Record<string, Project>;

/** The paths in `upstream/` of the files that should be there, as `files.json` tells. */
function listed(): string[] {
  return Object.entries(projects).flatMap(([project, { files }]) =>
    Object.entries(files)
      .filter(([, answer]) => answer === "cases")
      .map(([name]) => `${project}/${name.replace(/\.py$/, ".json")}`)
  ).sort();
}

/** The paths in `upstream/` of the files that are there. */
function present(): string[] {
  return [...Deno.readDirSync(FOLDER)]
    .filter(({ isDirectory }) => isDirectory)
    .flatMap(({ name: folder }) =>
      [...Deno.readDirSync(new URL(folder, FOLDER))]
        .map(({ name }) => `${folder}/${name}`)
    ).sort();
}

/** Finds the tests that a file names, each with the case that it answers. */
function* citations(
  { cases }: UpstreamFile,
): Generator<[upstreamCase: string, test: string]> {
  for (const [upstreamCase, answer] of Object.entries(cases)) {
    for (const one of [answer].flat()) {
      if (typeof one === "string") yield [upstreamCase, one];
    }
  }
}

/** Throws if a file is not of the form that {@linkcode UpstreamFile} tells. */
function check(file: unknown): asserts file is UpstreamFile {
  const isText = (value: unknown): boolean =>
    typeof value === "string" && value.trim() !== "";
  const { about, cases, ...others } = file as UpstreamFile;
  assertEquals(others, {}, "a file has other properties");
  if (about !== undefined) assert(isText(about), "about is no text");
  assert(Object.keys(cases).length > 0, "a file has no cases");
  for (const [upstreamCase, answer] of Object.entries(cases)) {
    const answers = [answer].flat();
    assert(answers.length > 0, `${upstreamCase} has no answer`);
    for (const one of answers) {
      const isNote = typeof one === "object" && one !== null &&
        Object.keys(one).join() === "note" && isText(one.note);
      assert(isText(one) || isNote, `${upstreamCase} has no right answer`);
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
 * Collects the names of tests: loads one test file after the other while `Deno.test` notes
 * names instead of registering tests, until it has found what is looked for, or has loaded
 * them all. Those files come first in which most of that is written: to load the packages of
 * the others takes 4 s of processor time.
 */
async function testNames(
  cited: Iterable<string>,
  isFound: (names: Set<string>) => boolean,
): Promise<Set<string>> {
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
  const beginnings = new Set([...cited].map((name) => name.slice(0, 40)));
  const files = testFiles(import.meta.dirname!).map((path) => {
    const text = Deno.readTextFileSync(path);
    let count = 0;
    for (const beginning of beginnings) if (text.includes(beginning)) count++;
    return { path, count };
  }).sort((a, b) => b.count - a.count);
  // Typed as read-only, though it is a property like any other.
  const runtime: { test: unknown } = Deno;
  using restored = new DisposableStack();
  restored.adopt(runtime.test, (test) => runtime.test = test);
  runtime.test = Object.assign(note, hooks);
  for (const { path } of files) {
    if (isFound(names)) break;
    // Some replace the clock, and others need the runtime's.
    using _ = preserve(globalThis, performance);
    await import(pathToFileURL(path).href);
  }
  return names;
}

Deno.test("The upstream files that files.json lists with cases are the ones that are there", () => {
  assertEquals(present(), listed());
  for (const project of ["greenlet", "gevent"]) {
    assert(Object.keys(projects[project]!.files).length > 10, project);
  }
});

Deno.test("Each upstream case has the name of a test, or the reason why it does not apply", () => {
  for (const path of present()) check(read(path));
});

Deno.test("The tests that upstream cases name exist", async () => {
  const all = present().flatMap((path) =>
    [...citations(read(path) as UpstreamFile)].map(([upstreamCase, test]) => ({
      where: `${path}: ${upstreamCase}: ${test}`,
      test,
    }))
  );
  const cited = new Set(all.map(({ test }) => test));
  const missing = (names: Set<string>): string[] =>
    all.filter(({ test }) => !exists(test, names)).map(({ where }) => where);
  const names = await testNames(cited, (names) => missing(names).length === 0);
  assertEquals(missing(names), []);
  assert(all.length > 500, `Found only ${all.length} names`);
});

Deno.test("citations() gives the names of tests, and no notes", () => {
  const file: UpstreamFile = {
    cases: {
      one: "A.b() does c",
      two: [{ note: "Here it differs" }, "A.b() does d", "A.b() does e"],
      three: { note: "Does not apply" },
    },
  };
  assertEquals([...citations(file)], [
    ["one", "A.b() does c"],
    ["two", "A.b() does d"],
    ["two", "A.b() does e"],
  ]);
});

Deno.test("check() refuses a case without an answer", () => {
  check({ cases: { one: "A.b() does c" } });
  const wrong = ["", [], [""], { note: " " }, { name: "A" }, null, 1];
  for (const answer of wrong) {
    assertThrows(() => check({ cases: { one: answer } }), Error, "one has");
  }
  assertThrows(() => check({ cases: {} }), Error, "no cases");
  assertThrows(
    () => check({ cases: { one: "A" }, case: {} }),
    Error,
    "other properties",
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
