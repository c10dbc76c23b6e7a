import type { Connection } from "./connection.js";
import type { Requests } from "./requests.js";

const DELAY = 250; // milliseconds
const RETRY_DELAY = 2000;

/** Decides if a stream asks for a window: only where its acknowledgements arrive. */
export class AcknowledgementSupport {
  enabled = true;
  #refusals = 0; // in a row

  accepted(): void {
    this.#refusals = 0;
  }

  /**
   * Count a refusal. A 404 may be a load balancer that chose another process, once; a 403 or 405
   * is a proxy that rewrites the host or lets no POST through.
   */
  refused(status: number): void {
    if (status !== 404 || this.#refusals > 0) this.enabled = false;
    if (status === 404) this.#refusals += 1;
  }
}

/**
 * Acknowledges what the handlers of the page have finished, for one connection: when half of the
 * window is used, otherwise after a quarter of a second.
 */
export class Acknowledger {
  #bytes = 0; // handled since the last acknowledgement
  #timer: ReturnType<typeof setTimeout> | undefined;
  #posting = false;

  constructor(
    private readonly connection: Connection,
    private readonly requests: Requests,
    private readonly support: AcknowledgementSupport,
    private readonly position: () => string | undefined,
  ) {}

  /** Count a handled frame. */
  handled(bytes: number): void {
    this.#bytes += bytes;
    this.#schedule(DELAY);
  }

  end(): void {
    clearTimeout(this.#timer);
  }

  #schedule(delay: number): void {
    const window = this.connection.info?.window;
    if (!window) return;
    if (this.#bytes * 2 > window) void this.#acknowledge();
    else this.#timer ??= setTimeout(() => void this.#acknowledge(), delay);
  }

  async #acknowledge(): Promise<void> {
    const { connection } = this;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (connection.ended || this.#posting) return;
    this.#bytes = 0;
    const id = this.position();
    if (connection.send) {
      connection.send({ type: "ack", id });
      return;
    }
    this.#posting = true;
    const { status } = await this.requests.post(connection, "ack", { id });
    this.#posting = false;
    if (!connection.ended) this.#handleAnswer(status);
  }

  #handleAnswer(status: number | undefined): void {
    if (status === 200) {
      this.support.accepted();
      if (this.#bytes) this.#schedule(DELAY);
    } else if (status === 403 || status === 404 || status === 405) {
      // Without acknowledgements the window stays full: the next connection has none.
      this.support.refused(status);
      this.connection.fail("no ack", "reconnect");
    } else {
      this.#schedule(RETRY_DELAY);
    }
  }
}
