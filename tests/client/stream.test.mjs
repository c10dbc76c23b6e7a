// One position over all connections and transports, against a server that follows a script.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { closing, hello, listen, message, send, serve, stream, until } from "./support.mjs";

describe("a client over a server that follows a script", { concurrency: 6 }, () => {
test("the position advances only when the handlers have finished, and the next request presents it", async (t) => {
  let release;
  const held = new Promise((done) => (release = done));
  const { url, requests } = await serve(t, ({ path }, response, count) => {
    if (path !== "stream") return;
    if (count === 1) stream(response, [hello(), "e~0~a"], [message(1), "e~1~a"], [message(2), "e~2~a"]);
    else stream(response, [hello({ session: "resumed", replay: 0 }), "e~2~b"]);
    if (count === 1) held.then(() => response.destroy());
  });
  const { live, got } = listen(t, url);
  const settled = [];
  live.on("t", async (data) => {
    if (data === 2) await held;
    settled.push(data);
  });
  await until(() => got.length === 2);
  assert.deepEqual([live.position, settled], ["e~1~a", [1]]);
  release();
  await until(() => requests.filter(({ path }) => path === "stream").length === 2);
  assert.equal(requests.at(-1).headers["last-event-id"], "e~2~a");
  assert.deepEqual(got, [1, 2]);
});

test("messages are handled one after the other, each when all handlers of the previous one have finished", async (t) => {
  const { url } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"], [message(1), "e~1~a"], [message(2), "e~2~a"]));
  const { live } = listen(t, url);
  const steps = [];
  for (const name of ["a", "b"]) {
    live.on("t", async (data) => {
      steps.push(`${name}${data} begins at ${live.position}`);
      await new Promise((done) => setTimeout(done, name === "a" ? 20 : 5));
      steps.push(`${name}${data} ends`);
    });
  }
  await until(() => live.position === "e~2~a");
  assert.deepEqual(steps, [
    "a1 begins at e~0~a", "b1 begins at e~0~a", "b1 ends", "a1 ends",
    "a2 begins at e~1~a", "b2 begins at e~1~a", "b2 ends", "a2 ends",
  ]);
});

test("an error of a handler is reported, and stops neither the other handlers nor the stream", async (t) => {
  const { url } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"], [message(1), "e~1~a"], [message(2), "e~2~a"]));
  const { live, events } = listen(t, url);
  const good = [];
  live.on("t", () => { throw new Error("sync"); });
  live.on("t", async () => { throw new Error("async"); });
  live.on("t", (data) => good.push(data));
  await until(() => live.position === "e~2~a");
  assert.deepEqual(good, [1, 2]);
  const errors = events.filter(({ type }) => type === "error");
  assert.deepEqual(errors.map(({ error, message: { data } }) => `${error.message} ${data}`), ["sync 1", "async 1", "sync 2", "async 2"]);
});

test("a frame that the end of a stream cuts off is not handled, and its id is not taken", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response, count) => {
    stream(response, [hello(), "e~0~a"], [message(1), "e~1~a"]);
    if (count === 1) response.write('data: {"type":"message","topic":"t","data":2}\nid: e~2~a\n', () => response.destroy());
  });
  const { got } = listen(t, url);
  await until(() => requests.length === 2);
  assert.equal(requests[1].headers["last-event-id"], "e~1~a");
  assert.deepEqual(got.slice(0, 1), [1]);
});

test("a stream whose first frame does not come in time falls back to polling, and loses nothing", async (t) => {
  const { url, requests } = await serve(t, ({ path, headers, query }, response, count) => {
    if (path === "stream") response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    if (path !== "poll") return;
    response.setHeader("content-type", "application/json");
    const frames = count === 1
      ? [{ ...hello(), id: "e~0~a" }]
      : [{ ...hello({ session: "resumed", replay: 1 }), id: `e~${count - 2}~b` }, { ...message(count), id: `e~${count - 1}~b` }];
    if (count < 4) response.end(JSON.stringify({ frames }));
  });
  const { live, got, statuses, events } = listen(t, url, { transports: ["sse", "poll"], firstFrameTimeout: 1 });
  await until(() => got.length === 2);
  assert.deepEqual(statuses().map(({ status, transport }) => `${status} ${transport}`), ["connecting sse", "connecting poll", "open poll"]);
  const polls = requests.filter(({ path }) => path === "poll");
  assert.deepEqual(polls.map(({ query }) => query.get("wait")), ["0", "25", "25", "25"].slice(0, polls.length));
  await until(() => polls.length > 3 || requests.at(-1).headers["last-event-id"] === "e~2~b");
  assert.deepEqual(events.filter(({ type }) => type === "resumed"), [], "a further poll is not a resume");
  assert.equal(live.transport, "poll");
});

for (const [status, then] of [[401, "waiting"], [500, "waiting"], [502, "waiting"], [429, "waiting"], [403, "closed"], [400, "closed"], [204, "closed"]]) {
  test(`a ${status} does not fall back to another transport: ${then}`, async (t) => {
    const { url, requests } = await serve(t, (_, response) => response.writeHead(status).end());
    const { live } = listen(t, url);
    await until(() => live.status === then);
    if (then === "waiting") await until(() => requests.length === 3);
    assert.deepEqual([...new Set(requests.map(({ path }) => path))], ["stream"]);
  });
}

test("a wrong content type or a missing path falls back at once", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response) => {
    if (path === "poll") response.writeHead(404).end();
    else response.writeHead(200, { "content-type": "text/html" }).end("<html>");
  });
  const { statuses } = listen(t, url, { transports: ["sse", "poll"] });
  await until(() => requests.length === 4);
  const steps = statuses().map(({ status, transport }) => `${status} ${transport}`);
  assert.deepEqual(steps.slice(0, 4), ["connecting sse", "connecting poll", "waiting poll", "connecting sse"]);
});

test("the client waits as long as Retry-After asks, and a wake-up ends the pause", async (t) => {
  const { url, requests } = await serve(t, (_, response) => response.writeHead(503, { "retry-after": "17" }).end());
  const { live, statuses } = listen(t, url);
  const waiting = await until(() => statuses().find(({ status }) => status === "waiting"));
  assert.equal(waiting.retryIn, 17);
  live.stream.wake();
  await until(() => requests.length === 2);
});

test("the client tries until a server listens, and then connects", async (t) => {
  const { url, server, requests } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"]));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  const { live, statuses } = listen(t, url);
  await until(() => statuses().filter(({ status }) => status === "waiting").length === 2);
  assert.ok(statuses().every(({ transport }) => transport === "sse"), "the transport is not rejected");
  server.listen(port, "127.0.0.1");
  await until(() => live.status === "open");
  assert.equal(requests.length, 1);
});

test("a silent connection fails after 2.5 heartbeats", async (t) => {
  const { url, requests } = await serve(t, (_, response, count) =>
    stream(response, [hello({ heartbeatInterval: count === 1 ? 0.2 : 30 }), "e~0~a"]));
  const { statuses } = listen(t, url);
  await until(() => requests.length === 2);
  assert.equal(statuses().find(({ status }) => status === "waiting").reason, "silence");
  const quiet = requests[1].at - requests[0].at;
  assert.ok(quiet > 0.5 + 0.5 && quiet < 3, `${quiet} s`);
});

test("a slow handler does not count as silence", async (t) => {
  const { url, requests } = await serve(t, (_, response) => {
    stream(response, [hello({ heartbeatInterval: 0.1 }), "e~0~a"], [message(1), "e~1~a"]);
    setTimeout(() => send(response, [message(2), "e~2~a"]), 200);
  });
  const { live } = listen(t, url);
  live.on("t", (data) => data === 1 && new Promise((done) => setTimeout(done, 600)));
  await until(() => live.position === "e~2~a");
  assert.equal(requests.length, 1);
});

test("a final closing frame closes the client", async (t) => {
  const { url, requests } = await serve(t, (_, response) =>
    stream(response, [hello(), "e~0~a"], [closing("replaced", false), "e~0~a"]).end());
  const { live, statuses } = listen(t, url);
  await until(() => live.status === "closed");
  assert.equal(statuses().at(-1).reason, "replaced");
  await assert.rejects(live.subscribe("u"));
  assert.equal(requests.length, 1);
});

test("a token is sent in the header only, and an expired one is replaced", async (t) => {
  const { url, requests } = await serve(t, (_, response, count) => {
    if (count === 2) response.writeHead(401).end();
    else if (count === 1) stream(response, [hello(), "e~0~a"], [closing("credentials_expired", false), "e~0~a"]).end();
    else stream(response, [hello(), "e~0~b"]);
  });
  const tokens = ["a", "a", "b"];
  const { live, statuses } = listen(t, url, { token: async () => tokens.shift() });
  await until(() => requests.length === 3 && live.status === "open");
  assert.deepEqual(requests.map(({ headers }) => headers.authorization), ["Bearer a", "Bearer a", "Bearer b"]);
  // At once the first time, but after a pause if the second token is refused too.
  assert.deepEqual(statuses().map(({ status }) => status), ["connecting", "open", "connecting", "waiting", "connecting", "open"]);
  assert.ok(requests.every(({ query }) => ![...query.values()].includes("a")));
});

test("a token function that fails is tried again", async (t) => {
  const { url } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"]));
  let asked = 0;
  const { statuses, open } = listen(t, url, { token: () => { if (!asked++) throw new Error("offline"); return "a"; } });
  await open();
  assert.equal(asked, 2);
  assert.deepEqual(statuses().map(({ status, reason }) => reason ?? status), ["connecting", "offline", "connecting", "open"]);
});

test("acknowledgements follow the handlers, one for many messages, and end with the last message", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response) => {
    if (path === "ack") response.writeHead(200, { "content-type": "application/json" }).end('{"acknowledged":true}');
    else stream(response, [hello({ window: 4096 }), "e~0~a"], ...Array.from({ length: 200 }, (_, n) => [message(n + 1), `e~${n + 1}~a`]));
  });
  const { got } = listen(t, url);
  await until(() => requests.at(-1)?.body?.id === "e~200~a");
  const acks = requests.filter(({ path }) => path === "ack");
  assert.equal(requests[0].query.get("ack"), "true");
  assert.ok(acks.length > 1 && acks.length < 20, `${acks.length} for 200: one for each half of the window`);
  assert.ok(acks.every(({ body }) => body.connectionId === "c1"));
  assert.equal(got.length, 200);
});

test("members of the first frame never overwrite the state of the client", async (t) => {
  const hostile = { ended: true, closed: true, send: 1, fail: 1, busy: true, posting: true, requested: false, heard: false, bytes: -1e9, timer: 1, transport: "websocket", signal: {}, info: 1, retryAfter: 20 };
  const { url, requests } = await serve(t, ({ path }, response) => {
    if (path === "ack") response.end('{"acknowledged":true}');
    else stream(response, [hello({ window: 4096, ...hostile }), "e~0~a"], [{ ...message(1), ...hostile }, "e~1~a"]);
  });
  const { live, got } = listen(t, url);
  await until(() => requests.at(-1)?.body?.id === "e~1~a");
  assert.deepEqual([live.status, live.transport, live.connectionId, got], ["open", "sse", "c1", [1]]);
});

test("if acknowledgements are refused, the stream continues without a window", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response, count) => {
    if (path === "ack") response.writeHead(403).end("{}");
    else if (count === 1) stream(response, [hello({ window: 4096 }), "e~0~a"], [message(1), "e~1~a"]);
    else stream(response, [hello({ session: "resumed", replay: 1 }), "e~1~b"], [message(2), "e~2~b"]);
  });
  const { got } = listen(t, url);
  await until(() => got.length === 2);
  const [first, , second] = requests;
  assert.deepEqual([first.query.get("ack"), second.query.get("ack")], ["true", null]);
  assert.equal(second.headers["last-event-id"], "e~1~a");
});

test("topics change with and without a connection, and if commands are refused", async (t) => {
  const { url, requests } = await serve(t, ({ path, query, body }, response) => {
    if (path === "stream") stream(response, [hello({ topics: query.get("topics").split(",") }), "e~0~a"]);
    else if (body.topics.includes("other")) response.writeHead(404).end("{}");
    else response.end(JSON.stringify({ topics: body.topics.filter((name) => name !== "secret"), rejected: body.topics.filter((name) => name === "secret") }));
  });
  const { live, events } = listen(t, url);
  assert.deepEqual(await live.subscribe("early"), { accepted: ["early"], rejected: [] });
  assert.equal(requests[0].query.get("topics"), "t,early", "part of the first request");
  assert.deepEqual(await live.subscribe("u", "secret"), { accepted: ["u"], rejected: ["secret"] });
  assert.deepEqual(events.filter(({ type }) => type === "rejected").map(({ topics }) => topics), [["secret"]]);
  assert.deepEqual(await live.subscribe("other"), { accepted: ["other"], rejected: [] });
  assert.equal(requests.at(-1).query.get("topics"), "t,early,u,other", "by the next request");
  assert.deepEqual(await live.unsubscribe("u", "t"), { removed: ["u", "t"] });
  assert.deepEqual(live.topics, ["early", "other"]);
  await assert.rejects(live.subscribe("not a topic"), TypeError);
});

test("a message of an unsubscribed topic that was on its way is dropped", async (t) => {
  let response;
  const { url } = await serve(t, ({ path }, given) => {
    if (path === "stream") response = stream(given, [hello({ topics: ["t", "u"] }), "e~0~a"]);
    else given.end('{"topics":["u"]}');
  });
  const { live, got, open } = listen(t, url, { topics: ["t", "u"] });
  await open();
  const left = live.unsubscribe("u");
  send(response, [message(1, "u"), "e~1~a"], [message(2), "e~2~a"]);
  await left;
  await until(() => live.position === "e~2~a");
  assert.deepEqual(got, [2]);
});

test("gaps in the first frame and in a lane are reported, and so is a resume", async (t) => {
  const gap = { type: "gap", timestamp: 1, data: { cause: "trimmed", count: 2, topics: ["t"], priority: "low" } };
  const { url } = await serve(t, (_, response, count) => {
    const first = count === 1 ? { session: "gap", gap: { cause: "trimmed", count: 2 }, replay: 3 } : { session: "resumed", replay: 0 };
    stream(response, [hello(first), "e~1~a"], [gap, "e~2~a"]);
    if (count === 1) response.end();
  });
  const { live, events } = listen(t, url, { position: "e~1~x" });
  await until(() => events.some(({ type }) => type === "resumed"));
  const reported = events.filter(({ type }) => type !== "status").map(({ type, cause, count, priority, replay }) => [type, cause ?? replay, count, priority]);
  assert.deepEqual(reported.slice(0, 3), [["gap", "trimmed", 2, undefined], ["gap", "trimmed", 2, "low"], ["resumed", 0, undefined, undefined]]);
  assert.equal(live.position, "e~2~a");
});

test("names and data cannot reach a prototype", async (t) => {
  const evil = '{"type":"message","topic":"__proto__","data":{"__proto__":{"bad":1}},"__proto__":{"bad":1},"priority":"normal","timestamp":1}';
  const { url } = await serve(t, (_, response) =>
    stream(response, [hello({ topics: ["__proto__"] }), "e~0~a"]).write(`data: ${evil}\nid: e~1~a\n\n`));
  const { live } = listen(t, url, { topics: ["__proto__", "constructor"] });
  let seen;
  live.on("__proto__", (data, whole) => (seen = whole));
  await until(() => live.position === "e~1~a");
  assert.equal(seen.topic, "__proto__");
  assert.equal({}.bad, undefined);
  assert.equal(seen.bad, undefined);
});

test("a gap of personal messages is reported", async (t) => {
  const gap = { type: "gap", timestamp: 1, data: { cause: "trimmed", count: 2, topics: ["$user"], priority: "low" } };
  const { url } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"], [gap, "e~2~a"]));
  const { live, events } = listen(t, url);
  await until(() => live.position === "e~2~a");
  assert.deepEqual(events.filter(({ type }) => type === "gap").map(({ count, topics }) => [count, topics]), [[2, ["$user"]]]);
});

test("a fresh session after a presented position is reported as a gap", async (t) => {
  const { url } = await serve(t, (_, response, count) => {
    stream(response, [hello({ topics: ["t"] }), `e~${count}~a`]);
    if (count === 1) response.end();
  });
  const { live, events } = listen(t, url);
  await until(() => live.position === "e~2~a");
  assert.deepEqual(events.filter(({ type }) => type === "gap").map(({ cause, count }) => [cause, count]), [["unknown", null]]);
});

test("without topics, the client keeps those of the position, and adds one that is subscribed meanwhile", async (t) => {
  let begin;
  const begun = new Promise((done) => (begin = done));
  const { url, requests } = await serve(t, async ({ path, body }, response) => {
    if (path === "subscribe") return response.end(JSON.stringify({ topics: body.topics, rejected: [] }));
    await begun;
    stream(response, [hello({ session: "resumed", replay: 0, topics: ["old"] }), "e~1~b"]);
  });
  const { live } = listen(t, url, { topics: undefined, position: "e~1~a" });
  await until(() => requests.length === 1);
  const answered = live.subscribe("new");
  begin();
  assert.deepEqual(await answered, { accepted: ["new"], rejected: [] });
  assert.equal(requests[0].query.get("topics"), null);
  assert.deepEqual([live.topics.sort(), requests[1].body.topics], [["new", "old"], ["new"]]);
});

test("a subscription that is withdrawn before its answer does not wait for ever", async (t) => {
  const { url } = await serve(t, ({ path }, response) => path === "stream" && response.writeHead(503).end());
  const { live } = listen(t, url);
  const waiting = live.subscribe("u");
  await live.unsubscribe("u");
  assert.deepEqual(await waiting, { accepted: [], rejected: ["u"] });
});

test("a topic that the answer leaves out is requested once", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response) => {
    if (path === "stream") stream(response, [hello(), "e~0~a"]);
    else response.end('{"topics":[],"rejected":[]}');
  });
  const { live, open } = listen(t, url);
  await open();
  assert.deepEqual(await live.subscribe("u"), { accepted: [], rejected: ["u"] });
  assert.equal(requests.length, 2);
});

test("a response of another content type that does not end is abandoned", async (t) => {
  let left = 0;
  const { url } = await serve(t, (_, response) => {
    response.on("close", () => (left += 1));
    response.writeHead(200, { "content-type": "text/html" }).write("<html>");
  });
  listen(t, url, { transports: ["sse"] });
  await until(() => left === 1, "the connection to be given back");
});

test("an unusual error of a token function does not fall back to another transport", async (t) => {
  class Refused extends Error { name = "Refused"; }
  const { url, requests } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"]));
  let asked = 0;
  const { live } = listen(t, url, { transports: ["sse", "poll"], token: () => { if (!asked++) throw new Refused("offline"); return "a"; } });
  await until(() => live.status === "open");
  assert.deepEqual(requests.map(({ path }) => path), ["stream"]);
});

test("one lost acknowledgement does not cost the window", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response, count) => {
    if (path === "ack") response.writeHead(count === 1 ? 404 : 200).end("{}");
    else stream(response, [hello({ window: 4096, session: count === 1 ? "fresh" : "resumed" }), `e~${count - 1}~a`], [message(count), `e~${count}~a`]);
  });
  listen(t, url);
  await until(() => requests.filter(({ path }) => path === "ack").length === 2);
  assert.deepEqual(requests.filter(({ path }) => path === "stream").map(({ query }) => query.get("ack")), ["true", "true"]);
});

test("a token that is accepted for the stream and refused for commands does not cause a loop", async (t) => {
  const { url, requests } = await serve(t, ({ path }, response, count) => {
    if (path === "ack") response.writeHead(401).end("{}");
    else stream(response, [hello({ window: 4096, session: count === 1 ? "fresh" : "resumed" }), `e~${count - 1}~a`], [message(count), `e~${count}~a`]);
  });
  let asked = 0;
  const { statuses } = listen(t, url, { token: () => `${++asked}` });
  await until(() => statuses().some(({ status }) => status === "waiting"));
  assert.deepEqual([asked, requests.filter(({ path }) => path === "stream").length], [2, 2]);
});

test("rights that are withdrawn between two polls are reported", async (t) => {
  const { url } = await serve(t, (_, response, count) => {
    response.setHeader("content-type", "application/json");
    const rights = count < 3 ? {} : { topics: [], rejected: ["t"] };
    const frames = [{ ...hello({ session: count === 1 ? "fresh" : "resumed", replay: 0, ...rights }), id: `e~${count}~a` }];
    if (count < 5) response.end(JSON.stringify({ frames }));
  });
  const { events, statuses } = listen(t, url, { transports: ["poll"] });
  await until(() => events.some(({ type }) => type === "rejected"));
  assert.deepEqual(events.filter(({ type }) => type === "rejected").map(({ topics }) => topics), [["t"]]);
  assert.ok(statuses().filter(({ status }) => status === "open").length <= 2);
});

test("degraded is reported once, and its end is reported even after a cut", async (t) => {
  const degraded = { type: "degraded", timestamp: 1 };
  const { url } = await serve(t, (_, response, count) => {
    const first = [hello({ session: count === 1 ? "fresh" : "resumed", replay: 0 }), `e~${count}~a`];
    stream(response, first, [count < 3 ? degraded : { type: "heartbeat", timestamp: 1 }, `e~${count}~a`]);
    if (count < 3) response.end();
  });
  const { live } = listen(t, url);
  const reported = [];
  for (const type of ["degraded", "recovered"]) live.addEventListener(type, () => reported.push(type));
  await until(() => reported.includes("recovered"));
  assert.deepEqual(reported, ["degraded", "recovered"]);
});

test("a heartbeat interval of weeks does not overflow the timer", async (t) => {
  const { url, requests } = await serve(t, (_, response) => {
    stream(response, [hello({ heartbeatInterval: 1e6 }), "e~0~a"]);
    setTimeout(() => send(response, [message(1), "e~1~a"]), 300);
  });
  const { got } = listen(t, url);
  await until(() => got.length === 1);
  assert.equal(requests.length, 1);
});
});
