/**
 * Gets a web page with a request that can be stopped.
 *
 * @module
 */

import { until, type Wait } from "@gevent/gevent";

/** Gets a page. A timeout or a kill cancels the request. */
export function get(url: string): Wait<Uint8Array> {
  const controller = new AbortController();
  return until(
    download(url, controller.signal),
    (error) => controller.abort(error),
  );
}

async function download(url: string, signal: AbortSignal): Promise<Uint8Array> {
  const response = await fetch(url, { signal });
  const bytes = await response.bytes();
  if (!response.ok) throw new Error(`status ${response.status}`);
  return bytes;
}
