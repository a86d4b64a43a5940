/**
 * An HTTP server in plain Deno.
 *
 * @module
 */

import { handle, serve } from "./_http.ts";

serve(handle);
