/**
 * A queue with two ends, in a ring.
 *
 * @module
 */

/** Items in order. Unlike an array, it takes an item from the front as fast as from the end. */
export class Deque<T> {
  #ring: (T | undefined)[] = new Array(8);
  #head = 0;
  #length = 0;

  /** The number of items. */
  get length(): number {
    return this.#length;
  }

  /** Adds an item at the end. */
  push(item: T): void {
    if (this.#length === this.#ring.length) this.#grow();
    this.#ring[(this.#head + this.#length++) & (this.#ring.length - 1)] = item;
  }

  /** Takes the first item. The deque must not be empty. */
  shift(): T {
    const item = this.#ring[this.#head] as T;
    this.#ring[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#ring.length - 1);
    this.#length--;
    return item;
  }

  /** Takes the last item. The deque must not be empty. */
  pop(): T {
    const last = (this.#head + --this.#length) & (this.#ring.length - 1);
    const item = this.#ring[last] as T;
    this.#ring[last] = undefined;
    return item;
  }

  /** The item at an index, which must be in range. */
  at(index: number): T {
    return this.#ring[(this.#head + index) & (this.#ring.length - 1)] as T;
  }

  *[Symbol.iterator](): Generator<T> {
    for (let i = 0; i < this.#length; i++) yield this.at(i);
  }

  #grow(): void {
    const items = [...this];
    items.length = 2 * this.#ring.length;
    this.#ring = items;
    this.#head = 0;
  }
}
