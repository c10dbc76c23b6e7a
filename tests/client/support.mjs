// Shared by the tests of the browser client: a scripted HTTP server, a real holdfast, waiting.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import net from "node:net";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const CLIENT = new URL("../../src/holdfast/browser/client.js", import.meta.url).href;
export const { connect, ...pure } = await import(CLIENT);

/** Wait until `condition()` is true. Returns its value. */
export async function until(condition, what = condition, seconds = 10) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    const value = await condition();
    if (value) return value;
    await new Promise((done) => setTimeout(done, 5));
  }
  throw new Error(`waited ${seconds} s for ${what}`);
}

/** An HTTP server for the length of a test; `answer(request, response, count)` writes the response. */
export async function serve(t, answer) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://test");
    let text = "";
    for await (const part of request) text += part;
    const body = text ? JSON.parse(text) : undefined;
    const { method, headers } = request;
    const noted = { method, path: url.pathname.slice(1), query: url.searchParams, headers, body };
    noted.at = performance.now() / 1000;
    requests.push(noted);
    answer(noted, response, requests.filter(({ path }) => path === noted.path).length);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, requests, server };
}

export const hello = (more = {}) => ({
  type: "connection_established",
  timestamp: 1,
  data: { connectionId: "c1", session: "fresh", topics: ["t"], rejected: [], heartbeatInterval: 30, ...more },
});
export const message = (data, topic = "t") => ({ type: "message", topic, data, priority: "normal", timestamp: 1 });
export const closing = (reason, reconnect) => ({ type: "closing", timestamp: 1, data: { reason, reconnect } });

/** Begin an event stream and write frames, each [frame, id], as the server does. */
export function stream(response, ...frames) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write("retry: 10\n");
  send(response, ...frames);
  return response;
}

export function send(response, ...frames) {
  for (const [frame, id] of frames) response.write(`data: ${JSON.stringify(frame)}\nid: ${id}\n\n`);
}

/** A client for the length of a test, with its events and the data of its messages. */
export function listen(t, url, options) {
  const live = connect(url, { topics: ["t"], ...options });
  const events = [];
  for (const type of ["status", "gap", "resumed", "rejected", "error"]) {
    live.addEventListener(type, (event) => {
      event.preventDefault();
      events.push({ type, ...event.detail });
    });
  }
  const got = [];
  live.on("*", (data) => void got.push(data));
  t.after(() => live.close());
  const statuses = () => events.filter(({ type }) => type === "status");
  return { live, events, got, statuses, open: () => until(() => live.status === "open", "open") };
}

/** A real holdfast, served by uvicorn, for the length of a test; `publish(topic, ...data)`. */
export async function holdfast(t, options = { history_limit: 100_000 }) {
  const probe = net.createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  const url = `http://127.0.0.1:${port}`;
  const server = spawn(
    process.env.HOLDFAST_PYTHON ?? "python3",
    ["-m", "uvicorn", "--port", `${port}`, "--log-level", "warning", "--timeout-graceful-shutdown", "1", "tests.apps.live:app"],
    { cwd: ROOT, env: { ...process.env, HOLDFAST_OPTIONS: JSON.stringify(options) }, stdio: ["ignore", "inherit", "inherit"] },
  );
  t.after(() => server.kill("SIGKILL"));
  await until(() => fetch(`${url}/health`).then(() => true, () => false), "the server");
  const publish = (topic, ...data) =>
    fetch(`${url}/publish`, { method: "POST", body: JSON.stringify({ messages: data.map((each) => ({ topic, data: each })) }) });
  return { url, port, server, publish };
}

/** A link to a port that can be cut: every connection through it ends at once. */
export async function link(t, port) {
  const open = new Set();
  const proxy = net.createServer((near) => {
    const far = net.connect(port, "127.0.0.1");
    for (const each of [near, far]) {
      open.add(each);
      each.on("error", () => {}).on("close", () => (open.delete(each), near.destroy(), far.destroy()));
    }
    near.pipe(far).pipe(near);
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const cut = () => open.forEach((each) => each.destroy());
  t.after(() => (proxy.close(), cut()));
  return { url: `http://127.0.0.1:${proxy.address().port}`, cut };
}
