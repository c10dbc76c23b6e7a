-- Sessions and their tokens. The rules are those of core/tokens.py, whose table heads that file.
--
--   :s:<session>   a hash: user, data (topics), position, connection ('' if it has none),
--                  current and previous (hashes of tokens), nonce, grace, expires
--   :t:<hash>      the session of a token
--   :u:<user>      the sessions of a user that have no connection, by when that went
--   :detached:+ and :detached:-   all such sessions, of users and of strangers

local function session_key(session) return HUB .. ':s:' .. session end
local function token_key(hash) return HUB .. ':t:' .. hash end
local function user_key(user) return HUB .. ':u:' .. user end
local function detached_key(user) return HUB .. ':detached:' .. string.sub(user, 1, 1) end

local KEPT = settings.lifetime + settings.grace + 86400

local function touch(session, current, previous)
  set_seconds(session_key(session), KEPT)
  set_seconds(token_key(current), KEPT)
  if previous and previous ~= '' then set_seconds(token_key(previous), KEPT) end
end

local function reattach(session, user)
  redis.call('ZREM', detached_key(user), session)
  if present(user) then redis.call('ZREM', user_key(user), session) end
end

local function drop_session(session, user)
  reattach(session, user)
  local hashes = redis.call('HMGET', session_key(session), 'current', 'previous')
  for _, hash in ipairs({hashes[1] or '', hashes[2] or ''}) do
    if hash ~= '' then redis.call('DEL', token_key(hash)) end
  end
  redis.call('DEL', session_key(session))
end

local function limit_detached(name, limit, user)
  while redis.call('ZCARD', name) > limit do
    drop_session(redis.call('ZRANGE', name, 0, 0)[1], user)
  end
end

local function detach_session(session, user, grace)
  local until_then = now + (grace == 'long' and settings.lifetime or settings.grace)
  redis.call('HSET', session_key(session), 'connection', '',
    'grace', tostring(until_then), 'expires', tostring(now + settings.lifetime))
  redis.call('ZADD', detached_key(user), tostring(now), session)
  if present(user) then
    redis.call('ZADD', user_key(user), tostring(now), session)
    set_seconds(user_key(user), KEPT)
    limit_detached(user_key(user), settings.per_user, user)
  end
  -- Whose the oldest of all is, only its own record knows.
  while redis.call('ZCARD', detached_key(user)) > settings.total do
    local oldest = redis.call('ZRANGE', detached_key(user), 0, 0)[1]
    local owner = redis.call('HGET', session_key(oldest), 'user') or user
    drop_session(oldest, owner)
    redis.call('ZREM', detached_key(user), oldest)
  end
end

function operations.issue(session, hash, user, connection, data, position)
  redis.call('HSET', session_key(session), 'user', user, 'data', data, 'position', position,
    'connection', connection, 'current', hash, 'previous', '', 'nonce', '', 'grace', '0', 'expires', '0')
  redis.call('SET', token_key(hash), session)
  touch(session, hash)
  if connection == '' then detach_session(session, user) end
  return 1
end

-- `new_session` and `successor` (a hash) are used when there is something to make.
function operations.redeem(hash, user, connection, nonce, successor, new_session)
  local session = redis.call('GET', token_key(hash))
  local found = session and redis.call('HMGET', session_key(session), 'user', 'data', 'position',
    'connection', 'current', 'previous', 'nonce', 'grace', 'expires')
  if not found or not found[1] then return {'unknown'} end
  local owner, data, position, holder, current, previous, known, grace, expires = unpack(found)
  if holder == '' and tonumber(expires) <= now then
    drop_session(session, owner)
    return {'unknown'}
  end
  if owner ~= user then return {'foreign'} end
  if hash == previous then
    if holder ~= '' then
      operations.issue(new_session, successor, owner, connection, data, '')
      return {'accepted', new_session, data, '', nonce, ''}
    end
    if tonumber(grace) <= now then return {'spent'} end
    nonce = known
  else
    if previous ~= '' then redis.call('DEL', token_key(previous)) end
    redis.call('HSET', session_key(session), 'previous', current, 'current', successor, 'nonce', nonce)
    redis.call('SET', token_key(successor), session)
    current, previous = successor, current
  end
  -- The position is that of the last detach: whoever holds the session now moves on from it.
  redis.call('HSET', session_key(session), 'connection', connection, 'position', '')
  if holder == '' then reattach(session, owner) end
  touch(session, current, previous)
  return {'accepted', session, data, position, nonce, holder}
end

function operations.record(session, connection, data)
  if redis.call('HGET', session_key(session), 'connection') ~= connection then return 0 end
  redis.call('HSET', session_key(session), 'data', data)
  return 1
end

-- `grace`: 'long' after a poll, whose client may learn late that its answer was lost.
function operations.detach(session, connection, data, position, grace)
  local found = redis.call('HMGET', session_key(session), 'connection', 'user', 'current', 'previous')
  if found[1] ~= connection then return 0 end
  redis.call('HSET', session_key(session), 'data', data, 'position', position)
  touch(session, found[3], found[4])
  detach_session(session, found[2], grace)
  return 1
end

-- Sessions of connections that have lasted: they do not expire.
function operations.refresh(...)
  for _, session in ipairs({...}) do
    local found = redis.call('HMGET', session_key(session), 'current', 'previous')
    if found[1] then touch(session, found[1], found[2]) end
  end
  return 1
end

function operations.forget(user)
  local sessions = redis.call('ZRANGE', user_key(user), 0, -1)
  for _, session in ipairs(sessions) do drop_session(session, user) end
  return #sessions
end

function operations.expire(limit)
  local count = 0
  for _, kind in ipairs({'+', '-'}) do
    local name = detached_key(kind)
    local old = redis.call('ZRANGEBYSCORE', name, '-inf', tostring(now - settings.lifetime),
      'LIMIT', 0, limit)
    for _, session in ipairs(old) do
      local owner = redis.call('HGET', session_key(session), 'user') or kind
      drop_session(session, owner)
      redis.call('ZREM', name, session)
    end
    count = count + #old
  end
  return count
end
