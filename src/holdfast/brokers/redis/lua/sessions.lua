-- Sessions and their tokens. The rules are those of core/tokens.py, whose table is at the head of it.
--
--   :s:<session>   a hash with the fields of FIELDS below
--   :t:<hash>      the session of a token, by the hash of the token
--   :u:<user>      a sorted set: the detached sessions of a user, by when they were detached
--   :detached:+    the same for all users, and
--   :detached:-    for sessions without a user

local FIELDS = {
  'user',        -- an optional text
  'data',        -- for the nodes only (tokens.py): subscriptions and the like
  'position',    -- the stored resume point, or ''
  'long_poll',   -- '1': the client has its token from the last answer of a long poll; or ''
  'connection',  -- the connection that holds the session, or ''
  'current', 'previous',  -- hashes of the two tokens; previous may be ''
  'nonce',       -- made the current token from the previous one
  'grace', 'expires',  -- once detached: until when the previous token, and the session, are good
}
local SESSION_TTL = settings.lifetime + settings.grace + 86400  -- seconds; each use extends them

local sessions = {}

function sessions.key(id) return call.prefix .. ':s:' .. id end
function sessions.token_key(hash) return call.prefix .. ':t:' .. hash end
function sessions.user_key(user) return call.prefix .. ':u:' .. user end
function sessions.detached_key(user) return call.prefix .. ':detached:' .. string.sub(user, 1, 1) end

-- Read a session, or nil if there is none.
function sessions.read(id)
  local values = redis.call('HMGET', sessions.key(id), unpack(FIELDS))
  if not values[1] then return nil end
  local session = {}
  for place, field in ipairs(FIELDS) do session[field] = values[place] end
  return session
end

function sessions.extend_expiry(id, current, previous)
  storage.expire(sessions.key(id), SESSION_TTL)
  storage.expire(sessions.token_key(current), SESSION_TTL)
  if previous and previous ~= '' then storage.expire(sessions.token_key(previous), SESSION_TTL) end
end

-- Take a session off the lists of detached ones.
function sessions.reattach(id, user)
  redis.call('ZREM', sessions.detached_key(user), id)
  if storage.is_present(user) then redis.call('ZREM', sessions.user_key(user), id) end
end

function sessions.drop(id, user)
  sessions.reattach(id, user)
  local hashes = redis.call('HMGET', sessions.key(id), 'current', 'previous')
  for _, hash in ipairs({hashes[1] or '', hashes[2] or ''}) do
    if hash ~= '' then redis.call('DEL', sessions.token_key(hash)) end
  end
  redis.call('DEL', sessions.key(id))
end

-- Mark a session as detached, then drop the oldest detached ones beyond the limits.
function sessions.detach(id, user, long_poll)
  -- The client of a long poll may notice late that the answer with its token was lost.
  local grace = long_poll == '1' and settings.lifetime or settings.grace
  redis.call('HSET', sessions.key(id), 'connection', '', 'grace', tostring(call.now + grace),
    'expires', tostring(call.now + settings.lifetime))
  local detached_key, user_key = sessions.detached_key(user), sessions.user_key(user)
  redis.call('ZADD', detached_key, tostring(call.now), id)
  if storage.is_present(user) then
    redis.call('ZADD', user_key, tostring(call.now), id)
    storage.expire(user_key, SESSION_TTL)
    while redis.call('ZCARD', user_key) > settings.per_user do
      sessions.drop(redis.call('ZRANGE', user_key, 0, 0)[1], user)
    end
  end
  while redis.call('ZCARD', detached_key) > settings.total do
    local oldest = redis.call('ZRANGE', detached_key, 0, 0)[1]
    sessions.drop(oldest, redis.call('HGET', sessions.key(oldest), 'user') or user)
    redis.call('ZREM', detached_key, oldest)
  end
end

-- Store a new session with its first token. Without a connection it is detached at once.
function sessions.create(id, hash, user, connection, data, position, long_poll)
  redis.call('HSET', sessions.key(id), 'user', user, 'data', data, 'position', position,
    'long_poll', long_poll, 'connection', connection, 'current', hash, 'previous', '',
    'nonce', '', 'grace', '0', 'expires', '0')
  redis.call('SET', sessions.token_key(hash), id)
  sessions.extend_expiry(id, hash)
  if connection == '' then sessions.detach(id, user, long_poll) end
end

return sessions
