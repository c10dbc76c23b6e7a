-- changed_addresses: list the addresses that were published to after an offset.
--
-- KEYS    :last (topic_log.lua)
-- ARGV    offset
-- Output  {address, …}

return function(offset)
  return redis.call('ZRANGEBYSCORE', log.key('last'), '(' .. offset, '+inf')
end
