-- Presence: the rules are those of core/presence.py.
--
--   :nodes         a sorted set: the nodes, by when their lease ends
--   :node:<node>   a set: the addresses of its members, each a user and a topic
--   :on:<topic>    a hash: on how many nodes each user is there

local function node_key(node) return HUB .. ':node:' .. node end

-- Count a member up or down; whether that brought it to the roster, or off it.
local function count_member(address, by)
  local user, topic = string.match(address, '^([^:]*):(.*)$')
  local on = HUB .. ':on:' .. topic
  local count = redis.call('HINCRBY', on, user, by)
  if count <= 0 then redis.call('HDEL', on, user) end
  return by > 0 and count == 1 or by < 0 and count <= 0
end

local function remove_node(node, went)
  for _, address in ipairs(redis.call('SMEMBERS', node_key(node))) do
    if count_member(address, -1) then went[#went + 1] = address end
  end
  redis.call('UNLINK', node_key(node))
  redis.call('ZREM', HUB .. ':nodes', node)
end

-- Answers whether the node had a lease, who came, who went.
function operations.update_presence(node, lease, coming, ...)
  local addresses, came, went = {...}, {}, {}
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', HUB .. ':nodes', '-inf', tostring(now))) do
    remove_node(dead, went)
  end
  local known = redis.call('ZSCORE', HUB .. ':nodes', node) and 1 or 0
  redis.call('ZADD', HUB .. ':nodes', tostring(now + tonumber(lease)), node)
  for place, address in ipairs(addresses) do
    if place <= tonumber(coming) then
      if redis.call('SADD', node_key(node), address) == 1 and count_member(address, 1) then
        came[#came + 1] = address
      end
    elseif redis.call('SREM', node_key(node), address) == 1 and count_member(address, -1) then
      went[#went + 1] = address
    end
  end
  return {known, came, went}
end

function operations.remove_presence(node)
  local went = {}
  remove_node(node, went)
  return {1, {}, went}
end

function operations.present(topic)
  return redis.call('HKEYS', HUB .. ':on:' .. topic)
end
