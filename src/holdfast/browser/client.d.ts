// The types of client.js; docs/client.md explains them. All times are in seconds.

export type Transport = "sse" | "websocket" | "poll";
export type Status = "connecting" | "open" | "waiting" | "closed";

export interface Message<T = unknown> {
  topic: string;
  data: T;
  priority: "critical" | "high" | "normal" | "low";
  /** When it was published: seconds since the Unix epoch. */
  timestamp: number;
  key?: string;
  /** The event id: the position after this message. */
  id: string;
}

export interface Options {
  /** Topics and patterns, an array or a set, not one string; left out: those of `position`. */
  topics?: Iterable<string> & object;
  /** A bearer token, asked for again when the server refuses it. Left out: cookies. */
  token?: () => string | Promise<string>;
  /** In this order; default: all three. */
  transports?: readonly Transport[];
  /** Where to begin: an event id that the application rendered into the page. */
  position?: string;
  /** Keep the position across a reload, in sessionStorage, under this name. */
  persist?: string;
  /** One stream for all tabs; a string keeps apart those with another one. */
  shared?: boolean | string;
  /** A transport whose first frame is later gives way to the next; default 5. */
  firstFrameTimeout?: number;
  /** How long a long poll waits at most; default 25, which is also the server's limit. */
  pollWait?: number;
  /** Of fetch; "include" for a foreign origin with cookies. */
  credentials?: RequestCredentials;
}

export interface Events {
  status: {
    status: Status;
    transport?: Transport;
    connectionId?: string;
    /** Seconds until the next try, if "waiting". */
    retryIn?: number;
    /** Why it is "waiting" or "closed". */
    reason?: string;
  };
  /** Messages are missing. `topics` and `priority` are those of a gap in a lane. */
  gap: { cause: string; count: number | null; topics?: string[]; priority?: string };
  /** Back, and nothing is missing: `replay` messages follow. */
  resumed: { replay: number };
  /** What the rights of now forbid. */
  rejected: { topics: string[] };
  /** What is published cannot reach the server for now; nothing is lost by that. */
  degraded: null;
  /** It can again. */
  recovered: null;
  /** A handler threw; unless it is prevented, the console shows it. */
  error: { error: unknown; message: Message };
}

export interface Live<Topics = Record<string, any>> extends EventTarget {
  readonly status: Status;
  readonly transport: Transport | undefined;
  readonly connectionId: string | undefined;
  /** The id of the last frame that was handled. */
  readonly position: string | undefined;
  /** What is asked for. */
  readonly topics: string[];

  /** Call the handler for each message of a topic, of a pattern, or of all ("*"). */
  on<Topic extends string>(
    topic: Topic | (keyof Topics & string),
    handler: (
      data: Topic extends keyof Topics ? Topics[Topic] : any,
      message: Message<Topic extends keyof Topics ? Topics[Topic] : any>,
    ) => unknown,
  ): () => void;

  subscribe(...topics: string[]): Promise<{ accepted: string[]; rejected: string[] }>;
  unsubscribe(...topics: string[]): Promise<{ removed: string[] }>;
  close(): void;

  addEventListener<Type extends keyof Events>(
    type: Type,
    listener: (event: CustomEvent<Events[Type]>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: never,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof Events>(
    type: Type,
    listener: (event: CustomEvent<Events[Type]>) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: never,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** Connect to the LiveApp that is mounted at `url`, relative to the page. */
export function connect<Topics = Record<string, any>>(
  url: string | URL,
  options?: Options,
): Live<Topics>;
