import { type Action, Failure } from "./failure.js";
import type { ConnectionInfo } from "./frames.js";
import type { Transport } from "./types.js";

// setTimeout takes a longer time than 2^31 - 1 ms for 1 ms.
const LONGEST_TIMEOUT = 2e9;

/** One attempt to connect, and the connection that it becomes with the first frame. */
export class Connection {
  /** Sends a message to the server; set by the WebSocket transport only. */
  send: ((message: object) => void) | undefined;
  /** The pause before the next attempt that the server asked for, in seconds; set by SSE only. */
  retryAfter = 0;
  /** True once the credentials were there, so that a request was made. */
  requested = false;
  ended = false;
  #info: Readonly<ConnectionInfo> | undefined;
  #control = new AbortController();
  #deadline: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly transport: Transport) {}

  /**
   * The data of the first frame, frozen; undefined before that. Members of the server never
   * become members of this object: one named `ended` would end the acknowledgements.
   */
  get info(): Readonly<ConnectionInfo> | undefined {
    return this.#info;
  }

  get signal(): AbortSignal {
    return this.#control.signal;
  }

  /** The first frame has arrived. */
  begin(info: ConnectionInfo): void {
    this.#info = Object.freeze(info);
  }

  /** End the connection. The first failure counts. */
  fail(reason: string, action?: Action): void {
    this.#control.abort(new Failure(reason, action));
  }

  /** Fail the connection unless the deadline is changed in time. 0 sets no deadline. */
  setDeadline(seconds: number, reason: string, action?: Action): void {
    this.clearDeadline();
    if (!seconds) return;
    const timeout = Math.min(seconds * 1000, LONGEST_TIMEOUT);
    this.#deadline = setTimeout(() => this.fail(reason, action), timeout);
  }

  clearDeadline(): void {
    clearTimeout(this.#deadline);
  }

  /** Give back what the connection holds: its timer, and its request or socket. */
  end(): void {
    this.clearDeadline();
    this.ended = true;
    this.#control.abort();
  }
}
