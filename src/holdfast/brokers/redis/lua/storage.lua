-- Commands on keys that another program may have overwritten or deleted.

local storage = {}

-- Format an integer without an exponent: tostring(1e15) is '1e+15'.
function storage.integer(number) return string.format('%.0f', number) end

-- True if an optional text is present.
function storage.is_present(text) return string.sub(text, 1, 1) == '+' end

-- True if `reply` is an error because another program wrote to the key: another type, or a stream id
-- that is in the way. Any other error is raised: what a full server holds must stay.
function storage.is_corrupt(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  if string.find(reply.err, 'WRONGTYPE') or string.find(reply.err, 'equal or smaller') then
    return true
  end
  error(reply)
end

-- The number of elements of a key; `command` is XLEN, ZCARD or LLEN. A corrupt key is deleted.
function storage.length(command, name)
  local count = redis.pcall(command, name)
  if not storage.is_corrupt(count) then return count end
  redis.call('UNLINK', name)
  return 0
end

-- Write to a key. A corrupt key is deleted first.
function storage.write(command, name, ...)
  if storage.is_corrupt(redis.pcall(command, name, ...)) then
    redis.call('UNLINK', name)
    redis.call(command, name, ...)
  end
end

-- Let a key expire in `seconds`, rounded up.
function storage.expire(name, seconds)
  redis.call('EXPIRE', name, storage.integer(math.ceil(seconds)))
end

return storage
