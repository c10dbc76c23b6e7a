import type { Connection } from "../connection.js";
import { type Action, actionForCode, Failure } from "../failure.js";
import type { Requests } from "../requests.js";
import { byteLength, type Received, type StreamState } from "./transport.js";

/** The code that a browser reports for every handshake that failed. */
const ABNORMAL_CLOSURE = 1006;

export async function* websocket(
  stream: StreamState,
  connection: Connection,
): AsyncGenerator<Received> {
  const { position } = stream;
  // The server begins a fresh session on each socket, and the resumed one after a resume message.
  // Frames before that belong to the fresh session, which this client does not use.
  const awaited = position ? 2 : 1;
  let begun = 0;
  const socket = openSocket(stream.requests);
  connection.send = (message) => socket.send(JSON.stringify(message));
  socket.onopen = () => position && connection.send!({ type: "resume", id: position });
  const messages = readMessages(socket, connection.signal, (code) =>
    !begun && code === ABNORMAL_CLOSURE ? "fall_back" : actionForCode(code),
  );
  try {
    for (;;) {
      const text = (await messages.read()).value!;
      const frame = JSON.parse(text);
      if (frame.type === "connection_established") begun += 1;
      if (begun >= awaited) yield [frame, byteLength(text)];
    }
  } finally {
    socket.close();
  }
}

function openSocket(requests: Requests): WebSocket {
  const { bearer } = requests.credentials;
  const url = requests.url("websocket", { ack: true }).replace("http", "ws");
  // A page can set no headers on a WebSocket: the token travels as a subprotocol.
  return new WebSocket(url, bearer ? ["holdfast", `bearer.${encodeURIComponent(bearer)}`] : []);
}

/** A reader of the messages of a socket, which fails when it closes or `signal` is aborted. */
function readMessages(
  socket: WebSocket,
  signal: AbortSignal,
  actionFor: (code: number) => Action,
): ReadableStreamDefaultReader<string> {
  const messages = new ReadableStream<string>({
    start(queue) {
      socket.onmessage = ({ data }) => signal.aborted || queue.enqueue(data);
      socket.onclose = ({ code, reason }) =>
        queue.error(new Failure(reason || `code ${code}`, actionFor(code)));
      signal.addEventListener("abort", () => queue.error(signal.reason));
    },
  });
  return messages.getReader();
}
