/**
 * Private fields for objects of others.
 *
 * @module
 */

/** Its heirs give their private fields to an object that there is already. */
export class Stamp {
  constructor(object: object) {
    return object;
  }
}
