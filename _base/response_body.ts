/**
 * Finds the kind of a response's body without reading it.
 *
 * Reading `response.body` turns bytes in memory into a stream, which the runtime then sends in
 * chunks. So the internal fields are read instead. If they are not as expected, every body
 * counts as a stream.
 *
 * @module
 */

/** A body in memory. */
type Whole = string | Uint8Array;

/** Stands for a stream. */
export const STREAM: unique symbol = Symbol("stream");

interface Fields {
  readonly inner: symbol;
  readonly fast: symbol | undefined;
}

/** The internal fields that hold a response's body; `null` if they are not as expected. */
let fields: Fields | null | undefined;

function findFields(): Fields | null {
  const sample = new Response("x");
  const symbols = Object.getOwnPropertySymbols(sample);
  const find = (description: string) =>
    symbols.find((symbol) => symbol.description === description);
  const inner = find("response");
  if (inner === undefined) return null;
  const found = { inner, fast: find("serve fast body") };
  return isExpected(found) ? found : null;
}

/** Tries the fields: whether they show a body of each kind correctly. */
function isExpected(found: Fields): boolean {
  try {
    const stream = new Response(new ReadableStream({ type: "bytes" }));
    return lookInto(new Response("x"), found) === "x" &&
      lookInto(new Response(new Uint8Array(2)), found) instanceof Uint8Array &&
      lookInto(new Response("x", { headers: { a: "b" } }), found) === "x" &&
      lookInto(new Response(null), found) === null &&
      lookInto(stream, found) === STREAM;
  } catch {
    return false;
  }
}

function lookInto(
  response: Response,
  { inner, fast }: Fields,
): Whole | typeof STREAM | null {
  const own = response as unknown as Record<symbol, unknown>;
  const { body } = own[inner] as { body: unknown };
  if (body === null) {
    const whole = fast === undefined ? null : own[fast];
    return whole as Whole | null ?? null;
  }
  const { streamOrStatic } = body as { streamOrStatic: unknown };
  if (streamOrStatic instanceof ReadableStream) return STREAM;
  const whole = (streamOrStatic as { body: unknown }).body;
  if (typeof whole === "string" || whole instanceof Uint8Array) return whole;
  throw new TypeError("Unexpected body");
}

/**
 * The body of a response: text or bytes if it is in memory, {@linkcode STREAM} if it is or may be
 * a stream, `null` if there is none.
 */
export function bodyOf(response: Response): Whole | typeof STREAM | null {
  if (fields === undefined) fields = findFields();
  try {
    if (fields !== null) return lookInto(response, fields);
  } catch {
    // The object is no response of the runtime.
  }
  return response.body === null ? null : STREAM;
}
