/**
 * The part `dns` of `patch()`: `Deno.resolveDns`.
 *
 * @module
 */

import { noOptions, then } from "../_base/language.ts";
import { interruptibleScope } from "../_hub/current.ts";
import { checkpoint } from "../_hub/suspension.ts";
import { operate } from "../_hub/operation.ts";
import { addSignal } from "../_hub/cancelling.ts";
import { cooperateBySignal } from "./cooperate.ts";
import { patchAll } from "./patch_set.ts";

// One signature for all overloads, which differ in the record type only.
type ResolveDns = (
  this: unknown,
  query: string,
  recordType: Deno.RecordType,
  options?: Deno.ResolveDnsOptions,
) => Promise<unknown[]>;

/** Patches `Deno.resolveDns`; disposing of the result restores the original. */
export function patchDns(): Disposable {
  return patchAll((patches) => {
    patches.replace<ResolveDns>(Deno, "resolveDns", cooperativeResolveDns);
  });
}

function cooperativeResolveDns(original: ResolveDns): ResolveDns {
  const bySignal = cooperateBySignal(original, 2);
  return function (query, recordType, options) {
    const scope = interruptibleScope();
    if (scope === null || options?.signal) {
      return Reflect.apply(bySignal, this, arguments);
    }
    const due = checkpoint(scope);
    if (due !== null) return due;
    const abort = new AbortController();
    const ours = addSignal(
      options ?? noOptions(),
      abort.signal,
    ) as typeof options;
    // With a signal the runtime waits 2 s for a name server, without one 15 s. If the server
    // takes longer than 2 s, asks again without a signal; that query can't be cancelled.
    const asked = original.call(this, query, recordType, ours);
    const promise = then(
      asked,
      undefined,
      (error) => {
        if (!(error instanceof Deno.errors.TimedOut)) throw error;
        return Reflect.apply(original, this, [query, recordType, options]);
      },
    );
    return operate(
      scope,
      promise,
      () => `resolveDns(${query}, ${recordType})`,
      (error) => abort.abort(error),
    );
  };
}
