// The page's main stream: translates the events of holdfast's client for this page.
//
// The client reconnects, resumes and changes transports; this file does not.

import { connect } from '/live/client.js';

export class LiveStream {
  #base;
  #topics;
  #on;
  #live = null;
  #state = '';
  #skew = Infinity; // seconds from the server's clock to ours, network delay included

  /**
   * `on` has the callbacks state(name, seconds), session(data, timestamp), message(frame),
   * gap(data), closing(data).
   */
  constructor(base, topics, on) {
    this.#base = base;
    this.#topics = topics;
    this.#on = on;
  }

  get connectionId() {
    return this.#live?.connectionId;
  }

  /** Connect, from now on or from `position`. */
  open(position) {
    const live = connect(this.#base, { topics: this.#topics, position });
    let isNew = !position;
    live.addEventListener('status', ({ detail: { status, reason } }) => {
      if (live !== this.#live) return; // `away` closed this client
      if (status === 'open') {
        this.#to('live');
        if (isNew) this.#session({ session: 'fresh' });
        isNew = false;
      } else if (status === 'closed') this.#to('stopped');
      else if (reason === 'unauthorized') this.#to('signedout');
      else if (this.#state !== 'signedout') this.#to(isNew ? 'connecting' : 'reconnecting');
      if (reason) this.#on.closing({ reason });
    });
    live.addEventListener('resumed', ({ detail }) => this.#session({ session: 'resumed', ...detail }));
    live.addEventListener('gap', ({ detail }) => {
      if (detail.topics) this.#on.gap(detail);
      else this.#session({ session: 'gap', gap: detail });
    });
    live.on('*', (data, message) => {
      this.#skew = Math.min(this.#skew, Date.now() / 1000 - message.timestamp);
      this.#on.message(message);
    });
    this.#live = live;
  }

  /** Disconnect, stay away, and resume at the same position. */
  async away(seconds) {
    const live = this.#live;
    this.#live = null;
    live.close();
    this.#to('away', seconds);
    await sleep(seconds * 1000);
    this.#to('reconnecting');
    this.open(live.position);
  }

  #session(data) {
    this.#on.session(data, Date.now() / 1000 - this.#skew);
  }

  #to(state, seconds) {
    if (state === this.#state) return;
    this.#state = state;
    this.#on.state(state, seconds);
  }
}

export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
