import type { Options, Transport } from "./types.js";

/** The options of a page, with the defaults filled in. */
export type ResolvedOptions = Options & {
  transports: readonly Transport[];
  firstFrameTimeout: number;
  pollWait: number;
};

export function resolveOptions(options: Options = {}): ResolvedOptions {
  return {
    ...options,
    transports: options.transports ?? ["sse", "websocket", "poll"],
    firstFrameTimeout: options.firstFrameTimeout ?? 5,
    pollWait: options.pollWait ?? 25,
  };
}
