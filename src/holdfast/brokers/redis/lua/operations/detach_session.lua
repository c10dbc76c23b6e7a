-- detach_session: end the hold of a connection on a session, if it still has it.
--
-- KEYS    those of sessions.lua
-- ARGV    session                     its name
--         connection
--         data, position, long_poll   see sessions.lua; left out: the session stays as it was saved
-- Output  1 if it was detached, and 0 if the connection does not hold it

return function(session, connection, data, position, long_poll)
  local stored = sessions.read(session)
  if not stored or stored.connection ~= connection then return 0 end
  if data then
    redis.call('HSET', sessions.key(session), 'data', data, 'position', position,
      'long_poll', long_poll)
  else
    long_poll = stored.long_poll
  end
  sessions.extend_expiry(session, stored.current, stored.previous)
  sessions.detach(session, stored.user, long_poll)
  return 1
end
