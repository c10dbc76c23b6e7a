// Never run: uses of the browser client for TypeScript. tests/test_client_types.py checks them.

import { connect, type Events } from "../../src/holdfast/browser/client.js";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Equal<A, B>): void => undefined;

interface Topics {
  orders: { id: number; state: string };
  "prices.eu": number;
}

const live = connect<Topics>("/live", {
  topics: ["orders", "prices.*"],
  token: async () => "a token",
  transports: ["sse", "websocket", "poll"],
  position: "an event id",
  persist: "a key",
  shared: true,
  firstFrameTimeout: 5,
  credentials: "include",
});

const off = live.on("orders", (data, message) => {
  same<typeof data, Topics["orders"]>(true);
  same<typeof message.data, Topics["orders"]>(true);
  same<typeof message.timestamp, number>(true);
  same<typeof message.id, string>(true);
  same<typeof message.key, string | undefined>(true);
  same<typeof message.priority, "critical" | "high" | "normal" | "low">(true);
});
same<ReturnType<typeof off>, void>(true);
live.on("orders", async (data) => void (await fetch(`/orders/${data.id}`)));
live.on("prices.eu", (data) => same<typeof data, number>(true));
// The data of a pattern may have any type, because only the message names the topic.
live.on("prices.*", (data, message) => [data, message.topic.length]);
live.on("*", (data, message) => [data, message.topic.length]);
// @ts-expect-error an order has no price
live.on("orders", (data) => data.price);

live.addEventListener("status", ({ detail }) => {
  same<typeof detail.status, "connecting" | "open" | "waiting" | "closed">(true);
  same<typeof detail.retryIn, number | undefined>(true);
  same<typeof detail.reason, string | undefined>(true);
});
live.addEventListener("gap", ({ detail }) => {
  same<typeof detail.count, number | null>(true);
  const cause: string = detail.cause;
  const topics: string[] | undefined = detail.topics;
  return [cause, topics];
});
live.addEventListener("resumed", ({ detail }) => same<typeof detail.replay, number>(true));
live.addEventListener("rejected", ({ detail }) => same<typeof detail.topics, string[]>(true));
live.addEventListener("error", ({ detail }) => [detail.error, detail.message.topic]);
// @ts-expect-error there is no such member
live.addEventListener("gap", ({ detail }) => detail.status);

live.addEventListener("recovered", ({ detail }) => same<typeof detail, null>(true));
const onGap = ({ detail }: CustomEvent<Events["gap"]>): void => same<typeof detail.cause, string>(true);
live.addEventListener("gap", onGap, { once: true });
live.removeEventListener("gap", onGap);
// @ts-expect-error a listener of gaps is not one of statuses
live.removeEventListener("status", onGap);

async function commands(): Promise<void> {
  const answer = await live.subscribe("a", "b");
  same<typeof answer.accepted, string[]>(true);
  same<typeof answer.rejected, string[]>(true);
  await live.unsubscribe("a");
}

same<typeof live.status, "connecting" | "open" | "waiting" | "closed">(true);
same<typeof live.position, string | undefined>(true);
same<typeof live.connectionId, string | undefined>(true);
same<typeof live.transport, "sse" | "websocket" | "poll" | undefined>(true);
const topics: readonly string[] = live.topics;
live.close();

// Without types, data may be anything; without options, the topics are those of the position.
connect(new URL("https://example.test/live")).on("orders", (data) => data);
connect("/live", { token: () => "a token" });
connect("/live", { topics: new Set(["orders"]) });
connect("/live", { topics: ["orders"] as const });
// @ts-expect-error each letter of a string would be a topic
connect("/live", { topics: "orders" });
// @ts-expect-error there is no such transport
connect("/live", { transports: ["carrier pigeon"] });
// @ts-expect-error times are numbers
connect("/live", { firstFrameTimeout: "5s" });
// @ts-expect-error there is no such option
connect("/live", { topicz: [] });

export { commands, topics };
