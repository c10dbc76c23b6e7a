// The second reader: a stream over a link that can be stopped on the server's side, because a
// browser takes tens of megabytes from an unread stream. The reader uses fetch, to see the end of
// the stream and to resume with the last event id, as any client can.

import { EventParser } from './sse.js';
import { Ledger } from './ledger.js';
import { sleep } from './stream.js';
import { post } from './post.js';

const TOPICS = 'flood,ticks,alerts';
const LINK = Math.random().toString(36).slice(2); // names this page's link
const WAITING_MS = 200; // a longer wait means that the reader has caught up
const RETRY_MS = 1000;

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

  /** `on` has state(), run({lane, n, text, count}) for each frame, and missing(from, to). */
  constructor(on) {
    this.#on = on;
  }

  /** Connect, and stop the link after the first frame. */
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
      if (!more) await this.#reconnect();
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

  /** Reconnect, because holdfast drops a connection whose send takes a minute. */
  async #reconnect() {
    this.#to('reading');
    this.#on.run({ lane: 'session', text: 'dropped by the server' });
    for (;;) {
      await sleep(RETRY_MS);
      try {
        await this.#connect(this.#parser.lastId);
        return;
      } catch (error) {
        // fetch throws a TypeError if no server answers; every other error is an answer.
        if (!(error instanceof TypeError)) throw error;
      }
    }
  }

  async #step() {
    const { value, done } = await this.#reader.read().catch((error) => {
      if (this.#abort.signal.aborted) throw error;
      return { done: true }; // a broken connection counts as ended
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
    this.#on.run({ lane: 'session', text: text ?? 'reconnected with a gap' });
  }

  #gap({ cause, count, topics, priority }) {
    if (topics.includes('flood')) {
      this.lows.reportGap();
      this.#lostFirst = count;
    }
    this.#on.run({ lane: 'gap', count, text: `${priority}, ${cause}` });
  }

  #low(frame) {
    const { n } = frame.data;
    // A flood continues the numbers of the flood before it. Counting begins at the first number
    // that arrives or is reported lost.
    this.lows.last ??= n - 1 - (this.#lostFirst ?? 0);
    const before = this.lows.last;
    const { missing } = this.lows.take(n, false);
    if (missing) this.#on.missing(n - missing, n - 1);
    if (this.#alert && frame.timestamp < this.#alert.at) {
      // The alert also overtook the messages in between that were reported lost.
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
