import { matches } from "./topics.js";
import type { Message } from "./types.js";

type Handler = (data: any, message: any) => unknown;

/** The handlers of a page, each for a topic, a pattern or everything ("*"). */
export class Handlers {
  #handlers = new Set<{ pattern: string; handler: Handler }>();

  /** Returns a function that removes the handler. */
  add(pattern: string, handler: Handler): () => void {
    const entry = { pattern, handler };
    this.#handlers.add(entry);
    return () => void this.#handlers.delete(entry);
  }

  /** Call all handlers of a message, and wait until each has finished or failed. */
  async call(message: Message, onError: (error: unknown) => void): Promise<void> {
    const run = async (entry: { pattern: string; handler: Handler }): Promise<void> => {
      const { pattern, handler } = entry;
      // A handler that ran before this one may have removed it.
      if (!this.#handlers.has(entry)) return;
      if (pattern !== "*" && !matches(pattern, message.topic)) return;
      try {
        await handler(message.data, message);
      } catch (error) {
        onError(error);
      }
    };
    await Promise.all([...this.#handlers].map(run));
  }
}
