import type { Connection } from "./connection.js";
import type { ConnectionInfo } from "./frames.js";
import type { Requests } from "./requests.js";

/** Topic or pattern → true if the server accepted it, false if it rejected it. */
export type Decisions = ReadonlyMap<string, boolean>;

/** Keeps the topics of a connection equal to those that the page subscribes to. */
export class Subscriptions {
  #decisions = new Map<string, boolean>();
  #connection: Connection | undefined;
  #syncing = false;
  /** True if the last command failed, so that the topics wait for a new connection. */
  #reconnecting = false;

  constructor(
    private readonly requests: Requests,
    private readonly wanted: () => ReadonlySet<string>,
    private readonly onChange: (decisions: Decisions) => void,
  ) {}

  isAccepted(topic: string): boolean {
    return this.#decisions.get(topic) === true;
  }

  /** Take the decisions of a new connection from its first frame. */
  begin(connection: Connection, { topics, rejected }: ConnectionInfo): void {
    this.#connection = connection;
    this.#decisions.clear();
    for (const name of rejected) this.#decisions.set(name, false);
    this.#decide(topics, true);
  }

  /** The server has withdrawn these topics. */
  withdraw(topics: string[]): void {
    this.#decide(topics, false);
  }

  /** Bring the server up to date. Topics in `again` are requested even if they were rejected. */
  async sync(again: Iterable<string> = []): Promise<void> {
    for (const name of again) if (!this.isAccepted(name)) this.#decisions.delete(name);
    const connection = this.#connection;
    if (this.#syncing || !connection || connection.ended) return;
    this.#syncing = true;
    while (!connection.ended && (await this.#syncOnce(connection)));
    this.#syncing = false;
    if (this.#connection !== connection) void this.sync();
    this.onChange(this.#decisions);
  }

  /** Send one command. Returns false if nothing is left to do on this connection. */
  async #syncOnce(connection: Connection): Promise<boolean> {
    const wanted = this.wanted();
    const missing = [...wanted].filter((name) => !this.#decisions.has(name));
    if (missing.length) return this.#subscribe(connection, missing);
    const left = [...this.#decisions.keys()].filter((name) => !wanted.has(name));
    if (left.length) {
      for (const name of left) this.#decisions.delete(name);
      await this.requests.post(connection, "unsubscribe", { topics: left });
      return true;
    }
    this.#reconnecting = false;
    return false;
  }

  async #subscribe(connection: Connection, topics: string[]): Promise<boolean> {
    const { status, data } = await this.requests.post(connection, "subscribe", { topics });
    if (connection.ended) return false;
    if (data && (status === 200 || status === 400)) {
      for (const name of topics) this.#decisions.set(name, false);
      this.#decide(data.topics ?? [], true);
      return true;
    }
    // The next connection has the topics in its request. A second failure in a row waits first.
    connection.fail("other topics", this.#reconnecting ? "retry" : "reconnect");
    this.#reconnecting = true;
    return false;
  }

  #decide(topics: string[], accepted: boolean): void {
    for (const name of topics) this.#decisions.set(name, accepted);
    this.onChange(this.#decisions);
  }
}
