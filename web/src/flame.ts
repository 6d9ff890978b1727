import "../node_modules/d3-flame-graph/dist/d3-flamegraph.css";
import flamegraph, { type FlameGraph } from "d3-flame-graph";
import { select } from "d3-selection";
import type { Metric, Tree } from "./data";
import { bytes, element, place } from "./text";

const CELL_HEIGHT = 20;
const SCROLL_BAR = 16;
/** What the library hands on for a frame that the search has found. */
const MATCHED = "#E600E6";

/** One hue a file, so that a reader sees where one library ends and the next begins. */
function colorOf(place: string): string {
  const file = place.replace(/:\d+$/, "");
  let hash = 0;
  for (const letter of file) hash = (hash * 31 + letter.charCodeAt(0)) >>> 0;
  return `hsl(${hash % 360} 45% ${matchMedia("(prefers-color-scheme: dark)").matches ? 62 : 72}%)`;
}

interface Frame {
  name: string;
  value: number;
  place: string;
  children: Frame[];
}

/** The tree with the bytes of one metric; nodes that have none are left out. */
function frames(tree: Tree, metric: Metric): Frame {
  const column = tree[metric];
  const made: (Frame | null)[] = [];
  for (let i = 0; i < tree.parent.length; i++) {
    const value = column[i] ?? 0;
    const file = tree.texts[tree.file[i] ?? 0] ?? "";
    const frame: Frame = {
      name: tree.texts[tree.name[i] ?? 0] ?? "",
      value,
      place: place(file, tree.line[i] ?? 0),
      children: [],
    };
    made.push(value > 0 || i === 0 ? frame : null);
    if (i > 0 && value > 0) made[tree.parent[i] ?? 0]?.children.push(frame);
  }
  return made[0] as Frame;
}

/** Draws the flame graph into `room`, with a choice of metric, a search, and a line on the frame under the pointer. */
export function drawFlame(room: HTMLElement, tree: Tree): void {
  const titles: Record<Metric, string> = {
    peak: "at the peak",
    live: "alive at the end",
    total: "made in all",
  };
  const search = element("input", {
    type: "search",
    placeholder: "find a function or file",
    "aria-label": "find",
  });
  const chosen = element("p", { class: "chosen", "aria-live": "polite" }, " ");
  const chart = element("div", { class: "flame" });
  const bar = element("div", { class: "bar" });
  room.append(bar, chart, chosen);
  let current: FlameGraph | null = null;

  const describe = (frame: Frame, whole: number): string => {
    const share = whole > 0 ? ` (${((100 * frame.value) / whole).toFixed(1)} %)` : "";
    return `${frame.name}  ${frame.place}  ${bytes(frame.value)}${share}`;
  };
  const show = (metric: Metric): void => {
    const root = frames(tree, metric);
    root.name = `${titles[metric]}: ${bytes(root.value)}`;
    current?.destroy();
    chart.replaceChildren();
    const graph = flamegraph()
      .width(Math.max(320, chart.clientWidth - SCROLL_BAR))
      .cellHeight(CELL_HEIGHT)
      .minFrameSize(1)
      .transitionDuration(0)
      .inverted(true)
      .sort(true)
      .selfValue(false)
      .setColorMapper((d, color) => (color === MATCHED ? MATCHED : colorOf((d.data as Frame).place)))
      .setLabelHandler((d) => describe(d.data as Frame, root.value))
      .onHover((d) => (chosen.textContent = describe(d.data as Frame, root.value)))
      .setSearchMatch((d, term) => {
        const frame = d.data as Frame;
        return term.length > 0 && `${frame.name} ${frame.place}`.toLowerCase().includes(term.toLowerCase());
      });
    select(chart).datum(root).call(graph);
    current = graph;
    for (const button of bar.querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button.value === metric));
  };

  const metrics = (Object.keys(titles) as Metric[]).filter((m) => (tree[m][0] ?? 0) > 0);
  for (const metric of metrics) {
    const button = element("button", { value: metric }, titles[metric]);
    button.addEventListener("click", () => show(metric));
    bar.append(button);
  }
  search.addEventListener("input", () => {
    const term = (search as HTMLInputElement).value;
    if (term) current?.search(term);
    else current?.clear();
  });
  bar.append(search);
  addEventListener("keydown", (key) => {
    const typing = document.activeElement === search;
    if (key.key === "/" && !typing) {
      key.preventDefault();
      search.focus();
      search.scrollIntoView({ block: "nearest" });
    } else if (key.key === "Escape") {
      (search as HTMLInputElement).value = "";
      search.blur();
      current?.clear();
      current?.resetZoom();
    }
  });
  if (metrics[0]) show(metrics[0]);
}
