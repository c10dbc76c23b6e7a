-- Presence: the rules are those of core/presence.py.
--
--   :nodes         a sorted set: the nodes, by when their lease ends
--   :node:<node>   a hash: the addresses of its members (each a user and a topic), and under '' the
--                  number of the last telling that changed something
--   :on:<topic>    a hash: for each user the nodes where he is, with spaces between
--
-- Each of them may be lost. A node says which of its tellings were carried out: one of which Redis
-- knows nothing is a loss, and the node tells all again, as it does now and then unasked. Nodes
-- that are not in :nodes count for nothing, wherever they are still named.

local KEPT_NODE = 3600  -- for longer than that nobody has told anything
local KEPT_TOPIC = 7200  -- all nodes tell all again several times within that

local leases = HUB .. ':nodes'
local function node_key(node) return HUB .. ':node:' .. node end
local function topic_key(topic) return HUB .. ':on:' .. topic end

local living = {}  -- which nodes are, as far as this run has asked

local function is_living(node)
  if living[node] == nil then living[node] = redis.call('ZSCORE', leases, node) and true or false end
  return living[node]
end

local function set_lease(node, lease)
  redis.call('ZADD', leases, tostring(now + tonumber(lease)), node)
  living[node] = true
end

local function end_lease(node)
  redis.call('ZREM', leases, node)
  living[node] = false
end

-- Note that a user is on a topic by a node, or is not any more. Answers whether that brought him
-- there from nowhere, or left him nowhere.
local function note_member(address, node, is_there)
  local user, topic = string.match(address, '^([^:]*):(.*)$')
  local on = topic_key(topic)
  local before = redis.call('HGET', on, user) or ''
  local others, was_there = {}, false
  for each in string.gmatch(before, '%S+') do
    if each == node then was_there = true elseif is_living(each) then others[#others + 1] = each end
  end
  local is_alone = #others == 0
  if is_there then others[#others + 1] = node end
  local after = table.concat(others, ' ')
  if after == '' then redis.call('HDEL', on, user)
  elseif after ~= before then redis.call('HSET', on, user, after) end
  return is_alone and was_there ~= is_there, on
end

local function drop_members(node, went)
  for _, address in ipairs(redis.call('HKEYS', node_key(node))) do
    if address ~= '' and note_member(address, node, false) then went[#went + 1] = address end
  end
  redis.call('UNLINK', node_key(node))
end

-- Bury the nodes whose lease is over. If all are, it was Redis that was away, or the way to it.
local function bury(lease, went)
  local newest = redis.call('ZREVRANGE', leases, 0, 0, 'WITHSCORES')
  if not newest[1] then return end
  if tonumber(newest[2]) <= now then
    for _, node in ipairs(redis.call('ZRANGE', leases, 0, -1)) do set_lease(node, lease) end
    return
  end
  local dead = redis.call('ZRANGEBYSCORE', leases, '-inf', tostring(now))
  for _, node in ipairs(dead) do end_lease(node) end
  for _, node in ipairs(dead) do drop_members(node, went) end
end

-- `number` is that of this telling, `confirmed` that of the last one known to have been carried out.
-- Answers whether all before is noted, who came, who went.
function operations.update_presence(node, lease, number, confirmed, coming, ...)
  local addresses, came, went, touched = {...}, {}, {}, {}
  bury(lease, went)
  local known = is_living(node) and 1 or 0
  set_lease(node, lease)
  set_seconds(leases, KEPT_NODE)
  if tonumber(redis.call('HGET', node_key(node), '') or 0) < tonumber(confirmed) then
    known = 0
    drop_members(node, went)  -- those of a time before: a server took over that lacked the rest
  end
  redis.call('HSET', node_key(node), '', number)
  set_seconds(node_key(node), KEPT_NODE)
  for place, address in ipairs(addresses) do
    local is_there = place <= tonumber(coming)
    if is_there then redis.call('HSET', node_key(node), address, '')
    else redis.call('HDEL', node_key(node), address) end
    local has_moved, on = note_member(address, node, is_there)
    if has_moved and is_there then came[#came + 1] = address
    elseif has_moved then went[#went + 1] = address end
    touched[on] = true
  end
  for on in pairs(touched) do set_seconds(on, KEPT_TOPIC) end
  return {known, came, went}
end

function operations.remove_presence(node)
  local went = {}
  end_lease(node)
  drop_members(node, went)
  return {1, {}, went}
end

-- The users on a topic. Those who are there only by nodes that are gone are dropped.
function operations.present(topic)
  local on, users, counts = topic_key(topic), {}, {}
  local noted = redis.call('HGETALL', on)
  for place = 1, #noted, 2 do
    local user, nodes = noted[place], noted[place + 1]
    if counts[nodes] == nil then
      counts[nodes] = false
      for node in string.gmatch(nodes, '%S+') do counts[nodes] = counts[nodes] or is_living(node) end
    end
    if counts[nodes] then users[#users + 1] = user else redis.call('HDEL', on, user) end
  end
  return users
end
