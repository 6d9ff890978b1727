import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Moment, Moments } from "./data";
import { bytes, seconds } from "./text";

const HEIGHT = 220;
/** Powers of two, so that the axis reads in whole KiB and MiB. */
const STEPS = Array.from({ length: 44 }, (_, i) => 2 ** i);

/** Draws resident memory and heap over time, with a line at each mark and a dot at each collection worth seeing. */
export function drawTimeline(room: HTMLElement, moments: Moments, events: Moment[]): void {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink");
  const grid = { stroke: style.getPropertyValue("--line"), width: 1 };
  const marks = {
    hooks: {
      draw: (u: uPlot): void => {
        const { ctx, bbox } = u;
        ctx.save();
        ctx.font = `${12 * devicePixelRatio}px sans-serif`;
        ctx.textAlign = "left";
        ctx.fillStyle = ctx.strokeStyle = ink;
        let labelled = -Infinity; // where the last text ends: none is drawn over another
        for (const event of events) {
          const x = Math.round(u.valToPos(event.t_s, "x", true));
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          const isMark = event.kind === "mark";
          ctx.globalAlpha = isMark ? 0.8 : 0.25;
          ctx.fillRect(x, bbox.top, devicePixelRatio, isMark ? bbox.height : 6 * devicePixelRatio);
          if (!isMark) continue;
          const gap = 4 * devicePixelRatio;
          const width = ctx.measureText(event.text).width;
          const fits = x + gap + width <= bbox.left + bbox.width;
          const at = fits ? x + gap : x - gap - width;
          if (at < labelled) continue;
          ctx.fillText(event.text, at, bbox.top + 14 * devicePixelRatio);
          labelled = at + width + 2 * gap;
        }
        ctx.restore();
      },
    },
  };
  const amount = (_: uPlot, value: number | null): string => (value === null ? "–" : bytes(value));
  const plot = new uPlot(
    {
      width: room.clientWidth,
      height: HEIGHT,
      scales: { x: { time: false }, y: { range: (_u, _min, max) => [0, max * 1.05] } },
      axes: [
        { stroke: ink, grid, values: (_, at) => at.map(seconds) },
        { stroke: ink, grid, size: 80, incrs: STEPS, values: (_, at) => at.map(bytes) },
      ],
      series: [
        { label: "time", value: (_, t) => (t === null ? "–" : seconds(t)) },
        { label: "RSS", stroke: style.getPropertyValue("--rss"), width: 2, value: amount },
        { label: "heap", stroke: style.getPropertyValue("--heap"), width: 2, value: amount },
      ],
      plugins: [marks],
    },
    [moments.t_s, moments.rss_bytes, moments.heap_bytes],
    room,
  );
  addEventListener("resize", () => plot.setSize({ width: room.clientWidth, height: HEIGHT }));
}
