-- One atomic step of a hub: the epoch is fenced, then a list of operations is run in order.
--
-- KEYS[1]  the prefix of the hub. Every other key begins with it, so all share one hash slot.
-- ARGV     a name for a new epoch, the caller, the number of its call, the time of now (seconds),
--          then for each operation its name, how many arguments it has, and these.
-- Answer   {epoch, space, head, forks, whether the settings are there, {answer, ...}}; an operation
--          that failed answers {"error", text}.
--
-- A call that is repeated (the answer was lost on its way) is answered as the first time.

local HUB = KEYS[1]
local ANSWER_SECONDS = 300

local now = tonumber(ARGV[4])
local operations = {}  -- by name; the other files fill it

local is_configured = 0

local function int(number) return string.format('%.0f', number) end

-- Optional text is passed and kept as '+' and the text, or '-' for none.
local function present(text) return string.sub(text, 1, 1) == '+' end

local settings = {
  limit = 1000, max_bytes = 16777216, age = 3600, total_bytes = 268435456, max_logs = 100000,
  lifetime = 86400, grace = 60, per_user = 100, total = 50000,
}
do
  local stored = redis.pcall('HGETALL', HUB .. ':settings')
  for place = 1, #stored, 2 do settings[stored[place]] = tonumber(stored[place + 1]) end
  if stored[1] then is_configured = 1 end
end

-- Somebody else has written to this key: another type, or an id that is in the way. Any other
-- failure is raised: in a server that is full, what is there must stay.
local function is_spoilt(answer)
  if type(answer) ~= 'table' or not answer.err then return false end
  if string.find(answer.err, 'WRONGTYPE') or string.find(answer.err, 'equal or smaller') then
    return true
  end
  error(answer)
end

-- How many a key holds. One that is spoilt is as good as gone.
local function length(command, name)
  local count = redis.pcall(command, name)
  if not is_spoilt(count) then return count end
  redis.call('UNLINK', name)
  return 0
end

-- Write to a key, whatever somebody else may have made of it.
local function put(command, name, ...)
  if is_spoilt(redis.pcall(command, name, ...)) then
    redis.call('UNLINK', name)
    redis.call(command, name, ...)
  end
end

local function set_seconds(key, seconds)
  redis.call('EXPIRE', key, int(math.ceil(seconds)))
end

function operations.configure(...)
  redis.call('DEL', HUB .. ':settings')
  redis.call('HSET', HUB .. ':settings', ...)
  is_configured = 1
  return 1
end

function operations.head()
  return 1
end
