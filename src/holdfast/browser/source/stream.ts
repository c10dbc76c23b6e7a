import { Acknowledger, AcknowledgementSupport } from "./acknowledger.js";
import { backoff } from "./backoff.js";
import { watchForSleep } from "./clock.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { actionForClosing, Failure } from "./failure.js";
import { type ConnectionInfo, type Frame, UNKNOWN_GAP } from "./frames.js";
import type { ResolvedOptions } from "./options.js";
import { Requests } from "./requests.js";
import { type Decisions, Subscriptions } from "./subscriptions.js";
import { TransportOrder } from "./transport_order.js";
import { longPoll } from "./transports/long_poll.js";
import { sse } from "./transports/sse.js";
import type { StreamState, TransportFunction } from "./transports/transport.js";
import { websocket } from "./transports/websocket.js";
import type { Events, Transport } from "./types.js";

/** The number of heartbeat intervals without a frame after which a connection has failed. */
const SILENT_HEARTBEATS = 2.5;

const TRANSPORTS: Record<Transport, TransportFunction> = { sse, websocket, poll: longPoll };

/** The owner of a stream. */
export interface StreamListener {
  /** The topics to subscribe to; empty for those of the position. */
  topics(): ReadonlySet<string>;
  onStatus(status: Events["status"]): void;
  onTopics(decisions: Decisions): void;
  /** Handle a frame. The next frame waits until the promise resolves. */
  onFrame(frame: Frame): unknown;
}

/** The stream of a client: its own, or one that is shared between tabs. */
export interface LiveStream {
  run(): void;
  /** Bring the server up to date. Topics in `again` are requested even if they were rejected. */
  sync(again?: Iterable<string>): unknown;
  /** Do not wait for the next attempt; with `hard`, also replace a connection that looks well. */
  wake(hard?: boolean): void;
  /** Close for good. */
  close(reason?: string): void;
}

/** Connects again and again, with one position over all connections and transports. */
export class Stream implements LiveStream, StreamState {
  readonly requests: Requests;
  #closed = false;
  #credentials: Credentials;
  #order: TransportOrder;
  #subscriptions: Subscriptions;
  #acknowledgements = new AcknowledgementSupport();
  #connection: Connection | undefined;
  #failures = 0; // in a row
  #endPause = (): void => {};

  constructor(
    readonly base: string,
    readonly options: ResolvedOptions,
    public position: string | undefined,
    readonly listener: StreamListener,
  ) {
    const topics = (): ReadonlySet<string> => listener.topics();
    this.#credentials = new Credentials(options.token);
    this.requests = new Requests(base, this.#credentials, options, topics);
    this.#order = new TransportOrder(base, options.transports);
    this.#subscriptions = new Subscriptions(this.requests, topics, (decisions) =>
      listener.onTopics(decisions),
    );
  }

  get acknowledges(): boolean {
    return this.#acknowledgements.enabled;
  }

  isAccepted(topic: string): boolean {
    return this.#subscriptions.isAccepted(topic);
  }

  async run(): Promise<void> {
    const stopWatching = watchForSleep(() => this.wake(true));
    while (!this.#closed) {
      const connection = new Connection(this.#order.next());
      this.#connection = connection;
      const failure = await this.#follow(connection);
      const delay = this.#prepareNext(connection, failure);
      if (delay && !this.#closed) await this.#pause(delay, connection.transport, failure.message);
    }
    stopWatching();
  }

  sync(again?: Iterable<string>): Promise<void> {
    return this.#subscriptions.sync(again);
  }

  wake(hard?: boolean): void {
    this.#endPause();
    if (hard) this.#connection?.fail("woken", "reconnect");
  }

  close(reason?: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.wake(true);
    const transport = this.#connection?.transport;
    this.listener.onStatus({
      status: "closed",
      ...(transport && { transport }),
      ...(reason && { reason }),
    });
  }

  /** Follow a connection to its end. Returns why it ended. */
  async #follow(connection: Connection): Promise<Failure> {
    try {
      await this.#receive(connection);
      return this.#explain(connection, undefined);
    } catch (error) {
      return this.#explain(connection, error);
    } finally {
      connection.end();
    }
  }

  /** Turn what ended a connection into a failure. */
  #explain({ signal, requested, info }: Connection, error: unknown): Failure {
    if (error instanceof Failure) return error;
    if (signal.reason) return signal.reason;
    const { name, message } = (error ?? {}) as Partial<Error>;
    // fetch throws a TypeError if no server answers, so the transport may still work.
    const isUnfit = requested && !info && name !== "TypeError" && name !== "Error";
    return new Failure(message ?? "ended", isUnfit ? "fall_back" : "retry");
  }

  async #receive(connection: Connection): Promise<void> {
    const { transport, signal } = connection;
    this.listener.onStatus({ status: "connecting", transport });
    await this.#credentials.load(signal);
    signal.throwIfAborted();
    connection.requested = true;
    // Neither the status nor `onopen` shows that a transport works: a proxy that collects the
    // response until it is complete looks connected, too.
    connection.setDeadline(this.options.firstFrameTimeout, "no first frame", "fall_back");
    const acknowledger = new Acknowledger(
      connection, this.requests, this.#acknowledgements, () => this.position,
    );
    try {
      for await (const [frame, bytes] of TRANSPORTS[transport](this, connection)) {
        connection.clearDeadline(); // handlers may take longer
        await this.#handle(connection, frame);
        if (this.#closed) return;
        if (isAcknowledged(connection, frame)) acknowledger.handled(bytes);
        const silence = SILENT_HEARTBEATS * (connection.info?.heartbeatInterval ?? 0);
        connection.setDeadline(silence, "silence");
      }
    } finally {
      acknowledger.end();
    }
  }

  async #handle(connection: Connection, received: Frame): Promise<void> {
    let frame = received;
    if (frame.type === "connection_established") {
      frame = { ...frame, data: this.#withGap(frame.data) };
      this.#open(connection, frame.data);
    }
    if (frame.type === "unsubscribed") this.#subscriptions.withdraw(frame.data.topics);
    await this.listener.onFrame(frame);
    if (this.#closed) return;
    if (frame.id) this.position = frame.id;
    if (frame.type === "closing") {
      const { reason, reconnect } = frame.data;
      throw new Failure(reason, actionForClosing(reason, reconnect));
    }
  }

  /** A fresh session despite a position: something on the way took the position out. */
  #withGap(info: ConnectionInfo): ConnectionInfo {
    return this.position && info.session === "fresh" ? { ...info, gap: UNKNOWN_GAP } : info;
  }

  #open(connection: Connection, info: ConnectionInfo): void {
    connection.begin(info);
    this.#failures = 0;
    this.#order.accept(connection.transport);
    this.#subscriptions.begin(connection, info);
    const { transport } = connection;
    this.listener.onStatus({ status: "open", transport, connectionId: info.connectionId });
    void this.sync();
  }

  /** Do what the failure asks for. Returns the pause before the next attempt in seconds. */
  #prepareNext({ transport, info, retryAfter }: Connection, failure: Failure): number {
    const { action } = failure;
    if (action === "stop") this.close(failure.message);
    if (action === "reconnect") return 0;
    if (action === "renew" && this.#credentials.renew()) return 0;
    if (action === "fall_back" && this.#order.reject(transport)) return 0;
    this.#order.reset();
    const failures = info ? 0 : this.#failures++;
    return backoff(failures, Math.max(retryAfter, failure.retryAfter));
  }

  async #pause(seconds: number, transport: Transport, reason: string): Promise<void> {
    let timer;
    await new Promise<void>((done) => {
      this.#endPause = done;
      timer = setTimeout(done, seconds * 1000);
      this.listener.onStatus({ status: "waiting", transport, retryIn: seconds, reason });
    });
    clearTimeout(timer);
  }
}

/** Over WebSocket all frames occupy the window, over an event stream messages and gaps only. */
function isAcknowledged({ send }: Connection, { type }: Frame): boolean {
  return Boolean(send) || type === "message" || type === "gap";
}
