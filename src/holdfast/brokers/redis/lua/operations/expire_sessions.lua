-- expire_sessions: drop the sessions whose lifetime after their detach is over.
--
-- KEYS    those of sessions.lua
-- ARGV    limit   sessions at most, of users and of others each
-- Output  how many were dropped

return function(limit)
  local count, until_then = 0, tostring(call.now - settings.lifetime)
  for _, kind in ipairs({'+', '-'}) do
    local detached_key = sessions.detached_key(kind)
    local expired = redis.call('ZRANGEBYSCORE', detached_key, '-inf', until_then, 'LIMIT', 0, limit)
    for _, session in ipairs(expired) do
      sessions.drop(session, redis.call('HGET', sessions.key(session), 'user') or kind)
      redis.call('ZREM', detached_key, session)
    end
    count = count + #expired
  end
  return count
end
