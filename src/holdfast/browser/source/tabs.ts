/** The entry of tabs.js, which client.js loads for the option `shared`; see docs/client.md. */

import { now } from "./clock.js";
import type { Frame } from "./frames.js";
import type { ResolvedOptions } from "./options.js";
import type { LiveStream, Stream, StreamListener } from "./stream.js";
import { catchUp, LOST } from "./tabs/catch_up.js";
import type { ChannelMessage, SharedFrame, StreamReport, TabReport, Term } from "./tabs/channel.js";
import { aborted, holdLock, withLock } from "./tabs/locks.js";
import { Members } from "./tabs/members.js";
import { RecentFrames } from "./tabs/recent_frames.js";
import type { Events } from "./types.js";

/** A new leader waits this long for the reports of the other tabs, in seconds. */
const REPORT_TIMEOUT = 1;
const REPORT_CHECK_INTERVAL = 20; // milliseconds

/**
 * One stream for all tabs. The tab that holds a lock leads: it has the stream, and posts every
 * frame with a number. All tabs receive the same frames in the same order. The next leader
 * continues after the last frame that all tabs have received; a tab that has received more
 * leaves out what comes again.
 */
export class Tabs implements LiveStream {
  #stop = new AbortController();
  /** The stream of this tab, if it leads or if locks are refused. */
  #stream: Stream | undefined;
  #leads = false;
  /** True once this tab receives the shared frames. */
  #joined = false;
  #term: string | undefined;
  /** The number and the event id of the last shared frame. */
  #seq = 0;
  #position: string | undefined;
  #status: Events["status"] | undefined;
  /** The last status that the client of this tab received, as JSON. */
  #lastStatus: string | undefined;
  #sharedDecisions: StreamReport["decisions"];
  /** The decisions that the client of this tab has received. */
  #decisions = new Map<string, boolean>();
  #recent = new RecentFrames();
  /** Frames are handled one after the other. */
  #queue: Promise<unknown> = Promise.resolve();
  #base: string;
  #options: ResolvedOptions;
  #listener: StreamListener;
  /** The position of the page; undefined once the stream of this tab began there. */
  #start: string | undefined;
  #name: string;
  #tab: string;
  #channel: BroadcastChannel;
  #members: Members;

  /** `stream` is the one that this tab would have by itself; it has not been started. */
  constructor(
    stream: Stream,
    /** Passed, not imported, because the bundle of this file would contain it a second time. */
    private readonly StreamClass: typeof Stream,
  ) {
    this.#base = stream.base;
    this.#options = stream.options;
    this.#listener = stream.listener;
    this.#start = stream.position;
    this.#name = `holdfast ${stream.base} ${stream.options.shared}`;
    this.#tab = `${this.#name} ${crypto.randomUUID()}`;
    this.#members = new Members(this.#name, this.#tab, this.#stop.signal);
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#receive(data);
  }

  /** Hold the lock of this tab while it lives, report, and lead when it is this tab's turn. */
  async run(): Promise<void> {
    const { signal } = this.#stop;
    if (await holdLock(this.#tab, signal)) {
      this.sync();
      await withLock(this.#name, signal, () => this.#lead().then(() => aborted(signal)));
    } else if (!signal.aborted) {
      this.#stream = new this.StreamClass(this.#base, this.#options, this.#start, this.#listener);
      await this.#stream.run();
    }
  }

  sync(again: Iterable<string> = []): void {
    for (const name of again) if (!this.#decisions.get(name)) this.#decisions.delete(name);
    this.#dropUnwanted();
    const report = this.#report();
    if (this.#stream) void this.#stream.sync(report.undecided);
    else this.#post(report);
  }

  wake(hard?: boolean): void {
    if (this.#stream) this.#stream.wake(hard);
    else this.#post({ type: "wake" });
  }

  close(reason?: string): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#channel.close();
    this.#stream?.close(reason);
    this.#listener.onStatus({ status: "closed", ...(reason && { reason }) });
  }

  #post(message: ChannelMessage): void {
    if (!this.#stop.signal.aborted) this.#channel.postMessage(message);
  }

  #receive(message: ChannelMessage): void {
    if (message.type === "frame") void this.#takeFrame(message);
    else if (message.type === "term") this.#beginTerm(message);
    else if (message.type === "wake") this.#stream?.wake();
    else if (message.type === "query") this.#post(this.#report());
    else if (message.type === "stream" && !this.#leads) this.#takeStreamReport(message);
    else if (message.type === "report" && this.#leads) void this.#takeTabReport(message);
  }

  #report(): TabReport {
    const topics = [...this.#listener.topics()];
    const undecided = topics.filter((name) => !this.#decisions.has(name));
    const seq = this.#joined ? this.#seq : -1;
    return { type: "report", tab: this.#tab, topics, undecided, seq, position: this.#position };
  }

  /** A topic that the page leaves and subscribes to again needs a new decision. */
  #dropUnwanted(): void {
    const wanted = this.#listener.topics();
    for (const name of this.#decisions.keys()) if (!wanted.has(name)) this.#decisions.delete(name);
  }

  /** Find out how far the tabs are, and continue after the frame that all of them have. */
  async #lead(): Promise<void> {
    this.#leads = true;
    await this.#collectReports();
    if (this.#stop.signal.aborted) return;
    const joined = [this.#report(), ...this.#members.reports].filter(({ seq }) => seq >= 0);
    const last = joined.sort((a, b) => a.seq - b.seq)[0] ?? { seq: 0, position: this.#start };
    if (!joined.length) {
      // The stream begins where the page wants to begin.
      this.#start = undefined;
      this.#joined = true;
    }
    const term: Term = { type: "term", term: this.#tab, seq: last.seq, position: last.position };
    this.#post(term);
    this.#beginTerm(term);
    this.#stream = this.#sharedStream(last.position);
    void this.#stream.run();
  }

  async #collectReports(): Promise<void> {
    const members = this.#members;
    const deadline = now() + REPORT_TIMEOUT;
    this.#post({ type: "query" });
    while ((await members.isAnySilent()) && now() < deadline) {
      await new Promise((done) => setTimeout(done, REPORT_CHECK_INTERVAL));
    }
    const topics = (this.#sharedDecisions ?? []).map(([name]) => name);
    if (await members.isAnySilent()) members.inherit(topics);
  }

  #sharedStream(position: string | undefined): Stream {
    return new this.StreamClass(this.#base, this.#options, position, {
      topics: () => new Set([...this.#members.topics, ...this.#listener.topics()]),
      onStatus: (status) => {
        this.#status = status;
        this.#reportStream();
      },
      onTopics: (decisions) => {
        this.#sharedDecisions = [...decisions];
        this.#reportStream();
      },
      onFrame: (frame) => {
        const message: SharedFrame = { type: "frame", term: this.#term, seq: this.#seq + 1, frame };
        this.#post(message);
        return this.#takeFrame(message);
      },
    });
  }

  /** Report the state of the stream to the other tabs and to this one. */
  #reportStream(): void {
    const report: StreamReport = {
      type: "stream",
      term: this.#term,
      seq: this.#seq,
      position: this.#position,
      status: this.#status,
      decisions: this.#sharedDecisions,
    };
    this.#post(report);
    this.#takeStreamReport(report);
  }

  async #takeTabReport(report: TabReport): Promise<void> {
    this.#members.update(report, () => this.#stream?.sync());
    // A topic that was rejected for one tab may be allowed by now.
    void this.#stream?.sync(report.undecided);
    if (await this.#members.dropInherited()) this.sync();
  }

  #takeStreamReport({ term, seq, position, status, decisions }: StreamReport): void {
    const lastStatus = JSON.stringify(status);
    if (status && this.#lastStatus !== lastStatus) {
      this.#lastStatus = lastStatus;
      this.#listener.onStatus(status);
    }
    if (!decisions) return;
    this.#sharedDecisions = decisions;
    this.#decisions = new Map(decisions);
    this.#listener.onTopics(this.#decisions);
    this.#dropUnwanted();
    if (!this.#joined) this.#join({ type: "term", term: term!, seq, position });
    // A page that slept may have missed the start of this leader.
    else if (term !== this.#term) this.#beginTerm({ type: "term", term: term!, seq, position });
  }

  /** Receive the shared frames, as soon as the stream has all topics of this tab. */
  #join({ term, seq, position }: Term): void {
    this.#term = term;
    this.#seq = seq;
    this.#position = position;
    this.#joined = [...this.#listener.topics()].every((name) => this.#decisions.has(name));
    if (this.#joined && this.#start) this.#catchUp(this.#start);
  }

  /** Handle what was published since the own position before any shared frame. */
  #catchUp(position: string): void {
    const { signal } = this.#stop;
    this.#queue = this.#queue.then(() =>
      catchUp(
        this.StreamClass, this.#base, this.#options, position, this.#listener, this.#recent, signal,
      ),
    );
  }

  /** A new leader continues after the frame with this number. */
  #beginTerm({ term, seq, position }: Term): void {
    if (seq > this.#seq) void this.#handle(LOST);
    this.#recent.rewind(seq);
    this.#term = term;
    this.#seq = seq;
    this.#position = position;
  }

  /** Returns a promise that resolves when the handlers of this tab have finished. */
  #takeFrame({ term, seq, frame }: SharedFrame): Promise<unknown> | undefined {
    // A late frame of a former leader comes again from the new one.
    if (term !== this.#term) return undefined;
    if (seq > this.#seq + 1) void this.#handle(LOST);
    this.#seq = seq;
    this.#position = frame.id || this.#position;
    this.#recent.add(seq, frame);
    return this.#handle(frame);
  }

  #handle(frame: Frame): Promise<unknown> | undefined {
    if (!this.#joined) return undefined;
    const { signal } = this.#stop;
    const handle = (): unknown =>
      signal.aborted || this.#recent.takeRepeat(frame) || this.#listener.onFrame(frame);
    return (this.#queue = this.#queue.then(handle, handle));
  }
}
