/** Imports one thing, and ends. @module */

import "npm:effect@^4";
