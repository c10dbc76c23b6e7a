// Checks that each number of a server is delivered once, or was reported lost.

export class Ledger {
  delivered = 0;
  replayed = 0;
  duplicated = 0;
  declared = 0; // missing, and a gap reported it
  silent = 0; // missing without a report: this count must stay at zero
  last = null;
  #gap = false;

  /** A gap was reported: it covers the numbers from here to the next one. */
  reportGap() {
    this.#gap = true;
  }

  /** The server began to count anew; the numbers in between cannot be counted. */
  restart() {
    this.last = null;
    this.#gap = false;
  }

  /** Record the next number. Returns {kind, missing, missingKind}; `missing` were skipped. */
  take(n, isReplay) {
    if (this.last !== null && n <= this.last) {
      this.duplicated += 1;
      return { kind: 'twice', missing: 0, missingKind: null };
    }
    const missing = this.last === null ? 0 : n - this.last - 1;
    const missingKind = this.#gap ? 'lost' : 'silent';
    if (this.#gap) this.declared += missing;
    else this.silent += missing;
    this.#gap = false;
    this.last = n;
    this.delivered += 1;
    if (isReplay) this.replayed += 1;
    return { kind: isReplay ? 'replayed' : 'live', missing, missingKind };
  }
}
