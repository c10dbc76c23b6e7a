// Web Locks for tabs that are worker threads: node has none. One manager in the main thread, and
// in each tab what navigator.locks has of it: request() with a signal, and query().

export class LockManager {
  #held = new Map(); // name -> tab
  #queue = []; // { tab, id, name, grant }

  /** Serve one tab's requests. Its end, however it comes, gives back what it held. */
  serve(tab, worker) {
    worker.on("message", ({ lock, id, name }) => {
      if (lock === "request") this.#queue.push({ tab, id, name, grant: () => worker.postMessage({ granted: id }) });
      if (lock === "abort") this.#queue = this.#queue.filter((each) => each.tab !== tab || each.id !== id);
      if (lock === "release") this.#held.delete(name);
      if (lock === "query") worker.postMessage({ queried: id, held: [...this.#held.keys()].map((each) => ({ name: each })) });
      this.#grant();
    });
    worker.on("exit", () => {
      this.#queue = this.#queue.filter((each) => each.tab !== tab);
      for (const [name, holder] of this.#held) if (holder === tab) this.#held.delete(name);
      this.#grant();
    });
  }

  /** Hold a lock for ever, like a frozen tab. */
  hold(name) {
    this.#held.set(name, "frozen");
  }

  #grant() {
    this.#queue = this.#queue.filter(({ tab, name, grant }) => {
      if (this.#held.has(name)) return true;
      this.#held.set(name, tab);
      grant();
      return false;
    });
  }
}

export function locksOf(port) {
  const waiting = new Map();
  let last = 0;
  port.on("message", ({ granted, queried, held }) => waiting.get(granted ?? queried)?.({ held }));
  const ask = (lock, name, id = (last += 1)) => {
    port.postMessage({ lock, id, name });
    return id;
  };
  return {
    request: (name, { signal }, then) =>
      new Promise((done, fail) => {
        const id = ask("request", name);
        const abort = () => {
          ask("abort", name, id);
          fail(signal.reason);
        };
        signal.addEventListener("abort", abort);
        waiting.set(id, async () => {
          signal.removeEventListener("abort", abort);
          done(await then({ name }));
          ask("release", name);
        });
      }),
    query: () => new Promise((done) => waiting.set(ask("query"), done)),
  };
}
