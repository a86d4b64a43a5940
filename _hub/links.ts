/**
 * The one implementation of links: who is to be told, once, when something is ready.
 *
 * @module
 */

import { checkCallback, checkFunction } from "../_base/checks.ts";
import { Suspension } from "./suspension.ts";
import { reportInTurn } from "./reports.ts";
import { List, type Member } from "../_base/linked_list.ts";
import { mustWait, noteWoken, runSoon, wakeups } from "./run_queue.ts";

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
    const node = new LinkNode(checkLink(link, call === null), call);
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

  /** Calls those that are due; `true` if some have to wait for a body that was woken. */
  tell(): true | void {
    // One by one, so that a link may still take back those after it.
    while (this.#due !== null) {
      const { link, call } = this.first!;
      if (isTooEarly(link)) return true;
      this.shift();
      callLink(link, call, this.#source);
    }
    this.#scheduled = false;
  }
}

function tell<S>(links: Links<S>): true | void {
  return links.tell();
}

/** What marks a function that wakes a body, and does nothing else. */
const WAKES = Symbol("wakes");

/** Marks a link that wakes a body, and does nothing else. */
export function waking<S>(
  link: (source: S) => unknown,
): (source: S) => unknown {
  return Object.assign(link, { [WAKES]: true });
}

/** Whether a link wakes a body, which goes on later than a function that is called. */
function isWaking<S>(link: Link<S>): boolean {
  return link instanceof LinkedWait ||
    (link as { [WAKES]?: true })[WAKES] === true;
}

/** Whether a link has to be called later, as a body that was woken is to go on first. */
export function isTooEarly<S>(link: Link<S>): boolean {
  return mustWait() && !isWaking(link);
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
  const before = wakeups();
  try {
    if (call !== null) call(source);
    else if (typeof link === "function") link(source);
    else link.linked(source);
  } catch (error) {
    reportInTurn(link, error);
  }
  if (wakeups() !== before && isWaking(link)) noteWoken();
}

/**
 * Throws unless it is a link.
 *
 * @param isRaw Whether the hub calls it, which can't run a generator.
 */
export function checkLink<S>(link: Link<S>, isRaw: boolean): Link<S> {
  if (typeof link === "function") {
    if (isRaw) checkCallback(link, "link", "link");
    else checkFunction(link, "link", "link");
    return link;
  }
  if (typeof link === "object" && typeof link?.linked === "function") {
    return link;
  }
  throw new TypeError(
    `Cannot link as the link must be a function or be linkable: received ${link}`,
  );
}

/** What has links. */
interface Linkable<S> {
  rawlink(link: Link<S>): void;
  unlink(link: Link<S>): void;
}

/** Has one link called by each of several: by none of them, if one refuses it. */
export function linkAll<S>(
  sources: readonly Linkable<S>[],
  link: Link<S>,
): void {
  let i = 0;
  try {
    for (; i < sources.length; i++) sources[i]!.rawlink(link);
  } catch (error) {
    while (i-- > 0) sources[i]!.unlink(link);
    throw error;
  }
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
