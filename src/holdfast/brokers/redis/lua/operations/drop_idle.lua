-- drop_idle: drop the addresses that no resumable client can need: unused for age and token lifetime.
--
-- KEYS    those of topic_log.lua
-- ARGV    limit   addresses at most
-- Output  how many were dropped

return function(limit)
  if not settings.age then return 0 end
  local until_then = call.now - settings.age - settings.lifetime
  storage.length('ZCARD', log.key('used'))
  local idle = redis.call('ZRANGEBYSCORE', log.key('used'), '-inf', tostring(until_then),
    'LIMIT', 0, limit)
  for _, address in ipairs(idle) do topic_log.drop_address(address, false) end
  log.is_changed = log.is_changed or #idle > 0
  return #idle
end
