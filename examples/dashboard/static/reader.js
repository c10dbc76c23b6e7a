// The second reader: a stream over a link that can be stopped on the server's side, because a
// browser takes tens of megabytes from a stream that nobody reads. It is read by hand, with
// fetch, to see when it ends and to resume as any client can: with the last event id.

import { EventParser } from './sse.js';
import { Ledger } from './ledger.js';
import { sleep } from './stream.js';
import { post } from './post.js';

const TOPICS = 'flood,ticks,alerts';
const LINK = Math.random().toString(36).slice(2); // names this page's link
const WAITING_MS = 200; // a read that takes longer has caught up
const BACK_MS = 1000;

export class SlowReader {
  state = 'closed'; // closed, opening, stalled, reading or live
  lows = new Ledger();
  overtaken = 0; // low messages that were published before an alert and arrived after it
  #on;
  #abort = null;
  #reader = null;
  #parser = null;
  #alert = null;
  #lostFirst = 0;

  /** `on` gets state(), every arrival as run({lane, n, text, count}), and missing(from, to). */
  constructor(on) {
    this.#on = on;
  }

  /** Connect, and stop the link as soon as the first frame is there. */
  async open() {
    this.lows = new Ledger();
    this.overtaken = 0;
    this.#alert = null;
    this.#lostFirst = 0;
    this.#abort = new AbortController();
    this.#to('opening');
    try {
      await this.#connect('');
      await this.#step();
      await post('/demo/stop', LINK);
      this.#to('stalled');
      await this.#read();
    } catch (error) {
      this.#ended(error);
    }
  }

  /** Let the link move again. */
  async readOn() {
    this.#to('reading');
    await post('/demo/go', LINK);
  }

  close() {
    this.#abort?.abort();
  }

  async #read() {
    for (;;) {
      const waiting = setTimeout(() => this.state === 'reading' && this.#to('live'), WAITING_MS);
      const more = await this.#step();
      clearTimeout(waiting);
      if (!more) await this.#comeBack();
    }
  }

  async #connect(lastId) {
    const headers = lastId ? { 'Last-Event-ID': lastId } : {};
    const answer = await fetch(`/slow/stream?topics=${TOPICS}&link=${LINK}`, {
      headers,
      cache: 'no-store',
      signal: this.#abort.signal,
    });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    this.#parser = new EventParser((data) => this.#take(JSON.parse(data)));
    this.#parser.lastId = lastId;
    this.#reader = answer.body.getReader();
  }

  /** holdfast gives up on a send that takes a minute; the reader comes back like any other. */
  async #comeBack() {
    this.#to('reading');
    this.#on.run({ lane: 'session', text: 'dropped by the server' });
    for (;;) {
      await sleep(BACK_MS);
      try {
        await this.#connect(this.#parser.lastId);
        return;
      } catch (error) {
        // fetch throws a TypeError while nobody answers; anything else is an answer.
        if (!(error instanceof TypeError)) throw error;
      }
    }
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
    if (topics.includes('flood')) {
      this.lows.announce();
      this.#lostFirst = count;
    }
    this.#on.run({ lane: 'gap', count, text: `${priority}, ${cause}` });
  }

  #low(frame) {
    const { n } = frame.data;
    // The numbers of a flood go on where the last one ended, so the first to come, or to be
    // declared lost, is where we begin.
    this.lows.last ??= n - 1 - (this.#lostFirst ?? 0);
    const before = this.lows.last;
    const { missing } = this.lows.take(n, false);
    if (missing) this.#on.missing(n - missing, n - 1);
    if (this.#alert && frame.timestamp < this.#alert.at) {
      // What was declared lost in between had been overtaken as well.
      this.overtaken += n - before;
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
