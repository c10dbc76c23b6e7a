import type { TabReport } from "./channel.js";
import { withLock } from "./locks.js";

/** The other tabs that share a stream, as the leader has them. Each holds a lock while it lives. */
export class Members {
  #reports = new Map<string, TabReport>();
  /** Topics of tabs that have not reported yet, because they are busy or frozen. */
  #inheritedTopics: string[] = [];

  constructor(
    /** The names of the tabs' locks begin with this, and a space. */
    private readonly name: string,
    private readonly self: string,
    private readonly signal: AbortSignal,
  ) {}

  get reports(): TabReport[] {
    return [...this.#reports.values()];
  }

  get topics(): string[] {
    return [...this.#inheritedTopics, ...this.reports.flatMap(({ topics }) => topics)];
  }

  /** Take the report of a tab; `onGone` is called when that tab is gone. */
  update(report: TabReport, onGone: () => void): void {
    const { tab } = report;
    if (!this.#reports.has(tab)) {
      void withLock(tab, this.signal, () => {
        this.#reports.delete(tab);
        onGone();
      });
    }
    this.#reports.set(tab, report);
  }

  /** Keep these topics as long as a tab has not reported. */
  inherit(topics: string[]): void {
    this.#inheritedTopics = topics;
  }

  /** Drop the inherited topics if every tab has reported. Returns true if there were any. */
  async dropInherited(): Promise<boolean> {
    if (await this.isAnySilent()) return false;
    return this.#inheritedTopics.splice(0).length > 0;
  }

  /** True if a living tab has not reported. */
  async isAnySilent(): Promise<boolean> {
    const { held = [] } = await navigator.locks.query();
    return held.some(
      ({ name = "" }) =>
        name.startsWith(`${this.name} `) && name !== this.self && !this.#reports.has(name),
    );
  }
}
