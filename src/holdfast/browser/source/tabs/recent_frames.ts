import type { Frame } from "../frames.js";

const CAPACITY = 256;

/** Two messages differ in it, because no two are published in one microsecond. */
const fingerprint = ({ timestamp, topic, data }: Frame): string =>
  JSON.stringify([timestamp, topic, data]).slice(0, 200);

/** The last frames that this tab received, so that it recognizes those that come again. */
export class RecentFrames {
  #received: [seq: number, fingerprint: string][] = [];
  #repeats = new Set<string>();

  add(seq: number, frame: Frame): void {
    this.#received.push([seq, fingerprint(frame)]);
    if (this.#received.length > CAPACITY) this.#received.shift();
  }

  /** A new leader continues after the frame `seq`: expect the later ones again. */
  rewind(seq: number): void {
    for (const [number, print] of this.#received) if (number > seq) this.#repeats.add(print);
    this.#received = this.#received.filter(([number]) => number <= seq);
  }

  /** This frame will come again in the shared stream. */
  expectRepeat(frame: Frame): void {
    this.#repeats.add(fingerprint(frame));
  }

  /** Returns true, once, for a frame that was expected again. */
  takeRepeat(frame: Frame): boolean {
    return this.#repeats.delete(fingerprint(frame));
  }
}
