import { now } from "../clock.js";
import type { Connection } from "../connection.js";
import { Failure } from "../failure.js";
import type { ConnectionInfo, Frame } from "../frames.js";
import { PREFERENCE_AGE } from "../transport_order.js";
import type { Received, StreamState } from "./transport.js";

/**
 * Asks again and again. To the page these answers are one connection: the first frame of a further
 * answer becomes a `poll_answer`, unless it says something new about the session.
 */
export async function* longPoll(
  stream: StreamState,
  connection: Connection,
): AsyncGenerator<Received> {
  // The first answer comes at once, because it shows whether polling works.
  let wait = 0;
  for (const end = now() + PREFERENCE_AGE; now() < end; ) {
    const response = await stream.requests.open("poll", "application/json", {
      signal: connection.signal,
      position: stream.position,
      query: { wait },
    });
    const { frames }: { frames: Frame[] } = await response.json();
    for (const frame of frames) {
      if (frame.type !== "connection_established") {
        yield [frame, 0];
        continue;
      }
      const heartbeatInterval = frame.data.heartbeatInterval ?? stream.options.pollWait;
      wait = Math.min(stream.options.pollWait, heartbeatInterval);
      const isFurther = connection.info && isSameSession(frame.data, stream);
      const type = isFurther ? "poll_answer" : frame.type;
      yield [{ ...frame, type, data: { ...frame.data, heartbeatInterval } }, 0];
    }
  }
  // The preferred transport gets another chance.
  throw new Failure("polled", "reconnect");
}

function isSameSession({ session, rejected }: ConnectionInfo, stream: StreamState): boolean {
  return session === "resumed" && !rejected.some((name) => stream.isAccepted(name));
}
