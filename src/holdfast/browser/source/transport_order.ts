import { now } from "./clock.js";
import { load, save } from "./storage.js";
import type { Transport } from "./types.js";

/** The transport that worked is tried first for this time, in seconds. */
export const PREFERENCE_AGE = 600;

/**
 * Decides which transport is tried next: the one that worked in the last ten minutes, also before
 * a reload, then the others in the order of the page. A rejected one is left out until one works
 * or all have been rejected.
 */
export class TransportOrder {
  #key: string;
  #preferred: Transport | undefined;
  #preferredUntil = 0;
  #rejected = new Set<Transport>();

  constructor(
    base: string,
    private readonly transports: readonly Transport[],
  ) {
    this.#key = `${base} ${transports}`;
    const [preferred, until] = (load(this.#key) ?? "").split(" ");
    if (!until) return;
    this.#preferred = preferred as Transport;
    this.#preferredUntil = Number(until);
  }

  next(): Transport {
    return this.#candidates()[0]!;
  }

  /** Leave this transport out. Returns false, and begins anew, if no other one is left. */
  reject(transport: Transport): boolean {
    this.#rejected.add(transport);
    if (this.#candidates().length) return true;
    this.reset();
    return false;
  }

  reset(): void {
    this.#rejected.clear();
  }

  /** Prefer this transport from now on, because its first frame has arrived. */
  accept(transport: Transport): void {
    this.reset();
    if (this.#preferred === transport && this.#preferredUntil > now()) return;
    this.#preferred = transport;
    this.#preferredUntil = now() + PREFERENCE_AGE;
    save(this.#key, `${transport} ${this.#preferredUntil}`);
  }

  #candidates(): Transport[] {
    const preferred = this.#preferredUntil > now() ? [this.#preferred!] : [];
    return [...preferred, ...this.transports].filter((each) => !this.#rejected.has(each));
  }
}
