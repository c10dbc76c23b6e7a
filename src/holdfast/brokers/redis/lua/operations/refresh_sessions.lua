-- refresh_sessions: extend the expiry of sessions that have a connection.
--
-- KEYS    :s:<session>, :t:<hash> (sessions.lua)
-- ARGV    ...   the names of the sessions
-- Output  1

return function(...)
  for _, session in ipairs({...}) do
    local current, previous = unpack(redis.call('HMGET', sessions.key(session), 'current', 'previous'))
    if current then sessions.extend_expiry(session, current, previous) end
  end
  return 1
end
