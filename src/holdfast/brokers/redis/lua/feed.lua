-- The feed: the newest messages of all topics, in the order of the log. Every node follows it.
--
--   :feed   a stream

local MAX_MESSAGES, MAX_BYTES = 20000, 16777216
local TRIM_STEP = 16  -- messages read at once to be dropped

local feed = {}

-- Append a message at the head of the log. `flat`: the fields of the entry; `size`: bytes of the body.
function feed.append(flat, size)
  local name = log.key('feed')
  storage.write('XADD', name, entry.id(log.head), unpack(flat))
  log.extend_expiry(name)
  local length = redis.call('XLEN', name)
  log.feed_bytes = (length == 1 and 0 or log.feed_bytes) + size  -- 1: the feed was deleted, or is new
  while length > MAX_MESSAGES or (log.feed_bytes > MAX_BYTES and length > 1) do
    local oldest = redis.call('XRANGE', name, '-', '+', 'COUNT', math.min(TRIM_STEP, length - 1))
    local ids = {}
    for place, each in ipairs(oldest) do
      log.feed_bytes = log.feed_bytes - #(entry.fields(each[2]).body or '')
      ids[place] = each[1]
    end
    redis.call('XDEL', name, unpack(ids))
    length = length - #oldest
  end
end

return feed
