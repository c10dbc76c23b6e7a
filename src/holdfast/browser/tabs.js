// What client.js loads for `shared`: see docs/client.md.

// Frames that a tab knows again.
const RECENT = 256;

const LOST = { type: "gap", data: { cause: "unknown", count: null, topics: [] } };

const now = () => Date.now() / 1000;

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
  told = new Map(); // topic -> accepted
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
    const held = await new Promise((done) => this.#lock(this.tab, () => done(true) ?? life).then(done));
    if (!held && !this.#stop.signal.aborted) {
      // Forbidden, as cookies are.
      this.stream = new this.Stream(this.base, this.options, this.own, this.on);
      return this.stream.run();
    }
    this.sync();
    this.#lock(this.name, () => this.#lead().then(() => life));
  }

  #lock(name, then) {
    return navigator.locks.request(name, { signal: this.#stop.signal }, then).catch(() => {});
  }

  #post(message) {
    if (!this.#stop.signal.aborted) this.channel.postMessage(message);
  }

  #hello() {
    const { tab, joined, id } = this;
    const topics = [...this.on.topics()];
    for (const name of this.told.keys()) if (!topics.includes(name)) this.told.delete(name);
    const anew = topics.filter((name) => !this.told.has(name));
    return { type: "hello", tab, topics, anew, seq: joined ? this.#seq : -1, id };
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
      if (stream) this.sync(message);
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
    while ((await this.#anySilent()) && now() - begun < 1) {
      await new Promise((done) => setTimeout(done, 20));
    }
    // Who is silent still, a page that is busy or frozen, keeps its topics.
    this.#orphans = (await this.#anySilent()) ? (this.known ?? []).map(([name]) => name) : [];
    if (this.#stop.signal.aborted) return;
    const heard = [this.#hello(), ...this.#roster.values()].filter(({ seq }) => seq >= 0);
    const [{ seq, id }] = [...heard.sort((a, b) => a.seq - b.seq), { seq: 0, id: this.own }];
    // The stream begins where this tab does.
    if (!heard[0]) Object.assign(this, { own: undefined, joined: true });
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
    if (this.said !== (this.said = JSON.stringify(detail))) this.on.tell(detail);
    if (!known) return;
    this.known = known;
    this.on.learn((this.told = new Map(known)));
    // A page that slept may have missed who leads.
    if (this.joined && term !== this.term) this.#begin({ term, seq, id });
    if (this.joined) return;
    this.#seq = seq;
    Object.assign(this, { term, id });
    // From here on the stream has what this tab asks for.
    this.joined = [...this.on.topics()].every((name) => this.told.has(name));
    if (this.joined && this.own) this.#queue = this.#queue.then(() => this.#catchUp());
  }

  /** A new leader goes on from the frame with this number. */
  #begin({ term, seq, id }) {
    if (seq > this.#seq) this.#hear(LOST);
    for (const [number, print] of this.#recent) if (number > seq) this.#again.add(print);
    this.#recent = this.#recent.filter(([number]) => number <= seq);
    this.#seq = seq;
    Object.assign(this, { term, id });
  }

  #take({ term, seq, frame }) {
    // What comes late from a leader that is gone comes again.
    if (term !== this.term) return;
    if (seq > this.#seq + 1) this.#hear(LOST);
    this.#seq = seq;
    this.id = frame.id || this.id;
    this.#recent.push([seq, print(frame)]);
    if (this.#recent.length > RECENT) this.#recent.shift();
    return this.#hear(frame);
  }

  #hear(frame) {
    const { signal } = this.#stop;
    const hear = () => signal.aborted || this.#again.delete(print(frame)) || this.on.hear(frame);
    if (this.joined) return (this.#queue = this.#queue.then(hear, hear));
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

  sync(hello = this.#hello()) {
    if (!this.stream) return this.#post(hello);
    // What was rejected may be allowed by now.
    for (const name of hello.anew ?? []) this.stream.known.get(name) || this.stream.known.delete(name);
    this.stream.sync();
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
