// The frames of the second reader as runs: consecutive messages of one lane share a line.

import { count, plural } from './format.js';

const KEPT = 120;
const FULL = 20000; // a run of this length has a bar of full width

export class Runs {
  #list;
  #last = null;
  #gap = null; // the latest one, until the numbers after it explain it
  #queued = false;

  constructor(list) {
    this.#list = list;
  }

  clear() {
    this.#list.replaceChildren();
    this.#last = this.#gap = null;
  }

  add({ lane, n, text, count: size }) {
    const last = this.#last;
    const joins = n !== undefined && last?.lane === lane && n === last.to + 1;
    if (joins) {
      last.to = n;
      this.#queue(last);
      return;
    }
    if (last) this.#paint(last);
    this.#last = { lane, from: n, to: n, text, size, row: this.#row(lane) };
    this.#paint(this.#last);
    if (lane === 'gap') this.#gap = this.#last;
  }

  /** Show the numbers of the latest gap, whose count the server may no longer have. */
  explainGap(from, to) {
    if (!this.#gap) return;
    this.#gap.text += `: ${count(from)} to ${count(to)}`;
    this.#gap.size = to - from + 1;
    this.#paint(this.#gap);
    this.#gap = null;
  }

  #queue(run) {
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      this.#paint(run);
    });
  }

  #row(lane) {
    const row = document.createElement('li');
    row.dataset.lane = lane;
    for (const tag of ['b', 'span', 'em']) row.append(document.createElement(tag));
    row.firstChild.textContent = lane;
    const following = this.#list.scrollHeight - this.#list.scrollTop < this.#list.clientHeight + 60;
    this.#list.append(row);
    if (this.#list.children.length > KEPT) this.#list.firstChild.remove();
    if (following) this.#list.scrollTop = this.#list.scrollHeight;
    return row;
  }

  #paint({ lane, from, to, text, size, row }) {
    const [, what, amount] = row.children;
    if (from === undefined) {
      what.textContent = text;
      if (size) amount.textContent = plural(size, 'message');
    } else {
      what.textContent = from === to ? `number ${count(from)}` : `${count(from)} to ${count(to)}`;
      amount.textContent = plural(to - from + 1, 'message');
    }
    const weight = size ?? (from === undefined ? 0 : to - from + 1);
    if (weight > 9 && lane !== 'session') {
      const bar = row.children[3] ?? row.appendChild(document.createElement('i'));
      bar.className = 'weight';
      // The square root keeps a run of ten visible beside one of ten thousand.
      bar.style.width = `${Math.min(100, 100 * Math.sqrt(weight / FULL))}%`;
    }
  }
}
