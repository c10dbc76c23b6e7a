/** Names of topics and patterns, by the rules of the server (docs/protocol.md, section 1). */

const TOPIC_OR_PATTERN =
  /^(?!\$)(?=.{1,200}$)(([^.,*\p{C}\p{Z}]+|\*)\.){0,7}([^.,*\p{C}\p{Z}]+|\*\*?)$/u;

export function checkTopic(name: string): void {
  if (!TOPIC_OR_PATTERN.test(name)) throw new TypeError(`not a topic: ${name}`);
}

/** True if a topic or pattern that the client subscribes to includes `topic`. */
export function matches(pattern: string, topic: string): boolean {
  if (pattern === topic) return true;
  if (topic.startsWith("$")) return false;
  const wanted = pattern.split(".");
  const segments = topic.split(".");
  if (wanted.at(-1) === "**") {
    if (segments.length < wanted.length) return false;
    wanted.pop();
  } else if (segments.length !== wanted.length) {
    return false;
  }
  return wanted.every((segment, index) => segment === "*" || segment === segments[index]);
}
