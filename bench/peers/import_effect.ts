/** Imports one thing, and ends. @module */

import "effect";
