/**
 * Private fields for objects of other classes.
 *
 * @module
 */

/** A subclass adds its private fields to an object that exists already. */
export class Stamp {
  constructor(object: object) {
    return object;
  }
}
