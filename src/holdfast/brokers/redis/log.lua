-- The log: where it ends, which epoch it is, and up to where earlier ones are the same.
--
-- It consists of a short feed of everything, and of one stream for each topic, user and lane.

local DAY = 86400

local log = redis.pcall('HMGET', HUB .. ':log', 'epoch', 'space', 'head', 'replication', 'forks',
  'bytes', 'addresses', 'feed', 'generation', 'floor0', 'floor1', 'floor2', 'floor3')
if is_spoilt(log) then redis.call('UNLINK', HUB .. ':log') end
log = {
  epoch = log[1], space = log[2], head = tonumber(log[3] or 0), replication = log[4],
  forks = log[5] or '', bytes = tonumber(log[6] or 0), addresses = tonumber(log[7] or 0),
  feed = tonumber(log[8] or 0), generation = tonumber(log[9] or 0),
  floor0 = tonumber(log[10] or 0), floor1 = tonumber(log[11] or 0),
  floor2 = tonumber(log[12] or 0), floor3 = tonumber(log[13] or 0),
}

local function key(kind, rest)
  return HUB .. ':' .. log.space .. ':' .. kind .. (rest and (':' .. rest) or '')
end

local is_changed = false  -- `log`, by an operation: it is saved once, after the last one

local function save()
  redis.call('HSET', HUB .. ':log', 'epoch', log.epoch, 'space', log.space, 'head', int(log.head),
    'replication', log.replication, 'forks', log.forks, 'bytes', int(log.bytes),
    'addresses', int(log.addresses), 'feed', int(log.feed), 'generation', log.generation,
    'floor0', int(log.floor0), 'floor1', int(log.floor1),
    'floor2', int(log.floor2), 'floor3', int(log.floor3))
end

-- A log that is gone, wholly or in part, is another log. One of a server that was promoted, or
-- started again, may lack an end that others have read: it is the same up to its head of now.
-- Redis gives such a server another replication id, and changes nothing else.
do
  local replication = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
  if log.epoch and length('ZCARD', key('last')) ~= log.addresses then log.epoch = false end
  if not log.epoch then
    for name in pairs(log) do log[name] = 0 end
    log.epoch, log.space, log.forks = ARGV[1], ARGV[1], ''
    log.replication = replication
    save()
  elseif log.replication ~= replication then
    local forks = {log.epoch .. '=' .. int(log.head)}
    for epoch, offset in string.gmatch(log.forks, '(%S+)=(%d+)') do
      if #forks < 16 then
        forks[#forks + 1] = epoch .. '=' .. int(math.min(tonumber(offset), log.head))
      end
    end
    log.epoch, log.replication, log.forks = ARGV[1], replication, table.concat(forks, ' ')
    save()
  end
end

local kept = {}  -- by name: its life is prolonged once in a run, however often it is written to

local function keep(name)
  if settings.age and not kept[name] then
    set_seconds(name, settings.age + settings.lifetime + DAY)
    kept[name] = true
  end
end

local function unlink(...)
  redis.call('UNLINK', ...)
  for _, name in ipairs({...}) do kept[name] = nil end
end
