/** Imports one thing, and ends. @module */

import "npm:effection@^4";
