/**
 * A list whose members know their place: to leave it from the middle costs as little as
 * to join it.
 *
 * @module
 */

/** What can be in a {@linkcode List}: in one at a time. */
export interface Member<M extends Member<M>> {
  /** `null` when it is in none. */
  list: List<M> | null;
  previous: M | null;
  next: M | null;
}

/** Members in the order in which they came. */
export class List<M extends Member<M>> {
  first: M | null = null;
  last: M | null = null;
  length = 0;

  /** Puts a member at the end. */
  add(member: M): void {
    member.list = this;
    member.previous = this.last;
    if (this.last === null) this.first = member;
    else this.last.next = member;
    this.last = member;
    this.length++;
  }

  /** Takes a member out, wherever it is. */
  remove(member: M): void {
    const { previous, next } = member;
    if (previous === null) this.first = next;
    else previous.next = next;
    if (next === null) this.last = previous;
    else next.previous = previous;
    member.list = member.previous = member.next = null;
    this.length--;
  }

  /** Takes the first member out. */
  shift(): M | null {
    const { first } = this;
    if (first !== null) this.remove(first);
    return first;
  }
}
