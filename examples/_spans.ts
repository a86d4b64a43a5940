/**
 * OpenTelemetry for a program of greenlets: spans that are kept in memory, and one for each
 * greenlet on request.
 *
 * The library needs no support for it. A greenlet inherits the `AsyncLocalStorage` context of the
 * code that spawns it, and OpenTelemetry keeps the current span there.
 *
 * @module
 */

import { context, type Span, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { type BodyResult, type Greenlet, spawn } from "../mod.ts";

const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
const provider = new BasicTracerProvider({
  spanProcessors: [new SimpleSpanProcessor(exporter)],
});
trace.setGlobalTracerProvider(provider);

const tracer = trace.getTracer("greenlets");

/** Calls a function in a span. The span ends with the function, also after an error or a kill. */
export function inSpan<R>(
  name: string,
  run: (span: Span) => R | Promise<R>,
): Promise<R> {
  return tracer.startActiveSpan(name, async (span) => {
    try {
      return await run(span);
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: String(error) });
      throw error;
    } finally {
      span.end();
    }
  });
}

/** Spawns a greenlet with a span under the current one. The span ends with the greenlet. */
export function spawnInSpan<A extends unknown[], R>(
  name: string,
  run: (...args: A) => R | Promise<R>,
  ...args: A
): Greenlet<BodyResult<Promise<R>>> {
  const greenlet = spawn(() => inSpan(name, () => run(...args)));
  greenlet.name = name;
  return greenlet;
}

/** Returns the spans that have ended, each below its parent, and forgets them. */
export async function spanTree(): Promise<string> {
  await provider.forceFlush();
  const spans = exporter.getFinishedSpans();
  exporter.reset();
  const lines: string[] = [];
  const add = (parent: string | undefined, indent: string): void => {
    const children = spans.filter((span) => parentOf(span) === parent)
      .sort((a, b) => a.name < b.name ? -1 : 1);
    for (const span of children) {
      const failed = span.status.code === SpanStatusCode.ERROR
        ? ` failed: ${span.status.message}`
        : "";
      lines.push(indent + span.name + failed);
      add(span.spanContext().spanId, indent + "  ");
    }
  };
  add(undefined, "");
  return lines.join("\n");
}

function parentOf(span: ReadableSpan): string | undefined {
  return span.parentSpanContext?.spanId;
}
