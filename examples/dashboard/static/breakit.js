// The panels that break the connection.

import { SlowReader } from './reader.js';
import { post } from './post.js';
import { Runs } from './runs.js';
import { count, duration, plural } from './format.js';

const $ = (id) => document.getElementById(id);
const STEPS = ['stall', 'flood', 'alert', 'read'];
const STATES = {
  closed: 'No second reader',
  opening: 'Connecting',
  stalled: 'Stalled',
  reading: 'Reading the waiting messages',
  live: 'Caught up, reading live',
};

/** End the page's own stream; `stream` is the LiveStream, `log` the EventLog. */
export function cutPanel(stream, log) {
  $('cut').onclick = async () => {
    const seconds = Number($('away').querySelector(':checked').value);
    if (seconds) {
      log.add(`You disconnected for ${seconds} s`);
      stream.away(seconds);
    } else if (await post('/demo/cut', stream.connectionId)) {
      log.add('You let the server end the stream');
    } else {
      log.add('There was no connection to cut', 'warn');
    }
  };
}

export class StallPanel {
  #log;
  #runs = new Runs($('runs'));
  #next = 'stall';
  #stalledAt = 0;
  #reader = new SlowReader({
    state: () => this.#show(),
    run: (run) => this.#arrived(run),
    missing: (from, to) => this.#runs.explainGap(from, to),
  });

  constructor(log) {
    this.#log = log;
    $('stall').onclick = () => this.#stall();
    $('read').onclick = () => this.#reader.readOn();
    $('reader-close').onclick = () => this.#reader.close();
    $('flood').onclick = () => this.#flood();
    $('alert').onclick = () => this.#alert();
    setInterval(() => this.#reader.state === 'stalled' && this.#show(), 1000);
  }

  #stall() {
    this.#runs.clear();
    $('finding').replaceChildren('\u00a0');
    this.#stalledAt = performance.now();
    this.#reader.open();
  }

  async #flood() {
    $('flood').disabled = true;
    $('flood').textContent = 'Flooding';
    const done = await post('/demo/flood');
    $('flood').disabled = false;
    $('flood').textContent = 'Flood the low lane';
    if (done) this.#log.add(`${count(done.published)} low messages published in ${done.seconds} s`);
    else this.#log.add('The flood was refused', 'warn');
    if (this.#next === 'flood') this.#lead('alert');
  }

  async #alert() {
    if (!(await post('/demo/alert'))) this.#log.add('The alert was refused', 'warn');
    if (this.#next === 'alert') this.#lead('read');
  }

  /** Highlight the next step. */
  #lead(next) {
    this.#next = next;
    for (const step of STEPS) $(step).classList.toggle('primary', step === next);
  }

  #arrived(run) {
    this.#runs.add(run);
    if (this.#reader.state !== 'opening') this.#find();
  }

  #show() {
    const { state } = this.#reader;
    const stalled = state === 'stalled';
    const seconds = duration((performance.now() - this.#stalledAt) / 1000);
    // The time is outside the live region, or a screen reader would read each second aloud.
    $('reader-time').textContent = stalled ? ` for ${seconds}` : '';
    if ($('reader-state').textContent !== STATES[state]) {
      $('reader-state').textContent = STATES[state];
    }
    $('stall').disabled = state !== 'closed';
    $('reader-close').disabled = state === 'closed';
    $('read').disabled = !stalled;
    if (state === 'closed') this.#lead('stall');
    else if (state === 'opening') this.#lead('flood');
    else if (!stalled) this.#lead(null);
  }

  /** Show the result in one line, as soon as there is one. */
  #find() {
    const { lows, overtaken } = this.#reader;
    const sentences = [];
    if (overtaken) sentences.push(`The alert overtook ${plural(overtaken, 'low message')}.`);
    if (lows.delivered) {
      const sum = `${count(lows.delivered)} low delivered, ${count(lows.declared)} reported lost`;
      sentences.push(`${sum}, ${count(lows.silent)} lost silently.`);
    }
    $('finding').textContent = sentences.join(' ') || '\u00a0';
  }
}
