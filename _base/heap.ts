/**
 * A binary heap: the least item first.
 *
 * @module
 */

function parentOf(index: number): number {
  return (index - 1) >> 1;
}

/**
 * Items whose least one is found at once. Equal items come in no particular order.
 *
 * A comparison may throw. So each method finds the places first, and moves items after that.
 */
export class Heap<T> {
  readonly #items: T[] = [];
  readonly #compare: (a: T, b: T) => number;

  /** @param compare As for `Array.prototype.sort`. */
  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  /** The number of items. */
  get length(): number {
    return this.#items.length;
  }

  /** The least item; `undefined` if there is none. */
  get first(): T | undefined {
    return this.#items[0];
  }

  /** Adds an item. */
  push(item: T): void {
    const items = this.#items;
    let place = items.length;
    while (place > 0 && this.#compare(item, items[parentOf(place)]!) < 0) {
      place = parentOf(place);
    }
    for (let i = items.length; i > place; i = parentOf(i)) {
      items[i] = items[parentOf(i)]!;
    }
    items[place] = item;
  }

  /** Takes the least item. The heap must not be empty. */
  shift(): T {
    const items = this.#items;
    const first = items[0]!;
    const last = items.length - 1;
    // The first place becomes free. Finds the place below it into which the last item fits.
    let moved = items[last]!;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= last) break;
      const isSecond = child + 1 < last &&
        this.#compare(items[child + 1]!, items[child]!) < 0;
      if (isSecond) child++;
      if (this.#compare(items[child]!, moved) >= 0) break;
      place = child;
    }
    for (let i = place; i > 0; i = parentOf(i)) {
      const item = items[i]!;
      items[i] = moved;
      moved = item;
    }
    items[0] = moved;
    items.pop();
    return first;
  }

  /** Takes all items out. */
  clear(): void {
    this.#items.length = 0;
  }

  /** Whether a test holds for one of the items that come before `limit`. */
  someBefore(limit: T, test: (item: T) => boolean, i = 0): boolean {
    const items = this.#items;
    if (i >= items.length || this.#compare(items[i]!, limit) >= 0) return false;
    return test(items[i]!) || this.someBefore(limit, test, 2 * i + 1) ||
      this.someBefore(limit, test, 2 * i + 2);
  }

  /** The items, the least first. */
  toSorted(): T[] {
    return [...this.#items].sort(this.#compare);
  }
}
