import "./page.css";
import {
  readData,
  type Dominator,
  type Finding,
  type Group,
  type MadeSite,
  type PageData,
  type Report,
  type Site,
} from "./data";
import { drawFlame } from "./flame";
import { bytes, commonDirectory, count, element, place, seconds, sentence, short } from "./text";
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

/** A file without the directory that all libraries share, or all the program's own. */
function shortFile(file: string, home: string): string {
  const library = short(file);
  return library === file && file.startsWith(home) ? file.slice(home.length) : library;
}

/** A line of the program: where it is, its function, and its text. */
function line(site: Site, lead: string, home: string): HTMLElement {
  const file = shortFile(site.file, home);
  return element(
    "div",
    { class: "line", title: place(site.file, site.line) },
    element("span", { class: "quiet" }, lead),
    element("span", { class: "where" }, `${place(file, site.line)}  `),
    element("span", { class: "function" }, site.function),
    ...(site.source ? [element("code", {}, site.source)] : []),
  );
}

function note(text: string | null): HTMLElement[] {
  return text ? [element("p", {}, text)] : [];
}

function findings(report: Report, home: string): HTMLElement[] {
  const native = note(report.memory.native_note);
  const missing = note(report.capture.missing_note);
  const whose = note(report.capture.whose_note);
  if (report.findings.length === 0)
    return [
      ...(native.length + missing.length > 0
        ? [...native, ...missing]
        : [element("p", {}, "Nothing to change was found.")]),
      ...whose,
    ];
  const found = report.findings.map((f) =>
    element(
      "div",
      { class: "finding" },
      element("span", { class: "bytes" }, bytes(f.bytes)),
      element(
        "div",
        {},
        element("p", {}, element("b", {}, sentence(f.fix))),
        element("p", { class: "quiet" }, f.title),
        ...(f.path ? [element("p", { class: "path" }, f.path)] : []),
        ...(f.held_at_peak
          ? [element("p", { class: "quiet" }, `held at the peak by ${f.held_at_peak}`)]
          : []),
        ...(f.site ? [line(f.site, `${part(f.site)}made by `, home)] : []),
        ...twice(f),
      ),
    ),
  );
  return [...native, ...found, ...missing, ...whose];
}

/** Who adds the figures up would count it twice. */
function twice(f: Finding): HTMLElement[] {
  if (f.within === null || f.within_bytes < f.bytes / 20) return [];
  const which = `finding ${f.within + 1}`;
  const whole = f.within_bytes >= f.bytes - f.bytes / 20;
  const text = whole
    ? `part of ${which}: their bytes do not add up`
    : `${bytes(f.within_bytes)} of it are part of ${which}, too`;
  return [element("p", { class: "quiet" }, text)];
}

function part(site: Site): string {
  return site.share ? `${Math.round(site.share * 100)} % of it ` : "";
}

interface Column<Row> {
  title: string;
  cell: (row: Row) => string | HTMLElement;
  kind?: "n" | "code" | "block";
}

/** A heading, a note, and a table of at most ROWS rows; nothing where there are no rows. */
function table<Row>(title: string, rows: Row[], columns: Column<Row>[], note = ""): HTMLElement[] {
  if (rows.length === 0) return [];
  const kind = (c: Column<Row>): Record<string, string> => (c.kind ? { class: c.kind } : {});
  const head = element("tr", {}, ...columns.map((c) => element("th", kind(c), c.title)));
  const body = rows
    .slice(0, ROWS)
    .map((row) =>
      element(
        "tr",
        {},
        ...columns.map((c) => element("td", { ...kind(c), "data-title": c.title }, c.cell(row))),
      ),
    );
  const more =
    rows.length > ROWS ? [element("p", { class: "quiet" }, `and ${count(rows.length - ROWS)} more`)] : [];
  return [
    element("h2", {}, title),
    ...(note ? [element("p", { class: "quiet" }, note)] : []),
    element("div", { class: "wide" }, element("table", {}, head, ...body)),
    ...more,
  ];
}

/** Figures that a few samples cannot tell from nothing say nothing. */
function told(site: MadeSite): boolean {
  return (
    site.error_bytes < site.peak_bytes ||
    site.live_error_bytes < site.live_bytes ||
    site.total_error_bytes < site.total_bytes ||
    site.gone_error_bytes < site.gone_bytes
  );
}

function figure(n: number, error: number): string {
  return n === 0 ? "" : error === 0 ? bytes(n) : `${bytes(n)} ± ${bytes(error)}`;
}

function madeBy(site: MadeSite, home: string): HTMLElement {
  const held = site.held_by
    ? `held by ${site.held_by}`
    : site.peak_held_by
      ? `held at the peak by ${site.peak_held_by}`
      : "";
  return element(
    "div",
    {},
    line({ ...site, source: site.from ? null : site.source }, "", home),
    ...(site.from ? [line(site.from, "from ", home)] : []),
    ...(held ? [element("div", { class: "quiet" }, held)] : []),
  );
}

/** Where most is in lines of which none stands out: their functions, or their files. */
function groupTables(groups: Group[], home: string): HTMLElement[] {
  const titles = { peak: "at the peak", live: "alive at the end", gone: "gone with ended processes" };
  const figures: Group["figure"][] = ["peak", "live", "gone"];
  return figures.flatMap((name) => {
    const rows = groups.filter((group) => group.figure === name);
    const by = rows.some((group) => group.function !== null) ? "function" : "file";
    return table(
      `Many small lines, by ${by}: ${titles[name]}`,
      rows,
      [
        { title: titles[name], cell: (g) => figure(g.bytes, g.error_bytes), kind: "n" },
        { title: "blocks", cell: (g) => count(g.blocks), kind: "n" },
        { title: "lines", cell: (g) => count(g.lines), kind: "n" },
        {
          title: by,
          cell: (g) => line({ ...g, line: 0, function: g.function ?? "" }, "", home),
          kind: "block",
        },
      ],
      `Most is in lines of which none stands out by itself.`,
    );
  });
}

/** The line that made most of what it retains, where samples tell it from nothing. */
function maker(dominator: Dominator): string {
  const most = dominator.made_at[0];
  if (!most || most.bytes <= most.error_bytes) return "";
  const where = place(most.file.slice(most.file.lastIndexOf("/") + 1), most.line);
  return `${where} ${most.function}, ${figure(most.bytes, most.error_bytes)}`;
}

function holders(title: string, dominators: Dominator[], note = ""): HTMLElement[] {
  return table(
    title,
    dominators,
    [
      { title: "retained", cell: (d) => bytes(d.retained_bytes), kind: "n" },
      { title: "objects", cell: (d) => count(d.retained_objects), kind: "n" },
      { title: "path", cell: (d) => d.path, kind: "code" },
      { title: "type", cell: (d) => d.type, kind: "code" },
      ...(dominators.some(maker) ? [{ title: "made by", cell: maker, kind: "code" as const }] : []),
    ],
    note,
  );
}

/** The heap at the peak is that of one process, at some moment. */
function peakHolders(report: Report): HTMLElement[] {
  const { peak } = report;
  if (!peak) return [];
  const facts = [
    peak.t_s !== null && `${seconds(peak.t_s)} in`,
    report.processes.length > 1 && peak.pid !== null && `process ${peak.pid}`,
    `${bytes(peak.shallow_bytes)} in ${count(peak.objects)} objects`,
  ].filter((fact): fact is string => Boolean(fact));
  return holders("Who held it at the peak", peak.dominators, facts.join(" · "));
}

/** What the figures above do not have. */
function lost(report: Report): HTMLElement[] {
  const { lost_stacks: stacks = 0, lost_blocks: blocks = 0 } = report.allocations;
  const texts = [
    stacks > 0 &&
      "The program has more call stacks than there is room for: some allocations count for their line alone, without its callers.",
    blocks > 0 && `There was no room for ${count(blocks)} blocks: they are missing above.`,
  ].filter((text): text is string => Boolean(text));
  return texts.map((text) => element("p", { class: "quiet" }, text));
}

function tables(report: Report, home: string): HTMLElement[] {
  const sites = (report.allocations.sites ?? []).filter(told);
  const processes = report.processes.length > 1 ? report.processes : [];
  return [
    ...table("Lines that make the memory", sites, [
      { title: "at the peak", cell: (s) => figure(s.peak_bytes, s.error_bytes), kind: "n" },
      { title: "alive at the end", cell: (s) => figure(s.live_bytes, s.live_error_bytes), kind: "n" },
      { title: "made in all", cell: (s) => figure(s.total_bytes, s.total_error_bytes), kind: "n" },
      ...(sites.some((s) => s.gone_bytes > s.gone_error_bytes)
        ? [
            {
              title: "gone with ended processes",
              cell: (s: MadeSite) => figure(s.gone_bytes, s.gone_error_bytes),
              kind: "n" as const,
            },
          ]
        : []),
      { title: "line", cell: (s) => madeBy(s, home), kind: "block" },
    ]),
    ...lost(report),
    ...groupTables(report.allocations.groups ?? [], home),
    ...table("Processes", processes, [
      { title: "highest RSS", cell: (p) => bytes(p.peak_rss_bytes), kind: "n" },
      { title: "pid", cell: (p) => `${p.pid}`, kind: "n" },
      { title: "from", cell: (p) => seconds(p.begin_s), kind: "n" },
      { title: "to", cell: (p) => (p.end_s === null ? "" : seconds(p.end_s)), kind: "n" },
      { title: "exit status", cell: (p) => (p.exit_status === null ? "" : `${p.exit_status}`), kind: "n" },
      { title: "command", cell: (p) => p.command.join(" "), kind: "code" },
    ]),
    ...report.not_followed.map((why) => element("p", { class: "quiet" }, `not followed: ${why}`)),
    ...holders("Who holds it", report.heap.dominators),
    ...peakHolders(report),
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

/** The frames of the flame graph have no room for an error each: the rule for what is made in small blocks, as docs/profile.md has it. */
function mayBeOff(interval: number): string {
  const off = (n: number): string => bytes(1.96 * Math.sqrt(n * interval + 3 * interval ** 2));
  const [ten, hundred] = [10 * 2 ** 20, 100 * 2 ** 20];
  return `a frame of ${bytes(ten)} may be off by ${off(ten)}, one of ${bytes(hundred)} by ${off(hundred)}, at the peak by more`;
}

function draw(page: HTMLElement, data: PageData): void {
  const { report, tree, moments, events } = data;
  const own = (report.allocations.sites ?? []).map((site) => site.from?.file ?? site.file);
  const home = commonDirectory(own);
  page.replaceChildren(
    ...header(report),
    ...note(report.cut),
    element("h2", {}, "What to change"),
    ...findings(report, home),
  );
  if (moments.t_s.length > 1) {
    const room = element("div");
    page.append(element("h2", {}, "Memory over time"), room);
    drawTimeline(room, moments, events);
  }
  if (tree && tree.parent.length > 1) {
    const interval = report.allocations.interval_bytes ?? 0;
    const how = interval ? `sampled, one in ${bytes(interval)}: ${mayBeOff(interval)}` : "exact";
    const room = element("div");
    page.append(
      element("h2", {}, "Who makes it, from the outermost call down"),
      element(
        "p",
        { class: "quiet" },
        `${how}; below ${bytes(tree.threshold_bytes)} folded into the caller. Click to zoom, / finds, Esc shows all again`,
      ),
      room,
    );
    drawFlame(room, tree);
  }
  page.append(...tables(report, home));
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
