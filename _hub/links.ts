/**
 * The one implementation of links: functions that are called once, when an object is ready.
 *
 * @module
 */

import { checkCallback, checkFunction, show } from "../_base/checks.ts";
import type { Greenlet } from "../greenlet.ts";
import { Suspension } from "./suspension.ts";
import { reportRejection } from "./main.ts";
import { reportInTurn } from "./reports.ts";
import { List, type Member } from "../_base/linked_list.ts";
import { mustWait, noteWoken, runSoon, wakeups } from "./run_queue.ts";
import { blockersFor } from "./waits.ts";

/** A link: a function, or an object with `linked()`. */
export type Link<S> = ((source: S) => unknown) | {
  /** Called with the object that has become ready. */
  linked(source: S): unknown;
};

/** One link in {@linkcode Links}. */
export class LinkNode<S> implements Member<LinkNode<S>> {
  /** The link that the program has passed: `unlink` finds it by this. */
  readonly link: Link<S>;
  /** The function to call in place of the link, if there is one. */
  readonly call: ((source: S) => unknown) | null;
  list: List<LinkNode<S>> | null = null;
  previous: LinkNode<S> | null = null;
  next: LinkNode<S> | null = null;

  constructor(link: Link<S>, call: ((source: S) => unknown) | null) {
    this.link = link;
    this.call = call;
  }

  /** Removes the link. Does nothing if it was called. */
  drop(): void {
    this.list?.remove(this);
  }
}

/**
 * Where the links of one object are:
 *
 * - `idle`: none is to be called
 * - `scheduled`: the hub's next task calls them
 * - `telling`: the task has called some; the others wait for a body that was woken
 * - `again`: so, and there are new links for the next task
 */
type LinksState = "idle" | "scheduled" | "telling" | "again";

/** Links, in the order in which they are added and called. */
export class Links<S> extends List<LinkNode<S>> {
  /** The last link to call in the hub's next task. */
  #due: LinkNode<S> | null = null;
  #state: LinksState = "idle";

  /** @param source The object that links are called with. */
  constructor(source: S) {
    super(source as object);
  }

  /**
   * Adds a link.
   *
   * @param link The link as the user has given it.
   * @param call The function to call in its place.
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

  /** Removes the oldest link that was added as `link`, if there is one. */
  unlink(link: Link<S>): void {
    for (let node = this.first; node !== null; node = node.next) {
      if (node.link === link) return node.drop();
    }
  }

  /** Removes all links. */
  clear(): void {
    while (this.shift() !== null);
  }

  /** Lets the hub call, soon, the links that are here now and are not removed before. */
  schedule(): void {
    if (this.last === null) return;
    if (this.#state === "telling" || this.#state === "again") {
      this.#state = "again";
      return;
    }
    this.#due = this.last;
    if (this.#state === "scheduled") return;
    this.#state = "scheduled";
    runSoon(tell<S>, this);
  }

  /** Calls the links. Returns `true` if some must wait, as a body that was woken goes on first. */
  tell(): true | void {
    // One by one, as a link may remove later ones.
    while (this.#due !== null) {
      const { link, call } = this.first!;
      if (isTooEarly(link)) return true;
      if (this.#state === "scheduled") this.#state = "telling";
      this.shift();
      callLink(link, call, this.owner as S);
    }
    const hasNew = (this.#state as LinksState) === "again";
    this.#state = "idle";
    if (hasNew) this.schedule();
  }
}

function tell<S>(links: Links<S>): true | void {
  return links.tell();
}

/** The mark of a function that wakes a body, and does nothing else. */
const WAKES = Symbol("wakes");

/** Marks a link that wakes a body, and does nothing else. */
export function waking<S>(
  link: (source: S) => unknown,
): (source: S) => unknown {
  return Object.assign(link, { [WAKES]: true });
}

/** Whether a link wakes a body. The body goes on later than a function is called. */
function isWaking<S>(link: Link<S>): boolean {
  return link instanceof LinkedWait ||
    (link as { [WAKES]?: true })[WAKES] === true;
}

/** Whether a link must be called later, as a body that was woken goes on first. */
export function isTooEarly<S>(link: Link<S>): boolean {
  return mustWait() && !isWaking(link);
}

/**
 * Calls a link, and reports an error that it throws.
 *
 * @param link The link as the user has given it.
 * @param call The function to call in its place, if there is one.
 * @param source The object that it is called with.
 */
export function callLink<S>(
  link: Link<S>,
  call: ((source: S) => unknown) | null,
  source: S,
): void {
  const before = wakeups();
  try {
    const result = call !== null
      ? call(source)
      : typeof link === "function"
      ? link(source)
      : link.linked(source);
    reportRejection(link, result, reportInTurn);
  } catch (error) {
    reportInTurn(link, error);
  }
  if (wakeups() !== before && isWaking(link)) noteWoken();
}

/**
 * Checks a link.
 *
 * @param isRaw Whether the hub calls it: then it can't be a generator function.
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
    `Cannot link as the link must be a function, or have linked(): received ${
      show(link)
    }`,
  );
}

/** An object that has links. */
interface Linkable<S> {
  rawlink(link: Link<S>): void;
  unlink?(link: Link<S>): void;
}

/** Adds a link to several objects; to none of them if one refuses it. */
export function linkAll<S>(
  sources: readonly Linkable<S>[],
  link: Link<S>,
): void {
  let i = 0;
  try {
    for (; i < sources.length; i++) sources[i]!.rawlink(link);
  } catch (error) {
    unlinkAll(sources.slice(0, i), link);
    throw error;
  }
}

/** Removes a link from several objects. What an `unlink` of the program throws is reported. */
export function unlinkAll<S>(
  sources: readonly Linkable<S>[],
  link: Link<S>,
): void {
  for (const source of sources) {
    try {
      // As in gevent, an object may have none.
      source.unlink?.(link);
    } catch (error) {
      reportInTurn(source, error);
    }
  }
}

/** A wait that ends when a link is called. */
export abstract class LinkedWait<S, T> extends Suspension<T> {
  readonly #node: LinkNode<S>;

  constructor(links: Links<S>) {
    super();
    this.#node = links.link(this);
  }

  /** Called with the object that has become ready. */
  abstract linked(source: S): void;

  protected override undo(): void {
    this.#node.drop();
  }

  override get blockers(): readonly Greenlet[] {
    return blockersFor(this.subject);
  }

  /** The object that it waits for; `null` when the wait has ended. */
  override get subject(): object | null {
    return this.#node.list?.owner ?? null;
  }
}
