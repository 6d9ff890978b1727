// Builds the page: one HTML file with its style and script inside, and a gap for the data of a report.
// usage: node build.mjs [OUT.html]
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

const out = process.argv[2] ?? "dist/page.html";
const result = await build({
  entryPoints: ["src/page.ts"],
  bundle: true,
  minify: true,
  write: false,
  format: "iife",
  target: "es2022",
  outdir: "dist",
  legalComments: "inline",
});
const text = (suffix) => result.outputFiles.find((f) => f.path.endsWith(suffix)).text;
// A script that holds "</script" would end itself; so would a "<!--".
const script = text(".js").replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
const page = readFileSync("src/page.html", "utf8")
  .replace("/*STYLE*/", () => text(".css"))
  .replace("/*SCRIPT*/", () => script);
if (page.split("/*DATA*/").length !== 2) throw new Error("the page needs one gap for its data");
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, page);
