// Commands: acknowledgements and topics that are posted beside the stream, and broken answers.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { hello, listen, message, send, serve, stream, until } from "./support.mjs";

const PAGE = "<html><body>Not here</body></html>";
const big = "x".repeat(4000);

describe("commands", { concurrency: 6 }, () => {
for (const status of [403, 405]) {
  test(`a proxy's page with ${status} for each acknowledgement costs the window, not the stream`, async (t) => {
    const { url, requests } = await serve(t, ({ path }, response, count) => {
      if (path === "ack") response.writeHead(status, { "content-type": "text/html" }).end(PAGE);
      else if (count === 1) stream(response, [hello({ window: 4096 }), "e~0~a"], [message(1), "e~1~a"]);
      else stream(response, [hello({ session: "resumed", replay: 1 }), "e~1~b"], [message(2), "e~2~b"]);
    });
    const { got } = listen(t, url);
    await until(() => got.length === 2);
    const streams = requests.filter(({ path }) => path === "stream");
    assert.deepEqual(streams.map(({ query }) => query.get("ack")), ["true", null]);
  });
}

for (const [what, fail] of [
  ["answered with 502", (response) => response.writeHead(502).end(PAGE)],
  ["cut off", (response) => response.destroy()],
]) {
  test(`an acknowledgement that is ${what} is repeated, because the window is full until it arrives`, async (t) => {
    let response;
    const { url, requests } = await serve(t, ({ path, body }, given, count) => {
      if (path === "stream") return (response = stream(given, [hello({ window: 4096 }), "e~0~a"], [message(big), "e~1~a"]));
      if (count === 1) return fail(given);
      given.end('{"acknowledged":true}');
      if (body.id === "e~1~a") send(response, [message(2), "e~2~a"]);
    });
    const { got } = listen(t, url);
    await until(() => got.length === 2);
    assert.equal(requests.filter(({ path }) => path === "stream").length, 1);
  });
}

test("an HTML page is not the answer to a subscription", async (t) => {
  const { url } = await serve(t, ({ path, query }, response) => {
    if (path === "stream") stream(response, [hello({ topics: query.get("topics").split(",") }), "e~0~a"]);
    else response.writeHead(200, { "content-type": "text/html" }).end(PAGE);
  });
  const { live, open } = listen(t, url);
  await open();
  assert.deepEqual(await live.subscribe("u"), { accepted: ["u"], rejected: [] });
});

test("a topic that is subscribed again during its unsubscription is accepted when the server has it", async (t) => {
  const held = new Set(["t", "u"]);
  let taken;
  const { url } = await serve(t, ({ path, body }, response) => {
    if (path === "stream") return stream(response, [hello({ topics: [...held] }), "e~0~a"]);
    const answer = () => {
      for (const name of body.topics) path === "subscribe" ? held.add(name) : held.delete(name);
      response.end(JSON.stringify({ topics: body.topics, rejected: [] }));
    };
    if (path === "unsubscribe") taken = answer;
    else answer();
  });
  const { live, open } = listen(t, url, { topics: ["t", "u"] });
  await open();
  const left = live.unsubscribe("u");
  await until(() => taken);
  let answered;
  const joined = live.subscribe("u").then((answer) => (answered = answer));
  await new Promise((done) => setTimeout(done, 50));
  assert.equal(answered, undefined, "the server is about to take it away");
  taken();
  await left;
  assert.deepEqual(await joined, { accepted: ["u"], rejected: [] });
  assert.deepEqual([...held], ["t", "u"]);
});

test("a handler that another handler removes is not called any more", async (t) => {
  const { url } = await serve(t, (_, response) => stream(response, [hello(), "e~0~a"], [message(1), "e~1~a"]));
  const { live } = listen(t, url);
  const called = [];
  live.on("t", () => off());
  const off = live.on("t", (data) => called.push(data));
  await until(() => live.position === "e~1~a");
  assert.deepEqual(called, []);
});
});
