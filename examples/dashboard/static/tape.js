// The tape: one bar per number, newest at the right. While the page is away, the tape continues
// with hollow bars, and a replay fills them.

import { colour, onThemeChange } from './theme.js';

const BAR = 3;
const STEP = 5;
const INTERVAL_MS = 250; // time between two numbers of the server
const KEPT = 600;

// Height as a share of the tape, colour, filled. Height and fill repeat the meaning of the colour
// for readers who do not see colours.
const LOOK = {
  live: [0.6, '--accent', true],
  replayed: [1, '--second', true],
  lost: [0.1, '--critical', true],
  twice: [1, '--warn', true],
  silent: [0.6, '--critical', false],
};
const AWAITED = [0.6, '--ink-3', false];

export class Tape {
  #canvas;
  #kinds = new Map();
  #head = 0;
  #headAt = 0;
  #live = true;
  #queued = false;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    onThemeChange(() => this.#draw());
    setInterval(() => !this.#live && this.#queue(), INTERVAL_MS);
  }

  mark(n, kind) {
    this.#kinds.set(n, kind);
    this.#head = Math.max(this.#head, n);
    this.#headAt = performance.now();
    if (this.#kinds.size > KEPT) this.#kinds.delete(this.#kinds.keys().next().value);
    this.#queue();
  }

  clear() {
    this.#kinds.clear();
    this.#head = 0;
  }

  setLive(live) {
    this.#live = live;
    this.#queue();
  }

  #queue() {
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      this.#draw();
    });
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const ratio = devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * ratio);
    this.#canvas.height = Math.round(height * ratio);
    const pen = this.#canvas.getContext('2d');
    pen.scale(ratio, ratio);
    pen.fillStyle = colour('--line');
    pen.fillRect(0, height - 1, width, 1);
    if (!this.#head) return;
    const awaited = this.#live ? 0 : Math.floor((performance.now() - this.#headAt) / INTERVAL_MS);
    const head = this.#head + awaited;
    for (let n = head, x = width - BAR; x >= 0 && n > 0; n -= 1, x -= STEP) {
      const look = n > this.#head ? AWAITED : LOOK[this.#kinds.get(n)];
      if (look) bar(pen, x, height - 2, look);
    }
  }
}

function bar(pen, x, base, [share, name, filled]) {
  const tall = Math.max(3, Math.round((base - 1) * share));
  if (filled) {
    pen.fillStyle = colour(name);
    pen.fillRect(x, base - tall, BAR, tall);
  } else {
    pen.strokeStyle = colour(name);
    pen.strokeRect(x + 0.5, base - tall + 0.5, BAR - 1, tall - 1);
  }
}
