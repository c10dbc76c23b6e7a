import type { Connection } from "./connection.js";
import type { Credentials } from "./credentials.js";
import { actionForStatus, Failure } from "./failure.js";
import type { ResolvedOptions } from "./options.js";

const COMMAND_TIMEOUT = 10;

type Query = Record<string, string | number | boolean>;

interface OpenOptions {
  signal: AbortSignal;
  position: string | undefined;
  query: Query;
}

/** The answer to a command; without a status if none arrived. */
export interface CommandAnswer {
  status?: number;
  /** The JSON body; undefined if the body is not JSON, as the page of a proxy. */
  data?: { topics?: string[] };
}

/** Makes the requests of one stream: its URLs, its credentials, its commands. */
export class Requests {
  constructor(
    readonly base: string,
    readonly credentials: Credentials,
    private readonly options: ResolvedOptions,
    private readonly topics: () => Iterable<string>,
  ) {}

  /** The URL of an endpoint that connects, with the topics. */
  url(path: string, query: Query = {}): string {
    const url = new URL(path, this.base);
    const topics = [...this.topics()];
    if (topics.length) url.searchParams.set("topics", `${topics}`);
    for (const name in query) url.searchParams.set(name, `${query[name]}`);
    return url.href;
  }

  /** Connect by GET. Throws a Failure unless the response has status 200 and this type. */
  async open(
    path: string,
    contentType: string,
    { signal, position, query }: OpenOptions,
  ): Promise<Response> {
    const headers: Record<string, string> = { accept: contentType };
    if (position) headers["last-event-id"] = position;
    const response = await this.#fetch(this.url(path, query), { signal }, headers);
    if (response.status !== 200) throw await refusal(response);
    if (!response.headers.get("content-type")?.startsWith(contentType)) {
      throw new Failure(`not ${contentType}`, "fall_back");
    }
    return response;
  }

  /** Post a command for a connection. A refused token ends the connection. */
  async post(connection: Connection, path: string, members: object): Promise<CommandAnswer> {
    const { connectionId } = connection.info!;
    const init = {
      method: "POST",
      body: JSON.stringify({ connectionId, ...members }),
      signal: AbortSignal.timeout(COMMAND_TIMEOUT * 1000),
    };
    try {
      const response = await this.#fetch(new URL(path, this.base), init);
      if (response.status === 401) connection.fail("unauthorized", "renew");
      return { status: response.status, data: await response.json().catch(() => undefined) };
    } catch {
      return {};
    }
  }

  #fetch(
    url: string | URL,
    init: RequestInit,
    headers: Record<string, string> = {},
  ): Promise<Response> {
    const { bearer } = this.credentials;
    if (bearer) headers.authorization = `Bearer ${bearer}`;
    const { credentials } = this.options;
    return fetch(url, { ...init, headers, cache: "no-store", ...(credentials && { credentials }) });
  }
}

async function refusal(response: Response): Promise<Failure> {
  const { status, headers } = response;
  const body = await response.json().catch(() => undefined);
  const reason = body?.error?.code ?? `status ${status}`;
  return new Failure(reason, actionForStatus(status), Number(headers.get("retry-after")) || 0);
}
