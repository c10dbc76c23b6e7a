import type { Connection } from "../connection.js";
import type { Frame } from "../frames.js";
import type { ResolvedOptions } from "../options.js";
import type { Requests } from "../requests.js";

/** The parts of a stream that its transports read. */
export interface StreamState {
  readonly requests: Requests;
  readonly options: ResolvedOptions;
  /** The event id of the last handled frame. */
  readonly position: string | undefined;
  /** True if the client asks for a window and acknowledges. */
  readonly acknowledges: boolean;
  isAccepted(topic: string): boolean;
}

/** A frame, and how many bytes of the window it occupies. */
export type Received = [frame: Frame, bytes: number];

/** Opens a connection and yields its frames. Throws a Failure where the reason is known. */
export type TransportFunction = (
  stream: StreamState,
  connection: Connection,
) => AsyncGenerator<Received>;

const encoder = new TextEncoder();

/** The length of a text in UTF-8. */
export const byteLength = (text: string): number => encoder.encode(text).length;
