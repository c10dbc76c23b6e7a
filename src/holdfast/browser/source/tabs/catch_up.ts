import { type Frame, isFirstFrame, UNKNOWN_GAP } from "../frames.js";
import type { ResolvedOptions } from "../options.js";
import type { Stream, StreamListener } from "../stream.js";
import type { RecentFrames } from "./recent_frames.js";

/** A gap of unknown extent, as a frame. */
export const LOST: Frame = { type: "gap", timestamp: 0, data: { ...UNKNOWN_GAP, topics: [] } };

// While more is published all the time, a poll never comes back empty. An answer of this size had
// all that there was, because the server cuts larger ones.
const WHOLE_ANSWER = 1e5;

/**
 * Fetch what was published since the own position of a tab, by polls that do not wait. A position
 * that the server refuses is a gap.
 */
export function catchUp(
  StreamClass: typeof Stream,
  base: string,
  options: ResolvedOptions,
  position: string,
  listener: StreamListener,
  recent: RecentFrames,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((done) => {
    let expected = Infinity; // messages still to come with the last answer
    let bytes = 0;
    const pollOptions: ResolvedOptions = { ...options, transports: ["poll"], pollWait: 0 };
    const stream = new StreamClass(base, pollOptions, position, {
      topics: () => listener.topics(),
      onTopics() {},
      async onStatus({ status, reason }) {
        if (status !== "closed") return;
        if (reason) await listener.onFrame(LOST);
        done();
      },
      async onFrame(frame) {
        recent.expectRepeat(frame);
        await listener.onFrame(frame);
        bytes += JSON.stringify(frame).length;
        if (frame.topic) expected -= 1;
        if (!isFirstFrame(frame)) return;
        const { replay = 0 } = frame.data;
        if (!replay || (expected <= 0 && bytes < WHOLE_ANSWER)) stream.close();
        expected = replay;
        bytes = 0;
      },
    });
    signal.addEventListener("abort", () => stream.close());
    void stream.run();
  });
}
