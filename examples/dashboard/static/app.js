// Wires the stream to the page.

import { LiveStream } from './stream.js';
import { Ledger } from './ledger.js';
import { Tape } from './tape.js';
import { Host } from './host.js';
import { Figures, Processes } from './tables.js';
import { Alerts } from './alerts.js';
import { EventLog } from './log.js';
import { StallPanel, cutPanel } from './breakit.js';
import { count, duration, plural, size } from './format.js';

const TOPICS = ['dashboard', 'users', 'ticks', 'alerts', 'processes'];
const NEWS_MS = 6000; // the state shows a resume or a gap for this time
const STATES = {
  connecting: 'Connecting',
  live: 'Live',
  reconnecting: 'Reconnecting',
  signedout: 'Signed out',
  stopped: 'Ended by the server',
};
const CAUSES = {
  trimmed: 'older than what the server keeps',
  restart: 'the server restarted',
  failover: 'another server took over',
  unknown: 'the server cannot tell why',
};

const REASONS = {
  requested: 'as requested',
  drain: 'it is shutting down',
  idle: 'this page gave no sign of life',
  slow: 'this page reads too slowly',
  credentials_expired: 'the login has expired',
  replaced: 'too many pages of this user are open',
};

const $ = (id) => document.getElementById(id);
const log = new EventLog($('log'));
const ledger = new Ledger();
const tape = new Tape($('tape'));
const host = new Host();
const processes = new Processes($('processes'));
const figures = new Figures($('own'), {
  connections: ['Open connections', count],
  resumed: ['Connections resumed', count],
  published: ['Messages published', count],
  frames_sent: ['Frames sent', count],
  bytes_sent: ['Bytes sent', size],
  conflated: ['Superseded while waiting', count],
  evicted: ['Evicted, to be read again', count],
  gaps: ['Gaps reported', count],
  uptime: ['Running for', duration],
});
const alerts = new Alerts($('alerts'), $('toasts'));
const counters = [...document.querySelectorAll('[data-count]')];
let establishedAt = 0;
let newsTimer = 0;

const stream = new LiveStream('/live', TOPICS, {
  state: showState,
  session: startSession,
  message: (frame) => TAKE[frame.topic]?.(frame),
  gap: reportGap,
  closing({ reason }) {
    if (reason in REASONS) log.add(`The server ended the stream: ${REASONS[reason]}`, 'warn');
  },
});

const TAKE = {
  ticks: takeNumber,
  dashboard: ({ data, timestamp }) => host.show(data, timestamp),
  processes: ({ data }) => processes.show(data),
  users: ({ data }) => figures.show(data),
  alerts: ({ data, timestamp }) => alerts.show(data, timestamp),
};

function takeNumber({ data: { n }, timestamp }) {
  // A number is replayed if it is older than the connection; both times are the server's.
  const { kind, missing, missingKind } = ledger.take(n, timestamp < establishedAt);
  for (let skipped = n - missing; skipped < n; skipped += 1) tape.mark(skipped, missingKind);
  tape.mark(n, kind);
  if (missing) {
    const range = `${count(n - missing)} to ${count(n - 1)}`;
    const how = missingKind === 'lost' ? 'as reported' : 'and not reported';
    log.add(`${plural(missing, 'number')} missing, ${range}, ${how}`, 'bad');
  }
  if (kind === 'twice') log.add(`Number ${count(n)} came twice`, 'bad');
  for (const cell of counters) {
    const value = ledger[cell.dataset.count];
    cell.textContent = count(value);
    cell.toggleAttribute('data-bad', value > 0 && /silent|declared/.test(cell.dataset.count));
  }
}

function startSession({ session, replay, gap }, timestamp) {
  establishedAt = session === 'fresh' ? 0 : timestamp;
  if (session === 'fresh') log.add('Connected');
  else if (session === 'resumed') {
    log.add(`Resumed, ${count(replay)} replayed`, 'good');
    showNews(`Resumed ${count(replay)}`, 'resumed');
  } else {
    log.add(`Reconnected with a gap: ${describe(gap)}`, 'bad');
    showNews(gap.count ? `Gap of ${count(gap.count)}` : 'Gap', 'gap');
    if (gap.cause === 'trimmed') return; // a gap frame follows in its lane
    if (gap.cause === 'restart') {
      ledger.restart();
      tape.clear();
    } else ledger.reportGap();
  }
}

function reportGap(gap) {
  if (gap.topics.includes('ticks')) ledger.reportGap();
  log.add(`Gap in the ${gap.priority} lane: ${describe(gap)}`, 'bad');
}

function describe({ cause, count: lost }) {
  return `${lost == null ? 'an unknown number' : plural(lost, 'message')}, ${CAUSES[cause]}`;
}

function showState(state, seconds) {
  clearTimeout(newsTimer);
  const pill = $('state');
  if (state === 'reconnecting' && pill.dataset.state === 'live') log.add('Connection lost', 'warn');
  if (state === 'signedout') {
    log.add('The login has expired; log in again', 'bad');
    $('logout').textContent = 'Log in'; // /logout redirects to the login
  }
  pill.dataset.state = state;
  delete pill.dataset.news;
  $('state-text').textContent = state === 'away' ? `Away for ${seconds} s` : STATES[state];
  document.title = `${$('state-text').textContent} · holdfast dashboard`;
  $('cut').disabled = state !== 'live';
  tape.setLive(!['away', 'reconnecting'].includes(state));
}

function showNews(text, news) {
  $('state').dataset.news = news;
  $('state-text').textContent = text;
  newsTimer = setTimeout(() => showState('live'), NEWS_MS);
}

cutPanel(stream, log);
new StallPanel(log);
stream.open();
