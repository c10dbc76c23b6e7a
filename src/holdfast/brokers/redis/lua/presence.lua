-- Presence: which users are on which topic, over all nodes. The rules are those of core/presence.py.
--
--   :nodes         a sorted set: the nodes, by when their lease ends (seconds)
--   :node:<node>   a hash: the addresses of the node's members (each a user and a topic), and under ''
--                  the number of the last update that changed something
--   :on:<topic>    a hash: for each user, the nodes that have the user, separated by spaces
--
-- Each key may be lost. An update therefore names the last update that was confirmed to the node; if
-- that one is missing here, the node sends all its members again. A node that is not in :nodes counts
-- as gone, wherever it is still listed.

local NODE_TTL = 3600  -- seconds after the last update
local TOPIC_TTL = 7200  -- longer than a node takes to send all its members again, several times over

local presence = {leases_key = call.prefix .. ':nodes'}

function presence.node_key(node) return call.prefix .. ':node:' .. node end
function presence.topic_key(topic) return call.prefix .. ':on:' .. topic end

local alive = {}  -- by node; a cache for this call

function presence.is_alive(node)
  if alive[node] == nil then
    alive[node] = redis.call('ZSCORE', presence.leases_key, node) and true or false
  end
  return alive[node]
end

function presence.set_lease(node, seconds)
  redis.call('ZADD', presence.leases_key, tostring(call.now + tonumber(seconds)), node)
  storage.expire(presence.leases_key, NODE_TTL)
  alive[node] = true
end

function presence.end_lease(node)
  redis.call('ZREM', presence.leases_key, node)
  alive[node] = false
end

-- List or unlist `node` for the user and topic of an address. Returns true if the user has joined the
-- topic with the first node, or left it with the last; and the key of the topic.
function presence.set_member(address, node, is_member)
  local user, topic = string.match(address, '^([^:]*):(.*)$')
  local topic_key = presence.topic_key(topic)
  local before = redis.call('HGET', topic_key, user) or ''
  local nodes, was_member = {}, false
  for each in string.gmatch(before, '%S+') do
    if each == node then was_member = true
    elseif presence.is_alive(each) then nodes[#nodes + 1] = each end
  end
  local has_no_other = #nodes == 0
  if is_member then nodes[#nodes + 1] = node end
  local after = table.concat(nodes, ' ')
  if after == '' then redis.call('HDEL', topic_key, user)
  elseif after ~= before then redis.call('HSET', topic_key, user, after) end
  return has_no_other and was_member ~= is_member, topic_key
end

function presence.extend_node(node) storage.expire(presence.node_key(node), NODE_TTL) end
function presence.extend_topic(topic_key) storage.expire(topic_key, TOPIC_TTL) end

-- Drop all members of a node; append those who have left to `left`.
function presence.drop_members(node, left)
  for _, address in ipairs(redis.call('HKEYS', presence.node_key(node))) do
    if address ~= '' and presence.set_member(address, node, false) then left[#left + 1] = address end
  end
  redis.call('UNLINK', presence.node_key(node))
end

-- Drop the nodes whose lease is over; append their members who have left to `left`. If all leases are
-- over, Redis was unreachable, not the nodes dead: each node gets a new lease of `seconds`.
function presence.drop_expired_nodes(seconds, left)
  local newest = redis.call('ZREVRANGE', presence.leases_key, 0, 0, 'WITHSCORES')
  if not newest[1] then return end
  if tonumber(newest[2]) <= call.now then
    for _, node in ipairs(redis.call('ZRANGE', presence.leases_key, 0, -1)) do
      presence.set_lease(node, seconds)
    end
    return
  end
  local expired = redis.call('ZRANGEBYSCORE', presence.leases_key, '-inf', tostring(call.now))
  for _, node in ipairs(expired) do presence.end_lease(node) end
  for _, node in ipairs(expired) do presence.drop_members(node, left) end
end

return presence
