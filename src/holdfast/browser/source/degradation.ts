import { type Frame, isFirstFrame } from "./frames.js";

type State = "none" | "degraded" | "unconfirmed";

/**
 * Reports "degraded" and "recovered" once each, also where the connection changes in between: a
 * new connection of a degraded server says so right after its first frame, and one of a recovered
 * server says nothing.
 */
export class Degradation {
  #state: State = "none";

  /** Returns the event that this frame causes, if any. */
  read(frame: Frame): "degraded" | "recovered" | undefined {
    const before = this.#state;
    if (frame.type === "degraded") {
      this.#state = "degraded";
      return before === "none" ? "degraded" : undefined;
    }
    if (isFirstFrame(frame)) {
      if (before === "degraded") this.#state = "unconfirmed";
      return undefined;
    }
    if (before !== "unconfirmed" && frame.type !== "recovered") return undefined;
    this.#state = "none";
    return "recovered";
  }
}
