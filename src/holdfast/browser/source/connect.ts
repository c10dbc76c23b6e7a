import { LiveClient } from "./live.js";
import type { Live, Options } from "./types.js";

export type { Events, Live, Message, Options, Status, Transport } from "./types.js";

/** Connect to the LiveApp that is mounted at `url`, relative to the page. */
export function connect<Topics = Record<string, any>>(
  url: string | URL,
  options?: Options,
): Live<Topics> {
  return new LiveClient(url, options);
}
