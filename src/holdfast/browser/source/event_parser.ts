export interface ServerSentEvent {
  data: string;
  id: string;
}

/** Parses an event stream (WHATWG HTML, section 9.2.6) that arrives in pieces. */
export class EventParser {
  /** The pause before a reconnect that the server asked for, in seconds; 0 if it did not. */
  retry = 0;
  #id = "";
  #data: string[] = [];
  #rest = "";

  /** Returns the events that `text` completes. */
  feed(text: string): ServerSentEvent[] {
    // A CR at the end stays in the rest, because the LF of a CRLF may be in the next piece.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop()!;
    const events = [];
    for (const line of lines) {
      if (line) {
        this.#readField(line);
      } else if (this.#data.length) {
        events.push({ data: this.#data.splice(0).join("\n"), id: this.#id });
      }
    }
    return events;
  }

  #readField(line: string): void {
    const [, field, value] = /^([^:]*):? ?(.*)/s.exec(line) as unknown as [string, string, string];
    if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry") this.retry = Number(value) / 1000 || 0;
  }
}
