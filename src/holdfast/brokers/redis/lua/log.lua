-- The log: its head, its epoch, and the earlier epochs that it continues (forks).
--
--   :log   a hash with the fields of FIELDS below
--
-- The messages are in one short feed of everything (feed.lua), and in one stream for each topic, user
-- and lane (topic_log.lua). Keys of the log are named by its log_id, the first epoch of the log.

local DAY = 86400
local MAX_FORKS = 16

local FIELDS = {
  'epoch', 'log_id', 'head', 'replication_id',
  'forks',           -- '<epoch>=<offset> …': up to the offset, the log of that epoch is this log
  'bytes',           -- the size of all message bodies in all topic logs
  'addresses',       -- number of addresses in :last
  'feed_bytes',      -- the size of all message bodies in the feed
  'generation',      -- which of the two hashes of idempotency keys is written to
  'floor0', 'floor1', 'floor2', 'floor3',  -- by lane: the newest message lost with a dropped address
}
local TEXTS = {epoch = true, log_id = true, replication_id = true, forks = true}

local log = {is_changed = false}  -- is_changed: the state is saved once, after the last operation

local name_of_state = call.prefix .. ':log'
local stored = redis.pcall('HMGET', name_of_state, unpack(FIELDS))
if storage.is_corrupt(stored) then redis.call('UNLINK', name_of_state) end
for place, field in ipairs(FIELDS) do
  local value = stored[place]
  if TEXTS[field] then log[field] = value or '' else log[field] = tonumber(value or 0) end
end

-- The key of a part of the log.
function log.key(kind, rest)
  return call.prefix .. ':' .. log.log_id .. ':' .. kind .. (rest and (':' .. rest) or '')
end

function log.save()
  local flat = {}
  for _, field in ipairs(FIELDS) do
    flat[#flat + 1] = field
    flat[#flat + 1] = TEXTS[field] and log[field] or storage.integer(log[field])
  end
  redis.call('HSET', name_of_state, unpack(flat))
end

local extended = {}  -- keys whose expiry this call has extended: once is enough

-- Let a key of the log live for as long as messages and the positions of clients in them do.
function log.extend_expiry(name)
  if settings.age and not extended[name] then
    storage.expire(name, settings.age + settings.lifetime + DAY)
    extended[name] = true
  end
end

function log.unlink(...)
  redis.call('UNLINK', ...)
  for _, name in ipairs({...}) do extended[name] = nil end
end

local function begin_log(replication_id)
  for _, field in ipairs(FIELDS) do log[field] = TEXTS[field] and '' or 0 end
  log.epoch, log.log_id, log.replication_id = call.new_epoch, call.new_epoch, replication_id
  log.save()
end

local function begin_fork(replication_id)
  local forks = {log.epoch .. '=' .. storage.integer(log.head)}
  for epoch, offset in string.gmatch(log.forks, '(%S+)=(%d+)') do
    if #forks < MAX_FORKS then
      forks[#forks + 1] = epoch .. '=' .. storage.integer(math.min(tonumber(offset), log.head))
    end
  end
  log.epoch, log.replication_id, log.forks = call.new_epoch, replication_id, table.concat(forks, ' ')
  log.save()
end

-- There are three cases.
-- 1. There is no log, or a part of it is gone (deleted, evicted): a new, empty log begins.
-- 2. The server was promoted or restarted: it may lack the end of the log that clients have read. The
--    same log continues from the head of this server, in a new epoch. Redis gives such a server another
--    replication id, and changes nothing else.
-- 3. The log continues.
local replication_id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
if log.epoch == '' or storage.length('ZCARD', log.key('last')) ~= log.addresses then
  begin_log(replication_id)
elseif log.replication_id ~= replication_id then
  begin_fork(replication_id)
end

return log
