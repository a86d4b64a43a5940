/**
 * A doubly linked list: a member in the middle is removed as fast as one is added.
 *
 * @module
 */

/** A member of a {@linkcode List}. It can be in one list at a time. */
export interface Member<M extends Member<M>> {
  /** The list that it is in; `null` if it is in no list. */
  list: List<M> | null;
  /** The member before it; for the first one, the last. */
  previous: M | null;
  next: M | null;
}

/**
 * Members in the order in which they were added. The list refers only to the first member:
 * storing a new object in an old one costs the garbage collector work.
 */
export class List<M extends Member<M>> {
  first: M | null = null;
  length = 0;
  /** The object that the members wait for, such as a queue; `null` if they are not waits. */
  readonly owner: object | null;

  constructor(owner: object | null = null) {
    this.owner = owner;
  }

  /** The member that was added last. */
  get last(): M | null {
    return this.first === null ? null : this.first.previous;
  }

  /** Puts a member at the end. */
  add(member: M): void {
    const { first } = this;
    member.list = this;
    if (first === null) {
      this.first = member.previous = member;
    } else {
      member.previous = first.previous;
      first.previous!.next = first.previous = member;
    }
    this.length++;
  }

  /** Takes a member out, wherever it is. */
  remove(member: M): void {
    const { first } = this;
    const { previous, next } = member;
    if (member === first) this.first = next;
    else previous!.next = next;
    // Without a next member, it was the last one.
    if (next !== null) next.previous = previous;
    else if (member !== first) first!.previous = previous;
    member.list = member.previous = member.next = null;
    this.length--;
  }

  /** Removes a member before its turn; a subclass may do more. */
  leave(member: M): void {
    this.remove(member);
  }

  /** Takes the first member out. */
  shift(): M | null {
    const { first } = this;
    if (first !== null) this.remove(first);
    return first;
  }
}
