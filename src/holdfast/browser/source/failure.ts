/**
 * The next step of the client after a connection has ended:
 * "retry" waits and then connects again, "reconnect" connects at once, "fall_back" tries the next
 * transport, "renew" gets new credentials, and "stop" closes the client.
 */
export type Action = "retry" | "reconnect" | "fall_back" | "renew" | "stop";

/** Why a connection ended, and what to do next. */
export class Failure extends Error {
  constructor(
    reason: string,
    readonly action: Action = "retry",
    /** The shortest pause that the server asked for, in seconds. */
    readonly retryAfter = 0,
  ) {
    super(reason);
  }
}

/** The action after a response with this HTTP status. */
export function actionForStatus(status: number): Action {
  if (status === 401) return "renew";
  if ([204, 400, 403].includes(status)) return "stop";
  // Paths and methods that a proxy or the application does not let through.
  if ([404, 405, 406, 501].includes(status)) return "fall_back";
  return "retry";
}

/** The action after a WebSocket was closed with this code. */
export function actionForCode(code: number): Action {
  if (code === 4401) return "renew";
  return code >= 4400 && code < 4500 ? "stop" : "retry";
}

/** The action after a closing frame. Its reason decides, because an event stream has no code. */
export function actionForClosing(reason: string, reconnect: boolean): Action {
  if (["unauthorized", "credentials_expired"].includes(reason)) return "renew";
  return reconnect ? "retry" : "stop";
}
