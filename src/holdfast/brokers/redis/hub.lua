-- One atomic step of a hub: the epoch is fenced, then a list of operations is run in order.
--
-- KEYS[1]  the prefix of the hub. Every other key begins with it, so all share one hash slot.
-- ARGV     a name for a new epoch, the caller, the number of its call, the time of now (seconds),
--          then for each operation its name, how many arguments it has, and these.
-- Answer   {epoch, space, head, forks, {answer, ...}}; an operation that failed answers {"error", text}.
--
-- A call that is repeated (the answer was lost on its way) is answered as the first time.

local HUB = KEYS[1]
local ANSWER_SECONDS = 300

local now = tonumber(ARGV[4])
local operations = {}  -- by name; the other files fill it

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
end

local function set_seconds(key, seconds)
  redis.call('EXPIRE', key, int(math.ceil(seconds)))
end

function operations.configure(...)
  redis.call('DEL', HUB .. ':settings')
  redis.call('HSET', HUB .. ':settings', ...)
  return 1
end

function operations.head()
  return 1
end
