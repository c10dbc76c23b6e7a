// A tab: a thread with a client, and without the rest of a page.

import { parentPort, workerData } from "node:worker_threads";
import { locksOf } from "./locks.mjs";
import { connect } from "./support.mjs";

Object.defineProperty(globalThis, "navigator", { value: { locks: locksOf(parentPort) } });
const { url, options, pattern = "*" } = workerData;
const { slow, early, denied, ...given } = options;
if (denied) navigator.locks.request = () => Promise.reject(new DOMException("denied", "SecurityError"));
const live = connect(url, { topics: ["t"], shared: true, ...given });
const report = (kind, value) => parentPort.postMessage({ kind, value });
live.on(pattern, (data) => {
  report("message", data);
  return slow && new Promise((done) => setTimeout(done, slow * 1000));
});
// At the first moment at which the request cannot have it.
if (early) setTimeout(async () => report("answer", await live.subscribe(early)), 50);
for (const type of ["status", "gap", "resumed", "rejected"]) {
  live.addEventListener(type, ({ detail }) => report(type, detail));
}
parentPort.on("message", async ({ call, names = [], block }) => {
  // Block the thread, like a page with a long computation or a frozen one.
  if (block) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, block * 1000);
  if (!call) return;
  report("answer", await live[call](...names));
  if (call === "close") parentPort.unref();
});
