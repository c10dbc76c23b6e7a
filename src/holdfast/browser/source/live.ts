import { Degradation } from "./degradation.js";
import type { Frame } from "./frames.js";
import { Handlers } from "./handlers.js";
import { type ResolvedOptions, resolveOptions } from "./options.js";
import { load, save } from "./storage.js";
import { type LiveStream, Stream } from "./stream.js";
import type { Decisions } from "./subscriptions.js";
import { checkTopic, matches } from "./topics.js";
import type { Events, Live, Message, Options, Status, Transport } from "./types.js";

/** EventTarget with the event types of Live. */
const LiveEventTarget = EventTarget as new () => Pick<Live, keyof EventTarget>;

/** The client of a page: its topics, its handlers and its events, over a stream. */
export class LiveClient extends LiveEventTarget implements Live<any> {
  status: Status = "connecting";
  transport: Transport | undefined;
  connectionId: string | undefined;
  position: string | undefined;
  stream: LiveStream;
  #options: ResolvedOptions;
  #wanted: Set<string>;
  /** True until the first frame names the topics, where the page names none. */
  #takesTopics: boolean;
  #decisions: Decisions = new Map();
  #handlers = new Handlers();
  #degradation = new Degradation();
  #closing = new AbortController();

  constructor(url: string | URL, given?: Options) {
    super();
    const base = new URL(`${url}`.replace(/\/*$/, "/"), globalThis.location?.href).href;
    const options = (this.#options = resolveOptions(given));
    this.#takesTopics = !options.topics;
    this.#wanted = new Set(options.topics);
    this.#wanted.forEach(checkTopic);
    this.position = options.position ?? (options.persist && load(options.persist));
    const stream = new Stream(base, options, this.position, {
      topics: () => (this.#takesTopics ? new Set() : this.#wanted),
      onStatus: (status) => this.#setStatus(status),
      onTopics: (decisions) => this.#setDecisions(decisions),
      onFrame: (frame) => this.#handleFrame(frame),
    });
    this.stream = stream;
    this.#listenToPage();
    void this.#start(stream);
  }

  get topics(): string[] {
    return [...this.#wanted];
  }

  on(pattern: string, handler: (data: any, message: any) => unknown): () => void {
    return this.#handlers.add(pattern, handler);
  }

  async subscribe(...names: string[]): Promise<{ accepted: string[]; rejected: string[] }> {
    names.forEach(checkTopic);
    for (const name of names) this.#wanted.add(name);
    void this.stream.sync(names);
    while (!names.every((name) => this.#decisions.has(name) || !this.#wanted.has(name))) {
      if (this.status === "closed") throw new Error("closed");
      await new Promise((done) => this.addEventListener("topics" as never, done, { once: true }));
    }
    const accepted = names.filter((name) => this.#decisions.get(name));
    const rejected = names.filter((name) => !accepted.includes(name));
    this.#emitRejected(rejected);
    for (const name of rejected) this.#wanted.delete(name);
    return { accepted, rejected };
  }

  async unsubscribe(...names: string[]): Promise<{ removed: string[] }> {
    const removed = names.filter((name) => this.#wanted.delete(name));
    this.#emit("topics");
    await this.stream.sync();
    return { removed };
  }

  close(): void {
    this.stream.close("asked");
  }

  #listenToPage(): void {
    const { signal } = this.#closing;
    const page: Window = globalThis as never;
    const { document } = globalThis;
    // Node has neither a document nor events of its own.
    page.addEventListener?.("online", () => this.stream.wake(true), { signal });
    // A page from the back/forward cache has lost its connections.
    page.addEventListener?.("pageshow", (event) => this.stream.wake(event.persisted), { signal });
    const onVisibility = (): unknown => document.hidden || this.stream.wake();
    document?.addEventListener("visibilitychange", onVisibility, { signal });
  }

  /** Start after the constructor has returned, so that the page hears the first event. */
  async #start(stream: Stream): Promise<void> {
    const tabs = await this.#loadTabs();
    if (this.#closing.signal.aborted) return;
    if (tabs) this.stream = new tabs.Tabs(stream, Stream);
    this.stream.run();
  }

  /** Load what shares a stream between tabs, where the page wants it and the browser can. */
  async #loadTabs(): Promise<typeof import("./tabs.js") | undefined> {
    if (!this.#options.shared || !globalThis.navigator?.locks) return undefined;
    return import("./tabs.js").catch(() => undefined);
  }

  #setStatus(detail: Events["status"]): void {
    if (this.status === "closed") return;
    this.status = detail.status;
    this.transport = detail.transport;
    this.connectionId = detail.connectionId;
    if (detail.status === "closed") {
      this.#closing.abort();
      this.stream.close();
      this.#emit("topics");
    }
    this.#emit("status", detail);
  }

  #setDecisions(decisions: Decisions): void {
    this.#decisions = decisions;
    if (this.#takesTopics) for (const name of decisions.keys()) this.#wanted.add(name);
    this.#takesTopics = false;
    this.#emit("topics");
  }

  async #handleFrame(frame: Frame): Promise<void> {
    const degradation = this.#degradation.read(frame);
    if (degradation) this.#emit(degradation);
    if (frame.type === "connection_established") {
      const { rejected, gap, replay } = frame.data;
      this.#emitRejected(rejected);
      if (gap) this.#emit("gap", gap);
      else if (replay !== undefined) this.#emit("resumed", { replay });
    } else if (frame.type === "unsubscribed") {
      this.#emitRejected(frame.data.topics);
    } else if (frame.type === "gap") {
      this.#emitGap(frame.data);
    } else if (frame.type === "message" && this.#wants(frame.topic)) {
      await this.#deliver(frame);
    }
    if (frame.id && this.status !== "closed") this.#setPosition(frame.id);
  }

  #wants(topic: string): boolean {
    // Personal messages need no subscription.
    if (topic === "$user" || this.#wanted.has(topic)) return true;
    return this.topics.some((pattern) => matches(pattern, topic));
  }

  #deliver({ type: _, ...rest }: Frame): Promise<void> {
    const message = rest as unknown as Message;
    return this.#handlers.call(message, (error) => {
      if (this.#emit("error", { error, message })) console.error(error);
    });
  }

  #setPosition(id: string): void {
    this.position = id;
    if (this.#options.persist) save(this.#options.persist, id);
  }

  #emitRejected(names: string[]): void {
    const topics = names.filter((name) => this.#wanted.has(name));
    if (topics.length) this.#emit("rejected", { topics });
  }

  #emitGap(gap: Events["gap"]): void {
    // A gap without topics may be in any of them.
    const { topics = [] } = gap;
    if (!topics.length || topics.some((topic) => this.#wants(topic))) this.#emit("gap", gap);
  }

  /** Dispatch an event. Returns false if a listener prevented it. */
  #emit(type: keyof Events | "topics", detail?: unknown): boolean {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
  }
}
