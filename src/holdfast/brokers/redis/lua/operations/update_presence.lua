-- update_presence: store which members of a node have joined and left, and that the node is alive.
--
-- KEYS    those of presence.lua
-- ARGV    node
--         lease         seconds until the node counts as gone without another update
--         number        of the node's updates that changed something, this one included
--         confirmed     the number of the last update that was confirmed to the node
--         joined_count  how many of the addresses have joined; the others have left
--         ...           the addresses
-- Output  {is_complete, {addresses that joined}, {addresses that left}}, over all nodes. is_complete is
--         0 if an earlier update of the node is missing: it has to send all its members.

return function(node, lease, number, confirmed, joined_count, ...)
  local addresses, joined, left, touched = {...}, {}, {}, {}
  joined_count = tonumber(joined_count)
  local node_key = presence.node_key(node)
  presence.drop_expired_nodes(lease, left)
  local is_complete = presence.is_alive(node) and 1 or 0
  presence.set_lease(node, lease)
  if tonumber(redis.call('HGET', node_key, '') or 0) < tonumber(confirmed) then
    -- This server took over and lacks updates: what it has of the node is out of date.
    is_complete = 0
    presence.drop_members(node, left)
  end
  redis.call('HSET', node_key, '', number)
  presence.extend_node(node)
  for place, address in ipairs(addresses) do
    local is_member = place <= joined_count
    if is_member then redis.call('HSET', node_key, address, '')
    else redis.call('HDEL', node_key, address) end
    local has_changed, topic_key = presence.set_member(address, node, is_member)
    if has_changed and is_member then joined[#joined + 1] = address
    elseif has_changed then left[#left + 1] = address end
    touched[topic_key] = true
  end
  for topic_key in pairs(touched) do presence.extend_topic(topic_key) end
  return {is_complete, joined, left}
end
