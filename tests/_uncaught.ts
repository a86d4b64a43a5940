/**
 * Errors that reach the process.
 *
 * @module
 */

import { assertEquals } from "@std/assert";

/**
 * Collects the errors and rejections that reach the process while this is in use, and keeps
 * it alive.
 */
export class Uncaught implements Disposable {
  readonly errors: unknown[] = [];
  readonly rejections: [unknown, unknown][] = [];
  #next = Promise.withResolvers<void>();
  readonly #onError = (event: ErrorEvent) => {
    event.preventDefault();
    this.errors.push(event.error);
    this.#tell();
  };
  readonly #onRejection = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    this.rejections.push([event.promise, event.reason]);
    this.#tell();
  };

  constructor() {
    addEventListener("error", this.#onError);
    addEventListener("unhandledrejection", this.#onRejection);
  }

  #tell(): void {
    this.#next.resolve();
    this.#next = Promise.withResolvers();
  }

  /** Waits until there are `count` of them. */
  async until(count: number): Promise<void> {
    while (this.errors.length + this.rejections.length < count) {
      await this.#next.promise;
    }
  }

  [Symbol.dispose](): void {
    removeEventListener("error", this.#onError);
    removeEventListener("unhandledrejection", this.#onRejection);
  }
}

/** Fails at the end of its block if there was an unhandled rejection meanwhile. */
export class Unhandled implements AsyncDisposable {
  readonly #reasons: unknown[] = [];
  readonly #listener = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    this.#reasons.push(event.reason);
  };

  constructor() {
    globalThis.addEventListener("unhandledrejection", this.#listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The runtime reports them when the microtasks are done.
    await new Promise((resolve) => setTimeout(resolve, 0));
    globalThis.removeEventListener("unhandledrejection", this.#listener);
    assertEquals(this.#reasons, [], "unhandled rejections");
  }
}
