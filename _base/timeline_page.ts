/**
 * The page that shows a timeline in a browser: one file, which loads nothing.
 *
 * @module
 */

/** Makes the page of events in Chrome's trace-event format, given as JSON. */
export function timelinePage(events: string): string {
  // In a script element only `<` could end it.
  const data = events.replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Greenlets: a timeline</title>
<style>${STYLE}</style>
</head>
<body>
<header>
  <h1>Greenlets</h1>
  <input id="search" type="search" placeholder="Search by name" aria-label="Search by name">
  <button id="all" type="button">Show all</button>
  <span id="summary" role="status"></span>
  <span class="legend"><i class="running"></i>running <i class="ready"></i>ready <i class="waiting"></i>waiting</span>
</header>
<main><canvas id="timeline" tabindex="0" aria-label="Timeline: arrow keys move, + and - zoom"></canvas></main>
<section id="details" aria-live="polite">Click a slice to see its details. The wheel zooms, with Shift it scrolls; a drag moves.</section>
<script id="events" type="application/json">${data}</script>
<script>${SCRIPT}</script>
</body>
</html>
`;
}

const STYLE = `
:root {
  color-scheme: light dark;
  --back: #fff; --text: #1d2125; --dim: #6b7280; --line: #e2e5e9; --pick: #d6336c;
  --running: #2f9e44; --ready: #e8a317; --waiting: #b9c6d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #16191d; --text: #e6e9ec; --dim: #98a2ad; --line: #2c3238; --pick: #ff8fb3;
    --running: #40c057; --ready: #f2b93b; --waiting: #43536a;
  }
}
* { box-sizing: border-box; }
html, body { height: 100%; margin: 0; }
body { display: flex; flex-direction: column; background: var(--back); color: var(--text); font: 13px system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; padding: 8px 12px; border-bottom: 1px solid var(--line); }
h1 { font-size: 15px; margin: 0; }
input, button { font: inherit; padding: 3px 8px; }
#summary, .legend { color: var(--dim); }
.legend i { display: inline-block; width: 10px; height: 10px; margin: 0 4px 0 8px; }
.legend .running { background: var(--running); } .legend .ready { background: var(--ready); } .legend .waiting { background: var(--waiting); }
main { flex: 1; min-height: 0; position: relative; overflow: hidden; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; cursor: crosshair; touch-action: none; }
#details { min-height: 96px; max-height: 30%; overflow: auto; padding: 8px 12px; border-top: 1px solid var(--line); white-space: pre-wrap; font-family: ui-monospace, monospace; }
`;

/** The script of the page. It draws the rows that are in view only. */
const SCRIPT = String.raw`"use strict";
const ROW = 18, LABELS = 220, AXIS = 22;
const get = (id) => document.getElementById(id);
const events = JSON.parse(get("events").textContent);
const canvas = get("timeline"), pen = canvas.getContext("2d");
const tracks = new Map();
const trackOf = (tid) => {
  let track = tracks.get(tid);
  if (!track) tracks.set(tid, track = { tid, name: "track " + tid, slices: [], marks: [] });
  return track;
};
const ends = new Map();
let last = 1;
for (const event of events) {
  const track = trackOf(event.tid);
  last = Math.max(last, event.ts + (event.dur || 0));
  if (event.ph === "M" && event.name === "thread_name") track.name = event.args.name;
  else if (event.ph === "X") track.slices.push(event);
  else if (event.ph === "i") track.marks.push(event);
  else if (event.ph === "s" || event.ph === "f") {
    const arrow = ends.get(event.id) || {};
    arrow[event.ph] = event;
    ends.set(event.id, arrow);
  }
}
const arrows = [...ends.values()].filter((it) => it.s && it.f);
const causes = new Map(arrows.map((it) => [it.f.tid + " " + it.f.ts, it.s]));
let rows = [], rowOf = new Map(), picked = null;
let from = 0, span = last * 1.02, scrolled = 0, due = false;

function select() {
  const wanted = get("search").value.trim().toLowerCase();
  rows = [...tracks.values()].filter((it) => it.name.toLowerCase().includes(wanted));
  rowOf = new Map(rows.map((it, index) => [it.tid, index]));
  get("summary").textContent = rows.length + " of " + tracks.size + " tracks, " + time(last);
  move(0, -Infinity);
}
function time(us) {
  if (Math.abs(us) >= 1e6) return +(us / 1e6).toFixed(3) + " s";
  return Math.abs(us) >= 1e3 ? +(us / 1e3).toFixed(3) + " ms" : +us.toFixed(3) + " µs";
}
const width = () => Math.max(1, canvas.clientWidth - LABELS);
const xOf = (ts) => LABELS + (ts - from) / span * width();
const tsOf = (x) => from + (x - LABELS) / width() * span;
function move(us, pixels) {
  const most = Math.max(0, rows.length * ROW + AXIS - canvas.clientHeight);
  scrolled = Math.min(most, Math.max(0, scrolled + pixels));
  from = Math.min(last - span * 0.02, Math.max(-span * 0.9, from + us));
  plan();
}
function zoom(factor, x) {
  const at = tsOf(x);
  span = Math.min(last * 4, Math.max(0.05, span * factor));
  from = at - (x - LABELS) / width() * span;
  plan();
}
function plan() {
  if (due) return;
  due = true;
  requestAnimationFrame(draw);
}
/** The index of the first slice that ends after a time. */
function firstAfter(slices, ts) {
  let low = 0, high = slices.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (slices[middle].ts + slices[middle].dur < ts) low = middle + 1;
    else high = middle;
  }
  return low;
}
function draw() {
  due = false;
  const w = canvas.clientWidth, h = canvas.clientHeight, scale = devicePixelRatio || 1;
  canvas.width = w * scale;
  canvas.height = h * scale;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue("--" + name);
  const colors = { running: color("running"), ready: color("ready"), waiting: color("waiting"), main: color("line") };
  const text = color("text"), dim = color("dim"), line = color("line"), pick = color("pick");
  pen.fillStyle = color("back");
  pen.fillRect(0, 0, w, h);
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const rough = span / Math.max(1, width() / 110), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((it) => it * power).find((it) => it >= rough);
  const ticks = [];
  for (let ts = Math.ceil(from / step) * step; ts < from + span; ts += step) ticks.push(ts);
  pen.fillStyle = line;
  for (const ts of ticks) if (xOf(ts) >= LABELS) pen.fillRect(xOf(ts), AXIS, 1, h);
  const first = Math.floor(scrolled / ROW), until = Math.min(rows.length, Math.ceil((scrolled + h) / ROW));
  pen.save();
  pen.beginPath();
  pen.rect(LABELS, AXIS, w, h);
  pen.clip();
  for (let index = first; index < until; index++) {
    const { slices, marks } = rows[index], y = AXIS + index * ROW - scrolled;
    let drawn = -1;
    for (let i = firstAfter(slices, from); i < slices.length; i++) {
      const slice = slices[i], x = xOf(slice.ts);
      if (x > w) break;
      const end = Math.max(x + 1, xOf(slice.ts + slice.dur));
      // Of slices that share a pixel, those of running bodies are drawn over the others.
      if (end <= drawn && slice.name !== "running") continue;
      drawn = end;
      pen.fillStyle = colors[slice.name] || dim;
      pen.fillRect(x, y + 2, end - x, ROW - 4);
      if (slice === picked) {
        pen.strokeStyle = pick;
        pen.lineWidth = 2;
        pen.strokeRect(x, y + 2, end - x, ROW - 4);
      }
      const label = slice.args && slice.args.in;
      if (label && end - x > 40) {
        pen.save();
        pen.beginPath();
        pen.rect(x, y, end - x - 3, ROW);
        pen.clip();
        pen.fillStyle = text;
        pen.fillText(label, Math.max(x, LABELS) + 4, y + ROW / 2);
        pen.restore();
      }
    }
    for (const mark of marks) {
      if (mark.name === "ended") continue;
      pen.fillStyle = pick;
      pen.fillRect(xOf(mark.ts) - 1, y + 1, 3, ROW - 2);
    }
  }
  pen.strokeStyle = dim;
  pen.lineWidth = 1;
  const inView = (row) => row >= first && row < until;
  const shown = arrows.filter(({ s, f }) => {
    if (f.ts < from || s.ts > from + span) return false;
    const a = rowOf.get(s.tid), b = rowOf.get(f.tid);
    if (a === undefined || b === undefined) return false;
    // Of what is far away only what belongs to the picked track matters.
    if (picked) return (picked.tid === s.tid || picked.tid === f.tid) && (inView(a) || inView(b));
    return inView(a) && inView(b);
  });
  // Many arrows would hide the slices.
  pen.globalAlpha = Math.min(1, Math.max(0.15, 40 / shown.length));
  for (const { s, f } of shown.slice(0, 2000)) {
    const a = rowOf.get(s.tid), b = rowOf.get(f.tid);
    const x = xOf(f.ts), y = AXIS + b * ROW - scrolled + ROW / 2;
    pen.beginPath();
    pen.moveTo(xOf(s.ts), AXIS + a * ROW - scrolled + ROW / 2);
    pen.lineTo(x, y);
    pen.lineTo(x - 4, y - (a < b ? 4 : -4));
    pen.stroke();
  }
  pen.restore();
  pen.fillStyle = color("back");
  pen.fillRect(0, 0, w, AXIS);
  for (let index = first; index < until; index++) {
    const y = AXIS + index * ROW - scrolled;
    if (y < AXIS - ROW / 2) continue;
    pen.fillStyle = picked && picked.tid === rows[index].tid ? pick : text;
    pen.fillText(rows[index].name, 8, y + ROW / 2, LABELS - 16);
    pen.fillStyle = line;
    pen.fillRect(0, y + ROW - 1, w, 0.5);
  }
  for (const ts of ticks) {
    pen.fillStyle = dim;
    pen.fillText(time(ts), xOf(ts) + 3, AXIS / 2);
  }
}
function show(x, y) {
  const row = rows[Math.floor((y - AXIS + scrolled) / ROW)];
  if (!row || y < AXIS) return;
  const reach = span / width() * 3, ts = tsOf(x);
  const near = [];
  for (let i = firstAfter(row.slices, ts - reach); i < row.slices.length; i++) {
    if (row.slices[i].ts > ts + reach) break;
    near.push(row.slices[i]);
  }
  // The slice below the pointer; among narrow ones, the longest that is near.
  picked = near.find((it) => it.ts <= ts && ts < it.ts + it.dur && it.dur > reach) ||
    near.sort((a, b) => b.dur - a.dur)[0] || null;
  get("details").textContent = picked ? describe(row, picked) : row.name;
  plan();
}
function describe(row, slice) {
  const lines = [row.name + ": " + slice.name, "from     " + time(slice.ts), "for      " + time(slice.dur)];
  for (const [key, value] of Object.entries(slice.args || {})) lines.push(key.padEnd(9) + value);
  const cause = causes.get(slice.tid + " " + slice.ts);
  if (cause) lines.push((cause.name + " by").padEnd(9) + " " + trackOf(cause.tid).name + " at " + time(cause.ts));
  const mark = row.marks.find((it) => it.ts === slice.ts + slice.dur);
  if (mark) lines.push("then     " + mark.name + (mark.args ? ": " + mark.args.error : ""));
  return lines.join("\n");
}
let held = null;
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.shiftKey) move(0, event.deltaY || event.deltaX);
  else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(event.deltaX / width() * span, 0);
  else zoom(Math.exp(event.deltaY * 0.002), event.offsetX);
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => {
  held = { x: event.offsetX, y: event.offsetY, far: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!held) return;
  const dx = event.offsetX - held.x, dy = event.offsetY - held.y;
  if (!held.far && Math.abs(dx) + Math.abs(dy) < 4) return;
  move(-dx / width() * span, -dy);
  held = { x: event.offsetX, y: event.offsetY, far: true };
});
canvas.addEventListener("pointerup", (event) => {
  if (held && !held.far) show(event.offsetX, event.offsetY);
  held = null;
});
canvas.addEventListener("keydown", (event) => {
  const keys = {
    ArrowLeft: () => move(-span / 10, 0), ArrowRight: () => move(span / 10, 0),
    ArrowUp: () => move(0, -3 * ROW), ArrowDown: () => move(0, 3 * ROW),
    PageUp: () => move(0, -canvas.clientHeight), PageDown: () => move(0, canvas.clientHeight),
    "+": () => zoom(0.7, LABELS + width() / 2), "-": () => zoom(1.4, LABELS + width() / 2),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
get("search").addEventListener("input", select);
get("all").addEventListener("click", () => {
  from = 0;
  span = last * 1.02;
  get("search").value = "";
  picked = null;
  select();
});
addEventListener("resize", plan);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", plan);
select();
`;
