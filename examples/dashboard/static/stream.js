// The page's main stream.
//
// Nothing here resumes anything after a break: the browser's EventSource comes back by itself
// and sends the id of the last event it saw. Only two cases need a new EventSource: the page
// chose to stay away for a while, or the browser gave up because the answer was an error.

const RETRY_MS = 3000;

export class LiveStream {
  connectionId = null;
  #base;
  #topics;
  #on;
  #source = null;
  #lastId = '';

  /**
   * `on` gets every step: state(name, seconds), session(data, timestamp), message(frame),
   * gap(data), closing(data).
   */
  constructor(base, topics, on) {
    this.#base = base;
    this.#topics = topics.join(',');
    this.#on = on;
  }

  open() {
    this.#on.state('connecting');
    this.#connect('stream');
  }

  /** Hang up, stay away, and come back to where we were. */
  async away(seconds) {
    this.#source.close();
    this.#on.state('away', seconds);
    await sleep(seconds * 1000);
    this.#comeBack();
  }

  #comeBack() {
    this.#on.state('reconnecting');
    // Once connected, later breaks send the newer id as a header, and the header wins.
    this.#connect('reconnect', this.#lastId);
  }

  #connect(endpoint, lastId = '') {
    const query = new URLSearchParams({ topics: this.#topics });
    if (lastId) query.set('last_event_id', lastId);
    const source = new EventSource(`${this.#base}/${endpoint}?${query}`);
    source.onmessage = (event) => {
      this.#lastId = event.lastEventId;
      this.#take(JSON.parse(event.data));
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CONNECTING) this.#on.state('reconnecting');
      else this.#refused();
    };
    this.#source = source;
  }

  #take(frame) {
    switch (frame.type) {
      case 'connection_established':
        this.connectionId = frame.data.connectionId;
        this.#on.state('live');
        this.#on.session(frame.data, frame.timestamp);
        break;
      case 'message':
        this.#on.message(frame);
        break;
      case 'gap':
        this.#on.gap(frame.data);
        break;
      case 'closing':
        this.#on.closing(frame.data);
        if (!frame.data.reconnect) {
          this.#source.close(); // or the browser would come back all the same
          this.#on.state('stopped');
        }
        break;
      default: // heartbeats, and whatever a newer server adds
    }
  }

  /** An EventSource that got anything but a stream is closed for good, and does not say why. */
  async #refused() {
    this.#on.state('reconnecting');
    const answer = await fetch('/session', { cache: 'no-store' }).catch(() => null);
    if (answer?.status === 401) {
      this.#on.state('signedout');
      return;
    }
    await sleep(RETRY_MS * (0.5 + Math.random())); // not all pages at the same moment
    this.#comeBack();
  }
}

export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
