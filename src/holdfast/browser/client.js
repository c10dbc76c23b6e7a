// See docs/client.md, docs/protocol.md. Times are in seconds.

const SHORTEST = 0.5; // between two tries
const LONGEST = 20;
const SILENCE = 2.5; // heartbeats
const REMEMBERED = 600; // what transport works
const ASLEEP = 90; // hidden pages' timers may be 60 late

const now = () => Date.now() / 1000;
const size = (text) => new TextEncoder().encode(text).length;

/** Then comes: "again", "now", "next" (transport), "renew" or "stop". */
export class Failure extends Error {
  constructor(reason, then = "again", wait = 0) {
    super(reason);
    this.then = then;
    this.wait = wait;
  }
}

export const ofStatus = (status) =>
  status === 401 ? "renew"
  : [204, 400, 403].includes(status) ? "stop"
  : [404, 405, 406, 501].includes(status) ? "next"
  : "again";

export const ofCode = (code) =>
  code === 4401 ? "renew" : code >= 4400 && code < 4500 ? "stop" : "again";

export const backoff = (failures, least = 0, random = Math.random()) => {
  const longest = Math.min(LONGEST, 2 ** failures);
  return Math.min(LONGEST, Math.max(least, SHORTEST + random * (longest - SHORTEST)));
};

export function covers(pattern, topic) {
  if (pattern === topic) return true;
  const wanted = pattern.split(".");
  const given = topic.split(".");
  const more = given.length - wanted.length;
  if (wanted.at(-1) === "**" ? wanted.pop() && more < 0 : more) return false;
  return topic[0] !== "$" && wanted.every((part, place) => part === "*" || part === given[place]);
}

const NAME = /^(?!\$)(?=.{1,200}$)(([^.,*\p{C}\p{Z}]+|\*)\.){0,7}([^.,*\p{C}\p{Z}]+|\*\*?)$/u;

export function check(name) {
  if (!NAME.test(name)) throw new TypeError(`not a topic: ${name}`);
}

// WHATWG HTML, 9.2.6
export class EventParser {
  retry = 0;
  #id = "";
  #data = [];
  #rest = "";

  feed(text) {
    // The last CR may be half of a CRLF.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      const [, field, value] = /^([^:]*):? ?(.*)/s.exec(line);
      if (field === "data") this.#data.push(value);
      else if (field === "id" && !value.includes("\0")) this.#id = value;
      else if (field === "retry") this.retry = value / 1000 || 0;
      else if (!line && this.#data[0] !== undefined) {
        events.push({ data: this.#data.splice(0).join("\n"), id: this.#id });
      }
    }
    return events;
  }
}

// The transports yield [frame, bytes].

async function* sse(stream, signal) {
  const answer = await stream.ask("stream", "text/event-stream", signal, stream.ack);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  for (let part; !(part = await reader.read()).done; ) {
    const events = parser.feed(decoder.decode(part.value, { stream: true }));
    stream.retry = parser.retry;
    for (const { data, id } of events) yield [{ ...JSON.parse(data), id }, size(data + id)];
  }
}

async function* websocket(stream, signal) {
  const { id, bearer, link } = stream;
  let early = id ? 2 : 1;
  let socket;
  const frames = new ReadableStream({
    start(queue) {
      const url = stream.url("websocket", { ack: true }).replace("http", "ws");
      socket = new WebSocket(url, bearer ? ["holdfast", `bearer.${encodeURIComponent(bearer)}`] : []);
      link.send = (message) => socket.send(JSON.stringify(message));
      socket.onopen = () => id && link.send({ type: "resume", id });
      socket.onmessage = ({ data }) => signal.aborted || queue.enqueue(data);
      // Whatever fails a handshake, the code is 1006.
      socket.onclose = ({ code, reason }) =>
        queue.error(new Failure(reason || `code ${code}`, early > !!id && code === 1006 ? "next" : ofCode(code)));
      signal.onabort = () => queue.error(signal.reason);
    },
  }).getReader();
  try {
    for (;;) {
      const { value } = await frames.read();
      const frame = JSON.parse(value);
      if (early && frame.type === "connection_established") early -= 1;
      if (!early) yield [frame, size(value)];
    }
  } finally {
    socket.close();
  }
}

async function* poll(stream, signal) {
  const { link, options, known } = stream;
  for (let wait = 0, end = now() + REMEMBERED; now() < end; ) {
    const answer = await stream.ask("poll", "application/json", signal, { wait });
    for (const frame of (await answer.json()).frames) {
      if (frame.type === "connection_established") {
        wait = Math.min(options.pollWait, (frame.data.heartbeatInterval ??= options.pollWait));
        // One connection to the page.
        const { session, rejected } = frame.data;
        const news = session !== "resumed" || rejected.some((name) => known.get(name));
        if (link.heard && !news) frame.type = "heartbeat";
      }
      yield [frame, 0];
    }
  }
  throw new Failure("polled", "now");
}

const TRANSPORTS = { sse, websocket, poll };

/** Connection after connection, with one position. */
class Stream {
  ack = { ack: true };
  known = new Map(); // topic -> accepted
  #tried = new Set();
  #failures = 0;
  #refused = 0;

  /** `on`: topics(), tell(status), learn(known), await hear(frame). */
  constructor(base, options, id, on) {
    Object.assign(this, { base, options, id, on });
    this.key = `${base} ${options.transports}`;
    [this.winner, this.until] = (stored(this.key) ?? "").split(" ");
  }

  url(path, query) {
    const url = new URL(path, this.base);
    const topics = [...this.on.topics()];
    url.search = new URLSearchParams(topics.length ? { topics, ...query } : query);
    return url.href;
  }

  fetch(url, init, headers = {}) {
    if (this.bearer) headers.authorization = `Bearer ${this.bearer}`;
    const { credentials } = this.options;
    return fetch(url, { ...init, headers, credentials, cache: "no-store" });
  }

  async ask(path, type, signal, query) {
    const headers = { accept: type };
    if (this.id) headers["last-event-id"] = this.id;
    const answer = await this.fetch(this.url(path, query), { signal }, headers);
    const { status } = answer;
    if (status !== 200) {
      const reason = (await answer.json().catch(() => 0))?.error?.code ?? `status ${status}`;
      throw new Failure(reason, ofStatus(status), +answer.headers.get("retry-after") || 0);
    }
    if (!answer.headers.get("content-type")?.startsWith(type)) {
      throw new Failure(`not ${type}`, "next");
    }
    return answer;
  }

  async run() {
    let at = now();
    const tick = setInterval(() => {
      if (now() - at > ASLEEP) this.wake(true);
      at = now();
    }, 15_000);
    while (!this.closed) {
      const [transport] = this.#untried();
      const error = await this.#follow(transport).catch((error) => error);
      const { message: reason = "ended", name, wait = 0, then } = error ?? {};
      // A TypeError: nobody answers.
      const unfit = this.link.sent && !this.link.heard && !/^(Type)?Error/.test(name);
      const retryIn = this.#pause(transport, then ?? (unfit ? "next" : "again"), wait, reason);
      if (this.closed || !retryIn) continue;
      let timer;
      await new Promise((done) => {
        timer = setTimeout((this.woken = done), retryIn * 1000);
        this.on.tell({ status: "waiting", transport, retryIn, reason });
      });
      clearTimeout(timer);
    }
    clearInterval(tick);
  }

  #untried() {
    const { transports } = this.options;
    const all = this.until > now() ? [this.winner, ...transports] : transports;
    return all.filter((each) => !this.#tried.has(each));
  }

  #pause(transport, then, wait, reason) {
    if (then === "stop") this.close(reason);
    if (then === "now") return 0;
    if (then === "renew") {
      this.bearer = undefined;
      // At once, but no loop of refused POSTs.
      if (this.options.token && !(now() - this.renewed < LONGEST)) return (this.renewed = now()) && 0;
    }
    if (then === "next" && this.#tried.add(transport) && this.#untried().length) return 0;
    this.#tried.clear();
    return backoff(this.link.heard ? 0 : this.#failures++, Math.max(this.retry, wait));
  }

  /** The first frame has to come in time; buffering proxies open, too. */
  async #follow(transport) {
    const { options, on } = this;
    const control = new AbortController();
    const { signal } = control;
    const fail = (reason, then) => control.abort(new Failure(reason, then));
    const link = (this.link = { transport, fail, bytes: 0 });
    this.retry = 0;
    on.tell({ status: "connecting", transport });
    let timer;
    const expect = (seconds, ...failure) => {
      clearTimeout(timer);
      if (seconds) timer = setTimeout(fail, Math.min(seconds * 1000, 2e9), ...failure);
    };
    try {
      const gone = new Promise((done) => (signal.onabort = () => done()));
      this.bearer ??= await Promise.race([options.token?.(), gone]);
      signal.throwIfAborted();
      link.sent = true;
      expect(options.firstFrameTimeout, "no first frame", "next");
      for await (const [frame, bytes] of TRANSPORTS[transport](this, signal)) {
        expect(); // handlers may take their time
        const { type, data, id } = frame;
        if (type === "connection_established") this.#open(link, data);
        if (type === "unsubscribed") this.#learn(data.topics, false);
        await on.hear(frame);
        if (this.closed) return;
        if (id) this.id = id;
        if (type === "closing") {
          const { reason, reconnect } = data;
          const then = reason === "credentials expired" ? "renew" : reconnect ? "again" : "stop";
          throw new Failure(reason, then);
        }
        if (link.send || type === "message" || type === "gap") this.#handled(link, bytes);
        expect(SILENCE * link.heartbeatInterval, "silence");
      }
    } catch (error) {
      throw error?.then ? error : signal.reason ?? error;
    } finally {
      expect();
      clearTimeout(link.timer);
      link.ended = true;
      control.abort();
    }
  }

  #open(link, data) {
    const { transport, connectionId } = Object.assign(link, data, { heard: true });
    this.#tried.clear();
    this.#failures = 0;
    if (this.winner !== transport || !(this.until > now())) {
      Object.assign(this, { winner: transport, until: now() + REMEMBERED });
      store(this.key, `${transport} ${this.until}`);
    }
    // It has not seen the position.
    if (this.id && data.session === "fresh") data.gap = { cause: "unknown", count: null };
    this.known.clear();
    for (const name of data.rejected) this.known.set(name, false);
    this.#learn(data.topics, true);
    this.on.tell({ status: "open", transport, connectionId });
    this.sync();
  }

  #learn(names, allowed) {
    for (const name of names) this.known.set(name, allowed);
    this.on.learn(this.known);
  }

  #handled(link, bytes, wait = 250) {
    if (!link.window) return;
    link.bytes += bytes;
    if (link.bytes * 2 > link.window) this.#acknowledge(link);
    else link.timer ||= setTimeout(() => this.#acknowledge(link), wait);
  }

  async #acknowledge(link) {
    clearTimeout(link.timer);
    link.timer = 0;
    if (link.ended || link.busy) return;
    link.bytes = 0;
    if (link.send) return link.send({ type: "ack", id: this.id });
    link.busy = true;
    const { status } = await this.#post(link, "ack", { id: this.id });
    link.busy = false;
    if (link.ended) return;
    if ([403, 404, 405].includes(status)) {
      // The window would stay shut.
      if (status !== 404 || this.#refused++) this.ack = {};
      link.fail("no ack", "now");
    } else if (status !== 200) this.#handled(link, 0, 2000);
    else {
      this.#refused = 0;
      if (link.bytes) this.#handled(link, 0);
    }
  }

  async #post(link, path, body) {
    const init = {
      method: "POST",
      body: JSON.stringify({ connectionId: link.connectionId, ...body }),
      signal: AbortSignal.timeout(10_000),
    };
    try {
      const answer = await this.fetch(new URL(path, this.base), init);
      if (answer.status === 401) link.fail("unauthorized", "renew");
      return { status: answer.status, data: await answer.json().catch(() => 0) };
    } catch {
      return {};
    }
  }

  async sync() {
    const { link, known } = this;
    if (this.syncing || !link?.heard) return;
    this.syncing = true;
    while (!link.ended) {
      const wanted = this.on.topics();
      const missing = [...wanted].filter((name) => !known.has(name));
      const topics = missing[0] ? missing : [...known.keys()].filter((name) => !wanted.has(name));
      if (!topics[0] && !(this.moved = false)) break;
      if (!missing[0]) {
        for (const name of topics) known.delete(name);
        await this.#post(link, "unsubscribe", { topics });
        continue;
      }
      const { status, data } = await this.#post(link, "subscribe", { topics });
      if (link.ended) break;
      if (data && [200, 400].includes(status)) {
        for (const name of topics) known.set(name, false);
        this.#learn(data.topics ?? [], true);
      } else {
        link.fail("other topics", this.moved ? "again" : "now");
        this.moved = true;
        break;
      }
    }
    this.syncing = false;
    if (this.link !== link) this.sync();
    this.on.learn(known);
  }

  /** `hard`: even if all seems well. */
  wake(hard) {
    this.woken?.();
    if (hard) this.link?.fail("woken", "now");
  }

  close(reason) {
    if (this.closed) return;
    this.closed = true;
    this.wake(true);
    this.on.tell({ status: "closed", transport: this.link?.transport, reason });
  }
}

const DEFAULTS = { transports: Object.keys(TRANSPORTS), firstFrameTimeout: 5, pollWait: 25 };

class Live extends EventTarget {
  status = "connecting";
  #handlers = new Set();
  #known = new Map();
  #ended = new AbortController();
  #degraded = 0;

  constructor(url, given) {
    super();
    const base = new URL(`${url}`.replace(/\/*$/, "/"), globalThis.location?.href).href;
    const options = (this.options = { ...given });
    for (const name in DEFAULTS) options[name] ??= DEFAULTS[name];
    this.wanted = new Set(options.topics);
    this.wanted.forEach(check);
    this.position = options.position ?? (options.persist && stored(options.persist));
    this.way = new Stream(base, options, this.position, {
      topics: () => (options.topics ? this.wanted : []),
      hear: (frame) => this.#hear(frame),
      learn: (known) => this.#learn(known),
      tell: (detail) => this.#tell(detail),
    });
    const { signal } = this.#ended;
    const listen = (on, type, then) => on?.addEventListener?.(type, then, { signal });
    listen(globalThis, "online", () => this.way.wake(true));
    listen(globalThis, "pageshow", ({ persisted }) => this.way.wake(persisted));
    listen(globalThis.document, "visibilitychange", () => document.hidden || this.way.wake());
    this.#start(options.shared && globalThis.navigator?.locks, signal);
  }

  async #start(shared, signal) {
    const tabs = await (shared && import("./tabs.js").catch(() => {}));
    if (signal.aborted) return;
    if (tabs) this.way = new tabs.Tabs(this.way, Stream);
    this.way.run();
  }

  get topics() {
    return [...this.wanted];
  }

  on(pattern, handler) {
    const entry = { pattern, handler };
    this.#handlers.add(entry);
    return () => this.#handlers.delete(entry);
  }

  async subscribe(...names) {
    names.forEach(check);
    for (const name of names) {
      this.wanted.add(name);
      if (!this.#known.get(name)) this.#known.delete(name);
    }
    this.way.sync();
    while (!names.every((name) => this.#known.has(name) || !this.wanted.has(name))) {
      if (this.status === "closed") throw new Error("closed");
      await new Promise((done) => this.addEventListener("topics", done, { once: true }));
    }
    const accepted = names.filter((name) => this.#known.get(name));
    const rejected = names.filter((name) => !accepted.includes(name));
    this.#reject(rejected);
    for (const name of rejected) this.wanted.delete(name);
    return { accepted, rejected };
  }

  async unsubscribe(...names) {
    const removed = names.filter((name) => this.wanted.delete(name));
    this.#emit("topics");
    await this.way.sync();
    return { removed };
  }

  close() {
    this.way.close("asked");
  }

  #reject(names) {
    const topics = names.filter((name) => this.wanted.has(name));
    if (topics[0]) this.#emit("rejected", { topics });
  }

  #learn(known) {
    this.#known = known;
    if (!this.options.topics) for (const name of known.keys()) this.wanted.add(name);
    this.options.topics ??= [];
    this.#emit("topics");
  }

  #tell(detail) {
    const { status, transport, connectionId } = detail;
    if (this.status === "closed") return;
    Object.assign(this, { status, transport, connectionId });
    if (status === "closed") {
      this.#ended.abort();
      this.way.close();
      this.#emit("topics");
    }
    this.#emit("status", detail);
  }

  #wants(topic) {
    return topic === "$user" || this.wanted.has(topic) || this.topics.some((each) => covers(each, topic));
  }

  async #hear({ type, ...message }) {
    const { id, topic, data } = message;
    if (type === "unsubscribed") this.#reject(data.topics);
    if (type === "degraded") {
      if (!this.#degraded) this.#emit(type);
      this.#degraded = 2;
    } else if (!topic && data?.connectionId) this.#degraded &&= 1;
    else if (this.#degraded === 1 || type === "recovered") {
      this.#degraded = 0;
      this.#emit("recovered");
    }
    if (type === "connection_established") {
      this.#reject(data.rejected);
      if (data.gap) this.#emit("gap", data.gap);
      else if (data.replay >= 0) this.#emit("resumed", { replay: data.replay });
    } else if (type === "gap") {
      if (!data.topics[0] || data.topics.some((each) => this.#wants(each))) this.#emit("gap", data);
    } else if (type === "message" && this.#wants(topic)) {
      const run = async (entry) => {
        const { pattern, handler } = entry;
        if (!this.#handlers.has(entry) || (pattern !== "*" && !covers(pattern, topic))) return;
        try {
          await handler(data, message);
        } catch (error) {
          if (this.#emit("error", { error, message })) console.error(error);
        }
      };
      await Promise.all([...this.#handlers].map(run));
    }
    if (!id || this.status === "closed") return;
    this.position = id;
    if (this.options.persist) store(this.options.persist, id);
  }

  #emit(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
  }
}

// Storage may be forbidden.
function stored(key) {
  try {
    return sessionStorage.getItem(`holdfast:${key}`) ?? undefined;
  } catch {}
}

function store(key, value) {
  try {
    sessionStorage.setItem(`holdfast:${key}`, value);
  } catch {}
}

export const connect = (url, options) => new Live(url, options);
