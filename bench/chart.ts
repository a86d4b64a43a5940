/**
 * Draws what was measured: `bench/results.json` as `bench/results.svg`.
 *
 * ```sh
 * deno task bench:chart
 * ```
 *
 * @module
 */

import { parse, View } from "npm:vega@^6";
import { compile, type TopLevelSpec } from "npm:vega-lite@^6";
import type { RatioResult, Results, RowResult, Spread } from "./_results.ts";
import type { Who } from "./_rows.ts";

const [source = "bench/results.json", target = "bench/results.svg"] = Deno.args;

/** Colours that can be read on dark and on light backgrounds. */
const TEXT = "#6e7781";
const TEXT_IN_DARK = "#9da5ae";
const LINES = "#8c959f";

/** The peers that this library is compared to, in their order within a row. */
const SERIES: [Who, string, color: string, shape: string][] = [
  ["gevent", "greenlet, gevent", "#2f9e6e", "circle"],
  ["effect", "effect", "#8c6bd6", "square"],
  ["effection", "effection", "#d0578f", "diamond"],
  ["p-limit", "p-limit", "#c98a1b", "triangle-up"],
  ["p-queue", "p-queue", "#c4602f", "triangle-down"],
  ["bare", "bare language, plain Deno", "#4a8fd0", "cross"],
];

/** The comparison to one peer; see {@linkcode speeds}. */
interface Point {
  row: string;
  series: string;
  ratio: number;
  least: number;
  most: number;
  aim: number | null;
}

/** The cost of one greenlet or task when there are `number` of them. */
interface Cost {
  series: string;
  number: number;
  cost: number;
}

function seriesOf(who: Who): string | undefined {
  return SERIES.find(([name]) => name === who)?.[1];
}

/** How many times as fast as the peer, or how many times as small. More is better. */
function speeds({ of, median, least, most }: RatioResult): Spread {
  if (of === "speed") return { median, least, most };
  return { median: 1 / median, least: 1 / most, most: 1 / least };
}

function pointsOf({ title, peers }: RowResult): Point[] {
  const points: Point[] = [];
  for (const { who, ratio } of peers) {
    const series = seriesOf(who);
    if (series === undefined || ratio === undefined) continue;
    const { median, least, most } = speeds(ratio);
    const { of, aim } = ratio;
    points.push({
      row: title,
      series,
      ratio: median,
      least,
      most,
      aim: aim === undefined ? null : of === "speed" ? aim : 1 / aim,
    });
  }
  return points;
}

/** The microseconds that a life costs, by the number of greenlets at once. */
function lives(rows: RowResult[]): Cost[] {
  const costs: Cost[] = [];
  for (const { name, amount, peers } of rows) {
    if (!/^growth-(?!.*-generator)/.test(name)) continue;
    for (const peer of peers) {
      const cost = peer.each[amount];
      if (cost === undefined) continue;
      costs.push({
        series: seriesOf(peer.who) ?? OURS,
        number: Number(peer.name.replaceAll(",", "")),
        cost: 1000 * cost.median,
      });
    }
  }
  return costs;
}

/** The kilobytes that a sleeper needs, by the number of greenlets at once. */
function sizes(rows: RowResult[]): Cost[] {
  const costs: Cost[] = [];
  for (const { name, amount, peers } of rows) {
    if (!name.startsWith("memory-")) continue;
    for (const peer of peers) {
      const cost = peer.each[amount];
      if (cost === undefined || peer.name.includes("generator")) continue;
      costs.push({
        series: seriesOf(peer.who) ?? OURS,
        number: peer.count,
        cost: cost.median / 1024,
      });
    }
  }
  return costs;
}

const OURS = "@gevent/gevent";
const names = [...SERIES.map(([, name]) => name), OURS];

/** Shared by all plots, so that there is one legend. */
const legend = {
  orient: "top",
  columns: 4,
  title: null,
  symbolSize: 50,
  symbolOpacity: 1,
  labelLimit: 300,
} as const;

const color = {
  field: "series",
  type: "nominal",
  scale: {
    domain: names,
    range: [...SERIES.map(([, , color]) => color), TEXT],
  },
  legend,
} as const;

const shape = {
  field: "series",
  type: "nominal",
  scale: {
    domain: names,
    range: [...SERIES.map(([, , , shape]) => shape), "circle"],
  },
  legend,
} as const;

/** The colours without a legend. */
const colorOnly = { ...color, legend: undefined };

function ratios(rows: RowResult[]): TopLevelSpec {
  const shown = rows.filter(({ name }) =>
    !/^growth-|^memory-(?!100000$)/.test(name)
  );
  const values = shown.flatMap(pointsOf);
  const titles = shown.map(({ title }) => title)
    .filter((title) => values.some(({ row }) => row === title));
  const x = {
    type: "quantitative",
    scale: { type: "log", nice: false },
  } as const;
  const y = {
    field: "row",
    type: "nominal",
    sort: titles,
    axis: { title: null, labelLimit: 400, grid: true, tickBand: "extent" },
  } as const;
  const yOffset = {
    field: "series",
    sort: names,
    scale: { domain: names },
  } as const;
  return {
    data: { values },
    title: {
      text: "How many times as fast as the others",
      subtitle: [
        "Marks: medians. Lines: the least and the most. Bars: what is aimed at.",
        "Right of 1 this library is faster, or needs less memory.",
      ],
    },
    width: 420,
    height: { step: 4.5, for: "offset" } as unknown as { step: number },
    encoding: { y, yOffset },
    layer: [
      {
        mark: { type: "rule", color: LINES, strokeWidth: 1.5 },
        encoding: { x: { datum: 1 }, y: null, yOffset: null },
      },
      {
        mark: { type: "rule", strokeWidth: 1.5, strokeOpacity: 0.6 },
        encoding: {
          x: {
            ...x,
            field: "least",
            axis: {
              title: null,
              values: [0.01, 0.1, 1, 10, 100, 1000],
              format: "~r",
              orient: "top",
            },
          },
          x2: { field: "most" },
          color: colorOnly,
        },
      },
      {
        mark: { type: "point", filled: true, size: 34, opacity: 1 },
        encoding: {
          x: { ...x, field: "ratio" },
          color,
          shape,
        },
      },
      {
        transform: [{ filter: "datum.aim !== null" }],
        mark: { type: "tick", thickness: 2.5, size: 11, opacity: 1 },
        encoding: { x: { ...x, field: "aim" }, color: colorOnly },
      },
    ],
  } as unknown as TopLevelSpec;
}

function growth(title: string, values: Cost[]): TopLevelSpec {
  return {
    data: { values },
    title,
    width: 270,
    height: 150,
    encoding: {
      x: {
        field: "number",
        type: "quantitative",
        scale: { type: "log" },
        axis: {
          title: "sleepers at once",
          values: [1e3, 1e4, 1e5, 1e6],
          format: "~s",
        },
      },
      y: {
        field: "cost",
        type: "quantitative",
        scale: { type: "log" },
        axis: { title: null, format: "~r", values: [1, 10, 100, 1000] },
      },
    },
    layer: [
      {
        mark: { type: "line", strokeWidth: 1.5 },
        encoding: { color: colorOnly },
      },
      {
        mark: { type: "point", filled: true, size: 34, opacity: 1 },
        encoding: { color, shape },
      },
    ],
  } as unknown as TopLevelSpec;
}

function chart({ rows }: Results): TopLevelSpec {
  return {
    background: "transparent",
    config: {
      font: "system-ui, sans-serif",
      view: { stroke: null },
      title: {
        color: TEXT,
        subtitleColor: TEXT,
        anchor: "start",
        frame: "bounds",
        offset: 12,
      },
      axis: {
        labelColor: TEXT,
        titleColor: TEXT,
        titleFontWeight: "normal",
        domainColor: LINES,
        tickColor: LINES,
        gridColor: LINES,
        gridOpacity: 0.3,
        labelFontSize: 11,
      },
      legend: { labelColor: TEXT, titleColor: TEXT, titleFontWeight: "normal" },
    },
    vconcat: [
      ratios(rows),
      {
        hconcat: [
          growth("µs for a sleeper's life", lives(rows)),
          growth("KB for a sleeper", sizes(rows)),
        ],
      },
    ],
    resolve: { scale: { color: "shared", shape: "shared" } },
  } as unknown as TopLevelSpec;
}

const results: Results = JSON.parse(await Deno.readTextFile(source));
const view = new View(parse(compile(chart(results)).spec), {
  renderer: "none",
});
const svg = await view.toSVG();
const style =
  `<style>@media (prefers-color-scheme: dark) { [fill="${TEXT}"] { fill: ${TEXT_IN_DARK} } }</style>`;
await Deno.writeTextFile(target, `${svg.replace(">", `>${style}`)}\n`);
