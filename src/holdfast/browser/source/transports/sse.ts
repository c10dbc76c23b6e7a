import type { Connection } from "../connection.js";
import { EventParser } from "../event_parser.js";
import { byteLength, type Received, type StreamState } from "./transport.js";

export async function* sse(stream: StreamState, connection: Connection): AsyncGenerator<Received> {
  const response = await stream.requests.open("stream", "text/event-stream", {
    signal: connection.signal,
    position: stream.position,
    query: stream.acknowledges ? { ack: true } : {},
  });
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = parser.feed(decoder.decode(value, { stream: true }));
    connection.retryAfter = parser.retry;
    for (const { data, id } of events) yield [{ ...JSON.parse(data), id }, byteLength(data + id)];
  }
}
