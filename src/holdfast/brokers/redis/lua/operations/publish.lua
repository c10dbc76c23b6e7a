-- publish: append a message to the log, to its topic log and to the feed.
--
-- KEYS    those of log.lua, topic_log.lua, feed.lua and idempotency.lua
-- ARGV    address          the topic, and the user that the message is for
--         lane             0 to 3
--         idempotency_key  an optional text
--         ...              the fields of the entry, names and values (entries.py)
-- Output  the offset; that of the earlier message, if the idempotency key was used before

-- Drop the message that has had this key so far, in whichever lane; note that it is the new one.
local function supersede(self, key)
  local key_field = 'k:' .. key
  local stored = redis.call('HGET', self.account_key, key_field)
  if stored then
    local lane, offset = string.match(stored, '(%d) (%d+)')
    local holder = self
    if tonumber(lane) ~= self.lane then holder = topic_log.open(self.address, tonumber(lane)) end
    local old = redis.call('XRANGE', holder.messages_key, offset, offset)[1]
    if old then
      local size = #entry.fields(old[2]).body
      redis.call('XDEL', holder.messages_key, old[1])
      holder.count, holder.bytes = holder.count - 1, holder.bytes - size
      log.bytes = log.bytes - size
    end
    if holder ~= self then topic_log.close(holder) end
  end
  redis.call('HSET', self.account_key, key_field, self.lane .. ' ' .. storage.integer(log.head))
end

-- Append to a topic log. Another program's entry may have a higher id: then the stream is begun again.
local function append(self, flat)
  local id = entry.id(log.head)
  if storage.is_corrupt(redis.pcall('XADD', self.messages_key, id, unpack(flat))) then
    topic_log.drop_all(self)
    redis.call('XADD', self.messages_key, id, unpack(flat))
  end
  log.extend_expiry(self.messages_key)
end

return function(address, lane, idempotency_key, ...)
  local has_idempotency_key = storage.is_present(idempotency_key)
  if has_idempotency_key then
    local offset = idempotency.find(idempotency_key)
    if offset then return offset end
  end
  local flat = {...}
  local fields = entry.fields(flat)
  local size, timestamp = #fields.body, fields.timestamp
  log.head, log.is_changed = log.head + 1, true

  local self = topic_log.open(address, tonumber(lane))
  if self.is_new then
    redis.call('HSET', self.account_key,
      'f0', storage.integer(log.floor0), 'f1', storage.integer(log.floor1),
      'f2', storage.integer(log.floor2), 'f3', storage.integer(log.floor3))
  end
  if fields.key then supersede(self, fields.key) end
  if self.count == 0 then self.oldest = tonumber(timestamp) end
  append(self, flat)
  self.count, self.bytes, self.last = self.count + 1, self.bytes + size, log.head
  log.bytes = log.bytes + size
  topic_log.trim(self)
  topic_log.close(self)
  log.extend_expiry(self.account_key)
  log.addresses = log.addresses + redis.call('ZADD', log.key('last'), storage.integer(log.head), address)
  storage.write('ZADD', log.key('used'), timestamp, address)

  for _, text in ipairs({'a', address, 'p', lane, 'e', log.epoch}) do flat[#flat + 1] = text end
  feed.append(flat, size)
  if has_idempotency_key then idempotency.store(idempotency_key) end
  while log.addresses > settings.max_logs do
    topic_log.drop_address(redis.call('ZRANGE', log.key('last'), 0, 0)[1], true)
  end
  if log.bytes > settings.total_bytes then topic_log.shrink_total() end
  return log.head
end
