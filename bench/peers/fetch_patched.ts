/**
 * The fetching works under `patch()`, in greenlets.
 *
 * @module
 */

import { joinAll, patch, Pool, spawn } from "@gevent/gevent";
import {
  checkPages,
  checkShortPages,
  getPage,
  getShortPages,
} from "./_pages.ts";
import { serveRounds, WORKERS } from "./_rounds.ts";

using _ = patch();
await serveRounds({
  async fetch(count) {
    const greenlets = Array.from(
      { length: WORKERS },
      () => spawn(getShortPages, count),
    );
    await joinAll(greenlets, { raiseError: true });
    checkShortPages(greenlets.map(({ value }) => value!), count);
  },
  async crawl(count) {
    checkPages(
      await new Pool(WORKERS).map(getPage, Array(count).keys()),
      count,
    );
  },
});
