import type { Frame } from "../frames.js";
import type { Events } from "../types.js";

/** The state of a tab, posted for the leader. */
export interface TabReport {
  type: "report";
  tab: string;
  topics: string[];
  /** The topics that the tab subscribes to and has no decision for. */
  undecided?: string[];
  /** The number of the last shared frame that the tab received; -1 before it joined. */
  seq: number;
  /** The event id of that frame. */
  position: string | undefined;
}

/** The start of a leader: its first frame has the number `seq` + 1 and follows `position`. */
export interface Term {
  type: "term";
  /** The name of the tab that leads. */
  term: string;
  seq: number;
  position: string | undefined;
}

export interface SharedFrame {
  type: "frame";
  term: string | undefined;
  seq: number;
  frame: Frame;
}

/** The state of the leader's stream. */
export interface StreamReport {
  type: "stream";
  term: string | undefined;
  seq: number;
  position: string | undefined;
  status: Events["status"] | undefined;
  /** The decided topics of all tabs; undefined before the first connection. */
  decisions: [topic: string, accepted: boolean][] | undefined;
}

/** "query" makes every tab report; "wake" wakes the leader's stream. */
export type ChannelMessage =
  | { type: "query" }
  | { type: "wake" }
  | TabReport
  | Term
  | SharedFrame
  | StreamReport;
