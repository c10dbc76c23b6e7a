-- save_session: replace what is stored of a session, if the connection still holds it.
--
-- KEYS    :s:<session> (sessions.lua)
-- ARGV    session                     its name
--         connection
--         data, position, long_poll   see sessions.lua
-- Output  1 if it was replaced, and 0 if the connection does not hold it

return function(session, connection, data, position, long_poll)
  local key = sessions.key(session)
  if redis.call('HGET', key, 'connection') ~= connection then return 0 end
  redis.call('HSET', key, 'data', data, 'position', position, 'long_poll', long_poll)
  return 1
end
