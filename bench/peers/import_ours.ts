/** Imports one thing, and ends. @module */

import "@gevent/gevent";
