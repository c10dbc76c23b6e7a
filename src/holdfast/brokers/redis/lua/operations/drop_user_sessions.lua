-- drop_user_sessions: drop the detached sessions of a user, so that their tokens open nothing.
--
-- KEYS    those of sessions.lua
-- ARGV    user   '+' and the name
-- Output  how many were dropped

return function(user)
  local detached = redis.call('ZRANGE', sessions.user_key(user), 0, -1)
  for _, session in ipairs(detached) do sessions.drop(session, user) end
  return #detached
end
