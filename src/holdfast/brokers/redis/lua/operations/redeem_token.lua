-- redeem_token: give the session of a token to a new connection. The rows of the table at the head of
-- core/tokens.py are the cases below.
--
-- KEYS    those of sessions.lua
-- ARGV    hash           of the presented token
--         user           that presents it, an optional text
--         connection     the new connection
--         nonce          for a new successor of the token
--         successor      the hash of that successor
--         new_session    a name, for the case that a copy of the session is made
-- Output  {'unknown'}, {'foreign'} or {'spent'}; or
--         {'accepted', session, data, position, long_poll, nonce, connection that is taken over or ''}.
--         `nonce` is the one that makes the successor which is valid.
-- The stored position is cleared when a connection is taken over, which has moved on from it.

return function(hash, user, connection, nonce, successor, new_session)
  local id = redis.call('GET', sessions.token_key(hash))
  local session = id and sessions.read(id)
  if not session then return {'unknown'} end
  local is_attached = session.connection ~= ''
  if not is_attached and tonumber(session.expires) <= call.now then
    sessions.drop(id, session.user)
    return {'unknown'}
  end
  if session.user ~= user then return {'foreign'} end

  local current, previous = session.current, session.previous
  if hash == previous then
    if is_attached then
      sessions.create(new_session, successor, user, connection, session.data, '', '')
      return {'accepted', new_session, session.data, '', '', nonce, ''}
    end
    if tonumber(session.grace) <= call.now then return {'spent'} end
    nonce = session.nonce
  else
    if previous ~= '' then redis.call('DEL', sessions.token_key(previous)) end
    current, previous = successor, current
    redis.call('HSET', sessions.key(id), 'previous', previous, 'current', current, 'nonce', nonce)
    redis.call('SET', sessions.token_key(current), id)
  end
  local position = is_attached and '' or session.position
  redis.call('HSET', sessions.key(id), 'connection', connection, 'position', position)
  if not is_attached then sessions.reattach(id, user) end
  sessions.extend_expiry(id, current, previous)
  return {'accepted', id, session.data, position, session.long_poll or '', nonce,
    session.connection}
end
