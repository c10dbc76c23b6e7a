/** The entry of client.js: `connect`, and the pure parts that tests/client tests one by one. */

export { backoff } from "./backoff.js";
export { connect } from "./connect.js";
export { EventParser } from "./event_parser.js";
export { actionForClosing, actionForCode, actionForStatus } from "./failure.js";
export { checkTopic, matches } from "./topics.js";
