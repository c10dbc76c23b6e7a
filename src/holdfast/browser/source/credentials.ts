import { MAX_DELAY } from "./backoff.js";
import { now } from "./clock.js";
import type { Options } from "./types.js";

/** The bearer token of a stream; undefined where the page uses cookies. */
export class Credentials {
  bearer: string | undefined;
  #getToken: Options["token"];
  #renewedAt = -Infinity;

  constructor(getToken: Options["token"]) {
    this.#getToken = getToken;
  }

  /** Get a token unless there is one. Ends without one if the signal is aborted first. */
  async load(signal: AbortSignal): Promise<void> {
    if (!this.#getToken || this.bearer !== undefined || signal.aborted) return;
    const aborted = new Promise<undefined>((done) => {
      signal.addEventListener("abort", () => done(undefined));
    });
    this.bearer = await Promise.race([this.#getToken(), aborted]);
  }

  /**
   * Drop a token that the server refused. Returns true if a new one may be used at once, and
   * false if the last one was refused too, so that refused requests do not become a loop.
   */
  renew(): boolean {
    this.bearer = undefined;
    if (!this.#getToken || now() - this.#renewedAt < MAX_DELAY) return false;
    this.#renewedAt = now();
    return true;
  }
}
