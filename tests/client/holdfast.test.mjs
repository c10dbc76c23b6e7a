// Against a real holdfast, over every transport, through a link that is cut again and again.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { holdfast, link, listen, until } from "./support.mjs";

const TRANSPORTS = ["sse", "poll", ...(globalThis.WebSocket ? ["websocket"] : [])];
const server = await holdfast({ after });
const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

for (const transport of TRANSPORTS) {
  test(`${transport}: ten cuts lose and repeat nothing`, { timeout: 60_000 }, async (t) => {
    const { port, publish } = server;
    const { url, cut } = await link(t, port);
    const { live, got, open, events } = listen(t, url, { transports: [transport] });
    await open();
    for (let turn = 0; turn < 10; turn += 1) {
      await publish("t", ...range(turn * 20, turn * 20 + 20));
      await until(() => live.stream.wake() ?? got.length > turn * 20 + 5); // not waiting out each pause
      cut();
    }
    await until(() => got.length === 200);
    assert.deepEqual(got, range(0, 200));
    assert.deepEqual(events.filter(({ type }) => type === "gap"), []);
  });

  test(`${transport}: a token is accepted, and is in no URL`, async (t) => {
    const { url } = server;
    const { live, open, statuses } = listen(t, url, { transports: [transport], token: () => "né/+ token" });
    await open();
    assert.equal(live.transport, transport);
    assert.equal(statuses().length, 2);
  });

  test(`${transport}: subscribe and unsubscribe take effect`, async (t) => {
    const { url, publish } = server;
    const { live, got, open } = listen(t, url, { transports: [transport] });
    await open();
    assert.deepEqual(await live.subscribe("u", "v.*"), { accepted: ["u", "v.*"], rejected: [] });
    await publish("u", 1);
    await publish("v.w", 2);
    await until(() => got.length === 2);
    await live.unsubscribe("u");
    await publish("u", 3);
    await publish("t", 4);
    await until(() => got.length === 3);
    assert.deepEqual(got, [1, 2, 4]);
  });
}

test("the position is carried from one transport to the next", async (t) => {
  const { url, publish } = server;
  const first = listen(t, url);
  await first.open();
  first.live.close();
  let { position } = first.live;
  for (const [n, transport] of [...TRANSPORTS, ...TRANSPORTS].entries()) {
    await publish("t", n);
    const { live, got, events, statuses } = listen(t, url, { transports: [transport], position });
    await until(() => got.length === 1);
    assert.equal(statuses().filter(({ status }) => status === "open").length, 1, "one session, the resumed one");
    assert.deepEqual([got, events.filter(({ type }) => type === "gap")], [[n], []]);
    live.close();
    position = live.position;
  }
});

test("with acknowledgements, megabytes pass through the window", async (t) => {
  const { url, publish } = server;
  for (const transport of TRANSPORTS.filter((each) => each !== "poll")) {
    const { live, got, open } = listen(t, url, { transports: [transport] });
    await open();
    for (let n = 0; n < 60; n += 1) await publish("t", "é".repeat(30_000));
    await until(() => got.length === 60);
    const stats = await (await fetch(`${url}/connection-stats`)).json();
    assert.equal(stats.connections.length, 1);
    live.close();
    await until(async () => (await (await fetch(`${url}/connection-stats`)).json()).count === 0);
  }
});

test("a position that the application rendered begins there", async (t) => {
  const { url, publish } = server;
  await publish("t", "before");
  const { id } = await (await fetch(`${url}/position?topics=t`)).json();
  await publish("t", "between");
  const { got, live } = listen(t, url, { topics: undefined, position: id });
  await until(() => got.length === 1);
  assert.deepEqual([got, live.topics], [["between"], ["t"]]);
});
