-- presence_users: list the users on a topic. Users whose nodes are all gone are dropped.
--
-- KEYS    :on:<topic>, :nodes (presence.lua)
-- ARGV    topic
-- Output  {user, …}, each as '+' and the name

return function(topic)
  local topic_key, users, has_node_alive = presence.topic_key(topic), {}, {}
  local members = redis.call('HGETALL', topic_key)
  for place = 1, #members, 2 do
    local user, nodes = members[place], members[place + 1]
    if has_node_alive[nodes] == nil then
      has_node_alive[nodes] = false
      for node in string.gmatch(nodes, '%S+') do
        has_node_alive[nodes] = has_node_alive[nodes] or presence.is_alive(node)
      end
    end
    if has_node_alive[nodes] then users[#users + 1] = user else redis.call('HDEL', topic_key, user) end
  end
  return users
end
