/**
 * Evaluates code that is typed line by line, with top-level `await`. Declarations last from one
 * input to the next.
 *
 * It has no parser. It asks the engine instead: it compiles the code with different text around
 * it, and sees which version is valid. That takes tens of microseconds each time.
 *
 * @module
 */

import { getBuiltin } from "./builtin.ts";

/** The outcome of parsing: code to run, code that lacks lines, or an error to report. */
export type Parsed =
  | { readonly kind: "whole"; readonly body: string }
  | { readonly kind: "incomplete" }
  | { readonly kind: "wrong"; readonly error: Error };

const OPEN = "async () => {\n";
/** Matches code that begins with a function or a class: then it is no expression. */
const DECLARATION = /^\s*(?:async\s+)?(?:function|class)\b/;
const DECLARES = /\b(?:let|const|var|function|class|using)\b/;
const IDENTIFIER = /[\p{ID_Start}$_][\p{ID_Continue}$]*/gu;
/** Matches a line that continues the statement of the line before. */
const CONTINUES = /^\s*(?:[-+*/%&|^=<>?:.,([`]|!=|in\b|instanceof\b)/;
/** The deepest nesting of calls over several lines. */
const DEEPEST = 32;

/** Compiles the code. Returns the engine's error, or `null` if it is valid. */
function refusal(code: string): Error | null {
  const { Script } = getBuiltin("node:vm");
  try {
    new Script(code);
    return null;
  } catch (error) {
    return error as Error;
  }
}

function isBody(code: string): boolean {
  return refusal(`${OPEN}${code}\n}`) === null;
}

function isExpression(code: string): boolean {
  return code.trim() !== "" && !DECLARATION.test(code) &&
    refusal(`async () => (\n${code}\n)`) === null;
}

/** Whether more lines could complete the code. */
function isIncomplete(code: string): boolean {
  const open = OPEN + code;
  const message = refusal(open)?.message;
  if (message === undefined) return false; // It closes the function itself
  if (message === "Unexpected end of input") return true;
  // These messages may be about the middle of the code. If they are about its end, they change
  // when the missing text is added.
  const changes = (rest: string) => refusal(open + rest)?.message !== message;
  if (message.startsWith("missing )")) {
    for (let depth = 1; depth <= DEEPEST; depth++) {
      if (changes("\n" + ")".repeat(depth))) return true;
    }
  }
  return message.startsWith("Invalid or unexpected token") &&
    (changes("\n*/") || code.endsWith("\\"));
}

/** Finds out whether the code is whole. If so, makes it return its last expression. */
export function parse(code: string): Parsed {
  const trimmed = code.replace(/[\s;]+$/, "");
  if (isExpression(trimmed)) {
    return { kind: "whole", body: returning(trimmed) };
  }
  const error = refusal(`${OPEN}${code}\n}`);
  if (error === null && refusal(OPEN + code) !== null) {
    return { kind: "whole", body: bodyOf(code, trimmed) };
  }
  if (isIncomplete(code)) return { kind: "incomplete" };
  const wrong = error ?? new SyntaxError("Unexpected token '}'");
  return { kind: "wrong", error: wrong };
}

function returning(expression: string): string {
  // In an object, as an async function would await a returned promise.
  return `return { value: (\n${expression}\n) };`;
}

/** Splits the last expression from the statements before it, if the code ends with one. */
function bodyOf(code: string, trimmed: string): string {
  for (let at = trimmed.length - 1; at >= 0; at--) {
    const char = trimmed[at];
    if (char !== ";" && char !== "\n") continue;
    const head = trimmed.slice(0, at + 1);
    const tail = trimmed.slice(at + 1);
    if (char === "\n" && CONTINUES.test(tail)) continue;
    if (!isExpression(tail) || !isBody(head)) continue;
    // If this is valid as well, the semicolon is in a line comment.
    if (char === ";" && isBody(head + " @")) continue;
    return head + returning(tail);
  }
  return code;
}

/** Returns the names that the code declares outside functions and blocks. */
function declaredNames(code: string): string[] {
  if (!DECLARES.test(code)) return [];
  const names = new Set(code.match(IDENTIFIER));
  return [...names].filter((name) =>
    refusal(`${OPEN}let ${name};\n${code}\n}`)?.message ===
      `Identifier '${name}' has already been declared`
  );
}

/** Returns the names that the code assigns to, declared or not. */
function assignedNames(code: string): string[] {
  const assignments = code.matchAll(
    /(?<![.\p{ID_Continue}$])([\p{ID_Start}$_][\p{ID_Continue}$]*)\s*=(?![=>])/gu,
  );
  return [...assignments].map(([, name]) => name!);
}

/** The names that code can use, with their values. Runs code with them. */
export class Names {
  readonly #own: Record<string, unknown> = Object.create(null);
  readonly #assigned = new Set<string>();
  readonly #scope: object;

  /** @param shared Names shared with other sessions. An assignment here hides one, unchanged. */
  constructor(shared: object) {
    const own = this.#own;
    const assigned = this.#assigned;
    this.#scope = new Proxy(own, {
      has: (_, name) =>
        name in own || name in shared ||
        assigned.has(name as string) && !(name in globalThis),
      get: (_, name) => {
        if (name === Symbol.unscopables) return undefined;
        if (name in own) return own[name as string];
        if (name in shared) return Reflect.get(shared, name);
        throw new ReferenceError(`${String(name)} is not defined`);
      },
      set: (_, name, value) => {
        if (name in own) own[name as string] = value;
        else this.define(name as string, value);
        return true;
      },
    });
  }

  /** Defines a name, with its value. */
  define(name: string, value: unknown): void {
    Object.defineProperty(this.#own, name, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }

  /**
   * Runs the body of an async function. Its declarations last, even if it fails later.
   *
   * @returns The value of its last expression, in an object; `undefined` if it has none.
   */
  async run(body: string): Promise<{ readonly value: unknown } | undefined> {
    for (const name of assignedNames(body)) this.#assigned.add(name);
    const accessors = declaredNames(body).map((name) =>
      `get ${name}() { return ${name}; }, set ${name}(_${name}) { ${name} = _${name}; }`
    );
    let declared: object = {};
    // `new Function` allows "with". The declarations are inside the function. The accessors read
    // and write them there, so functions typed earlier see later assignments.
    const make = new Function(
      "$scope",
      "$declare",
      `with ($scope) { return async () => { $declare({ ${
        accessors.join(", ")
      } });\n${body}\n}; }\n//# sourceURL=backdoor`,
    );
    const run = make(this.#scope, (accessors: object) => {
      declared = accessors;
    }) as () => Promise<{ readonly value: unknown } | undefined>;
    try {
      return await run();
    } finally {
      this.#keep(declared);
    }
  }

  #keep(declared: object): void {
    const properties = Object.getOwnPropertyDescriptors(declared);
    for (const [name, property] of Object.entries(properties)) {
      try {
        property.get?.();
      } catch {
        continue; // The code has failed before this declaration
      }
      Object.defineProperty(this.#own, name, property);
    }
  }
}
