// The parts of the client that need neither a page nor a server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { pure } from "./support.mjs";

const { EventParser, actionForCode, actionForStatus, backoff, checkTopic, matches } = pure;

const STREAM =
  "retry: 2273\ndata: {\"a\":1}\nid: x~1~y\n\n" + // in the form of the server
  ": a comment\ndata: é\u2028\ndata:two\nid: 2\nother: z\n\n" +
  "data\r\n\r\nid: 3\r\r" + "data: cut off\nid: 4\n";
const EVENTS = [
  { data: '{"a":1}', id: "x~1~y" },
  { data: "é\u2028\ntwo", id: "2" },
  { data: "", id: "2" },
];

test("an event stream is read alike, wherever it is cut into pieces", () => {
  for (let first = 0; first <= STREAM.length; first += 1) {
    for (let second = first; second <= STREAM.length; second += 7) {
      const parser = new EventParser();
      const pieces = [STREAM.slice(0, first), STREAM.slice(first, second), STREAM.slice(second)];
      assert.deepEqual(pieces.flatMap((piece) => parser.feed(piece)), EVENTS);
      assert.equal(parser.retry, 2.273);
    }
  }
});

test("an id with NUL and a retry that is not a number are ignored, as the standard requires", () => {
  const parser = new EventParser();
  const events = parser.feed("id: 1\ndata: a\n\nid: \0\nretry: x\ndata: b\n\n");
  assert.deepEqual(events.map(({ id }) => id), ["1", "1"]);
  assert.equal(parser.retry, 0);
});

test("the pause is random between 0.5 s and a bound that doubles with each failure, up to 20 s", () => {
  for (let failures = 0; failures < 2000; failures += 1) {
    assert.equal(backoff(failures, 0, 0), 0.5);
    assert.equal(backoff(failures, 0, 1), Math.min(20, 2 ** failures));
    assert.ok(backoff(failures) >= 0.5 && backoff(failures) <= 20);
  }
});

test("the pause is at least the one that the server asks for, up to 20 s", () => {
  assert.equal(backoff(0, 7, 0.5), 7);
  assert.equal(backoff(9, 7, 1), 20);
  assert.equal(backoff(0, 3600), 20);
});

test("patterns match the same topics as on the server", () => {
  const cases = [
    ["orders", "orders", true], ["orders", "order", false], ["orders.*", "orders.eu", true],
    ["orders.*", "orders", false], ["orders.*", "orders.eu.7", false], ["orders.**", "orders.eu.7", true],
    ["orders.**", "orders", false], ["*", "a", true], ["*", "a.b", false], ["**", "a.b", true],
    ["*.b", "a.b", true], ["*.b", "a.c", false], ["a.*.c", "a.b.c", true], ["a.*.**", "a.b", false],
    ["a.*.**", "a.b.c.d", true], ["*", "$user", false], ["**", "$user", false], ["$user", "$user", true],
  ];
  for (const [pattern, topic, expected] of cases) assert.equal(matches(pattern, topic), expected, `${pattern} ${topic}`);
});

test("a name is refused if the server would refuse it", () => {
  for (const name of ["a", "é", "orders.eu.7", "*", "**", "a.*", "a.*.b", "a.**", "x".repeat(200), "a.b.c.d.e.f.g.h"]) checkTopic(name);
  const bad = ["", ".", "a.", ".a", "a..b", "a b", "a,b", "$user", "a*", "*a", "**.a", "a.***", "\0", "\u200b", "x".repeat(201), "a.b.c.d.e.f.g.h.i"];
  for (const name of bad) assert.throws(() => checkTopic(name), TypeError, name);
});

test("statuses and close codes: only a decision of the server ends a stream", () => {
  const actions = { stop: [204, 400, 403], renew: [401], fall_back: [404, 405, 406, 501], retry: [408, 429, 500, 502, 503, 504] };
  for (const [action, statuses] of Object.entries(actions)) for (const status of statuses) assert.equal(actionForStatus(status), action);
  const codes = { stop: [4400, 4403, 4409, 4429, 4499], renew: [4401], retry: [1000, 1001, 1006, 1011, 1012, 4000, 4399] };
  for (const [action, all] of Object.entries(codes)) for (const code of all) assert.equal(actionForCode(code), action);
});
