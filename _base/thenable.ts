/**
 * What the call of a body gives, and what comes of it.
 *
 * @module
 */

/**
 * What comes of a body in the end: what a generator returns, what a promise gives, or
 * the value itself.
 *
 * @typeParam R What the function returns when it is called.
 */
export type BodyResult<R> = R extends Generator<unknown, infer T, never> ? T
  : Awaited<R>;

/** Whether the body goes on after the call. */
export function isThenable(result: unknown): result is PromiseLike<unknown> {
  return result instanceof Promise ||
    typeof (result as PromiseLike<unknown> | null | undefined)?.then ===
      "function";
}
