/**
 * Reactions to promises of any code.
 *
 * JavaScript can't take a reaction to a promise back: it stays with the promise until that
 * settles, and some never do. So a promise gets one reaction of ours, which tells all waits for
 * it. A wait that is interrupted is taken out, and nothing is left of it.
 *
 * @module
 */

import { pairOf, then } from "../_base/language.ts";
import { current } from "./current.ts";
import { Stamp } from "../_base/stamp.ts";

/** Something that is told, once, how a promise has settled. It may be taken back before. */
export interface Reaction {
  /** `null` when it waits for no promise. */
  reactions: Reactions | null;
  /** Called from the event loop. Has to be quick, and must not throw. */
  fulfilled(value: unknown): void;
  /** As {@linkcode Reaction.fulfilled}. */
  rejected(error: unknown): void;
}

/**
 * - `latest`: made last, and not noted in its promise
 * - `noted`: kept in its promise, which is pending
 * - `over`: the promise has settled
 */
type State = "latest" | "noted" | "over";

/** The reactions to one promise, in order: nearly always one at most. */
export class Reactions {
  readonly promise: Promise<unknown>;
  state: State = "latest";
  #all: Reaction | Set<Reaction> | null;

  constructor(promise: Promise<unknown>, first: Reaction) {
    this.promise = promise;
    this.#all = first;
    first.reactions = this;
  }

  add(reaction: Reaction): void {
    reaction.reactions = this;
    const all = this.#all;
    if (all === null) this.#all = reaction;
    else if (all instanceof Set) all.add(reaction);
    else this.#all = pairOf(all, reaction);
  }

  /** Takes a reaction back. */
  remove(reaction: Reaction): void {
    reaction.reactions = null;
    const all = this.#all;
    if (!(all instanceof Set)) this.#all = null;
    else if (all.delete(reaction) && all.size > 0) return;
    // So that the promise is not kept alive from here.
    if (this === latest) noteLatest();
  }

  fulfilled(value: unknown): void {
    const all = this.#end();
    if (all === null) return;
    if (!(all instanceof Set)) {
      all.reactions = null;
      return all.fulfilled(value);
    }
    all.forEach((one) => {
      one.reactions = null;
      one.fulfilled(value);
    });
  }

  rejected(error: unknown): void {
    const all = this.#end();
    if (all === null) return;
    if (!(all instanceof Set)) {
      all.reactions = null;
      return all.rejected(error);
    }
    all.forEach((one) => {
      one.reactions = null;
      one.rejected(error);
    });
  }

  #end(): Reaction | Set<Reaction> | null {
    if (this.state === "noted") noted--;
    else latest = null;
    this.state = "over";
    const all = this.#all;
    this.#all = null;
    return all;
  }
}

/** A private field of a promise, for its reactions. */
class ReactionsOf extends Stamp {
  #reactions: Reactions;

  private constructor(promise: object, reactions: Reactions) {
    super(promise);
    this.#reactions = reactions;
  }

  static get(promise: object): Reactions | null {
    if (!(#reactions in promise)) return null;
    const reactions = promise.#reactions;
    return reactions.state === "over" ? null : reactions;
  }

  static set(promise: object, reactions: Reactions): void {
    if (#reactions in promise) promise.#reactions = reactions;
    else new ReactionsOf(promise, reactions);
  }
}

/**
 * The reactions that are not noted yet. Most promises settle before there is another one, and
 * to note them takes 40 ns, where the whole wait takes 110.
 */
let latest: Reactions | null = null;
/** The number of notes whose promises are pending. At 0 there is nothing to search. */
let noted = 0;

function noteLatest(): void {
  const reactions = latest!;
  latest = null;
  noted++;
  reactions.state = "noted";
  ReactionsOf.set(reactions.promise, reactions);
}

/**
 * Tells `reaction` how a promise settles.
 *
 * @param value A promise of any class, whose `then` is called once for all reactions; or
 * another thenable, whose `then` is called each time, as it may begin something.
 * @param reaction What to tell. `reaction.reactions.remove` takes it back.
 */
export function react(value: unknown, reaction: Reaction): void {
  const promise = value instanceof Promise ? value : Promise.resolve(value);
  if (latest !== null) {
    if (latest.promise === promise) return latest.add(reaction);
    noteLatest();
  }
  const known = noted > 0 ? ReactionsOf.get(promise) : null;
  if (known !== null) return known.add(reaction);
  const reactions = latest = new Reactions(promise, reaction);
  // In no context, as the promise would keep that one for as long as it lasts.
  current.clear(attach, promise, reactions);
}

function attach(promise: Promise<unknown>, reactions: Reactions): void {
  try {
    then(
      promise,
      (value) => reactions.fulfilled(value),
      (error) => reactions.rejected(error),
    );
  } catch (error) {
    // The `then` of a subclass may throw.
    reactions.rejected(error);
  }
}
