-- remove_presence: drop a node that ends, with its members.
--
-- KEYS    those of presence.lua
-- ARGV    node
-- Output  {1, {}, {addresses that left}}, over all nodes; as that of update_presence

return function(node)
  local left = {}
  presence.end_lease(node)
  presence.drop_members(node, left)
  return {1, {}, left}
end
