/** What the executable puts into the page: the report (schema 1, docs/report.md) and the call tree. */

export interface Site {
  file: string;
  line: number;
  function: string;
  source?: string | null;
  /** Of what a finding names, where the line made less than half of it. */
  share?: number;
}

/** A line that made memory, and what samples tell of what holds it. */
export interface MadeSite extends Site {
  live_bytes: number;
  live_blocks: number;
  peak_bytes: number;
  total_bytes: number;
  total_blocks: number;
  error_bytes: number;
  live_error_bytes: number;
  total_error_bytes: number;
  gone_bytes: number;
  gone_error_bytes: number;
  from: Site | null;
  held_by: string | null;
  peak_held_by: string | null;
}

/** Small lines of a function, or (without one) of a file, taken together: of one figure. */
export interface Group {
  figure: "peak" | "live" | "gone";
  file: string;
  function: string | null;
  lines: number;
  bytes: number;
  blocks: number;
  error_bytes: number;
}

export interface Dominator {
  path: string;
  type: string;
  retained_bytes: number;
  retained_objects: number;
  made_at: { file: string; line: number; function: string; bytes: number; error_bytes: number }[];
}

export interface Process {
  pid: number;
  how: string | null;
  command: string[];
  begin_s: number;
  end_s: number | null;
  exit_status: number | null;
  peak_rss_bytes: number;
}

export interface Finding {
  kind: string;
  title: string;
  bytes: number;
  objects: number;
  path: string | null;
  fix: string;
  confidence: string;
  site?: Site | null;
  held_at_peak?: string | null;
  /** The place in the list of an earlier one that has most of `within_bytes`, too: those are told twice. */
  within: number | null;
  within_bytes: number;
}

export interface Report {
  /** Where the recording was cut off. */
  cut: string | null;
  process: {
    pid: number | null;
    command: string[];
    python: string | null;
    started: string | null;
    duration_s: number | null;
    exit_status: number | null;
  };
  memory: {
    rss_bytes: number | null;
    peak_rss_bytes: number | null;
    peak_at_s: number | null;
    timeline: { t_s: number; rss_bytes: number; heap_bytes: number }[];
    native_note: string | null;
  };
  capture: { missing_note: string | null; whose_note: string | null };
  ledger: { name: string; bytes: number; returnable_bytes: number; note: string | null }[];
  heap: {
    objects: number;
    types: { type: string; count: number; shallow_bytes: number; retained_bytes: number }[];
    dominators: Dominator[];
  };
  peak: {
    t_s: number | null;
    pid: number | null;
    objects: number;
    shallow_bytes: number;
    dominators: Dominator[];
  } | null;
  processes: Process[];
  not_followed: string[];
  allocations: {
    mode?: string;
    interval_bytes?: number;
    lost_stacks?: number;
    lost_blocks?: number;
    sites?: MadeSite[];
    groups?: Group[];
  };
  findings: Finding[];
}

/**
 * The call tree by columns. Node 0 is the whole program; a parent stands before its children; bytes hold those of the
 * children. `name` and `file` are indices into `texts`. What is below the threshold is folded into its parent.
 */
export interface Tree {
  texts: string[];
  parent: number[];
  name: number[];
  file: number[];
  line: number[];
  live: number[];
  peak: number[];
  total: number[];
  threshold_bytes: number;
}

/** Something that happened at one moment: a mark, a long collection, a heap snapshot. */
export interface Moment {
  t_s: number;
  kind: string;
  duration_ms: number;
  text: string;
}

/** Memory of all processes together, by columns. */
export interface Moments {
  t_s: number[];
  rss_bytes: number[];
  heap_bytes: number[];
}

export interface PageData {
  report: Report;
  tree: Tree | null;
  moments: Moments;
  events: Moment[];
}

/** The three questions that the flame graph answers. */
export type Metric = "peak" | "live" | "total";

export function readData(): PageData {
  const text = document.getElementById("data")?.textContent ?? "";
  return JSON.parse(text) as PageData;
}
