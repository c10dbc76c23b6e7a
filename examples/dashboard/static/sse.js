// An event-stream parser for fetch(), which has none: the part of WHATWG HTML, section 9.2.6, that
// this page's frames need (data, id, and default events).

export class EventParser {
  lastId = '';
  #id = '';
  #rest = '';
  #data = [];
  #decoder = new TextDecoder();
  #onData;

  constructor(onData) {
    this.#onData = onData;
  }

  push(chunk) {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split(/\r\n|\n|\r/);
    this.#rest = lines.pop(); // an unfinished line; our server ends lines with one LF
    lines.forEach((line) => this.#line(line));
  }

  #line(line) {
    if (line === '') {
      this.lastId = this.#id; // only at the blank line, because a cut event does not count
      if (this.#data.length) this.#onData(this.#data.join('\n'));
      this.#data = [];
      return;
    }
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/.exec(line);
    if (field === 'data') this.#data.push(value);
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
  }
}
