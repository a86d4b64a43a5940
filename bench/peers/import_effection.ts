/** Imports one thing, and ends. @module */

import "effection";
