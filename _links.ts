/**
 * The one implementation of links: who is to be told, once, when something is ready.
 *
 * @module
 */

import { report } from "./_flow.ts";
import { runSoon, type Task } from "./_wakeups.ts";

/** What a link is: a function, or an object that is told. */
export type Link<S> = ((source: S) => unknown) | {
  /** Called with what has become ready. */
  linked(source: S): unknown;
};

/** A place in {@linkcode Links}. */
export class LinkNode<S> {
  /** What was given by the user, and is recognised by `remove`. */
  readonly link: Link<S>;
  /** What is called instead, if something is. */
  readonly call: ((source: S) => unknown) | null;
  list: Links<S> | null = null;
  previous: LinkNode<S> | null = null;
  next: LinkNode<S> | null = null;

  constructor(link: Link<S>, call: ((source: S) => unknown) | null) {
    this.link = link;
    this.call = call;
  }

  /** Takes the link back; does nothing when it has been called. */
  drop(): void {
    const { list, previous, next } = this;
    if (list === null) return;
    if (previous === null) list.first = next;
    else previous.next = next;
    if (next === null) list.last = previous;
    else next.previous = previous;
    this.list = this.previous = this.next = null;
  }
}

/** Links in the order in which they were added, which is that of the calls. */
export class Links<S> implements Task {
  readonly #source: S;
  first: LinkNode<S> | null = null;
  last: LinkNode<S> | null = null;
  #scheduled = false;

  /** @param source What the links are told of. */
  constructor(source: S) {
    this.#source = source;
  }

  /**
   * @param link What to call, or the object to tell.
   * @param call What to call instead.
   */
  add(
    link: Link<S>,
    call: ((source: S) => unknown) | null = null,
  ): LinkNode<S> {
    const node = new LinkNode(checkLink(link), call);
    node.list = this;
    node.previous = this.last;
    if (this.last === null) this.first = node;
    else this.last.next = node;
    this.last = node;
    return node;
  }

  /** Takes back the oldest link that is `link`, if there is one. */
  remove(link: Link<S>): void {
    for (let node = this.first; node !== null; node = node.next) {
      if (node.link === link) return node.drop();
    }
  }

  /** Takes back all links. */
  clear(): void {
    while (this.first !== null) this.first.drop();
  }

  /** Soon calls every link that is still there then, from the hub, and drops it. */
  schedule(): void {
    if (this.#scheduled || this.first === null) return;
    this.#scheduled = true;
    runSoon(this);
  }

  run(): void {
    this.#scheduled = false;
    const source = this.#source;
    for (let node = this.first; node !== null; node = this.first) {
      // Dropped one by one, so that a link may still take back those after it.
      node.drop();
      const { link, call } = node;
      try {
        if (call !== null) call(source);
        else if (typeof link === "function") link(source);
        else link.linked(source);
      } catch (error) {
        report(link, error);
      }
    }
  }
}

function checkLink<S>(link: Link<S>): Link<S> {
  if (
    typeof link === "function" ||
    (typeof link === "object" && typeof link?.linked === "function")
  ) return link;
  throw new TypeError(
    `Cannot link as the link must be a function or be linkable: received ${link}`,
  );
}
