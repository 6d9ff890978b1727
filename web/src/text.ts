const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** 1536 → "1.5 KiB", as the text report has it. */
export function bytes(n: number): string {
  let unit = 0;
  let value = Math.abs(n);
  // 1023.95 would be told as 1024.0.
  while (value >= (unit === 0 ? 1024 : 1023.95) && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${n < 0 ? "−" : ""}${value.toFixed(unit === 0 ? 0 : 1)} ${UNITS[unit]}`;
}

export function count(n: number): string {
  return n.toLocaleString("en");
}

export function seconds(s: number): string {
  if (s < 10) return `${s.toFixed(2)} s`;
  if (s < 120) return `${s.toFixed(1)} s`;
  if (s < 7200) return `${(s / 60).toFixed(1)} min`;
  return `${(s / 3600).toFixed(1)} h`;
}

export function place(file: string, line: number): string {
  return line > 0 ? `${file}:${line}` : file;
}

const ROOTS = /^.*\/(?:site-packages|dist-packages|lib(?:64)?\/python3[^/]*)\//;

/** Without the directory that all libraries share. */
export function short(file: string): string {
  return file.replace(ROOTS, "");
}

/** The directory that the program's own files share, to be left out. */
export function commonDirectory(files: string[]): string {
  const own = files.filter((file) => file.startsWith("/") && !ROOTS.test(file));
  if (own.length === 0) return "";
  let common = own[0]?.slice(0, own[0].lastIndexOf("/") + 1) ?? "";
  for (const file of own)
    while (!file.startsWith(common)) common = common.slice(0, common.lastIndexOf("/", common.length - 2) + 1);
  return common.length > 1 ? common : "";
}

/** "make it small" → "Make it small"; what begins with a name or with Python stays. */
export function sentence(text: string): string {
  return /^[a-z]+ /.test(text) && !text.startsWith("del ")
    ? text.charAt(0).toUpperCase() + text.slice(1)
    : text;
}

type Child = Node | string;

/** An element with its attributes and children; texts are never read as HTML. */
export function element(
  tag: string,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElement {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
