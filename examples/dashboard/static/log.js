// The list of events, newest first.

import { clock } from './format.js';

const KEPT = 200;

export class EventLog {
  #list;

  constructor(list) {
    this.#list = list;
  }

  /** `kind` is good, bad, warn or nothing. */
  add(text, kind = '') {
    const item = document.createElement('li');
    item.dataset.kind = kind;
    const time = document.createElement('time');
    time.textContent = clock(Date.now());
    const line = document.createElement('span');
    line.textContent = text;
    item.append(time, line);
    this.#list.prepend(item);
    if (this.#list.children.length > KEPT) this.#list.lastChild.remove();
  }
}
