// holdfast: built from source/connect.ts; see docs/client.md.
/** The public types of the browser client; docs/client.md explains them. Times are in seconds. */
type Transport = "sse" | "websocket" | "poll";
type Status = "connecting" | "open" | "waiting" | "closed";
interface Message<T = unknown> {
    topic: string;
    data: T;
    priority: "critical" | "high" | "normal" | "low";
    /** When the message was published: seconds since the Unix epoch. */
    timestamp: number;
    key?: string;
    /** The event id: the position after this message. */
    id: string;
}
interface Options {
    /** Topics and patterns: an array or a set, not one string. Default: the topics of `position`. */
    topics?: Iterable<string> & object;
    /** Returns a bearer token; called again when the server refuses it. Default: cookies. */
    token?: () => string | Promise<string>;
    /** The transports to try, in this order. Default: all three. */
    transports?: readonly Transport[];
    /** The event id to begin at, rendered into the page by the application. */
    position?: string;
    /** Keep the position across a reload, in sessionStorage, under this name. */
    persist?: string;
    /** Share one stream between all tabs. Tabs with different strings do not share. */
    shared?: boolean | string;
    /** The time in which a transport must deliver its first frame. Default: 5. */
    firstFrameTimeout?: number;
    /** The longest wait of a long poll. Default: 25, which is also the server's limit. */
    pollWait?: number;
    /** The `credentials` of fetch: "include" sends cookies to a foreign origin. */
    credentials?: RequestCredentials;
}
interface Events {
    status: {
        status: Status;
        transport?: Transport;
        connectionId?: string;
        /** Seconds until the next attempt, if the status is "waiting". */
        retryIn?: number;
        /** Why the status is "waiting" or "closed". */
        reason?: string;
    };
    /** Messages are missing. A gap within one lane has `topics` and `priority`. */
    gap: {
        cause: string;
        count: number | null;
        topics?: string[];
        priority?: string;
    };
    /** Reconnected with nothing missing; `replay` messages follow. */
    resumed: {
        replay: number;
    };
    /** Topics that the user may not read, or may no longer read. */
    rejected: {
        topics: string[];
    };
    /** Published messages cannot reach the server at present. This alone loses no message. */
    degraded: null;
    /** Published messages reach the server again. */
    recovered: null;
    /** A handler threw an error. The console shows it unless the event is prevented. */
    error: {
        error: unknown;
        message: Message;
    };
}
/** The client of one page. `Topics` maps the names of topics to the types of their data. */
interface Live<Topics = Record<string, any>> extends EventTarget {
    readonly status: Status;
    readonly transport: Transport | undefined;
    readonly connectionId: string | undefined;
    /** The event id of the last frame that all handlers have finished. */
    readonly position: string | undefined;
    /** The topics and patterns that the client subscribes to. */
    readonly topics: string[];
    /**
     * Call the handler for each message of a topic, of a pattern, or of all topics ("*").
     * Returns a function that removes the handler.
     */
    on<Topic extends string>(topic: Topic | (keyof Topics & string), handler: (data: Topic extends keyof Topics ? Topics[Topic] : any, message: Message<Topic extends keyof Topics ? Topics[Topic] : any>) => unknown): () => void;
    /** Subscribe to topics. Resolves when the server has decided on each. */
    subscribe(...topics: string[]): Promise<{
        accepted: string[];
        rejected: string[];
    }>;
    /** Unsubscribe from topics. Takes effect in the page at once. */
    unsubscribe(...topics: string[]): Promise<{
        removed: string[];
    }>;
    /** Close the connection and do not reconnect. */
    close(): void;
    addEventListener<Type extends keyof Events>(type: Type, listener: (event: CustomEvent<Events[Type]>) => void, options?: boolean | AddEventListenerOptions): void;
    addEventListener(type: never, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
    removeEventListener<Type extends keyof Events>(type: Type, listener: (event: CustomEvent<Events[Type]>) => void, options?: boolean | EventListenerOptions): void;
    removeEventListener(type: never, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}

/** Connect to the LiveApp that is mounted at `url`, relative to the page. */
declare function connect<Topics = Record<string, any>>(url: string | URL, options?: Options): Live<Topics>;

export { connect };
export type { Events, Live, Message, Options, Status, Transport };
