import "./page.css";
import { readData, type PageData, type Report } from "./data";
import { drawFlame } from "./flame";
import { bytes, count, element, place, seconds } from "./text";
import { drawTimeline } from "./timeline";

const ROWS = 50;

function header(report: Report): HTMLElement[] {
  const { process, memory } = report;
  const facts = [
    process.python && `Python ${process.python}`,
    process.pid !== null && `process ${process.pid}`,
    process.duration_s !== null && `ran ${seconds(process.duration_s)}`,
    memory.rss_bytes !== null && `RSS ${bytes(memory.rss_bytes)}`,
    memory.peak_rss_bytes !== null &&
      `at most ${bytes(memory.peak_rss_bytes)}${memory.peak_at_s === null ? "" : ` at ${seconds(memory.peak_at_s)}`}`,
    process.exit_status !== null && `exit status ${process.exit_status}`,
  ].filter((fact): fact is string => Boolean(fact));
  const title = process.command.join(" ") || "a Python process";
  document.title = `${title} · lowtide`;
  return [element("h1", {}, title), element("p", { class: "quiet" }, facts.join(" · "))];
}

function findings(report: Report): HTMLElement[] {
  if (report.findings.length === 0) return [element("p", {}, "Nothing to change was found.")];
  return report.findings.map((f) => {
    const made = f.site ? `made by ${f.site.function} (${place(f.site.file, f.site.line)})` : "";
    return element(
      "div",
      { class: "finding" },
      element("span", { class: "bytes" }, bytes(f.bytes)),
      element(
        "div",
        {},
        element("p", {}, element("b", {}, f.fix)),
        element("p", { class: "quiet" }, f.title),
        ...(made ? [element("p", { class: "quiet" }, made)] : []),
      ),
    );
  });
}

interface Column<Row> {
  title: string;
  cell: (row: Row) => string;
  kind?: "n" | "code";
}

/** A heading and a table of at most ROWS rows; nothing where there are no rows. */
function table<Row>(title: string, rows: Row[], columns: Column<Row>[]): HTMLElement[] {
  if (rows.length === 0) return [];
  const kind = (c: Column<Row>): Record<string, string> => (c.kind ? { class: c.kind } : {});
  const head = element("tr", {}, ...columns.map((c) => element("th", kind(c), c.title)));
  const body = rows
    .slice(0, ROWS)
    .map((row) => element("tr", {}, ...columns.map((c) => element("td", kind(c), c.cell(row)))));
  const more =
    rows.length > ROWS ? [element("p", { class: "quiet" }, `and ${count(rows.length - ROWS)} more`)] : [];
  return [
    element("h2", {}, title),
    element("div", { class: "wide" }, element("table", {}, head, ...body)),
    ...more,
  ];
}

function tables(report: Report): HTMLElement[] {
  const sites = report.allocations.sites ?? [];
  return [
    ...table("Lines that make the memory", sites, [
      { title: "at the peak", cell: (s) => bytes(s.peak_bytes), kind: "n" },
      { title: "alive at the end", cell: (s) => bytes(s.live_bytes), kind: "n" },
      { title: "made in all", cell: (s) => bytes(s.total_bytes), kind: "n" },
      { title: "±", cell: (s) => (s.error_bytes ? bytes(s.error_bytes) : ""), kind: "n" },
      { title: "where", cell: (s) => `${s.function}  ${place(s.file, s.line)}`, kind: "code" },
    ]),
    ...table("Who holds it", report.heap.dominators, [
      { title: "retained", cell: (d) => bytes(d.retained_bytes), kind: "n" },
      { title: "objects", cell: (d) => count(d.retained_objects), kind: "n" },
      { title: "type", cell: (d) => d.type, kind: "code" },
      { title: "path", cell: (d) => d.path, kind: "code" },
    ]),
    ...table("Types", report.heap.types, [
      { title: "retained", cell: (t) => bytes(t.retained_bytes), kind: "n" },
      { title: "own", cell: (t) => bytes(t.shallow_bytes), kind: "n" },
      { title: "count", cell: (t) => count(t.count), kind: "n" },
      { title: "type", cell: (t) => t.type, kind: "code" },
    ]),
    ...table("Where the resident bytes are", report.ledger, [
      { title: "resident", cell: (l) => bytes(l.bytes), kind: "n" },
      { title: "returnable", cell: (l) => (l.returnable_bytes ? bytes(l.returnable_bytes) : ""), kind: "n" },
      { title: "what", cell: (l) => l.name },
      { title: "note", cell: (l) => l.note ?? "" },
    ]),
  ];
}

function draw(page: HTMLElement, data: PageData): void {
  const { report, tree, events } = data;
  page.replaceChildren(...header(report), element("h2", {}, "What to change"), ...findings(report));
  if (report.memory.timeline.length > 1) {
    const room = element("div");
    page.append(element("h2", {}, "Memory over time"), room);
    drawTimeline(room, report.memory.timeline, events);
  }
  if (tree && tree.parent.length > 1) {
    const interval = report.allocations.interval_bytes ?? 0;
    const how = interval ? `sampled, one in ${bytes(interval)}` : "exact";
    const room = element("div");
    page.append(
      element("h2", {}, "Who makes it, from the outermost call down"),
      element(
        "p",
        { class: "quiet" },
        `${how}; below ${bytes(tree.threshold_bytes)} folded into the caller; click to zoom`,
      ),
      room,
    );
    drawFlame(room, tree);
  }
  page.append(...tables(report));
}

const page = document.getElementById("page");
if (page) {
  try {
    draw(page, readData());
  } catch (error) {
    page.replaceChildren(
      element("p", {}, `This page cannot be shown: its data are damaged (${String(error)}).`),
    );
  }
}
