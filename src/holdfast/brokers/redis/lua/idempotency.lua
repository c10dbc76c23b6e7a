-- Idempotency keys of the messages that were published last.
--
--   :once:0, :once:1   hashes: the offset of each key. One is written to; when it is full, the other is
--                      emptied and written to, so 10,000 to 20,000 keys are stored.

local MAX_KEYS = 10000

local idempotency = {}

-- The offset of the message published with a key, or nil.
function idempotency.find(key)
  for generation = 0, 1 do
    local offset = redis.pcall('HGET', log.key('once', generation), key)
    if type(offset) == 'string' then return tonumber(offset) end
  end
end

-- Store that the message at the head of the log has this key.
function idempotency.store(key)
  local name = log.key('once', log.generation)
  storage.write('HSET', name, key, storage.integer(log.head))
  if redis.call('HLEN', name) >= MAX_KEYS then
    log.generation = 1 - log.generation
    redis.call('UNLINK', log.key('once', log.generation))
  end
end

return idempotency
