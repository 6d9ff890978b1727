/** What the page uses of d3-flame-graph 5, which ships no types. */
declare module "d3-flame-graph" {
  export interface FlameNode {
    data: unknown;
  }
  export interface FlameGraph {
    (selection: unknown): unknown;
    width(pixels: number): FlameGraph;
    cellHeight(pixels: number): FlameGraph;
    minFrameSize(pixels: number): FlameGraph;
    transitionDuration(ms: number): FlameGraph;
    inverted(yes: boolean): FlameGraph;
    sort(by: boolean): FlameGraph;
    selfValue(yes: boolean): FlameGraph;
    setLabelHandler(f: (node: FlameNode) => string): FlameGraph;
    setColorMapper(f: (node: FlameNode, color: string) => string): FlameGraph;
    onHover(f: (node: FlameNode) => void): FlameGraph;
    onClick(f: (node: FlameNode) => void): FlameGraph;
    setSearchMatch(f: (node: FlameNode, term: string) => boolean): FlameGraph;
    search(term: string): void;
    clear(): void;
    resetZoom(): void;
    destroy(): void;
  }
  export default function flamegraph(): FlameGraph;
}
