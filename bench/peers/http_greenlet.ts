/**
 * The same server, with a greenlet for each request.
 *
 * @module
 */

import { spawn } from "@gevent/gevent";
import { handle, serve } from "./_http.ts";

serve((request) => spawn(handle, request).get());
