/**
 * Waits in a queue, for one object.
 *
 * @module
 */

import type { List, Member } from "../_base/linked_list.ts";
import type { Greenlet } from "../greenlet.ts";
import { Suspension } from "./suspension.ts";
import { blockersFor, callOf } from "./waits.ts";

/** A wait that is in a queue, and leaves it when it is interrupted. */
export abstract class QueuedWait<P extends QueuedWait<P, T>, T>
  extends Suspension<T>
  implements Member<P> {
  list: List<P> | null = null;
  previous: P | null = null;
  next: P | null = null;

  protected override undo(_error: unknown): void {
    this.list?.leave(this as unknown as P);
  }

  /** The object that it waits for, such as a queue. */
  override get subject(): object | null | undefined {
    return this.list?.owner;
  }

  override describe(subject = this.subject): string {
    return callOf(subject, this.call);
  }

  /** The call as a person would write it, such as `read` or `get()`. */
  protected get call(): string {
    return "wait";
  }

  override get blockers(): readonly Greenlet[] {
    return blockersFor(this.subject);
  }
}
