/**
 * The one implementation of links: who is to be told, once, when something is ready.
 *
 * @module
 */

import { Suspension } from "./_flow.ts";
import { reportInTurn } from "./_reports.ts";
import { List, type Member } from "./_list.ts";
import { runSoon } from "./_wakeups.ts";

/** What a link is: a function, or an object that is told. */
export type Link<S> = ((source: S) => unknown) | {
  /** Called with what has become ready. */
  linked(source: S): unknown;
};

/** A place in {@linkcode Links}. */
export class LinkNode<S> implements Member<LinkNode<S>> {
  /** What was given by the user, and is recognised by `remove`. */
  readonly link: Link<S>;
  /** What is called instead, if something is. */
  readonly call: ((source: S) => unknown) | null;
  list: List<LinkNode<S>> | null = null;
  previous: LinkNode<S> | null = null;
  next: LinkNode<S> | null = null;

  constructor(link: Link<S>, call: ((source: S) => unknown) | null) {
    this.link = link;
    this.call = call;
  }

  /** Takes the link back; does nothing when it has been called. */
  drop(): void {
    this.list?.remove(this);
  }
}

/** Links in the order in which they were added, which is that of the calls. */
export class Links<S> extends List<LinkNode<S>> {
  readonly #source: S;
  /** The last that is to be called when the hub comes to it. */
  #due: LinkNode<S> | null = null;
  #scheduled = false;

  /** @param source What the links are told of. */
  constructor(source: S) {
    super();
    this.#source = source;
  }

  /**
   * @param link What to call, or the object to tell.
   * @param call What to call instead.
   */
  link(
    link: Link<S>,
    call: ((source: S) => unknown) | null = null,
  ): LinkNode<S> {
    const node = new LinkNode(checkLink(link), call);
    this.add(node);
    return node;
  }

  override remove(node: LinkNode<S>): void {
    if (node === this.#due) {
      this.#due = node === this.first ? null : node.previous;
    }
    super.remove(node);
  }

  /** Takes back the oldest link that is `link`, if there is one. */
  unlink(link: Link<S>): void {
    for (let node = this.first; node !== null; node = node.next) {
      if (node.link === link) return node.drop();
    }
  }

  /** Takes back all links. */
  clear(): void {
    while (this.shift() !== null);
  }

  /** Soon calls, from the hub, those links that are here now and still are then. */
  schedule(): void {
    this.#due = this.last;
    if (this.#scheduled || this.last === null) return;
    this.#scheduled = true;
    runSoon(tell<S>, this);
  }

  /** Calls those that are due. */
  tell(): void {
    this.#scheduled = false;
    // One by one, so that a link may still take back those after it.
    while (this.#due !== null) {
      const { link, call } = this.shift()!;
      callLink(link, call, this.#source);
    }
  }
}

function tell<S>(links: Links<S>): void {
  links.tell();
}

/**
 * Calls a link, and reports what it throws.
 *
 * @param link What was given by the user.
 * @param call What is called instead, if something is.
 * @param source What it is told of.
 */
export function callLink<S>(
  link: Link<S>,
  call: ((source: S) => unknown) | null,
  source: S,
): void {
  try {
    if (call !== null) call(source);
    else if (typeof link === "function") link(source);
    else link.linked(source);
  } catch (error) {
    reportInTurn(link, error);
  }
}

/** Throws unless it is a link. */
export function checkLink<S>(link: Link<S>): Link<S> {
  if (
    typeof link === "function" ||
    (typeof link === "object" && typeof link?.linked === "function")
  ) return link;
  throw new TypeError(
    `Cannot link as the link must be a function or be linkable: received ${link}`,
  );
}

/** A wait that ends when a link is called. */
export abstract class LinkedWait<S, T> extends Suspension<T> {
  readonly #node: LinkNode<S>;

  constructor(links: Links<S>) {
    super();
    this.#node = links.link(this);
  }

  /** Called with what has become ready. */
  abstract linked(source: S): void;

  protected override undo(): void {
    this.#node.drop();
  }
}
