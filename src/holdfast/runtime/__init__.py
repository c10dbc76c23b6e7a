"""The runtime: what waits, and what owns tasks. Imports the core, never an edge.

broadcaster  Broadcaster: what an application calls
lifecycle    Lifecycle: owns the tasks, from start to stop
node         Node: the connections of this process, and the fan-out to them
admission    how a connection begins: token, position, rights, first frame
outbox       Outbox: the one place where a task waits for messages
upkeep       heartbeats, deadlines and sweeps, from one task
periodic     sources that run only while somebody listens
broker       Broker: the seam between one process and many
memory       MemoryBroker: the default, for one process
subscribing  changing the topics of a live connection
publishing   what publish takes, checked and encoded
options      the options of a Broadcaster
frames       the JSON frames that are no messages
audit        what is worth an entry in an audit log
statistics   snapshots
"""
