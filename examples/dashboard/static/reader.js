// The second reader: a stream that this page reads by hand, so that it can stop reading.

import { EventParser } from './sse.js';
import { Ledger } from './ledger.js';
import { sleep } from './stream.js';

const TOPICS = 'flood,ticks,alerts';
const WAITING_MS = 120; // a read that takes longer waits for the server: nothing is left behind

export class SlowReader {
  state = 'closed'; // closed, opening, stalled, reading or live
  lows = new Ledger();
  overtaken = 0; // low messages that were published before an alert and arrived after it
  #on;
  #abort = null;
  #reader = null;
  #parser = null;
  #alert = null;

  /** `on` gets state(), and every arrival as run({lane, n, text}). */
  constructor(on) {
    this.#on = on;
  }

  /** Connect, read the first frame, and stop there. */
  async open() {
    this.lows = new Ledger();
    this.overtaken = 0;
    this.#alert = null;
    this.#abort = new AbortController();
    this.#to('opening');
    try {
      await this.#connect('');
      await this.#step();
      this.#to('stalled');
    } catch (error) {
      this.#ended(error);
    }
  }

  /** Read for as long as there is something to read. */
  async readOn() {
    this.#to('reading');
    try {
      for (;;) {
        const waiting = setTimeout(() => this.#to('live'), WAITING_MS);
        const more = await this.#step();
        clearTimeout(waiting);
        if (!more) await this.#comeBack();
      }
    } catch (error) {
      this.#ended(error);
    }
  }

  close() {
    this.#abort?.abort();
  }

  async #connect(lastId) {
    const headers = lastId ? { 'Last-Event-ID': lastId } : {};
    const answer = await fetch(`/live/stream?topics=${TOPICS}`, {
      headers,
      cache: 'no-store',
      signal: this.#abort.signal,
    });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    this.#parser = new EventParser((data) => this.#take(JSON.parse(data)));
    this.#parser.lastId = lastId;
    this.#reader = answer.body.getReader();
  }

  /** The server gives up on a reader that is stuck for long; this one comes back like any other. */
  async #comeBack() {
    this.#on.run({ lane: 'session', text: 'dropped by the server, coming back' });
    await sleep(500);
    await this.#connect(this.#parser.lastId);
  }

  async #step() {
    const { value, done } = await this.#reader.read().catch((error) => {
      if (this.#abort.signal.aborted) throw error;
      return { done: true }; // a broken connection ends like an ended one
    });
    if (!done) this.#parser.push(value);
    return !done;
  }

  #take(frame) {
    if (frame.type === 'connection_established') this.#session(frame.data);
    else if (frame.type === 'gap') this.#gap(frame.data);
    else if (frame.type === 'message' && frame.topic === 'flood') this.#low(frame);
    else if (frame.type === 'message' && frame.topic === 'ticks') {
      this.#on.run({ lane: 'normal', n: frame.data.n });
    } else if (frame.type === 'message') {
      this.#alert = { at: frame.timestamp, lows: this.lows.last ?? 0 };
      this.#on.run({ lane: 'critical', text: frame.data.text });
    }
  }

  #session({ session, replay, gap }) {
    if (gap?.cause === 'restart') this.lows.restart();
    const text = { fresh: 'connected', resumed: `resumed, ${replay} replayed` }[session];
    this.#on.run({ lane: 'session', text: text ?? 'back, with a gap' });
  }

  #gap({ cause, count, topics, priority }) {
    if (topics.includes('flood')) this.lows.announce();
    this.#on.run({ lane: 'gap', count, text: `${priority}, ${cause}` });
  }

  #low(frame) {
    const { n } = frame.data;
    const before = this.lows.last;
    this.lows.take(n, false);
    if (this.#alert && frame.timestamp < this.#alert.at) {
      // What was declared lost in between had been overtaken as well.
      this.overtaken += before === null ? 1 : n - before;
    }
    this.#on.run({ lane: 'low', n });
  }

  #ended(error) {
    if (!this.#abort.signal.aborted) {
      this.#on.run({ lane: 'session', text: `ended: ${error.message}` });
    }
    this.#to('closed');
  }

  #to(state) {
    if (this.state === state) return;
    this.state = state;
    this.#on.state(state);
  }
}
