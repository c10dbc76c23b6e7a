// Several tabs, one stream: client.js loads this where `shared` is asked for. Over HTTP/1.1 a
// browser has six connections for all tabs of an origin.

// Frames that a tab knows again.
const RECENT = 256;

const LOST = { type: "gap", data: { cause: "unknown", count: null, topics: [] } };

const now = () => Date.now() / 1000;
const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

/** By what a frame is known again: nothing is published twice at one microsecond. */
const print = ({ timestamp, topic, data }) => JSON.stringify([timestamp, topic, data]).slice(0, 200);

/**
 * One stream for all tabs. The tab that holds the lock has it, and posts every frame with a
 * number. So all hear the same in the same order, and the next leader goes on from the last
 * frame that all have heard; what a tab heard beyond that comes again, and it leaves it out.
 */
export class Tabs {
  #stop = new AbortController();
  #seq = 0;
  #recent = []; // [number, print]
  #again = new Set(); // prints
  #roster = new Map(); // tab -> its last hello
  #orphans = []; // topics, whoever wants them
  #queue = Promise.resolve();

  /** `stream` is what this tab would have by itself, not started; `Stream` makes others. */
  constructor({ base, options, id: own, on }, Stream) {
    this.name = `holdfast ${base} ${options.shared}`;
    this.tab = `${this.name} ${crypto.randomUUID()}`; // a lock, too: held while the tab lives
    Object.assign(this, { Stream, base, options, own, on });
    this.channel = new BroadcastChannel(this.name);
    this.channel.onmessage = ({ data }) => this.#receive(data);
  }

  /** Live while the tab does, say so, and lead when it is this tab's turn. */
  async run() {
    const life = new Promise((done) => this.#stop.signal.addEventListener("abort", done));
    await new Promise((done) => this.#lock(this.tab, () => done() ?? life));
    this.sync();
    this.#lock(this.name, () => this.#lead().then(() => life));
  }

  #lock(name, then) {
    navigator.locks.request(name, { signal: this.#stop.signal }, then).catch(() => {});
  }

  #post(message) {
    if (!this.#stop.signal.aborted) this.channel.postMessage(message);
  }

  #hello() {
    const { tab, joined, id } = this;
    return { type: "hello", tab, topics: [...this.on.topics()], seq: joined ? this.#seq : -1, id };
  }

  #receive(message) {
    const { type, tab } = message;
    const { stream, leads } = this;
    if (type === "frame") this.#take(message);
    else if (type === "term") this.#begin(message);
    else if (type === "wake") stream?.wake();
    else if (type === "state" && !leads) this.#follow(message);
    else if (type === "who") this.#post(this.#hello());
    else if (type === "hello" && leads) {
      if (!this.#roster.has(tab)) this.#lock(tab, () => this.#roster.delete(tab) && stream?.sync());
      this.#roster.set(tab, message);
      stream?.sync();
      this.#anySilent().then((any) => any || (this.#orphans.splice(0)[0] && this.sync()));
    }
  }

  /** Whether a tab lives that has not said what it wants. */
  async #anySilent() {
    const { held } = await navigator.locks.query();
    const others = held.filter(({ name }) => name.startsWith(`${this.name} `) && name !== this.tab);
    return others.some(({ name }) => !this.#roster.has(name));
  }

  /** Find out where everybody is, and go on from the least far. */
  async #lead() {
    const begun = now();
    this.leads = true;
    this.#post({ type: "who" });
    while ((await this.#anySilent()) && now() - begun < 1) await sleep(0.02);
    // Who is silent still, a page that is busy or frozen, keeps its topics.
    this.#orphans = (await this.#anySilent()) ? (this.known ?? []).map(([name]) => name) : [];
    if (this.#stop.signal.aborted) return;
    const heard = [this.#hello(), ...this.#roster.values()].filter(({ seq }) => seq >= 0);
    const [{ seq, id }] = [...heard.sort((a, b) => a.seq - b.seq), { seq: 0, id: this.own }];
    if (!heard[0]) this.own = undefined;
    const term = { type: "term", term: this.tab, seq, id };
    this.#post(term);
    this.#begin(term);
    this.stream = new this.Stream(this.base, this.options, id, {
      topics: () => {
        const all = [this.#hello(), ...this.#roster.values()];
        return new Set([...this.#orphans, ...all.flatMap(({ topics }) => topics)]);
      },
      tell: (detail) => this.#state({ detail }),
      learn: (known) => this.#state({ known: [...known] }),
      hear: (frame) => {
        const message = { type: "frame", term: this.term, seq: this.#seq + 1, frame };
        this.#post(message);
        return this.#take(message);
      },
    });
    this.stream.run();
  }

  /** Tell the others, and this tab, how the stream is. */
  #state(change) {
    Object.assign(this, change);
    const { term, detail, known, id } = this;
    const message = { type: "state", term, seq: this.#seq, detail, known, id };
    this.#post(message);
    this.#follow(message);
  }

  #follow({ term, seq, detail, known, id }) {
    if (JSON.stringify(detail) !== this.told) this.on.tell(detail);
    this.told = JSON.stringify(detail);
    if (!known) return;
    const topics = new Map(known);
    this.known = known;
    this.on.learn(topics);
    // A page that slept may have missed who leads.
    if (this.joined && term !== this.term) this.#begin({ term, seq, id });
    if (this.joined) return;
    this.#seq = seq;
    Object.assign(this, { term, id });
    // From here on the stream has what this tab asks for.
    this.joined = [...this.on.topics()].every((name) => topics.has(name));
    if (!this.joined) return;
    if (this.own) this.#queue = this.#queue.then(() => this.#catchUp());
  }

  /** A new leader goes on from the frame with this number. */
  #begin({ term, seq, id }) {
    if (seq > this.#seq) this.#lose();
    for (const [number, print] of this.#recent) if (number > seq) this.#again.add(print);
    this.#recent = this.#recent.filter(([number]) => number <= seq);
    this.#seq = seq;
    Object.assign(this, { term, id });
  }

  /** Hear a frame after those before it. */
  #take({ term, seq, frame }) {
    // What comes late from a leader that is gone comes again.
    if (term !== this.term) return;
    if (seq > this.#seq + 1) this.#lose();
    this.#seq = seq;
    this.id = frame.id || this.id;
    this.#recent.push([seq, print(frame)]);
    if (this.#recent.length > RECENT) this.#recent.shift();
    return this.#hear(frame);
  }

  #hear(frame) {
    const hear = () => this.#again.delete(print(frame)) || this.on.hear(frame);
    if (this.joined) return (this.#queue = this.#queue.then(hear, hear));
  }

  #lose() {
    this.#hear(LOST);
  }

  /** What came since a position of this tab's own, before what it hears with the others. */
  #catchUp() {
    return new Promise((done) => {
      const options = { ...this.options, transports: ["poll"], pollWait: 0 };
      let left; // of what was to come with the last answer
      let bytes;
      const own = new this.Stream(this.base, options, this.own, {
        ...this.on,
        learn() {},
        tell: async ({ status, reason }) => {
          if (status !== "closed") return;
          if (reason) await this.on.hear(LOST);
          done();
        },
        hear: async (frame) => {
          const { topic, data } = frame;
          this.#again.add(print(frame));
          await this.on.hear(frame);
          bytes += JSON.stringify(frame).length;
          if (topic) left -= 1;
          else if (data?.connectionId) {
            // More is published all the time; a whole answer has what was there when it was joined.
            if (!data.replay || (left <= 0 && bytes < 1e5)) own.close();
            left = data.replay;
            bytes = 0;
          }
        },
      });
      this.#stop.signal.addEventListener("abort", () => own.close());
      own.run();
    });
  }

  sync() {
    if (this.stream) this.stream.sync();
    else this.#post(this.#hello());
  }

  wake(hard) {
    if (this.stream) this.stream.wake(hard);
    else this.#post({ type: "wake" });
  }

  close(reason) {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.channel.close();
    this.stream?.close(reason);
    this.on.tell({ status: "closed", reason });
  }
}
