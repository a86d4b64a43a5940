/** Imports nothing. @module */

export {};
