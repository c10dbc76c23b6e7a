// Alerts: a list that stays, and a toast that does not move the page.

import { clock } from './format.js';

const KEPT = 30;
const TOAST_MS = 8000;
const TITLES = { raised: 'Alert', cleared: 'All clear', test: 'Test alert' };

export class Alerts {
  #list;
  #toasts;

  constructor(list, toasts) {
    this.#list = list;
    this.#toasts = toasts;
  }

  show(alert, timestamp) {
    const item = document.createElement('li');
    item.dataset.state = alert.state;
    item.append(text('time', clock(timestamp * 1000)), alert.text);
    this.#list.querySelector('.empty')?.remove();
    this.#list.prepend(item);
    if (this.#list.children.length > KEPT) this.#list.lastChild.remove();
    this.#toast(alert);
  }

  #toast(alert) {
    const toast = document.createElement('div');
    toast.className = 'toast';
    toast.dataset.state = alert.state;
    const close = text('button', 'Dismiss');
    close.className = 'quiet';
    close.type = 'button';
    close.onclick = () => toast.remove();
    toast.append(text('strong', TITLES[alert.state] ?? 'Alert'), close, text('span', alert.text));
    this.#toasts.replaceChildren(toast);
    setTimeout(() => toast.remove(), TOAST_MS);
  }
}

function text(tag, content) {
  return Object.assign(document.createElement(tag), { textContent: content });
}
