// One stream for all tabs. Each tab is a thread of its own, against a real holdfast.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Worker } from "node:worker_threads";
import { LockManager } from "./locks.mjs";
import { hello, holdfast, link, message, serve, stream, until } from "./support.mjs";

const server = await holdfast({ after });

async function browser(t, url, given = {}) {
  const locks = new LockManager();
  const tabs = [];
  t.after(() => Promise.all(tabs.map((tab) => tab.worker.terminate())));
  const open = async (options = {}) => {
    const worker = new Worker(new URL("tab.mjs", import.meta.url), { workerData: { url, options: { ...given, ...options } } });
    const tab = { worker, got: [], status: [], gap: [], resumed: [], rejected: [], answer: [] };
    tabs.push(tab);
    locks.serve(tab, worker);
    worker.on("message", ({ kind, value }) => (kind === "message" ? tab.got : tab[kind])?.push(value));
    tab.call = async (call, ...names) => {
      const before = tab.answer.length;
      worker.postMessage({ call, names });
      await until(() => tab.answer.length > before, call);
      return tab.answer.at(-1);
    };
    await until(() => tab.status.at(-1)?.status === "open", "an open tab");
    return tab;
  };
  return Object.assign(open, { locks });
}

const connections = async (url) => (await (await fetch(`${url}/connection-stats`)).json()).count;
const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

test("eight tabs have one stream, and each gets each message once and in order", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const tabs = [];
  for (let n = 0; n < 8; n += 1) tabs.push(await open());
  await until(async () => (await connections(url)) === 1, "one connection");
  await publish("t", ...range(0, 500));
  for (const tab of tabs) {
    await until(() => tab.got.length >= 500);
    assert.deepEqual(tab.got, range(0, 500));
  }
});

for (const transport of ["sse", "poll"]) {
  for (const how of ["closes", "crashes"]) {
    test(`when the tab that leads ${how}, over ${transport}, the others miss nothing`, async (t) => {
      const { url, publish } = server;
      const open = await browser(t, url, { transports: [transport] });
      const tabs = [];
      for (let n = 0; n < 4; n += 1) tabs.push(await open());
      let sent = 0;
      const publishing = (async () => {
        while (sent < 2000) await publish("t", ...range(sent, (sent += 20)));
      })();
      for (let n = 0; n < 3; n += 1) {
        await until(() => tabs[n].got.length > 400 * (n + 1), "messages", 20);
        if (how === "closes") tabs[n].worker.postMessage({ call: "close" });
        else tabs[n].worker.terminate();
      }
      await publishing;
      await until(() => tabs[3].got.length >= 2000, "all", 20);
      for (const tab of tabs) assert.deepEqual(tab.got, range(0, tab.got.length));
      assert.deepEqual(tabs[3].gap, []);
      assert.equal(tabs[3].got.length, 2000);
      await until(async () => (await connections(url)) <= 1);
    });
  }
}

test("each tab has its own topics, and the stream has the topics of all tabs", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const [a, b] = [await open({ topics: ["a"] }), await open({ topics: ["b", "x.*"] })];
  assert.deepEqual(await a.call("subscribe", "c"), { accepted: ["c"], rejected: [] });
  assert.deepEqual(await b.call("subscribe", "d"), { accepted: ["d"], rejected: [] });
  await publish("a", 1);
  await publish("b", 2);
  await publish("c", 3);
  await publish("d", 4);
  await publish("x.y", 5);
  await until(() => a.got.length === 2 && b.got.length === 3);
  assert.deepEqual([a.got, b.got], [[1, 3], [2, 4, 5]]);
  await b.call("unsubscribe", "b");
  b.worker.terminate();
  await until(async () => {
    const [{ topics }] = (await (await fetch(`${url}/connection-stats`)).json()).connections;
    return topics === 2;
  }, "the topics of a tab that is gone to be given up");
});

test("a tab that joins gets what is published from then on", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const first = await open();
  await publish("t", 1, 2);
  const second = await open();
  await publish("t", 3);
  await until(() => first.got.length === 3 && second.got.length === 1);
  assert.deepEqual(second.got, [3]);
});

test("a tab that begins at a position gets each later message once, under any leader", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const first = await open();
  const { id } = await (await fetch(`${url}/position?topics=t`)).json();
  let sent = 0;
  const publishing = (async () => {
    while (sent < 600) await publish("t", ...range(sent, (sent += 5)));
  })();
  await until(() => first.got.length > 50);
  const second = await open({ position: id });
  await publishing;
  await until(() => second.got.length >= 600);
  assert.deepEqual(second.got, range(0, 600));
  first.worker.terminate();
  await publish("t", 600);
  await until(() => second.got.length >= 601);
  assert.deepEqual(second.got, range(0, 601));
});

test("a cut stream costs no tab a message", async (t) => {
  const { url, port, publish } = server;
  const { url: linked, cut } = await link(t, port);
  const open = await browser(t, linked);
  const tabs = [await open(), await open(), await open()];
  let sent = 0;
  const publishing = (async () => {
    while (sent < 1000) await publish("t", ...range(sent, (sent += 10)));
  })();
  for (let n = 1; n <= 3; n += 1) {
    await until(() => tabs[0].got.length > 100 * n, "messages", 20);
    cut();
  }
  await publishing;
  for (const tab of tabs) {
    await until(() => tab.got.length >= 1000, "all", 20);
    assert.deepEqual(tab.got, range(0, 1000));
  }
});

test("a tab that is too busy to answer a new leader keeps its topics", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const [first, second, busy] = [await open({ topics: ["a"] }), await open({ topics: ["b"] }), await open({ topics: ["c"] })];
  busy.worker.postMessage({ block: 3 });
  first.worker.terminate();
  const opened = second.status.length;
  await until(() => second.status.slice(opened).some(({ status }) => status === "open"));
  await publish("c", 1);
  await publish("b", 2);
  await until(() => second.got.length === 1 && busy.got.length === 1);
  assert.deepEqual([second.got, busy.got, busy.gap], [[2], [1], []]);
});

test("the next leader continues from the tab that received least, and the others drop repeated frames", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  // A tab that received less, as after a crash during a post: only its report says so.
  const channel = new BroadcastChannel(`holdfast ${url}/ true`);
  t.after(() => channel.close());
  const frames = [];
  let behind;
  channel.onmessage = ({ data }) => {
    if (data.type === "frame") frames.push(data);
    if (data.type === "query" && behind) channel.postMessage({ type: "report", topics: ["t"], ...behind });
  };
  const [first, second, third] = [await open(), await open(), await open()];
  await publish("t", ...range(0, 10));
  await until(() => third.got.length === 10 && second.got.length === 10);
  const { seq, term, frame } = frames.filter(({ frame: { data } }) => data === 5)[0];
  behind = { tab: `${channel.name} behind`, seq, position: frame.id };
  open.locks.hold(behind.tab);
  first.worker.terminate();
  const again = () => frames.filter((each) => each.term !== term && each.frame.type === "message");
  await until(() => again().length === 4, "what follows the position of the one behind");
  channel.postMessage({ type: "frame", term, seq: seq + 5, frame: { ...frame, data: "late", timestamp: 0 } });
  await publish("t", 10, 11);
  await until(() => second.got.length >= 12 && third.got.length >= 12);
  assert.deepEqual([second.got, third.got], [range(0, 12), range(0, 12)]);
  assert.deepEqual([second.gap, third.gap], [[], []]);
});

test("the first tab also begins at its position", async (t) => {
  const { url, publish } = server;
  const { id } = await (await fetch(`${url}/position?topics=t`)).json();
  await publish("t", 1, 2);
  const only = await (await browser(t, url))({ position: id });
  await until(() => only.got.length === 2);
  assert.deepEqual([only.got, only.gap], [[1, 2], []]);
});

test("a tab that begins at a position catches up while more is published all the time", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const first = await open();
  const { id } = await (await fetch(`${url}/position?topics=t`)).json();
  let sent = 0;
  let on = true;
  const publishing = (async () => {
    while (on) await publish("t", { connectionId: sent++ });
  })();
  await until(() => first.got.length > 100, "messages", 20);
  const second = await open({ position: id });
  // Neither data that looks like a first frame nor a replay that is never empty ends it.
  await until(async () => (await connections(url)) === 1 && second.got.length > 500, "it to join", 30);
  let polls = 0;
  for (let n = 0; n < 20; n += 1) {
    const { transports } = (await (await fetch(`${url}/connection-stats`)).json()).statistics;
    polls += transports.poll ?? 0;
    await new Promise((done) => setTimeout(done, 20));
  }
  on = false;
  await publishing;
  await until(() => second.got.length >= sent, "all", 20);
  assert.deepEqual(second.got.map(({ connectionId }) => connectionId), range(0, sent));
  assert.deepEqual([polls, second.gap], [0, []]);
});

test("a tab that may not catch up gets a gap", async (t) => {
  const { url, publish } = server;
  const { url: scripted } = await serve(t, async ({ path, headers }, response) => {
    if (path === "poll") return response.writeHead(403).end();
    const answer = await fetch(`${url}/${path}?topics=t`, { headers: { accept: "text/event-stream" } });
    response.writeHead(answer.status, { "content-type": "text/event-stream" });
    try {
      for await (const part of answer.body) response.write(part);
    } catch {} // at the end of the test
  });
  const open = await browser(t, scripted, { transports: ["sse"] });
  await open();
  const second = await open({ position: "e~0~x" });
  await until(() => second.gap.length);
  assert.equal(second.gap[0].cause, "unknown");
  await publish("t", 1);
  await until(() => second.got.length);
  assert.deepEqual(second.got, [1]);
});

test("a tab that missed the start of a leader follows it from its next report", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const [first, second] = [await open(), await open()];
  const channel = new BroadcastChannel(`holdfast ${url}/ true`);
  t.after(() => channel.close());
  // Make both tabs follow a leader that does not exist.
  channel.postMessage({ type: "term", term: "another tab", seq: 0, position: undefined });
  await publish("t", 1);
  await until(() => first.got.length === 1);
  await first.call("subscribe", "u");
  await publish("t", 2);
  await until(() => second.got.includes(2));
  assert.ok(second.got.includes(1) || second.gap.length, "the missed message is reported as a gap");
});

test("a shared stream without topics has the topics of its position", async (t) => {
  const { url, publish } = server;
  const { id } = await (await fetch(`${url}/position?topics=t`)).json();
  await publish("t", 1);
  const only = await (await browser(t, url))({ topics: undefined, position: id });
  await publish("t", 2);
  await until(() => only.got.length === 2);
  assert.deepEqual([only.got, only.gap], [[1, 2], []]);
});

test("the first tab gets all messages from its position on, also if it subscribes before the first frame", async (t) => {
  let begin;
  let asked;
  const { url } = await serve(t, ({ path, body }, response) => {
    if (path === "subscribe") return response.end(JSON.stringify({ topics: body.topics, rejected: [] }));
    asked = true;
    begin = () => stream(response, [hello({ session: "resumed", replay: 1 }), "e~1~b"], [message("replayed"), "e~2~b"]);
  });
  const open = await browser(t, url, { transports: ["sse"] });
  const opening = open({ position: "e~1~a", early: "u" });
  await until(() => asked);
  await new Promise((done) => setTimeout(done, 100));
  begin();
  const only = await opening;
  await until(() => only.answer.length);
  await until(() => only.got.length, "what was replayed");
  assert.deepEqual([only.got, only.resumed], [["replayed"], [{ replay: 1 }]]);
});

test("after close(), no handler is called, although messages wait for a slow one", async (t) => {
  const { url, publish } = server;
  const open = await browser(t, url);
  const first = await open();
  const second = await open({ slow: 0.5 });
  await publish("t", ...range(0, 5));
  await until(() => first.got.length === 5 && second.got.length === 1);
  await second.call("close");
  await new Promise((done) => setTimeout(done, 800));
  assert.deepEqual(second.got, [0]);
});

test("a tab has its own stream if locks are refused, as with blocked cookies", async (t) => {
  const { url, publish } = await holdfast(t);
  const open = await browser(t, url, { denied: true });
  const [a, b] = [await open(), await open({ topics: ["t", "u"] })];
  await until(async () => (await connections(url)) === 2, "two connections");
  assert.deepEqual(await a.call("subscribe", "v"), { accepted: ["v"], rejected: [] });
  await publish("t", 1);
  await until(() => a.got.length === 1 && b.got.length === 1);
  await a.call("close");
  await b.call("close");
  await until(async () => (await connections(url)) === 0, "no connection");
});

test("a rejected topic is requested again by any tab that subscribes to it", async (t) => {
  let allowed = false;
  const { url } = await serve(t, ({ path, body: { topics } = {} }, response) => {
    if (path === "stream") return stream(response, [hello(), "e~0~a"]);
    response.end(JSON.stringify(allowed ? { topics, rejected: [] } : { topics: [], rejected: topics }));
  });
  const open = await browser(t, url, { transports: ["sse"] });
  const [first, second] = [await open(), await open()];
  for (const tab of [first, second]) assert.deepEqual((await tab.call("subscribe", "u")).rejected, ["u"]);
  allowed = true;
  for (const tab of [second, first]) assert.deepEqual((await tab.call("subscribe", "u")).accepted, ["u"]);
});

test("a topic that is unsubscribed and at once subscribed is accepted when the server has it", async (t) => {
  const done = [];
  const { url } = await serve(t, async ({ path, body: { topics } = {} }, response) => {
    if (path === "stream") return stream(response, [hello(), "e~0~a"]);
    await new Promise((then) => setTimeout(then, 200));
    done.push(`${path} ${topics}`);
    response.end(JSON.stringify({ topics, rejected: [] }));
  });
  const open = await browser(t, url, { transports: ["sse"] });
  const [first, second] = [await open(), await open()];
  for (const [tab, topic] of [[second, "a"], [first, "b"]]) {
    await tab.call("subscribe", topic);
    tab.worker.postMessage({ call: "unsubscribe", names: [topic] });
    tab.worker.postMessage({ call: "subscribe", names: [topic] });
    await until(() => tab.answer.filter(({ accepted }) => accepted?.[0] === topic).length === 2);
    // If both commands meet, nothing is sent; otherwise the last command is the subscription.
    assert.equal(done.splice(0).at(-1), `subscribe ${topic}`);
  }
});
