-- read_feed: read the feed after an offset, for a node whose own connection to the feed is silent.
--
-- KEYS    :feed (feed.lua)
-- ARGV    offset
--         limit   entries at most
-- Output  {{id, fields}, …}

return function(offset, limit)
  storage.length('XLEN', log.key('feed'))
  return redis.call('XRANGE', log.key('feed'), '(' .. offset .. '-0', '+', 'COUNT', limit)
end
