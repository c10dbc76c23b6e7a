// Check the types, then write client.js, tabs.js and client.d.ts: `node build.mjs [folder]`.
// Without a folder, the files go where LiveApp serves them from: the folder above this one.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { build } from "esbuild";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

const here = import.meta.dirname;
const output = resolve(process.argv[2] ?? join(here, ".."));
const tsc = join(createRequire(import.meta.url).resolve("typescript/package.json"), "../bin/tsc");

execFileSync(process.execPath, [tsc, "--project", here], { stdio: "inherit" });

for (const entry of ["client", "tabs"]) {
  await build({
    absWorkingDir: here,
    entryPoints: [`${entry}.ts`],
    outfile: join(output, `${entry}.js`),
    bundle: true,
    format: "esm",
    minify: true,
    charset: "utf8",
    // docs/client.md names these; es2022 for Node 20.
    target: ["chrome103", "firefox100", "safari16", "node20"],
    // client.js loads tabs.js in the browser, where it is used.
    external: ["./tabs.js"],
    banner: { js: `// holdfast: built from source/${entry}.ts; see docs/client.md.` },
    logLevel: "warning",
  });
}

const types = await rollup({ input: join(here, "connect.ts"), plugins: [dts()] });
await types.write({
  file: join(output, "client.d.ts"),
  banner: "// holdfast: built from source/connect.ts; see docs/client.md.",
});
