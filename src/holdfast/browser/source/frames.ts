/** The frames of the protocol (docs/protocol.md, section 4), as far as the client reads them. */

import type { Events } from "./types.js";

/** The data of the first frame: the description of a connection by the server. */
export interface ConnectionInfo {
  connectionId: string;
  session: "fresh" | "resumed" | "gap";
  topics: string[];
  rejected: string[];
  heartbeatInterval?: number | null;
  /** Bytes that may be unacknowledged; absent if the client does not acknowledge. */
  window?: number;
  replay?: number;
  gap?: Events["gap"];
}

export type Frame = { id?: string; timestamp: number; topic?: string } & (
  | { type: "message"; topic: string; data: unknown }
  | { type: "connection_established"; data: ConnectionInfo }
  // Not on the wire: the first frame of a further answer to a long poll. See long_poll.ts.
  | { type: "poll_answer"; data: ConnectionInfo }
  | { type: "gap"; data: Events["gap"] }
  | { type: "unsubscribed"; data: { topics: string[] } }
  | { type: "closing"; data: { reason: string; reconnect: boolean } }
  | { type: "heartbeat" | "degraded" | "recovered"; data?: undefined }
);

/** The gap of a client whose position did not reach the server, or whose leading tab is gone. */
export const UNKNOWN_GAP = { cause: "unknown", count: null };

/** True for the first frame of a connection, and of each answer to a long poll. */
export function isFirstFrame(frame: Frame): frame is Frame & { data: ConnectionInfo } {
  return frame.type === "connection_established" || frame.type === "poll_answer";
}
