// close() and being woken, at any moment: in a process of its own, which ends when nothing is left.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { describe, test } from "node:test";
import { CLIENT, closing, connect, hello, holdfast, listen, message, serve, stream, until } from "./support.mjs";

/** Run a page's script in a process that node ends when no timer, request or listener is left. */
async function page(t, script, url) {
  const began = performance.now();
  const code = `const { connect } = await import(${JSON.stringify(CLIENT)}); const url = ${JSON.stringify(url)};\n${script}`;
  const node = spawn(process.execPath, ["--experimental-websocket", "--no-warnings", "--input-type=module", "-e", code]);
  t.after(() => node.kill("SIGKILL"));
  let output = "";
  for (const out of [node.stdout, node.stderr]) out.on("data", (part) => (output += part));
  const timer = setTimeout(() => node.kill("SIGKILL"), 10_000);
  const [status] = await once(node, "exit");
  clearTimeout(timer);
  return { status, output, seconds: (performance.now() - began) / 1000 };
}

describe("closing leaves nothing", { concurrency: 4 }, () => {
for (const [when, script] of [
  ["while it waits", `const live = connect(url);
    live.addEventListener("status", ({ detail: { status } }) => status === "waiting" && setTimeout(() => live.close(), 50));`],
  ["as it begins to wait", `const live = connect(url);
    live.addEventListener("status", ({ detail: { status } }) => status === "waiting" && live.close());`],
  ["while a token function never returns", `const live = connect(url, { token: () => new Promise(() => {}) });
    setTimeout(() => live.close(), 50);`],
]) {
  test(when, async (t) => {
    const { url } = await serve(t, (_, response) => response.writeHead(503, { "retry-after": "20" }).end());
    const { status, output, seconds } = await page(t, script, url);
    assert.deepEqual([status, output], [0, ""]);
    assert.ok(seconds < 4, `it ended after ${seconds} s`);
  });
}
});

test("a token that never comes does not delay the reconnect when the network is back", async (t) => {
  const { url } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"]));
  let asked = 0;
  const { live, open } = listen(t, url, { token: () => (asked++ ? "a" : new Promise(() => {})) });
  await until(() => asked);
  live.stream.wake(true);
  await open();
});

test("a wake-up does not undo a final closing frame", async (t) => {
  const { url, requests } = await serve(t, (_, response) =>
    response.writeHead(200, { "content-type": "text/event-stream" }).end(
      [hello(), message(1), closing("replaced", false)].map((frame) => `data: ${JSON.stringify(frame)}\nid: e~1~a\n\n`).join(""),
    ));
  const { live } = listen(t, url);
  live.on("t", () => live.stream.wake(true));
  await until(() => live.status === "closed");
  assert.equal(requests.length, 1);
});

/** A server that takes WebSocket handshakes down and answers none. */
async function handshakes(t) {
  const taken = [];
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (data) => taken.push(`${data}`.split("\r\n")[0]));
    t.after(() => socket.destroy());
  }).listen(0, "127.0.0.1");
  t.after(() => server.close());
  await once(server, "listening");
  return { taken, url: `http://127.0.0.1:${server.address().port}` };
}

test("no WebSocket is opened after close()", { skip: !globalThis.WebSocket }, async (t) => {
  const { taken, url } = await handshakes(t);
  let give;
  const { live } = listen(t, url, { transports: ["websocket"], token: () => new Promise((done) => (give = done)) });
  await until(() => give);
  live.close();
  give("a");
  const eager = connect(url, { transports: ["websocket"] });
  eager.addEventListener("status", () => eager.close());
  await until(() => eager.status === "closed");
  await new Promise((done) => setTimeout(done, 200));
  assert.deepEqual(taken, []);
});

test("a frame that arrives over a WebSocket after close(), while a handler is busy, is ignored", { skip: !globalThis.WebSocket }, async (t) => {
  const { url, publish } = await holdfast(t);
  const running = page(t, `const live = connect(url, { topics: ["t"], transports: ["websocket"] });
    live.on("t", () => {
      live.close();
      return new Promise((done) => setTimeout(done, 1000));
    });`, url);
  await until(async () => (await (await fetch(`${url}/connection-stats`)).json()).count === 1);
  await publish("t", 1);
  await new Promise((done) => setTimeout(done, 300));
  await publish("t", 2);
  const { status, output } = await running;
  assert.deepEqual([status, output], [0, ""]);
});
