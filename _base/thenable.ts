/**
 * The results of bodies.
 *
 * @module
 */

/**
 * The type of the result of a body: what a generator returns, what a promise is fulfilled
 * with, or the value itself.
 *
 * @typeParam R What a call of the function returns.
 */
export type BodyResult<R> = R extends Generator<unknown, infer T, never> ? T
  : Awaited<R>;

/** Whether the result of a body must be awaited. */
export function isThenable(result: unknown): result is PromiseLike<unknown> {
  try {
    return result instanceof Promise ||
      typeof (result as PromiseLike<unknown> | null | undefined)?.then ===
        "function";
  } catch {
    // A getter or a proxy has thrown, and `await` rejects with the error that they throw.
    return true;
  }
}

/** Whether a value is a generator, which has to be run. */
export function isGenerator(
  result: unknown,
): result is Generator<unknown, unknown, unknown> {
  const { next, throw: fail } = (result ?? {}) as Partial<Generator>;
  return typeof next === "function" && typeof fail === "function";
}

/** Whether a value is a generator function. */
export function isGeneratorFunction(value: unknown): boolean {
  return Object.prototype.toString.call(value) === "[object GeneratorFunction]";
}
