// Checks off numbers that a server counts up: each one is delivered once, or was declared lost.

export class Ledger {
  delivered = 0;
  replayed = 0;
  duplicated = 0;
  declared = 0; // missing, and a gap announced it
  silent = 0; // missing without a word: the one that must stay at zero
  last = null;
  #announced = false;

  /** A gap was announced: numbers that are missing from here to the next one are declared. */
  announce() {
    this.#announced = true;
  }

  /** The server began to count anew; what lies in between cannot be counted. */
  restart() {
    this.last = null;
    this.#announced = false;
  }

  /** Take the next number. Returns {kind, from, missing}: the kind, and how many it skipped. */
  take(n, isReplay) {
    if (this.last !== null && n <= this.last) {
      this.duplicated += 1;
      return { kind: 'twice', missing: 0, missingKind: null };
    }
    const missing = this.last === null ? 0 : n - this.last - 1;
    const missingKind = this.#announced ? 'lost' : 'silent';
    if (this.#announced) this.declared += missing;
    else this.silent += missing;
    this.#announced = false;
    this.last = n;
    this.delivered += 1;
    if (isReplay) this.replayed += 1;
    return { kind: isReplay ? 'replayed' : 'live', missing, missingKind };
  }
}
