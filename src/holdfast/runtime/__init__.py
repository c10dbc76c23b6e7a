"""The runtime: everything that waits or owns tasks. Each module imports only from those below it.

broadcaster    Broadcaster: the object that an application uses
lifecycle      BroadcasterRun: the tasks of one run, from start to stop
handshake      Handshake: how a connection begins and ends
subscriptions  SubscriptionControl: changes the topics of live connections
node           Node: the connections of one process
fanout         FanOut: offers each message of the live feed to the connections
connection     Connection: one stream to one client
inline_send    InlineSender, BatchRenderer: sends from the fan-out without waking a task
periodic       PeriodicSource: publishes a function's result while a topic has a listener
presence       PresenceReporter: reports the present users, and calls the presence hook
options        Options: the options of a Broadcaster, with defaults and checks
timers         ConnectionTimers: the deadlines of all connections, in one task
background     BackgroundTasks: work that outlives the cancellation of its caller
signals        DrainAtSignal: drains at SIGTERM and SIGINT
statistics     Statistics, ConnectionStatistics: snapshots
audit          AuditEvent: security-relevant events, for a hook of the application
clock          Clock: the wall clock and the monotonic clock
"""
